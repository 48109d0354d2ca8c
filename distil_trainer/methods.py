"""Published recipes: each is a function from the two depths to a tuple of alignments."""

from distil_trainer.alignment import Alignment, check_alignments
from distil_trainer.errors import AlignmentError


def lightmbert(*, student_layers: int, teacher_layers: int) -> tuple[Alignment, ...]:
    """LightMBERT (Jiao et al. 2021, arXiv 2103.06418): the student's last block learns from the teacher's last.

    `loss = MSE(hidden states) + MSE(attention probabilities)`, both of the last block, weights 1. The paper starts the
    student from the teacher's embeddings and bottom blocks (`build_student(..., layers="bottom")`) and freezes the
    embeddings (`freeze_embeddings=True`).

    Args:
        student_layers: blocks of the student.
        teacher_layers: blocks of the teacher.

    Raises:
        AlignmentError: a depth is not a positive whole number, or the student is deeper than the teacher.
    """
    _check_depths(student_layers, teacher_layers)
    alignments = (
        Alignment(feature="hidden_states", student_layer=student_layers, teacher_layer=teacher_layers),
        Alignment(feature="attention_probs", student_layer=student_layers, teacher_layer=teacher_layers),
    )
    check_alignments(alignments, student_layers=student_layers, teacher_layers=teacher_layers)
    return alignments


METHODS = {"lightmbert": lightmbert}


def _check_depths(student_layers: int, teacher_layers: int) -> None:
    for name, depth in (("student_layers", student_layers), ("teacher_layers", teacher_layers)):
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
            raise AlignmentError(f"{name} should be a whole number of blocks, at least 1; got {depth!r}.")
    if student_layers > teacher_layers:
        raise AlignmentError(
            f"the student should have at most as many blocks as the teacher ({teacher_layers}); got {student_layers}."
        )
