"""Losses between attention maps, computed from the queries and keys of every head.

The maps are an implementation detail of this file: no caller ever holds one.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from distil_trainer.losses._common import SumCount, check_mask, kl_divergence, working_dtype


class Heads(NamedTuple):
    """What one attention block computes its map from.

    Shapes: `query`, `key` [B, H, T, d]; `visible` bool, broadcastable to [B, H, T, T], True where query i may look
    at key j, None for everywhere. B batch, H heads, T tokens, d head width. `scaling` multiplies query . key.
    """

    query: Tensor
    key: Tensor
    scaling: float
    visible: Tensor | None = None


def probs_mse(student: Heads, teacher: Heads, mask: Tensor) -> SumCount:
    """Mean squared error of the attention probabilities.

    Sums over the attended queries i and attended keys j the mean over H of (p_student - p_teacher)^2, where p is the
    softmax of scaling * query . key over the attended keys that i may look at. Counts T_b^2 pairs for a row of the
    batch with T_b attended tokens. A query that may look at no key adds nothing to the sum.

    Shapes: `student`, `teacher` heads of [B, H, T, d], d may differ; `mask` bool [B, T], True for attended tokens.
    B batch, H heads, T tokens, d head width. Unit: pairs.

    Raises:
        ValueError: the shapes or head counts do not agree, or `mask` or `visible` is not boolean.

    Source: LightMBERT (arXiv 2103.06418), the attention loss.
    """
    _check(student, teacher, mask)
    student_scores, teacher_scores, rows = _masked_scores(student, teacher, mask)
    difference = student_scores.softmax(-1) - teacher_scores.softmax(-1)
    return torch.where(rows, difference, 0.0).square().mean(1).sum(), _pairs(mask).to(difference.dtype)


def probs_kl(student: Heads, teacher: Heads, mask: Tensor) -> SumCount:
    """Kullback-Leibler divergence of the attention probabilities, KL(teacher || student).

    Sums over the attended queries the mean over H of the KL divergence between the distributions over the attended
    keys that the query may look at. A query that may look at no key adds nothing to the sum. Infinite where the
    teacher looks at a key that is not visible to the student.

    Shapes: `student`, `teacher` heads of [B, H, T, d], d may differ; `mask` bool [B, T], True for attended tokens.
    B batch, H heads, T tokens, d head width. Unit: tokens.

    Raises:
        ValueError: the shapes or head counts do not agree, or `mask` or `visible` is not boolean.

    Source: MiniLM (arXiv 2002.10957) section 3.1.
    """
    _check(student, teacher, mask)
    student_scores, teacher_scores, rows = _masked_scores(student, teacher, mask)
    divergence = kl_divergence(teacher_scores.log_softmax(-1), student_scores.log_softmax(-1))
    return torch.where(rows.squeeze(-1), divergence, 0.0).mean(1).sum(), mask.sum().to(divergence.dtype)


def scores_mse(student: Heads, teacher: Heads, mask: Tensor) -> SumCount:
    """Mean squared error of the attention scores, before mask and softmax.

    Sums over the attended queries i and attended keys j, where j is visible to i in both models, the mean over H of
    the squared difference of scaling * query . key. Counts as `probs_mse` does.

    Shapes: `student`, `teacher` heads of [B, H, T, d], d may differ; `mask` bool [B, T], True for attended tokens.
    B batch, H heads, T tokens, d head width. Unit: pairs.

    Raises:
        ValueError: the shapes or head counts do not agree, or `mask` or `visible` is not boolean.

    Source: TinyBERT (arXiv 1909.10351) section 3, attention based distillation.
    """
    _check(student, teacher, mask)
    student_scores, teacher_scores = _scores(student, teacher, mask)
    compared = mask[:, None, :, None] & _readable(student, mask) & _readable(teacher, mask)
    difference = torch.where(compared, student_scores - teacher_scores, 0.0)
    return difference.square().mean(1).sum(), _pairs(mask).to(difference.dtype)


def _pairs(mask: Tensor) -> Tensor:
    """Number of pairs of attended tokens, an integer scalar. Shapes: `mask` bool [B, T]."""
    return mask.sum(1).square().sum()


def _readable(heads: Heads, mask: Tensor) -> Tensor:
    """True where key j is attended and visible to query i.

    Shapes: `mask` bool [B, T] -> bool, broadcastable to [B, H, T, T].
    """
    attended = mask[:, None, None, :]
    return attended if heads.visible is None else attended & heads.visible


def _scores(student: Heads, teacher: Heads, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of both models, scaling * query . key in the working dtype; 0 where query or key is not attended.

    Shapes: heads of [B, H, T, d]; `mask` bool [B, T] -> [B, H, T, T] twice, the teacher's detached.
    """
    dtype = working_dtype(student.query, student.key, teacher.query, teacher.key)
    padding = ~mask[:, None, :, None]

    def product(query: Tensor, key: Tensor, scaling: float) -> Tensor:
        # zeroed before the product: in its gradient 0 * NaN would spread a padded token's NaN to the others
        query, key = (tensor.masked_fill(padding, 0.0).to(dtype) for tensor in (query, key))
        with torch.autocast(mask.device.type, enabled=False):
            return (query * scaling) @ key.mT

    return (
        product(student.query, student.key, student.scaling),
        product(teacher.query.detach(), teacher.key.detach(), teacher.scaling),
    )


