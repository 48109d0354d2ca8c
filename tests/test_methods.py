import pytest

from distil_trainer import methods
from distil_trainer.errors import AlignmentError


def test_lightmbert_aligns_the_last_blocks():
    alignments = methods.lightmbert(student_layers=6, teacher_layers=12)
    assert [(a.name, a.loss, a.weight) for a in alignments] == [
        ("hidden_states_s6_t12", "mse", 1.0),
        ("attention_probs_s6_t12", "mse", 1.0),
    ]


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [(0, 12, "student_layers"), (6, 12.0, "teacher_layers"), (13, 12, "at most as many blocks as the teacher")],
)
def test_lightmbert_refuses_impossible_depths(student, teacher, message):
    with pytest.raises(AlignmentError, match=message):
        methods.lightmbert(student_layers=student, teacher_layers=teacher)


def test_every_method_is_in_the_list():
    assert {"lightmbert": methods.lightmbert} == methods.METHODS
