"""A student that DeepSpeed's ZeRO shares out over two processes learns what it learns in one, and is saved whole."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from forked import ZERO, run_forked
from safetensors.torch import load_file
from test_processes import CASES, make_trainer, train_and_save
from transformers import BertForMaskedLM, TrainingArguments

from distil_trainer import DistillationTrainer, methods
from distil_trainer.errors import NonFiniteError, TrainingSetupError
from distil_trainer.zero import is_partitioned

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed (tried with 0.19.8)"),
]
NAMES = [name for name in CASES if "projections" not in name]
ADAMW = {"optim": "adamw_torch", "max_grad_norm": 1.0, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}


def train_all(folder):
    on_deepspeed = {"use_cpu": False, "ddp_backend": "gloo"}
    found = {name: train_and_save(make_trainer(Path(folder, "two"), name, **on_deepspeed)) for name in NAMES}
    found["adamw"] = train_and_save(
        make_trainer(Path(folder, "whole"), "lightmbert with logits and labels", **on_deepspeed, **ADAMW)
    )
    resumed = make_trainer(Path(folder, "resumed"), "lightmbert with logits and labels", **on_deepspeed, **ADAMW)
    resumed.train(resume_from_checkpoint=str(Path(folder, "whole", "checkpoint-2")))
    resumed.save_model()
    if os.environ["RANK"] == "0":
        torch.save(found, f"{folder}/found.pt")
    with torch.no_grad():
        resumed.teacher.model.bert.embeddings.word_embeddings.weight.fill_(torch.inf)
    resumed.model.train()
    batch = next(iter(resumed.get_train_dataloader()))
    resumed.get_batch_samples(iter([batch]), 1, resumed.args.device)
    resumed.training_step(resumed.model_wrapped, batch)
    with pytest.raises(NonFiniteError, match="DeepSpeed has taken this step: go on from a checkpoint"):
        resumed._get_grad_norm(resumed.model_wrapped)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_student_shared_out_by_zero_makes_the_update_of_a_whole_one(tmp_path, stage):
    run_forked("test_zero", "train_all", tmp_path, **ZERO, ACCELERATE_DEEPSPEED_ZERO_STAGE=str(stage))
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    alone = {name: train_and_save(make_trainer(tmp_path / "one", name)) for name in NAMES}
    alone["adamw"] = train_and_save(make_trainer(tmp_path / "one", "lightmbert with logits and labels", **ADAMW))
    for name, one in alone.items():
        two = found[name]
        assert two["saved"].keys() == one["saved"].keys(), name
        difference = sum((two["saved"][key] - one["saved"][key]).square().sum() for key in one["saved"]).sqrt()
        # AdamW makes steps of one size of gradients that are rounding errors
        assert difference <= (1e-2 if name == "adamw" else 1e-4) * one["update"], name
        assert two["logs"] == pytest.approx(one["logs"], rel=1e-4), name
    whole, resumed = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "resumed"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    _, report = BertForMaskedLM.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def load_by_path(folder):
    path = f"{folder}/teacher"
    tiny_model(BertForMaskedLM).save_pretrained(path)
    config = {
        "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True},
        "train_micro_batch_size_per_gpu": "auto",
    }

    def trainer(model, teacher):
        args = TrainingArguments(folder, deepspeed=config, report_to="none")  # one of its own for each Accelerator
        alignments = methods.lightmbert(student_layers=2, teacher_layers=4)
        return DistillationTrainer(model=model, args=args, teacher_model=teacher, alignments=alignments)

    student = tiny_model(BertForMaskedLM, num_hidden_layers=2)
    assert not is_partitioned(trainer(student, path).teacher.model)
    _kept = TrainingArguments(folder, deepspeed=config, report_to="none")  # from_pretrained looks for one
    shared_out = BertForMaskedLM.from_pretrained(path)
    assert is_partitioned(shared_out)
    with pytest.raises(TrainingSetupError, match="expected a teacher with whole weights"):
        trainer(student, shared_out)
    with pytest.raises(TrainingSetupError, match="expected a student with whole weights"):
        trainer(shared_out, path)


def test_a_teacher_by_its_path_is_whole_where_weights_are_shared_out_as_they_are_loaded(tmp_path):
    run_forked("test_zero", "load_by_path", tmp_path, processes=1, DS_ACCELERATOR="cpu")
