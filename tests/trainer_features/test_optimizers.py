"""Optimizers and schedules of Trainer, and of one's own."""

import pytest
import torch
from conftest import flat_weights
from distilling import LAYERS, TERMS, distilling, logged
from torch.optim.lr_scheduler import LambdaLR

from distil_trainer import Alignment
from distil_trainer.errors import TrainingSetupError

MAPPED = Alignment(feature="hidden_states", student_layer=1, teacher_layer=2, projection=True)


@pytest.mark.parametrize("optim", ["adafactor", "sgd", "rmsprop"])
def test_every_optimizer_learns(make_args, optim):
    rate = {"sgd": 0.02, "adafactor": 0.01}.get(optim, 1e-3)
    trainer = distilling(make_args, args={"optim": optim, "learning_rate": rate, "max_steps": 5})
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.97 * before


@pytest.mark.parametrize("kind", ["cosine", "constant_with_warmup", "reduce_lr_on_plateau"])
def test_every_schedule_is_followed(make_args, kind):
    args = {"lr_scheduler_type": kind, "max_steps": 4, "warmup_steps": 1, "learning_rate": 0.01}
    if kind == "reduce_lr_on_plateau":
        args |= {"warmup_steps": 0, "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss/task"}
        args |= {"lr_scheduler_kwargs": {"patience": 0, "threshold": 1e3}}  # nothing is an improvement
    trainer = distilling(make_args, args=args)
    trainer.train()
    rates = logged(trainer, "learning_rate")
    assert max(rates) == 0.01
    if kind == "constant_with_warmup":
        assert rates[1:] == [0.01] * 3
    else:
        assert rates[-1] < rates[1]


def test_an_optimizer_and_a_schedule_of_ones_own(make_args):
    trainer = distilling(make_args, args={"optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant"})
    trainer.train()
    own = distilling(make_args)
    optimizer = torch.optim.SGD(own.model.parameters(), lr=0.05)
    own = distilling(make_args, model=own.model, optimizers=(optimizer, LambdaLR(optimizer, lambda step: 1.0)))
    own.train()
    assert own.optimizer.optimizer is optimizer
    assert torch.equal(flat_weights(own.model), flat_weights(trainer.model))
    classes = distilling(
        make_args, args={"lr_scheduler_type": "constant"}, optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.05})
    )
    classes.train()
    assert torch.equal(flat_weights(classes.model), flat_weights(trainer.model))


def test_an_optimizer_without_the_projections_is_refused(make_args):
    model = distilling(make_args).model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    trainer = distilling(make_args, model=model, optimizers=(optimizer, None), alignments=(*TERMS, MAPPED))
    with pytest.raises(TrainingSetupError, match=r"projections.*not in the optimizer"):
        trainer.train()
    optimizer.add_param_group({"params": list(trainer.projections.parameters())})
    before = flat_weights(trainer.projections).clone()
    trainer.train()
    assert not torch.equal(flat_weights(trainer.projections), before)


def test_tokens_are_averaged_over_the_step_whatever_is_said_of_devices(make_args):
    """`average_tokens_across_devices` is not asked: positions are always counted over all processes."""
    updates = []
    for size, accumulation in ((8, 1), (2, 4)):
        args = {"optim": "sgd", "per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        trainer = distilling(make_args, args={**args, "average_tokens_across_devices": False}, alignments=LAYERS)
        before = flat_weights(trainer.model).clone()
        trainer.train()
        updates.append(flat_weights(trainer.model) - before)
    assert (updates[1] - updates[0]).norm() <= 1e-5 * updates[0].norm()
