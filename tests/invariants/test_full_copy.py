"""A full copy of the teacher has nothing to learn: every term is 0, and training leaves it as it is."""

import pytest
import torch
from conftest import flat_weights, pad_batch, ragged_examples, tiny_model
from transformers import BertForMaskedLM

from distil_trainer import Alignment, DistillationTrainer, build_student
from distil_trainer.losses import LOSSES

ENTROPY_TOO = ("logits", "soft_cross_entropy")  # not 0 for equal predictions
TERMS = [(feature, loss) for feature, losses in LOSSES.items() for loss in losses if (feature, loss) != ENTROPY_TOO]


@pytest.mark.parametrize(("feature", "loss"), TERMS, ids=[f"{feature}-{loss}" for feature, loss in TERMS])
def test_a_full_copy_has_nothing_to_learn(make_args, feature, loss):
    teacher = tiny_model(BertForMaskedLM)
    student = build_student(teacher, teacher.config)
    before = flat_weights(student).clone()
    layer = {} if feature == "logits" else {"student_layer": 3, "teacher_layer": 3}
    alignment = Alignment(feature=feature, loss=loss, **layer)
    trainer = DistillationTrainer(
        model=student,
        args=make_args(max_steps=1, optim="sgd", learning_rate=0.1, max_grad_norm=0.0),
        teacher_model=teacher,
        alignments=[alignment],
        train_dataset=ragged_examples(8),
        eval_dataset=ragged_examples(8),
        data_collator=pad_batch,
    )
    assert abs(trainer.evaluate()[f"eval_loss/{alignment.name}"]) < 1e-7
    trainer.train()
    torch.testing.assert_close(flat_weights(trainer.model), before, rtol=0, atol=1e-7)