def _masked_scores(student: Heads, teacher: Heads, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The scores with -inf for the keys a query does not read, and the query rows that can be compared.

    Shapes: heads of [B, H, T, d]; `mask` bool [B, T] -> [B, H, T, T] twice, and bool, broadcastable to [B, H, T, 1].
    """
    rows = mask[:, None, :, None]
    masked = []
    for heads, scores in zip((student, teacher), _scores(student, teacher, mask), strict=True):
        readable = _readable(heads, mask)
        any_key = readable.any(-1, keepdim=True)
        # a row without any key keeps its finite scores: the softmax of -inf alone is NaN, and although that row is
        # dropped below, autograd's anomaly detection would stop at it
        masked.append(scores.masked_fill(any_key & ~readable, -torch.inf))
        rows = rows & any_key
    return masked[0], masked[1], rows


def _check(student: Heads, teacher: Heads, mask: Tensor) -> None:
    """Raise ValueError unless the shapes and dtypes are as the losses' docstrings say."""
    for name, heads in (("student", student), ("teacher", teacher)):
        shape = tuple(heads.query.shape)
        if len(shape) != 4 or heads.key.shape != heads.query.shape:
            raise ValueError(
                f"Expected the {name}'s query and key of one shape [batch, heads, tokens, head width], got {shape} and "
                f"{tuple(heads.key.shape)}: repeat shared key heads; only self-attention can be compared."
            )
        if heads.visible is not None:
            _check_visible(name, heads.visible, (*shape[:3], shape[2]))
    (batch, head_count, tokens), theirs = student.query.shape[:3], teacher.query.shape[:3]
    if head_count != theirs[1]:
        raise ValueError(
            f"Expected equal head counts, got {head_count} for the student and {theirs[1]} for the teacher: "
            "give the student as many attention heads as the teacher has, or align another feature."
        )
    if (batch, tokens) != (theirs[0], theirs[2]):
        raise ValueError(
            f"Expected the same batch and tokens, got {(batch, tokens)} for the student and {(theirs[0], theirs[2])} "
            "for the teacher: run both models on the same batch."
        )
    check_mask(mask, (batch, tokens))


def _check_visible(name: str, visible: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `visible` is boolean and broadcastable to `shape`."""
    sizes = (1,) * (len(shape) - visible.ndim) + tuple(visible.shape)
    fits = len(sizes) == len(shape) and all(size in (1, full) for size, full in zip(sizes, shape, strict=True))
    if visible.dtype != torch.bool or not fits:
        raise ValueError(
            f"Expected the {name}'s `visible` as torch.bool, broadcastable to {shape}, got {visible.dtype} of shape "
            f"{tuple(visible.shape)}: pass True where query i may look at key j, or None for everywhere."
        )
