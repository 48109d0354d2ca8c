"""The student's own loss in other forms: smoothed labels, and a function of one's own."""

import pytest
import torch
from conftest import flat_weights, pad_batch, ragged_examples
from distilling import distilling
from torch.nn import functional as F

SPLITS = ((8, 1), (1, 8))


def cross_entropy(outputs, labels, num_items_in_batch=None):
    """Of masked-language models: the mean over labelled positions."""
    assert num_items_in_batch is None
    return F.cross_entropy(outputs["logits"].flatten(0, 1), labels.flatten(), ignore_index=-100)


def smoothed(logits, labels, epsilon):
    """The mean over labelled positions, by hand."""
    chosen = labels != -100
    logs = logits[chosen].log_softmax(-1)
    nll = -logs.gather(-1, labels[chosen][:, None]).squeeze(1)
    return ((1 - epsilon) * nll - epsilon * logs.mean(-1)).mean()


def updates(make_args, examples, *, args=None, **kwargs):
    found = []
    for size, accumulation in SPLITS:
        split = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        sgd = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 2, "train_sampling_strategy": "sequential"}
        trainer = distilling(make_args, args={**sgd, **split, **(args or {})}, train_dataset=examples, **kwargs)
        before = flat_weights(trainer.model).clone()
        trainer.train()
        found.append(flat_weights(trainer.model) - before)
    return found


def test_labels_are_smoothed_exactly(make_args):
    trainer = distilling(make_args, args={"label_smoothing_factor": 0.2, "per_device_eval_batch_size": 3})
    batch = pad_batch(trainer.eval_dataset)
    with torch.no_grad():
        expected = smoothed(trainer.model.eval()(**batch).logits, batch["labels"], 0.2).item()
    assert trainer.evaluate()["eval_loss/task"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "kwargs", [{"args": {"label_smoothing_factor": 0.2}}, {"compute_loss_func": cross_entropy}], ids=["smooth", "own"]
)
def test_the_update_is_the_same_for_every_split_also_without_labels(make_args, kwargs):
    examples = ragged_examples()
    for example in examples[::2]:
        example["labels"] = [-100] * len(example["labels"])
    whole, split = updates(make_args, examples, **kwargs)
    assert torch.isfinite(whole).all()
    assert (split - whole).norm() <= 1e-5 * whole.norm()
    assert whole.norm() > 0


def test_a_loss_of_ones_own_is_the_task(make_args):
    plain, own = (
        distilling(make_args, args={"optim": "sgd"}, **kwargs) for kwargs in ({}, {"compute_loss_func": cross_entropy})
    )
    plain.train()
    own.train()
    assert torch.allclose(flat_weights(own.model), flat_weights(plain.model), rtol=1e-5, atol=1e-6)
    assert own.evaluate()["eval_loss/task"] == pytest.approx(plain.evaluate()["eval_loss/task"], rel=1e-5)
