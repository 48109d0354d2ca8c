"""Losses between hidden states: one vector per token."""

import torch
from torch import Tensor

from distil_trainer.losses._common import SumCount, counted_rows

_ADVICE = "compare the same tokens, and use a projection where the hidden widths differ."


def mse(student: Tensor, teacher: Tensor, mask: Tensor) -> SumCount:
    """Mean squared error of the hidden states.

    Sums over the counted tokens the mean over D of (student - teacher)^2.

    Shapes: `student`, `teacher` [B, T, D]; `mask` bool [B, T], True where counted.
    B batch, T tokens, D hidden. Unit: tokens.

    Raises:
        ValueError: the shapes do not agree, or `mask` is not boolean.

    Source: TinyBERT (arXiv 1909.10351) section 3, hidden states based distillation; LightMBERT (arXiv 2103.06418).
    """
    student, teacher, count = counted_rows(student, teacher, mask, _ADVICE)
    return (student - teacher).square().mean(-1).sum(), count


def cosine(student: Tensor, teacher: Tensor, mask: Tensor) -> SumCount:
    """Cosine distance of the hidden states.

    Sums 1 - cos(student, teacher) over the counted tokens. A zero vector has cosine 0 with every vector.

    Shapes: `student`, `teacher` [B, T, D]; `mask` bool [B, T], True where counted.
    B batch, T tokens, D hidden. Unit: tokens.

    Raises:
        ValueError: the shapes do not agree, or `mask` is not boolean.

    Source: DistilBERT (arXiv 1910.01108) section 2, the cosine embedding loss.
    """
    student, teacher, count = counted_rows(student, teacher, mask, _ADVICE)
    return (1 - (_unit(student) * _unit(teacher)).sum(-1)).sum(), count


def normalized_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> SumCount:
    """Squared distance of the hidden states scaled to length 1.

    Sums over the counted tokens || student/||student|| - teacher/||teacher|| ||^2: the squared norm is summed over D,
    not averaged. A zero vector stays zero. (The paper counts one token per sequence, the first.)

    Shapes: `student`, `teacher` [B, T, D]; `mask` bool [B, T], True where counted.
    B batch, T tokens, D hidden. Unit: tokens.

    Raises:
        ValueError: the shapes do not agree, or `mask` is not boolean.

    Source: Patient Knowledge Distillation (arXiv 1908.09355) section 3.2.
    """
    student, teacher, count = counted_rows(student, teacher, mask, _ADVICE)
    return (_unit(student) - _unit(teacher)).square().sum(), count


def _unit(rows: Tensor) -> Tensor:
    """Each row divided by its length, a zero row by 1.

    Shapes: [N, D] -> [N, D].
    """
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    # not `max(length, eps)`: the gradient at a zero row would be multiplied by 1 / eps
    return rows / torch.where(length > 0, length, 1.0)
