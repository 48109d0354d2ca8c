"""Sums over rows of logits in chunks: the logits are formed, read and forgotten a few positions at a time.

The gradient is formed in the same pass, while the logits are there, so the backward pass only scales it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distil_trainer.losses._common import SumCount, check_shapes, with_gradient, working_dtype

_ADVICE = "compare the same positions of models that share one vocabulary (resize or cut the logits before)."

# Logits of one model that exist at a time, on a CPU: 64 rows of a vocabulary of 120,000, in 31 MB for each of the two
# models. Chunks of fewer rows are slower, for each of them reads the whole weight.
_CHUNK = 7_700_000
# A chunk is read in as many parts, so that what a loss computes on the way is small and stays in the cache.
_PARTS = 16


class LogitRows(NamedTuple):
    """Logits that are not computed yet: hidden @ weight.T + bias, under autocast as a `torch.nn.Linear` would.

    The gradient of `weight`, as large as the weight, is scaled in place: a second walk to `weight` over a retained
    graph raises RuntimeError. To `hidden` and `bias` the graph may be walked again.

    Shapes: `hidden` [..., D]; `weight` [V, D]; `bias` [V] or None. D hidden, V vocabulary.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None


class LogitMean(NamedTuple):
    """Logits of several models as those of one: their mean, weighted.

    A loss between predictions takes the mean of the probabilities at its temperature T, sum over i of
    w_i softmax(z_i / T), as logits T log(mean); the MSE of logits takes the mean of the logits, sum over i of w_i z_i.

    Shapes: each of `logits` [..., V] or `LogitRows`; `weights` as many positive numbers with the sum 1. V vocabulary.

    Source: Distilling the Knowledge in a Neural Network (arXiv 1503.02531) section 1, soft targets of an ensemble.
    """

    logits: "tuple[Tensor | LogitRows, ...]"
    weights: tuple[float, ...]


class TopLogits(NamedTuple):
    """The k largest logits of each position, and one that stands for all others together.

    The softmax of the k + 1 is the distribution over the k tokens and "any other". It is the same whatever is added to
    all logits of a position. `rest` belongs to one temperature T: it is T * log of the sum of exp(logit / T) over the
    other tokens.

    Shapes: `values` [..., k]; `tokens` int64 [..., k], which of the vocabulary they are; `rest` [...].
    """

    values: Tensor
    tokens: Tensor
    rest: Tensor


Logits = Tensor | LogitRows | LogitMean
Part = Callable[[Tensor, Tensor, float, bool], tuple[Tensor, Tensor | None]]


