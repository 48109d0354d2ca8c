"""Settings that trade time or precision for memory."""

import pytest
import torch
from conftest import flat_weights
from distilling import TERMS, distilling, logged

from distil_trainer import Alignment

SGD = {"optim": "sgd", "learning_rate": 0.05}
RELATION = Alignment(feature="value_relation", loss="kl", student_layer=1, teacher_layer=4)
MAPPED = Alignment(feature="hidden_states", student_layer=1, teacher_layer=2, projection=True)


def trained(make_args, **args):
    trainer = distilling(make_args, args={**SGD, **args}, alignments=(*TERMS, RELATION, MAPPED))
    before = flat_weights(trainer.model).clone()
    trainer.train()
    return trainer, flat_weights(trainer.model) - before


@pytest.mark.filterwarnings("ignore:.*activation_checkpointing:FutureWarning")
def test_gradient_checkpointing_makes_the_same_update(make_args):
    """The blocks run again in the backward, where nothing is read a second time."""
    plain, update = trained(make_args, gradient_accumulation_steps=2)
    again, same = trained(make_args, gradient_accumulation_steps=2, gradient_checkpointing=True)
    assert again.model.is_gradient_checkpointing
    assert (same - update).norm() <= 1e-6 * update.norm()
    for key in ("loss", "loss/task", *(f"loss/{alignment.name}" for alignment in again.alignments)):
        assert logged(again, key) == pytest.approx(logged(plain, key), rel=1e-6)


def test_bfloat16_makes_nearly_the_same_update(make_args):
    _, update = trained(make_args)
    trainer, rough = trained(make_args, bf16=True)
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert 0 < (rough - update).norm() < 0.05 * update.norm()


def test_emptying_caches_changes_nothing(make_args):
    _, update = trained(make_args)
    _, same = trained(make_args, torch_empty_cache_steps=1)
    assert torch.equal(same, update)
