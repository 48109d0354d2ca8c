"""What the losses share: the precision they compute in, the shapes they accept, gradients known beforehand."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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


def check_shapes(student: Sequence[int], teacher: Sequence[int], mask: Tensor, advice: str) -> None:
    """Raise ValueError unless both shapes [..., F] are the same and `mask` is boolean and of shape [...].

    The message about different shapes ends with `advice`.
    """
    if student != teacher:
        raise ValueError(
            f"Expected student and teacher of the same shape, got {tuple(student)} and {tuple(teacher)}: {advice}"
        )
    check_mask(mask, student[:-1])


def with_gradient(total: Tensor, tensor: Tensor, gradient: Tensor) -> Tensor:
    """The scalar `total`, whose gradient with respect to `tensor` (of the same shape) is known to be `gradient`."""
    return total + _Gradient.apply(tensor, gradient)


class _Gradient(torch.autograd.Function):
    """0, with a gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return gradient.new_zeros((), dtype=working_dtype(gradient))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None  # autograd itself casts it to the dtype of the tensor
