"""Losses between hidden states: one vector per token."""

from collections.abc import Callable

import torch
from torch import Tensor

from distil_trainer.losses._common import SumCount, check_shapes, with_gradient, working_dtype

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
    return _sum(_mse, student, teacher, mask)


def cosine(student: Tensor, teacher: Tensor, mask: Tensor) -> SumCount:
    """Cosine distance of the hidden states.

    Sums 1 - cos(student, teacher) over the counted tokens. A zero vector has cosine 0 with every vector.

    Shapes: `student`, `teacher` [B, T, D]; `mask` bool [B, T], True where counted.
    B batch, T tokens, D hidden. Unit: tokens.

    Raises:
        ValueError: the shapes do not agree, or `mask` is not boolean.

    Source: DistilBERT (arXiv 1910.01108) section 2, the cosine embedding loss.
    """
    return _sum(_cosine, student, teacher, mask)


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
    return _sum(_normalized_mse, student, teacher, mask)


# One loss of every token: `s` of the student, `t` of the teacher, both [B, T, D] -> the loss of each token [B, T] and
# its gradient with respect to `s` [B, T, D].


def _mse(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    difference = s - t
    return difference.square().mean(-1), difference.mul_(2 / s.shape[-1])


def _cosine(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    length = _length(s)
    s, t = s / length, t / _length(t)
    cosine = (s * t).sum(-1, keepdim=True)
    return (1 - cosine).squeeze(-1), s.mul_(cosine).sub_(t).div_(length)


def _normalized_mse(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    length = _length(s)
    s, t = s / length, t / _length(t)
    difference = s - t
    along = (s * difference).sum(-1, keepdim=True)  # what would only make s longer, so it has no gradient
    return difference.square().sum(-1), difference.sub_(s.mul_(along)).mul_(2 / length)


def _length(vectors: Tensor) -> Tensor:
    """The length of each vector, of a zero vector 1: [B, T, D] -> [B, T, 1]."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    # not `max(length, eps)`: the gradient at a zero vector would be multiplied by 1 / eps
    return torch.where(length > 0, length, 1.0)


def _sum(
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], student: Tensor, teacher: Tensor, mask: Tensor
) -> SumCount:
    """The sum of `loss` over the counted tokens, and their number.

    Where nothing is counted the loss and its gradient are replaced, so that an inf or NaN there reaches neither. (Rows
    selected by the mask would be a copy, and a GPU would have to wait for their number.)
    """
    check_shapes(student.shape, teacher.shape, mask, _ADVICE)
    dtype = working_dtype(student, teacher)
    with torch.no_grad():
        tokens, gradient = loss(student.to(dtype), teacher.to(dtype))
        total = torch.where(mask, tokens, 0.0).sum()
        gradient.masked_fill_(~mask[..., None], 0.0)
    return with_gradient(total, student, gradient), mask.sum().to(dtype)
