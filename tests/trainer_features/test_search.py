"""`model_init`, and the search for hyperparameters that needs it."""

import pytest
import torch
from conftest import flat_weights
from distilling import TERMS, distilling, pair

from distil_trainer import build_student, student_config
from distil_trainer.errors import AlignmentError
from distil_trainer.probe import random_state_kept


def student(trial=None):
    with random_state_kept():  # making it sets seeds
        return pair()[1]


def test_every_training_begins_with_a_student_that_is_made_anew(make_args):
    plain = distilling(make_args)
    plain.train()
    trainer = distilling(make_args, model_init=student)
    for _ in range(2):
        trainer.train()
        assert torch.equal(flat_weights(trainer.model), flat_weights(plain.model))
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]


def test_one_that_does_not_fit_the_alignments_is_refused(make_args):
    made = []

    def shallower():
        teacher, whole = pair()
        made.append(whole)
        return whole if len(made) == 1 else build_student(teacher, student_config(teacher.config, num_hidden_layers=1))

    trainer = distilling(make_args, model_init=shallower)
    with pytest.raises(AlignmentError, match="student has 1 blocks"):
        trainer.train()


def test_hyperparameters_are_searched(make_args, tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rates = [1e-4, 3e-3]
    args = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3, "max_steps": 3}
    trainer = distilling(make_args, model_init=student, args=args, alignments=TERMS)
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", rates)},
        compute_objective=lambda metrics: metrics["eval_loss"],
        n_trials=2,
        sampler=optuna.samplers.GridSampler({"learning_rate": rates}, seed=0),
    )
    assert best.hyperparameters == {"learning_rate": 3e-3}
    assert (tmp_path / "out" / "run-0" / "checkpoint-3" / "model.safetensors").exists()
    by_hand = distilling(make_args, args={"max_steps": 3, "learning_rate": 3e-3})
    by_hand.train()
    assert best.objective == pytest.approx(by_hand.evaluate()["eval_loss"], rel=1e-6)
