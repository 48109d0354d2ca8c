"""`auto_find_batch_size`: after a batch that was too large, the run of one that began with the smaller."""

import pytest
import torch
from conftest import flat_weights
from distilling import LAYERS, TERMS, distilling, logged, tensors_in_memory
from transformers import TrainerCallback

from distil_trainer import Alignment

MAPPED = Alignment(feature="hidden_states", student_layer=1, teacher_layer=2, projection=True)


def fail_above(model, rows):
    """The student's second block runs out of memory on more rows than these."""
    calls = []

    def run_out(block, args):
        calls.append(len(args[0]))
        if len(args[0]) > rows:
            raise RuntimeError("CUDA out of memory.")

    model.bert.encoder.layer[1].register_forward_pre_hook(run_out)
    return calls


def hooks_of(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


class HooksAtSteps(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model, **kwargs):
        self.seen.append(hooks_of(model))


@pytest.mark.parametrize("failing", ["forward", "substep"])
def test_the_run_is_that_of_the_smaller_batch(make_args, failing):
    """In the forward of the first step; or after one of its two micro-batches, which has put terms down."""

    class RunsOut(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            if state.train_batch_size > 7 and failing == "substep":
                raise RuntimeError("CUDA out of memory.")

    runs = {}
    for size, finds in ((7, False), (8, True)):  # the next is nine tenths
        args = {"per_device_train_batch_size": size, "auto_find_batch_size": finds, "gradient_accumulation_steps": 2}
        hooks = HooksAtSteps()
        trainer = distilling(
            make_args,
            args={"max_steps": 2, "logging_steps": 2, "learning_rate": 0.01, **args},
            alignments=(*TERMS, MAPPED),
            balance_terms=True,
            callbacks=[RunsOut(), hooks],
        )
        calls = fail_above(trainer.model, 7 if failing == "forward" else 99)
        trainer.train()
        if finds and failing == "forward":
            assert 8 in calls
        assert trainer.state.train_batch_size == 7
        assert set(hooks.seen) == {1}  # the test's own
        assert hooks_of(trainer.model) == 1
        runs[finds] = trainer
    plain, found = runs.values()
    assert torch.equal(flat_weights(found.model), flat_weights(plain.model))
    assert torch.equal(flat_weights(found.projections), flat_weights(plain.projections))
    for key in ("loss", "loss/task", f"loss/{MAPPED.name}"):
        assert logged(found, key) == logged(plain, key)


def test_a_forward_that_failed_holds_on_to_nothing(make_args):
    first = Alignment(feature="value_relation", loss="kl", student_layer=1, teacher_layer=4)
    trainer = distilling(make_args, alignments=[first, *LAYERS], task_weight=0.0)
    fail_above(trainer.model, 0)
    batch = trainer._prepare_inputs(trainer.data_collator(trainer.train_dataset[:4]))
    before = tensors_in_memory()[1]
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.compute_loss(trainer.model, batch)
    assert tensors_in_memory()[1] == before
