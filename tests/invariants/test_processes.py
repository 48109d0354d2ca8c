"""Two processes (gloo, DDP) make the update that one process makes, and end with identical weights."""

import os
from pathlib import Path

import pytest
import torch
from conftest import flat_weights, pad_batch, ragged_examples, tiny_model
from forked import run_forked
from safetensors.torch import load_file
from transformers import BertForMaskedLM, BertModel, TrainingArguments

from distil_trainer import Alignment, DistillationTrainer, build_student, methods, student_config

DEPTHS = {"student_layers": 2, "teacher_layers": 4}
KL = Alignment(feature="logits", loss="kl", temperature=2.0, positions="labels")
CASES = {  # name -> alignments, micro-batches of a step, other settings
    "lightmbert": (methods.lightmbert(**DEPTHS), 1, {}),
    "lightmbert without a head": (methods.lightmbert(**DEPTHS), 1, {"model_class": BertModel}),
    "lightmbert with logits and labels": ((*methods.lightmbert(**DEPTHS), KL), 2, {"task_weight": 0.5}),
    "tinybert": (methods.tinybert(**DEPTHS), 1, {}),
    "tinybert with projections": (methods.tinybert(**DEPTHS, projection=True), 2, {"width": 24}),
    "distilbert": (methods.distilbert(**DEPTHS, positions="labels"), 2, {"task_weight": 1.0}),
    "pkd": (methods.pkd(**DEPTHS), 2, {"task_weight": 0.3}),
    "minilm": (methods.minilm(**DEPTHS), 1, {}),
    "minilmv2": (methods.minilmv2(**DEPTHS, relation_heads=8), 1, {}),
    "logits": (methods.logits(positions="labels"), 1, {}),
    "two teachers": (
        (*methods.of_teachers(methods.lightmbert, student_layers=2, teacher_layers=(4, 3), weights=(3, 1)), KL),
        1,
        {"teachers": 2},
    ),
}


def make_trainer(folder, name, *, train=None, evaluation=None, **settings):
    """A run of 3 steps of 8 examples, of one process or as one of several."""
    alignments, accumulation, case = CASES[name]
    world = int(os.environ.get("WORLD_SIZE", 1))
    model_class = case.get("model_class", BertForMaskedLM)
    teachers = [tiny_model(model_class), tiny_model(model_class, num_hidden_layers=3, seed=1)]
    student = build_student(teachers[0], student_config(teachers[0].config, num_hidden_layers=2))
    if "width" in case:
        student = tiny_model(model_class, num_hidden_layers=2, hidden_size=case["width"], seed=1)
    labels = model_class is BertForMaskedLM
    micro_batches = accumulation if world > 1 else 1
    defaults = {
        "max_steps": 3, "per_device_train_batch_size": 8 // world // micro_batches, "optim": "sgd",
        "gradient_accumulation_steps": micro_batches, "learning_rate": 0.1, "max_grad_norm": 0, "use_cpu": True,
        "logging_steps": 3, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
        "dataloader_pin_memory": False, "per_device_eval_batch_size": 4 // world,
    }  # fmt: skip
    return DistillationTrainer(
        model=student,
        args=TrainingArguments(str(folder), **defaults | settings),
        teacher_model=teachers[: case.get("teachers", 1)],
        alignments=alignments,
        task_weight=case.get("task_weight", 0.0),
        train_dataset=train or ragged_examples(labels=labels),
        eval_dataset=evaluation or ragged_examples(16, seed=2, labels=labels),
        data_collator=pad_batch,
    )


def losses_of(entries):
    return {key: value for key, value in entries.items() if "loss" in key}


def trained(folder, name, **settings):
    """The weights after training, and the losses."""
    trainer = make_trainer(folder, name, **settings)
    before = flat_weights(trainer.model).clone()
    trainer.train()
    if torch.distributed.is_initialized():
        assert trainer.model_wrapped.find_unused_parameters is False
    weights, update = flat_weights(trainer.model), (flat_weights(trainer.model) - before).norm()
    if trainer.projections is not None:
        weights = torch.cat([weights, flat_weights(trainer.projections)])
    logs = losses_of(trainer.state.log_history[0]) | losses_of(trainer.evaluate())
    return {"weights": weights, "update": update, "logs": logs}


def train_and_save(trainer):
    """What the saved file holds, how far the weights moved, and the losses; None but on the first process."""
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    trainer.train()
    logs = losses_of(trainer.state.log_history[0]) | losses_of(trainer.evaluate())
    trainer.save_model()
    if not trainer.is_world_process_zero():
        return None
    saved = load_file(Path(trainer.args.output_dir, "model.safetensors"))
    update = sum((saved[key] - before[key]).square().sum() for key in saved).sqrt()
    return {"saved": saved, "logs": logs, "update": update}


def train_all(folder):
    """All cases, for `test_two_processes_make_the_update_of_one`."""
    rank, names = int(os.environ["RANK"]), Path(folder, "names").read_text().splitlines()
    torch.save({name: trained(folder, name) for name in names}, f"{folder}/{rank}.pt")


def check_same(tmp_path, names, module="test_processes", function="train_all", **environment):
    (tmp_path / "names").write_text("\n".join(names))
    run_forked(module, function, tmp_path, **environment)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in names:
        one = trained(tmp_path, name)
        assert torch.equal(first[name]["weights"], second[name]["weights"]), name
        assert (first[name]["weights"] - one["weights"]).norm() <= 1e-5 * one["weights"].norm(), name
        assert (first[name]["weights"] - one["weights"]).norm() <= 1e-3 * one["update"], name
        assert first[name]["logs"] == pytest.approx(one["logs"], rel=1e-4), name
        assert first[name]["logs"] == second[name]["logs"], name


def test_two_processes_make_the_update_of_one(tmp_path):
    check_same(tmp_path, CASES)


def train_unevenly(folder):
    """13 examples in batches of 4: two passes, each with an uneven end; 13 examples to evaluate, too."""
    rank, name = int(os.environ["RANK"]), "lightmbert with logits and labels"
    uneven = {"train": ragged_examples(13), "evaluation": ragged_examples(13, seed=2)}
    trainer = make_trainer(
        Path(folder, "out"), name, **uneven, per_device_train_batch_size=2, gradient_accumulation_steps=1,
        max_steps=-1, num_train_epochs=2, save_strategy="steps", save_steps=4, eval_strategy="epoch",
    )  # fmt: skip
    trainer.train()
    found = trainer.predict(ragged_examples(13, seed=2))
    trainer.save_model()
    torch.save(
        {
            "weights": flat_weights(trainer.model),
            "steps": trainer.state.global_step,
            "logs": losses_of(found.metrics),
            "shapes": [found.predictions.shape, found.label_ids.shape],
        },
        f"{folder}/{rank}.pt",
    )


@pytest.mark.slow
def test_uneven_ends_of_the_data(tmp_path):
    run_forked("test_processes", "train_unevenly", tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first["weights"], second["weights"])
    assert first["steps"] == 8  # as in one process: 4 batches a pass
    assert [shape[0] for shape in first["shapes"]] == [13, 13]
    # Of the examples that the last batch is filled up with none is counted twice.
    one = make_trainer(tmp_path, "lightmbert with logits and labels", evaluation=ragged_examples(13, seed=2))
    weights = first["weights"].split([p.numel() for p in one.model.parameters()])
    for parameter, weight in zip(one.model.parameters(), weights, strict=True):
        parameter.data = weight.view_as(parameter).clone()
    assert first["logs"]["test_loss"] == pytest.approx(one.evaluate()["eval_loss"], rel=1e-5)
    assert first["logs"] == second["logs"]
