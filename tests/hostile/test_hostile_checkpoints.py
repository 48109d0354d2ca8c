"""Checkpoints of strangers: Trainer reads their pickles as tensors and plain values only, and ours is the error."""

import json
import shutil

import pytest
import torch
from conftest import pad_batch, ragged_examples, tiny_model
from hostile_input import ACTIVE, Trap
from transformers import BertForMaskedLM, TrainerCallback, TrainingArguments

from distil_trainer import DistillationTrainer, build_student, methods, student_config
from distil_trainer.errors import CheckpointError

STATE = "trainer_state.json"


class Counter(TrainerCallback):
    steps = 0

    def on_step_begin(self, args, state, control, **kwargs):
        self.steps += 1


def trainer(args, *callbacks):
    teacher = tiny_model(BertForMaskedLM, num_hidden_layers=2)
    return DistillationTrainer(
        model=build_student(teacher, student_config(teacher.config, num_hidden_layers=1)),
        args=args,
        teacher_model=teacher,
        alignments=methods.lightmbert(student_layers=1, teacher_layers=2),
        train_dataset=ragged_examples(),
        data_collator=pad_batch,
        callbacks=list(callbacks),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    options = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False}
    args = TrainingArguments(str(folder), max_steps=1, save_steps=1, **options)
    trainer(args).train()
    return folder


@pytest.fixture
def checkpoint(whole, make_args, tmp_path):
    return shutil.copytree(whole, tmp_path / "out") / "checkpoint-1"


def refuse(checkpoint, make_args, message):
    counter = Counter()
    with pytest.raises(CheckpointError, match=message) as error:
        trainer(make_args(max_steps=2), counter).train(resume_from_checkpoint=str(checkpoint))
    assert not ACTIVE.search(str(error.value))
    assert not counter.steps


def change(checkpoint, **ours):
    state = json.loads((checkpoint / STATE).read_text())
    state["stateful_callbacks"]["SurvivingTrainer"]["attributes"].update(ours)
    (checkpoint / STATE).write_text(json.dumps(state))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"])
def test_a_pickle_is_not_run(checkpoint, make_args, tmp_path, name):
    torch.save({"state": Trap(tmp_path / "ran")}, checkpoint / name)
    if name == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    change(checkpoint, files={})
    refuse(checkpoint, make_args, "expected tensors and plain values .* may run code. Nothing of it was run")
    assert not (tmp_path / "ran").exists()


def test_pickles_that_nobody_reads(checkpoint, make_args, tmp_path):
    for name in ("training_args.bin", "pytorch_model.bin", "extra.pkl"):
        torch.save(Trap(tmp_path / "ran"), checkpoint / name)
    trainer(make_args(max_steps=2)).train(resume_from_checkpoint=str(checkpoint))
    assert not (tmp_path / "ran").exists()


STATES = {
    "deep": "[" * 100_000,
    "deep mapping": '{"a": ' * 20_000,
    "list": "[]",
    "unknown key": '{"os.system": 1}',
    "step": '{"global_step": "x"}',
    "callbacks": '{"stateful_callbacks": [1]}',
    "files": '{"stateful_callbacks": {"SurvivingTrainer": {"attributes": {"files": [1]}}}}',
    "size": '{"stateful_callbacks": {"SurvivingTrainer": {"attributes": {"files": {"model.safetensors": "x"}}}}}',
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_strange_state_is_none(checkpoint, make_args, state):
    (checkpoint / STATE).write_text(state)
    refuse(checkpoint, make_args, f"it has no {STATE} that can be read")


def test_a_file_name_is_only_compared(checkpoint, make_args):
    change(checkpoint, files={"\x1b[2J../../../etc/passwd": 3})
    refuse(checkpoint, make_args, r"is none: \\x1b\[2J\.\./\.\./\.\./etc/passwd has 0 of 3 bytes")
