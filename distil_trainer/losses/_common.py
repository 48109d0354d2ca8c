"""What the losses share: the precision they compute in, the rows they count, sums over probabilities."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

SumCount = tuple[Tensor, Tensor]
"""The sum over the counted positions, and how many were counted: two scalars of the loss's working dtype."""


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype to compute in: float32, or float64 where a tensor is float64."""
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)


def check_mask(mask: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError unless `mask` is boolean and of `shape`."""
    if mask.dtype != torch.bool:
        # an integer mask would not fail: it would index rows 0 and 1
        raise ValueError(f"Expected a mask of dtype torch.bool, got {mask.dtype}: pass `mask.bool()`.")
    if mask.shape != torch.Size(shape):
        raise ValueError(
            f"Expected a mask of shape {tuple(shape)}, one value per position of the student's tensor, "
            f"got {tuple(mask.shape)}: pass the mask of the same batch."
        )


def counted_rows(student: Tensor, teacher: Tensor, mask: Tensor, advice: str) -> tuple[Tensor, Tensor, Tensor]:
    """The counted rows of both tensors, in the working dtype.

    The rows are selected before anything is computed: what is not counted costs nothing, and an inf or NaN in it
    reaches neither the value nor the gradient.

    Shapes: `student`, `teacher` [..., F]; `mask` bool [...]; returns [N, F], [N, F] (detached) and the scalar N.

    Raises:
        ValueError: the shapes do not agree (the message ends with `advice`), or `mask` is not boolean.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"Expected student and teacher of the same shape, got {tuple(student.shape)} and {tuple(teacher.shape)}: "
            f"{advice}"
        )
    check_mask(mask, student.shape[:-1])
    dtype = working_dtype(student, teacher)
    return student[mask].to(dtype), teacher.detach()[mask].to(dtype), mask.sum().to(dtype)


def expectation(log_p: Tensor, values: Tensor) -> Tensor:
    """The mean of `values` under the distribution `log_p`; where p is 0 a value counts as 0, even inf or NaN.

    Shapes: `log_p` (log probabilities), `values` [..., K] -> [...], summed over K.
    """
    p = log_p.exp()
    # on the value and not on the product: 0 * inf would be NaN in the gradient of p
    return (p * torch.where(p > 0, values, 0.0)).sum(-1)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of two distributions given as log probabilities, with 0 * log 0 = 0.

    Shapes: `log_p`, `log_q` [..., K] -> [...], summed over K. Unit: nats. Infinite where q is 0 and p is not.
    """
    return expectation(log_p, log_p - log_q)
