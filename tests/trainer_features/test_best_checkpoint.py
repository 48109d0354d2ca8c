"""Which checkpoints stay, which one is best, when training stops, and what callbacks are given back."""

import json

import numpy as np
import pytest
import torch
from conftest import flat_weights
from distilling import distilling, logged
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback

EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}


def checkpoints(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def saved_weights(folder, model):
    tensors = load_file(folder / "model.safetensors")
    return torch.cat([tensors[name].flatten() for name, _ in model.named_parameters()])


def test_the_last_checkpoints_stay(make_args, tmp_path):
    args = {"max_steps": 7, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 2}
    distilling(make_args, args=args).train()
    assert checkpoints(tmp_path / "out") == [6, 7]


def test_the_student_of_the_lowest_loss_is_loaded_at_the_end(make_args, tmp_path):
    # At such a rate it goes up and down.
    args = {"max_steps": 3, "learning_rate": 0.1, "load_best_model_at_end": True, "save_total_limit": 1, **EVERY_STEP}
    trainer = distilling(make_args, args={**args, "metric_for_best_model": "loss", "lr_scheduler_type": "constant"})
    trainer.train()
    losses = logged(trainer, "eval_loss")
    best = 1 + int(np.argmin(losses))
    assert best < 3
    assert trainer.state.best_global_step == best
    assert trainer.state.best_metric == losses[best - 1]
    assert checkpoints(tmp_path / "out") == [best]
    assert torch.equal(
        flat_weights(trainer.model), saved_weights(tmp_path / "out" / f"checkpoint-{best}", trainer.model)
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best - 1], rel=1e-6)


@pytest.mark.parametrize("metric", ["score", "loss/logits"])
def test_the_best_may_be_a_metric_or_one_term(make_args, tmp_path, metric):
    scores = iter([1.0, 3.0, 2.0, 0.0])
    args = {
        "max_steps": 3,
        "load_best_model_at_end": True,
        "metric_for_best_model": metric,
        "greater_is_better": metric == "score",
        **EVERY_STEP,
    }
    trainer = distilling(make_args, args=args, compute_metrics=lambda prediction: {"score": next(scores)})
    trainer.train()
    values = logged(trainer, f"eval_{metric}")
    best = 2 if metric == "score" else 1 + int(np.argmin(values))
    assert trainer.state.best_global_step == best
    folder = tmp_path / "out" / f"checkpoint-{best}"
    assert torch.equal(flat_weights(trainer.model), saved_weights(folder, trainer.model))


def test_training_stops_early(make_args):
    args = {"max_steps": 20, "learning_rate": 0.1, "metric_for_best_model": "loss", "load_best_model_at_end": True}
    stop = EarlyStoppingCallback(early_stopping_patience=2)
    trainer = distilling(make_args, args={**args, **EVERY_STEP, "warmup_steps": 0}, callbacks=[stop])
    trainer.train()
    losses = logged(trainer, "eval_loss")
    assert len(losses) < 20
    assert min(losses[-2:]) >= min(losses)
    assert trainer.state.best_global_step == len(losses) - 2


def test_callbacks_are_given_back_their_states(make_args, tmp_path):
    """`GradientBalance` and what makes a checkpoint whole are in the state too, but no callbacks to be made anew."""

    def run(folder, **args):
        stop = EarlyStoppingCallback(early_stopping_patience=5)
        args = {
            "max_steps": 4,
            "metric_for_best_model": "loss",
            "output_dir": str(tmp_path / folder),
            **EVERY_STEP,
            **args,
        }
        return distilling(make_args, args=args, balance_terms=True, callbacks=[stop])

    whole = run("whole")
    whole.train()
    resumed = run("resumed", restore_callback_states_from_checkpoint=True)
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    state["stateful_callbacks"]["EarlyStoppingCallback"]["args"]["early_stopping_patience"] = 7
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert torch.equal(flat_weights(resumed.model), flat_weights(whole.model))
    (stop,) = (c for c in resumed.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback))
    assert stop.early_stopping_patience == 7
    names = [sorted(type(c).__name__ for c in t.callback_handler.callbacks) for t in (whole, resumed)]
    assert names[0] == names[1]
