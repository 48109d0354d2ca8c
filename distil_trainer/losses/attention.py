"""Losses between attention maps, computed from the queries and keys of every head.

No caller ever holds a map, and neither does this file: it walks over the rows of queries, as the softmax of a row needs
only that row, and forms the gradient in the same pass. What is held besides a tile grows with T, not with T^2.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distil_trainer.losses._common import SumCount, check_mask, with_gradient, working_dtype

TILE = 2**22
"""How many scores of one model are held at once: 16 MiB of float32. Less is slower in a large batch, whose tiles become
a few rows high (a tile spans all heads and the whole batch, and is one row of each at least); more gains nothing."""


class Heads(NamedTuple):
    """What one attention block computes its map from, and the values that the map then mixes.

    Shapes: `query` [B, H, T, d]; `key` [B, Hk, T, d], where query head h reads key head h // (H / Hk); `value`
    [B, Hk, T, e], which no loss between maps reads, so it may be None; `visible` bool, broadcastable to [B, H, T, T],
    True where query i may look at key j, None for everywhere. B batch, H heads, Hk key heads, T tokens, d and e head
    widths. `scaling` multiplies query . key. `causal` hides the keys j > i as well.
    """

    query: Tensor
    key: Tensor
    scaling: float
    visible: Tensor | None = None
    causal: bool = False
    value: Tensor | None = None


def probs_mse(student: Heads, teacher: Heads, mask: Tensor) -> SumCount:
    """Mean squared error of the attention probabilities.

    Sums over the attended queries i and attended keys j the mean over H of (p_student - p_teacher)^2, where p is the
    softmax of scaling * query . key over the attended keys that i may look at. Counts T_b^2 pairs for a row of the
    batch with T_b attended tokens. A query that may look at no key adds nothing to the sum.

    Shapes: `student`, `teacher` heads of [B, H, T, d], Hk and d may differ; `mask` bool [B, T], True for attended
    tokens. B batch, H heads, Hk key heads, T tokens, d head width. Unit: pairs.

    Raises:
        ValueError: the shapes or head counts do not agree, or `mask` or `visible` is not boolean.

    Source: LightMBERT (arXiv 2103.06418), the attention loss.
    """
    total = _tiled(_squared_probs, student, teacher, mask)
    return total, _pairs(mask).to(total.dtype)


def probs_row_mse(student: Heads, teacher: Heads, mask: Tensor) -> SumCount:
    """Squared error of the attention probabilities, summed over the keys.

    The sum is that of `probs_mse`, but counted by attended queries. A row of probabilities sums to one however long it
    is, so the mean over pairs shrinks as T grows; this one does not.

    Shapes: `student`, `teacher` heads of [B, H, T, d], Hk and d may differ; `mask` bool [B, T], True for attended
    tokens. B batch, H heads, Hk key heads, T tokens, d head width. Unit: tokens.

    Raises:
        ValueError: the shapes or head counts do not agree, or `mask` or `visible` is not boolean.

    Source: as `probs_mse`; the count is this library's.
    """
    total = _tiled(_squared_probs, student, teacher, mask)
    return total, mask.sum().to(total.dtype)


def probs_kl(student: Heads, teacher: Heads, mask: Tensor) -> SumCount:
    """Kullback-Leibler divergence of the attention probabilities, KL(teacher || student).

    Sums over the attended queries the mean over H of the KL divergence between the distributions over the attended
    keys that the query may look at. A query that may look at no key adds nothing to the sum. Infinite where the
    teacher looks at a key that is not visible to the student; the gradient is finite even there, and zero at that key.

    Shapes: `student`, `teacher` heads of [B, H, T, d], Hk and d may differ; `mask` bool [B, T], True for attended
    tokens. B batch, H heads, Hk key heads, T tokens, d head width. Unit: tokens.

    Raises:
        ValueError: the shapes or head counts do not agree, or `mask` or `visible` is not boolean.

    Source: MiniLM (arXiv 2002.10957) section 3.1.
    """
    total = _tiled(_divergence, student, teacher, mask)
    return total, mask.sum().to(total.dtype)


def scores_mse(student: Heads, teacher: Heads, mask: Tensor) -> SumCount:
    """Mean squared error of the attention scores, before mask and softmax.

    Sums over the attended queries i and attended keys j, where j is visible to i in both models, the mean over H of
    the squared difference of scaling * query . key. Counts as `probs_mse` does. Where all queries see the same keys no
    score is computed at all, only products of width d x d.

    Shapes: `student`, `teacher` heads of [B, H, T, d], Hk and d may differ; `mask` bool [B, T], True for attended
    tokens. B batch, H heads, Hk key heads, T tokens, d head width. Unit: pairs.

    Raises:
        ValueError: the shapes or head counts do not agree, or `mask` or `visible` is not boolean.

    Source: TinyBERT (arXiv 1909.10351) section 3, attention based distillation.
    """
    if _same_keys_for_all(student) and _same_keys_for_all(teacher):
        total = _in_one_pass(_closed_scores, student, teacher, mask)
    else:
        total = _tiled(_squared_scores, student, teacher, mask)
    return total, _pairs(mask).to(total.dtype)


def _pairs(mask: Tensor) -> Tensor:
    """Number of pairs of attended tokens, an integer scalar. Shapes: `mask` bool [B, T]."""
    return mask.sum(1).square().sum()


# What a tile adds: the scores of student and teacher [B, H, t, K], theirs to overwrite; where each is readable (bool,
# broadcastable); and whether to differentiate -> the sum of each row [B, H, t], and its gradient with respect to the
# student's scores [B, H, t, K]. Rows that read no key are finite here and dropped later.
_Rows = tuple[Tensor, Tensor | None]
_Rule = Callable[[Tensor, Tensor, Tensor, Tensor, bool], _Rows]


def _hide(scores: Tensor, readable: Tensor) -> Tensor:
    """The scores, so low at unreadable keys that their probability is 0, yet finite: a row without any has no NaN."""
    # added, because filling by a mask takes as long as half a matrix product
    return scores.add_((~readable).to(scores.dtype) * (torch.finfo(scores.dtype).min / 2))


def _squared_probs(student: Tensor, teacher: Tensor, read: Tensor, teacher_read: Tensor, gradient: bool) -> _Rows:
    p = _hide(student, read).softmax(-1)
    difference = _hide(teacher, teacher_read).softmax(-1).sub_(p)
    total = torch.linalg.vector_norm(difference, dim=-1).square()
    if not gradient:
        return total, None
    slope = difference.mul_(p).mul_(-2)
    return total, slope.addcmul_(p, slope.sum(-1, keepdim=True), value=-1)


def _divergence(student: Tensor, teacher: Tensor, read: Tensor, teacher_read: Tensor, gradient: bool) -> _Rows:
    log_q = _hide(student, read).log_softmax(-1)
    log_p = _hide(teacher, teacher_read).log_softmax(-1)
    p = torch.exp(log_p, out=teacher)
    total = log_p.sub_(log_q).mul_(p).sum(-1)  # 0 log 0 = 0: an unreadable key's logarithm is finite
    unexpected = torch.mul(p, teacher_read & ~read, out=log_p).sum(-1)
    return total.masked_fill_(unexpected > 0, torch.inf), log_q.exp_().sub_(p) if gradient else None


def _squared_scores(student: Tensor, teacher: Tensor, read: Tensor, teacher_read: Tensor, gradient: bool) -> _Rows:
    difference = student.sub_(teacher).mul_(read & teacher_read)
    return torch.linalg.vector_norm(difference, dim=-1).square(), difference.mul_(2) if gradient else None


def _in_one_pass(work: Callable[..., tuple[Tensor, ...]], student: Heads, teacher: Heads, mask: Tensor) -> Tensor:
    """The mean over heads of what `work` sums, in the working dtype.

    `work` gets zeros for whatever is padded, and computes the gradients together with the sum: nothing else is kept.
    """
    _check(student, teacher, mask)
    dtype = working_dtype(student.query, student.key, teacher.query, teacher.key)
    padding = ~mask[:, None, :, None]

    def prepare(heads: Heads) -> Heads:
        # zeroed before any product: there 0 * NaN would spread a padded token's NaN to the others
        # contiguous, because models give a transposed view, which every product would copy again
        query, key = (x.masked_fill(padding, 0.0).to(dtype).contiguous() for x in (heads.query, heads.key))
        return heads._replace(query=query * heads.scaling, key=key, scaling=1.0, visible=_narrowed(heads.visible))

    student = prepare(student)
    gradient = student.query.requires_grad or student.key.requires_grad
    with torch.no_grad(), torch.autocast(mask.device.type, enabled=False):
        total, *gradients = work(student, prepare(teacher), mask, gradient)
    for tensor, known in zip((student.query, student.key), gradients, strict=False):
        total = with_gradient(total, tensor, known)
    return total / student.query.size(1)


def _tiled(rule: _Rule, student: Heads, teacher: Heads, mask: Tensor) -> Tensor:
    """The mean over heads of what `rule` sums over the attended queries that see a key in both models."""
    return _in_one_pass(partial(_walk, rule), student, teacher, mask)


def _walk(rule: _Rule, student: Heads, teacher: Heads, mask: Tensor, gradient: bool) -> tuple[Tensor, ...]:
    """The sum of `rule` over all tiles and, if wanted, its gradients with respect to the student's query and key."""
    query, key = student.query, student.key
    batch, heads, tokens, width = query.shape
    step = max(1, TILE // max(1, batch * heads * tokens))
    total = query.new_zeros(())
    gradients = [torch.zeros_like(query), torch.zeros_like(key)] if gradient else []
    for start in range(0, tokens, step):
        end = min(start + step, tokens)
        seen = end if student.causal and teacher.causal else tokens
        read, teacher_read = (_readable(side, mask, start, end, seen) for side in (student, teacher))
        rows = mask[:, None, start:end, None] & read.any(-1, keepdim=True) & teacher_read.any(-1, keepdim=True)
        sums, slope = rule(
            _scores(query[:, :, start:end], key[:, :, :seen]),
            _scores(teacher.query[:, :, start:end], teacher.key[:, :, :seen]),
            read,
            teacher_read,
            gradient,
        )
        total += sums.masked_fill_(~rows.squeeze(-1), 0.0).sum()
        if slope is not None:
            slope = _by_key_head(slope.mul_(rows & read), key)
            gradients[0][:, :, start:end] = (slope @ key[:, :, :seen]).view(batch, heads, end - start, width)
            gradients[1][:, :, :seen] += slope.mT @ _by_key_head(query[:, :, start:end], key)
    return total, *gradients


def _scores(query: Tensor, key: Tensor) -> Tensor:
    """Shapes: `query` [B, H, t, d]; `key` [B, Hk, K, d] -> [B, H, t, K]."""
    return (_by_key_head(query, key) @ key.mT).view(*query.shape[:3], key.size(2))


def _by_key_head(rows: Tensor, key: Tensor) -> Tensor:
    """The rows of the heads that share a key head, one after another: [B, H, t, X] -> [B, Hk, H / Hk * t, X]."""
    return rows.unflatten(1, (key.size(1), -1)).flatten(2, 3)


def _readable(heads: Heads, mask: Tensor, start: int, end: int, seen: int) -> Tensor:
    """True where one of the first `seen` keys is attended and visible to a query from `start` to before `end`.

    Shapes: `mask` bool [B, T] -> bool, broadcastable to [B, H, end - start, seen].
    """
    readable = mask[:, None, None, :seen]
    if heads.visible is not None:
        visible = heads.visible if heads.visible.size(-2) == 1 else heads.visible[..., start:end, :]
        readable = readable & visible[..., :seen]
    if heads.causal:
        places = torch.arange(seen, device=mask.device)
        readable = readable & (places <= places[start:end, None])
    return readable


def _narrowed(visible: Tensor | None) -> Tensor | None:
    """`visible` in four dimensions, the third of size 1 if it is one row repeated, as models expand it."""
    if visible is None:
        return None
    visible = visible[(None,) * (4 - visible.ndim)]
    return visible[:, :, :1] if visible.stride(2) == 0 else visible


def _same_keys_for_all(heads: Heads) -> bool:
    """Whether all queries of a head may look at the same keys, as far as that shows without reading `visible`."""
    visible = _narrowed(heads.visible)
    return not heads.causal and (visible is None or visible.size(2) == 1)


def _closed_scores(student: Heads, teacher: Heads, mask: Tensor, gradient: bool) -> tuple[Tensor, ...]:
    """The sum of the squared score differences D, and its gradients, by products of width d x d.

    With Q, K the student's and P, L the teacher's queries and keys, D = Q K^T - P L^T = A K^T + P E^T, where A = Q - P
    and E = K - L. The textbook form tr(Q^T Q K^T K) - 2 tr(P^T Q K^T L) + tr(P^T P L^T L) subtracts numbers of the size
    of the scores squared, and in float32 nothing would be left of a small D. Here the terms are small with A and E.
    What they still lose, 1e-7 of the scores squared, shows only where D is small and A and E are not.
    """
    heads, width = student.query.size(1), max(student.query.size(-1), teacher.query.size(-1))
    read = (_readable(student, mask, 0, 0, mask.size(1)) & _readable(teacher, mask, 0, 0, mask.size(1))).mT

    def widened(x: Tensor) -> Tensor:  # zero columns change no product, and shared keys are repeated for their heads
        return F.pad(x, (0, width - x.size(-1))).repeat_interleave(heads // x.size(1), 1)

    p, k = widened(teacher.query), widened(student.key).masked_fill(~read, 0.0)
    a, e = widened(student.query) - p, k - widened(teacher.key).masked_fill(~read, 0.0)
    aa, kk, ap, ek, pp, ee = (x.mT @ y for x, y in ((a, a), (k, k), (a, p), (e, k), (p, p), (e, e)))
    total = (aa * kk + 2 * ap * ek.mT + pp * ee).sum().clamp(min=0)
    if not gradient:
        return (total,)
    query_gradient = 2 * (a @ kk + p @ ek)  # 2 D K
    key_gradient = 2 * (k @ (aa + ap) + e @ (ap.mT + pp))  # 2 D^T Q, zero at the keys that are not read
    shared = key_gradient.unflatten(1, (student.key.size(1), -1)).sum(2)
    return total, query_gradient[..., : student.query.size(-1)], shared[..., : student.key.size(-1)]


def _check(student: Heads, teacher: Heads, mask: Tensor) -> None:
    """Raise ValueError unless the shapes and dtypes are as the losses' docstrings say."""
    for name, heads in (("student", student), ("teacher", teacher)):
        shape = tuple(heads.query.shape)
        keys = tuple(heads.key.shape)
        alike = len(shape) == len(keys) == 4 and (shape[0], *shape[2:]) == (keys[0], *keys[2:])
        if not alike or keys[1] == 0 or shape[1] % keys[1]:
            raise ValueError(
                f"Expected the {name}'s query [batch, H, tokens, head width] and key [batch, Hk, tokens, head width], "
                f"H a multiple of Hk, got {shape} and {keys}: give a key head for every query head or one for every "
                "group of them; only self-attention can be compared."
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
