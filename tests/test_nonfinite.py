"""No step is taken on a loss or a gradient that is NaN or infinite."""

import pytest
import torch
from conftest import flat_weights, pad_batch, ragged_examples, tiny_model
from safetensors.torch import load_file
from transformers import BertForMaskedLM, BertForTokenClassification, TrainerCallback

from distil_trainer import DistillationTrainer, build_student, methods, student_config
from distil_trainer.errors import NonFiniteError, TrainingSetupError
from distil_trainer.features import Features
from distil_trainer.losses import Heads
from distil_trainer.nonfinite import bad_features

POISON = 4  # a token that no example has by itself
LAYERS = methods.lightmbert(student_layers=2, teacher_layers=4)
HIDDEN = LAYERS[0].name


class Steps(TrainerCallback):
    """Keeps the student, and what the optimizer knows of it, as they are after each step."""

    def __init__(self):
        self.weights, self.moments = [], []

    def on_train_begin(self, args, state, control, model, **kwargs):
        self.weights.append(flat_weights(model).clone())

    def on_step_end(self, args, state, control, model, optimizer, **kwargs):
        self.weights.append(flat_weights(model).clone())
        self.moments.append([value["exp_avg"].clone() for value in optimizer.state.values()])


def make_trainer(make_args, *, poisoned=(9,), args=None, **kwargs):
    """Of 4 steps of 2 micro-batches of 4; the teacher's vector of one token, in these examples, is not finite."""
    teacher = tiny_model(BertForMaskedLM)
    student = build_student(teacher, student_config(teacher.config, num_hidden_layers=2))
    with torch.no_grad():
        teacher.bert.embeddings.word_embeddings.weight[POISON] = torch.inf
    examples = ragged_examples()
    for number in poisoned:
        examples[number]["input_ids"][1] = POISON
    steps = Steps()
    sizes = {"max_steps": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    defaults = {
        "model": student,
        "args": make_args(**sizes | (args or {})),
        "teacher_model": teacher,
        "alignments": LAYERS,
        "train_dataset": examples,
        "data_collator": pad_batch,
        "callbacks": [steps],
    }
    return DistillationTrainer(**defaults | kwargs), steps


def test_a_teacher_that_is_not_finite_is_named_before_any_step(make_args):
    trainer, steps = make_trainer(make_args, poisoned=range(32))
    with pytest.raises(NonFiniteError, match="before any step the loss is nan; not finite in the teacher: ") as error:
        trainer.train()
    for name in (
        "queries, keys or values of block 4",
        "hidden_states of block 4",
        "bert.embeddings.word_embeddings.weight",
    ):
        assert name in str(error.value)
    assert not steps.weights


def test_a_run_stops_before_the_step_and_leaves_the_batch(make_args, tmp_path):
    trainer, steps = make_trainer(make_args)
    with pytest.raises(
        NonFiniteError, match=r"in step 3 the loss is nan; not finite in the teacher: queries, "
    ) as error:
        trainer.train()
    assert torch.equal(flat_weights(trainer.model), steps.weights[2])
    (file,) = (tmp_path / "out").glob("nonfinite-*.safetensors")
    assert file.name == "nonfinite-step-3-process-0.safetensors"
    assert str(file) in str(error.value)
    batch = load_file(file)
    (place,) = {name.split(".")[0] for name in batch}
    assert set(batch) == {f"{place}.{column}" for column in ("input_ids", "attention_mask", "labels")}
    assert (batch[f"{place}.input_ids"] == POISON).any()


@pytest.mark.parametrize("balance", [False, True])
def test_a_step_is_left_out_as_if_it_had_not_been(make_args, balance, caplog):
    trainer, steps = make_trainer(make_args, on_nonfinite="skip", balance_terms=balance, args={"logging_steps": 4})
    trainer.train()
    assert trainer.state.global_step == 4
    assert torch.equal(steps.weights[3], steps.weights[2])
    assert all(map(torch.equal, steps.moments[2], steps.moments[1]))
    changed = [not torch.equal(*pair) for pair in zip(steps.weights, steps.weights[1:], strict=False)]
    assert changed == [True, True, False, True]
    assert steps.weights[4].isfinite().all()
    logs = trainer.state.log_history[0]
    assert 0 < logs[f"loss/{HIDDEN}"] < 10
    assert "A step is left out. expected finite numbers, but in step 3" in caplog.text


def test_steps_are_not_left_out_for_ever(make_args):
    trainer, _ = make_trainer(make_args, on_nonfinite="skip", args={"max_steps": 20})
    trainer.model.bert.embeddings.word_embeddings.weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(NonFiniteError, match="in step 11 a gradient is not"):
        trainer.train()


def test_a_gradient_that_is_not_finite_is_seen_too(make_args, tmp_path):
    trainer, steps = make_trainer(make_args, poisoned=(), args={"max_grad_norm": 0.0})
    trainer.model.bert.embeddings.word_embeddings.weight.register_hook(
        lambda gradient: gradient * (torch.inf if trainer.state.global_step == 1 else 1.0)
    )
    with pytest.raises(NonFiniteError, match=r"in step 2 a gradient is not. The student is as it was before"):
        trainer.train()
    assert torch.equal(flat_weights(trainer.model), steps.weights[1])
    batch = load_file(tmp_path / "out" / "nonfinite-step-2-process-0.safetensors")
    assert {name.split(".")[0] for name in batch} == {"0", "1"}


def test_a_student_that_is_not_finite_is_named(make_args):
    trainer, _ = make_trainer(make_args, poisoned=(), on_nonfinite="skip")

    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            with torch.no_grad():
                model.bert.encoder.layer[0].output.dense.bias[0] = torch.nan

    trainer.add_callback(Break())
    with pytest.raises(NonFiniteError, match=r"in step 2 .* in the student: bert.encoder.layer.0.output.dense.bias"):
        trainer.train()


def test_without_a_teacher_too(make_args):
    student = tiny_model(BertForTokenClassification)
    examples = ragged_examples()
    for example in examples:
        example["labels"] = [0] * len(example["labels"])
    student.classifier.register_forward_hook(lambda *args: args[2] + torch.nan)
    settings = {"teacher_model": None, "alignments": (), "task_weight": 1.0, "train_dataset": examples}
    trainer, _ = make_trainer(make_args, model=student, **settings)
    with pytest.raises(NonFiniteError, match=r"in step 1 the loss is nan\. The student"):
        trainer.train()


def test_what_is_computed_of_padding_does_not_count():
    inputs = pad_batch(ragged_examples(4))
    mask = inputs["attention_mask"].bool()
    hidden = torch.zeros(*mask.shape, 3)
    hidden[~mask] = torch.nan
    vectors = hidden[:, None].expand(-1, 2, -1, -1)
    features = Features(hidden_states={1: hidden}, heads={1: Heads(vectors, vectors, 1.0)}, logits=hidden)
    assert not bad_features(features, inputs)
    hidden[3, 0, 1] = torch.inf
    assert bad_features(features, inputs) == [
        "queries, keys or values of block 1",
        "hidden_states of block 1",
        "logits",
    ]


def test_another_choice_is_refused(make_args):
    with pytest.raises(TrainingSetupError, match="on_nonfinite should be 'stop' or 'skip'; got 'ignore'"):
        make_trainer(make_args, on_nonfinite="ignore")
