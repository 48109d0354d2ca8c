"""Runs of one training, each in a process of its own, that are killed, gone on with, or left alone.

    python killed_runs.py FOLDER KILL ...

KILL is a place of the training (a key of PLACES), or a number: the share of an undisturbed run's time after which it is
killed from outside. For each, what was left alone and what was gone on with must end alike.
"""

import gc
import json
import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

import torch
import transformers
from conftest import flat_weights, pad_batch, ragged_examples, tiny_model
from safetensors.torch import save
from transformers import BertForMaskedLM, TrainerState, TrainingArguments

from distil_trainer import Alignment, DistillationTrainer, Schedule, build_student, pushing, student_config
from distil_trainer.checkpoints import newest_whole

ALIGNMENTS = (
    Alignment(feature="hidden_states", student_layer=1, teacher_layer=2, projection=True),
    Alignment(feature="attention_probs", student_layer=2, teacher_layer=4, weight=Schedule(start=1.0, end=0.5)),
)
FOUND = "found.jsonl"
TIMES = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"} | {
    f"eval_{what}" for what in ("runtime", "samples_per_second", "steps_per_second")
}


def make_trainer(folder):
    """10 steps of 2 micro-batches, 4 steps an epoch; logs, evaluations and checkpoints at different ones."""
    teacher = tiny_model(BertForMaskedLM)
    student = build_student(teacher, student_config(teacher.config, num_hidden_layers=2), dropout=0.1)
    args = TrainingArguments(
        str(folder),
        max_steps=10,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        logging_steps=4,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=3,
        save_total_limit=1,
        push_to_hub=True,
        hub_model_id="me/student",
        hub_strategy="every_save",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    return DistillationTrainer(
        model=student,
        args=args,
        teacher_model=teacher,
        alignments=ALIGNMENTS,
        balance_terms=True,
        train_dataset=ragged_examples(16),
        eval_dataset=ragged_examples(4, seed=2),
        data_collator=pad_batch,
    )


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def killed(trainer, name, *, step, before=None):
    """Kills the process in the method `name` of the trainer, once so many steps are done."""
    method = getattr(trainer, name)

    def watched(*args, **kwargs):
        if trainer.state.global_step >= step:
            if before is not None:
                before(*args)
            kill()
        return method(*args, **kwargs)

    setattr(trainer, name, watched)


def half_weights(folder, *_):
    content = save({"weight": torch.zeros(1000)})
    Path(folder).mkdir()
    (Path(folder) / "model.safetensors").write_bytes(content[: len(content) // 2])


def in_state(trainer):
    write = TrainerState.save_to_json

    def half(state, path):
        write(state, path)
        if state.global_step >= 6:
            os.truncate(path, os.path.getsize(path) // 2)
            kill()

    TrainerState.save_to_json = half


def in_rotation(trainer):
    """In the middle of the deletion of checkpoint-3, after checkpoint-6 was written."""

    def half(folder, **_):
        if trainer.state.global_step >= 6 and Path(folder).name == "checkpoint-3":
            (Path(folder) / "optimizer.pt").unlink()
            kill()

    transformers.trainer_utils.shutil.rmtree = half


PLACES = {
    "a step": lambda trainer: killed(trainer, "compute_loss", step=5),
    "evaluation": lambda trainer: killed(trainer, "prediction_step", step=8),
    "the first checkpoint": lambda trainer: killed(trainer, "_save_rng_state", step=3),
    "the weights": lambda trainer: killed(trainer, "save_model", step=6, before=half_weights),
    "the state": in_state,
    "a push": lambda trainer: killed(trainer, "_push_in_background", step=6),
    "the rotation": in_rotation,
    "the end": lambda trainer: killed(trainer, "_finalize_training", step=10),
}


def train(folder, place=None):
    """Trains from the newest whole checkpoint on, and leaves weights and logs."""
    folder.mkdir(exist_ok=True)
    pushing.prepare_repository = lambda name, **_: name
    pushing.publish = lambda *_, **__: None
    trainer = make_trainer(folder)
    trainer.write_page = lambda *_: None  # and no pictures
    if place is not None:
        PLACES[place](trainer)
    trainer.train(resume_from_checkpoint=newest_whole(folder) is not None)
    logs = [{k: v for k, v in entry.items() if k not in TIMES} for entry in trainer.state.log_history]
    (folder / "logs.json").write_text(json.dumps(logs))
    torch.save([flat_weights(trainer.model), flat_weights(trainer.projections)], folder / "weights.pt")


def in_own_process(job):
    """Forks; returns the process id of the child, which does the job and nothing else."""
    child = os.fork()
    if child:
        return child
    try:
        job()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ends_well(job):
    _, status = os.waitpid(in_own_process(job), 0)
    assert status == 0, status


def main(folder, *kills):
    """Writes a line of FOLDER/found.jsonl for each kill: where the run was, and whether it ended as the other did."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    tiny_model(BertForMaskedLM).save_pretrained(folder / "once")  # what this prepares, the children need not
    gc.freeze()
    alone = folder / "alone"
    started = time.perf_counter()
    ends_well(lambda: train(alone))
    seconds = time.perf_counter() - started
    for number, how in enumerate(kills):
        run = folder / str(number)
        child = in_own_process(lambda: train(run, how if how in PLACES else None))  # noqa: B023
        if how not in PLACES:
            time.sleep(float(how) * seconds)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        found = {path.name: newest_whole(run) == str(path) for path in sorted(run.glob("checkpoint-*"))}
        ends_well(lambda: train(run))  # noqa: B023
        weights = [torch.load(end / "weights.pt", weights_only=True) for end in (alone, run)]
        same = all(map(torch.equal, *weights))
        logs = [json.loads((end / "logs.json").read_text()) for end in (alone, run)]
        facts = {"kill": how, "status": status, "found": found, "same": same, "logs": logs}
        with (folder / FOUND).open("a") as lines:
            lines.write(json.dumps(facts) + "\n")
        shutil.rmtree(run)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
