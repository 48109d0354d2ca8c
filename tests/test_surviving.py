"""What a checkpoint holds, which ones a run goes on from, and what is said when one cannot be written."""

import json
import resource
import shutil

import pytest
from conftest import pad_batch, ragged_examples, tiny_model
from transformers import BertForMaskedLM

from distil_trainer import DistillationTrainer, build_student, methods, student_config
from distil_trainer.checkpoints import newest_whole, problem_of
from distil_trainer.errors import CheckpointError


def make_trainer(make_args, **overrides):
    teacher = tiny_model(BertForMaskedLM)
    return DistillationTrainer(
        model=build_student(teacher, student_config(teacher.config, num_hidden_layers=2)),
        args=make_args(save_strategy="steps", save_steps=1, max_steps=2, per_device_train_batch_size=2, **overrides),
        teacher_model=teacher,
        alignments=methods.lightmbert(student_layers=2, teacher_layers=4),
        train_dataset=ragged_examples(8),
        data_collator=pad_batch,
    )


@pytest.fixture
def run(make_args, tmp_path):
    """The folder of a run with checkpoint-1 and checkpoint-2."""
    make_trainer(make_args).train()
    return tmp_path / "out"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda folder: truncate(folder / "model.safetensors"), r"model.safetensors has [\d,]+ of [\d,]+ bytes"),
        (lambda folder: (folder / "optimizer.pt").unlink(), r"optimizer.pt has 0 of [\d,]+ bytes"),
        (lambda folder: (folder / "rng_state.pth").write_bytes(b""), r"rng_state.pth has 0 of"),
        (lambda folder: (folder / "trainer_state.json").unlink(), "no trainer_state.json that can be read"),
        (lambda folder: (folder / "trainer_state.json").write_text("[]"), "no trainer_state.json that can be read"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_not_gone_on_from(make_args, run, harm, problem):
    newest = run / "checkpoint-2"
    harm(newest)
    assert newest_whole(run) == str(run / "checkpoint-1")
    trainer = make_trainer(make_args)
    with pytest.raises(CheckpointError, match=rf"expected a whole checkpoint .* {newest} is none: .*{problem}.*=True"):
        trainer.train(resume_from_checkpoint=str(newest))
    trainer.train(resume_from_checkpoint=True)
    assert newest_whole(run) == str(newest)


def test_one_of_another_trainer_is_taken_at_its_word(run):
    """The state names no files: it is the last that Trainer writes."""
    path = run / "checkpoint-2" / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stateful_callbacks": {}}))
    assert problem_of(run / "checkpoint-2") is None
    truncate(path)
    truncate(path)
    assert newest_whole(run) == str(run / "checkpoint-1")


def test_nothing_to_go_on_from_is_said(make_args, tmp_path):
    with pytest.raises(CheckpointError, match="there is none\\. Leave resume_from_checkpoint out to begin"):
        make_trainer(make_args).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("limit", [30_000, 100_000], ids=["the weights", "the optimizer"])  # bytes a file
def test_a_full_disk_leaves_the_older_checkpoint(make_args, run, limit):
    shutil.rmtree(run / "checkpoint-2")
    trainer = make_trainer(make_args)
    save = trainer._save_checkpoint
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(*args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            save(*args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    trainer._save_checkpoint = full
    with pytest.raises(CheckpointError, match=r"checkpoint-2 could not be written .* bytes are free.*checkpoint-1 is"):
        trainer.train(resume_from_checkpoint=True)
    assert not (run / "checkpoint-2").exists()
    make_trainer(make_args).train(resume_from_checkpoint=True)
    assert newest_whole(run) == str(run / "checkpoint-2")


def test_what_is_not_whole_does_not_count_for_the_limit(make_args, run):
    """Rotation would keep it, and delete one that is whole."""
    broken = run / "checkpoint-90"
    shutil.copytree(run / "checkpoint-1", broken)
    (broken / "trainer_state.json").unlink()
    shutil.rmtree(run / "checkpoint-2")
    make_trainer(make_args, save_total_limit=1).train(resume_from_checkpoint=True)
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-2"]