def sum_over_rows(
    part: Part,
    student: Logits,
    teacher: Logits | TopLogits,
    mask: Tensor,
    temperature: float,
    *,
    of_probs: bool = True,
    takes_top: bool = False,
) -> SumCount:
    """The sum of `part` over the counted positions, and their number.

    `part(s, t, temperature, wanted)` is the loss on a few rows of logits, `s` of the student and `t` of the teacher,
    both [n, V], which it may overwrite: the sum over the rows, and its gradient with respect to `s` if it is `wanted`.
    `of_probs` says what a `LogitMean` is the mean of: probabilities, or logits. Of `TopLogits`, which only a loss that
    `takes_top` accepts, it gets k + 1 events instead of V tokens: each of the k, and any other.

    Shapes: `student` [..., V] or `LogitRows`, `teacher` that, a `LogitMean` of such or `TopLogits`; `mask` bool [...],
    True where counted. V vocabulary.

    Raises:
        ValueError: the shapes do not agree, `mask` is not boolean, or the loss needs more than `TopLogits`.
    """
    if isinstance(student, LogitMean):
        raise ValueError("Expected the logits of one student, got a LogitMean: only teachers may be several.")
    tokens = None
    if isinstance(teacher, TopLogits):
        if not takes_top:
            raise ValueError(
                "Expected all of the teacher's logits, got the largest of each position: only kl and "
                "soft_cross_entropy can be computed from these."
            )
        tokens = teacher.tokens.reshape(-1, teacher.tokens.shape[-1])
        teacher = torch.cat([teacher.values, teacher.rest[..., None]], dim=-1)
    ours = _Rows(student, torch.is_grad_enabled())
    theirs = _MeanRows(teacher, temperature if of_probs else None) if isinstance(teacher, LogitMean) else _Rows(teacher)
    vocabulary, device = ours.shape[-1], mask.device
    check_shapes(ours.shape, theirs.shape if tokens is None else (*theirs.shape[:-1], vocabulary), mask, _ADVICE)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        positions = mask.flatten().nonzero().squeeze(-1)  # on a GPU the one point where the host waits
        dtype = working_dtype(*ours.present, *theirs.present)
        total = torch.zeros((), dtype=dtype, device=device)
        budget = _CHUNK if device.type == "cpu" else 4 * _CHUNK
        # chunks of one size, for a last one of a few rows would read the whole weight too
        chunks = math.ceil(len(positions) * vocabulary / budget)
        rows = math.ceil(len(positions) / max(chunks, 1))
        few = max(budget // _PARTS // vocabulary, 1)
        buffers = [torch.empty(rows, shape[-1], dtype=dtype, device=device) for shape in (ours.shape, theirs.shape)]
        for chunk in positions.split(max(rows, 1)):
            s, t = (buffer[: len(chunk)] for buffer in buffers)
            ours.write(chunk, s)
            theirs.write(chunk, t)
            for few_s, few_t, places in zip(s.split(few), t.split(few), chunk.split(few), strict=True):
                if tokens is None:
                    value, gradient = part(few_s, few_t, temperature, ours.wanted)
                else:
                    value, gradient = _of_events(part, few_s, few_t, tokens[places], temperature, ours.wanted)
                total += value
                if gradient is not None:
                    few_s.copy_(gradient)
            if ours.wanted:
                ours.add_gradient(chunk, s, budget)
    return ours.attach(total), torch.full_like(total, len(positions))


def top_logits(logits: Tensor | LogitRows, k: int, temperature: float) -> TopLogits:
    """The k largest logits of each position, less the largest, and the one that stands for the others.

    Shapes: `logits` [..., V] or `LogitRows` -> [..., k]. V vocabulary.

    Raises:
        ValueError: there are no more than k logits.
    """
    rows = _Rows(logits)
    vocabulary, device = rows.shape[-1], rows.hidden.device
    if not 0 < k < vocabulary:
        raise ValueError(
            f"Expected k from 1 to below {vocabulary}, the number of logits, got {k}: leave it out for all."
        )
    found = []
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for chunk in torch.arange(len(rows.hidden), device=device).split(max(_CHUNK // vocabulary, 1)):
            whole = torch.empty(len(chunk), vocabulary, dtype=working_dtype(*rows.present), device=device)
            rows.write(chunk, whole)
            values, tokens = whole.topk(k)
            rest = temperature * whole.div_(temperature).scatter_(-1, tokens, -torch.inf).logsumexp(-1)
            found.append((values - values[:, :1], tokens, rest - values[:, 0]))
    values, tokens, rest = (torch.cat(parts) for parts in zip(*found, strict=True))
    shape = rows.shape[:-1]
    return TopLogits(values.view(*shape, k), tokens.view(*shape, k), rest.view(shape))


def _of_events(
    part: Part, s: Tensor, t: Tensor, tokens: Tensor, temperature: float, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """`part` of the distributions over k tokens and "any other": its sum, and its gradient with respect to `s`.

    Shapes: `s` [n, V]; `t` [n, k + 1], the last for any other; `tokens` int64 [n, k].
    """
    others = (s / temperature).scatter_(-1, tokens, -torch.inf)
    rest = others.logsumexp(-1, keepdim=True)
    value, gradient = part(torch.cat([s.gather(-1, tokens), temperature * rest], -1), t, temperature, wanted)
    if gradient is None:
        return value, None
    shares = others.sub_(rest).exp_()  # of each other token in the rest
    return value, shares.mul_(gradient[:, -1:]).scatter_(-1, tokens, gradient[:, :-1])


class _Rows:
    """The rows of one model's logits, written where they are asked for, and the gradients of what they come from."""

    def __init__(self, logits: Tensor | LogitRows, gradient: bool = False) -> None:
        hidden, weight, bias = self.inputs = logits if isinstance(logits, LogitRows) else (logits, None, None)
        self.present = [tensor for tensor in self.inputs if tensor is not None]
        self.shape = hidden.shape if weight is None else hidden.shape[:-1] + weight.shape[:1]
        self.dtype = _product_dtype(hidden, weight)
        self.hidden = hidden.detach().reshape(-1, hidden.shape[-1])
        self.weight = None if weight is None else weight.detach().to(self.dtype)
        self.bias = None if bias is None else bias.detach().to(self.dtype)

        def zeros(tensor: Tensor | None) -> Tensor | None:
            if tensor is None or not (gradient and tensor.requires_grad):
                return None
            # whole logits are large, and each row is written once: they need no more than their own precision
            dtype = tensor.dtype if weight is None else working_dtype(tensor)
            return torch.zeros(tensor.shape, dtype=dtype, device=tensor.device)

        self.d_hidden, self.d_weight, self.d_bias = map(zeros, self.inputs)
        self.wanted = any(d is not None for d in (self.d_hidden, self.d_weight, self.d_bias))

    def write(self, positions: Tensor, out: Tensor) -> None:
        """Writes the logits of `positions` [n] into `out` [n, V]."""
        rows = self.hidden.index_select(0, positions).to(self.dtype)
        if self.weight is None:
            out.copy_(rows)
        elif self.dtype != out.dtype:
            out.copy_(torch.nn.functional.linear(rows, self.weight, self.bias))
        elif self.bias is None:
            torch.mm(rows, self.weight.T, out=out)
        else:
            torch.addmm(self.bias, rows, self.weight.T, out=out)

    def add_gradient(self, positions: Tensor, gradient: Tensor, budget: int) -> None:
        """Adds up what `gradient` [n, V], of the logits of `positions` [n], gives to hidden, weight and bias."""
        if self.d_bias is not None:
            self.d_bias += gradient.sum(0)
        gradient = gradient.to(self.dtype)
        if self.d_hidden is not None:
            rows = gradient if self.weight is None else gradient @ self.weight
            self.d_hidden.view(self.hidden.shape).index_copy_(0, positions, rows.to(self.d_hidden.dtype))
        if self.d_weight is not None:
            rows = self.hidden.index_select(0, positions).to(self.dtype)
            if self.d_weight.dtype == self.dtype:
                self.d_weight.addmm_(gradient.T, rows)
                return
            block = max(budget // rows.shape[-1], 1)  # the product is in another dtype: never a second whole weight
            for into, columns in zip(self.d_weight.split(block), gradient.split(block, dim=-1), strict=True):
                into += columns.T @ rows

    def attach(self, total: Tensor) -> Tensor:
        """The total, with its gradients."""
        hidden, weight, bias = self.inputs
        if self.d_hidden is not None:
            total = with_gradient(total, hidden, self.d_hidden)
        if self.d_weight is not None:
            total = total + _GradientOnce.apply(weight, self.d_weight)
        if bias is not None and self.d_bias is not None:
            total = with_gradient(total, bias, self.d_bias)
        return total


class _MeanRows:
    """The rows of the mean of several models' logits; of their probabilities, where a temperature is given."""

    def __init__(self, mean: LogitMean, temperature: float | None) -> None:
        self._models = [_Rows(logits) for logits in mean.logits]
        if len({model.shape for model in self._models}) != 1 or len(mean.weights) != len(self._models):
            shapes = ", ".join(str(tuple(model.shape)) for model in self._models)
            raise ValueError(
                f"Expected logits of one shape, and a weight for each, got {shapes} and {len(mean.weights)} weights: "
                f"{_ADVICE}"
            )
        self._weights, self._temperature = mean.weights, temperature
        self.present = [tensor for model in self._models for tensor in model.present]
        self.shape = self._models[0].shape

    def write(self, positions: Tensor, out: Tensor) -> None:
        """Writes the mean at `positions` [n] into `out` [n, V]."""
        one = torch.empty_like(out)
        out.fill_(0.0 if self._temperature is None else -torch.inf)
        for model, weight in zip(self._models, self._weights, strict=True):
            model.write(positions, one)
            if self._temperature is None:
                out.add_(one, alpha=weight)
            else:
                log_probs = one.div_(self._temperature).log_softmax(-1).add_(math.log(weight))
                torch.logaddexp(out, log_probs, out=out)
        if self._temperature is not None:
            out.mul_(self._temperature)


class _GradientOnce(torch.autograd.Function):
    """0, with a gradient that is scaled in place and handed on: no second copy of it, and no second time."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return gradient.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError(
                "Expected one backward pass to the weight that makes logits, got a second one over the same graph: "
                "compute the loss again, or ask torch.autograd.grad for other inputs than this weight."
            )
        return gradient.mul_(upstream), None


def _product_dtype(hidden: Tensor, weight: Tensor | None) -> torch.dtype:
    """The dtype that a Linear would give its logits; of whole logits their own."""
    if weight is None:
        return hidden.dtype
    dtype = torch.promote_types(hidden.dtype, weight.dtype)
    if torch.is_autocast_enabled(hidden.device.type) and dtype != torch.float64:
        return torch.get_autocast_dtype(hidden.device.type)
    return dtype
