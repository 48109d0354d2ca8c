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


Logits = Tensor | LogitRows | LogitMean
Part = Callable[[Tensor, Tensor, float, bool], tuple[Tensor, Tensor | None]]


def sum_over_rows(
    part: Part, student: Logits, teacher: Logits, mask: Tensor, temperature: float, *, of_probs: bool = True
) -> SumCount:
    """The sum of `part` over the counted positions, and their number.

    `part(s, t, temperature, wanted)` is the loss on a few rows of logits, `s` of the student and `t` of the teacher,
    both [n, V], which it may overwrite: the sum over the rows, and its gradient with respect to `s` if it is `wanted`.
    `of_probs` says what a `LogitMean` is the mean of: probabilities, or logits.

    Shapes: `student` [..., V] or `LogitRows`, `teacher` that or a `LogitMean` of such; `mask` bool [...], True where
    counted. V vocabulary.

    Raises:
        ValueError: the shapes do not agree, or `mask` is not boolean.
    """
    if isinstance(student, LogitMean):
        raise ValueError("Expected the logits of one student, got a LogitMean: only teachers may be several.")
    ours = _Rows(student, torch.is_grad_enabled())
    theirs = _MeanRows(teacher, temperature if of_probs else None) if isinstance(teacher, LogitMean) else _Rows(teacher)
    check_shapes(ours.shape, theirs.shape, mask, _ADVICE)
    vocabulary, device = ours.shape[-1], mask.device
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        positions = mask.flatten().nonzero().squeeze(-1)  # on a GPU the one point where the host waits
        dtype = working_dtype(*ours.present, *theirs.present)
        total = torch.zeros((), dtype=dtype, device=device)
        budget = _CHUNK if device.type == "cpu" else 4 * _CHUNK
        # chunks of one size, for a last one of a few rows would read the whole weight too
        chunks = math.ceil(len(positions) * vocabulary / budget)
        rows = math.ceil(len(positions) / max(chunks, 1))
        few = max(budget // _PARTS // vocabulary, 1)
        buffers = torch.empty(2, rows, vocabulary, dtype=dtype, device=device)
        for chunk in positions.split(max(rows, 1)):
            s, t = buffers[:, : len(chunk)]
            ours.write(chunk, s)
            theirs.write(chunk, t)
            for few_s, few_t in zip(s.split(few), t.split(few), strict=True):
                value, gradient = part(few_s, few_t, temperature, ours.wanted)
                total += value
                if gradient is not None:
                    few_s.copy_(gradient)
            if ours.wanted:
                ours.add_gradient(chunk, s, budget)
    return ours.attach(total), torch.full_like(total, len(positions))


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
