"""Balancing the terms of a loss by the size of their gradients where all of them still pass."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from distil_trainer.alignment import Alignment
from distil_trainer.errors import TrainingSetupError

_MEMORY = 0.9  # of the running mean of squared norms, over optimizer steps


def shared_layer(alignments: Sequence[Alignment], *, depth: int) -> int:
    """The highest hidden states of the student (0 = embedding output) that every alignment depends on.

    Hidden states of a block depend on themselves, its attention and relations on the block below, logits on the last
    block.
    """
    return min(
        depth if a.student_layer is None else a.student_layer - (a.feature != "hidden_states") for a in alignments
    )


class GradientBalance(TrainerCallback):
    """Factors that give every term a gradient of the same norm at the hidden states that all of them depend on.

    The factor of a term is `mean of all norms / its norm` (geometric mean), so the overall size stays as it is. The
    norms are running means over the optimizer steps so far; squared norms add up over micro-batches and processes, so
    the factors do not depend on how a step is split. In the first step every factor is 1. They are saved and resumed
    with the checkpoint.

    Args:
        layer: the hidden states that all terms depend on; see `shared_layer`.
        reduce: sums a tensor over the processes.

    Source: GradNorm (arXiv 1711.02257) equalises the same norms by learning the weights; here they follow directly.
    """

    def __init__(self, layer: int, reduce: Callable[[Tensor], Tensor]) -> None:
        self.layer = layer
        self._reduce = reduce
        self._squares: dict[str, Tensor] = {}  # of the current step
        self._means: dict[str, float] = {}

    def observe(self, name: str, share: Tensor, shared: Tensor) -> None:
        """Adds the gradient of one micro-batch's `share` (a scalar) of a term at the `shared` hidden states [B, T, D].

        Raises:
            TrainingSetupError: the hidden states do not require a gradient.
        """
        if not shared.requires_grad:
            raise TrainingSetupError(
                "balance_terms compares gradients at hidden states that no trainable parameter comes before (frozen "
                "embeddings, and an alignment of the first block). Leave it False, or do not freeze them."
            )
        (gradient,) = torch.autograd.grad(share, shared, retain_graph=True, allow_unused=True)
        square = shared.new_zeros((), dtype=torch.float32) if gradient is None else gradient.float().square().sum()
        self._squares[name] = self._squares.get(name, 0.0) + square

    def forget_step(self) -> None:
        """Forgets what was observed since the last step: it is left out."""
        self._squares = {}

    def factors(self) -> Mapping[str, float]:
        """Term -> factor; a term that has had no gradient yet is not there (factor 1)."""
        norms = {name: mean**0.5 for name, mean in self._means.items() if mean > 0}
        if not norms:
            return {}
        product = 1.0
        for norm in norms.values():
            product *= norm ** (1 / len(norms))
        return {name: product / norm for name, norm in norms.items()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Goes on from the checkpoint, or starts anew."""
        saved = state.stateful_callbacks.get(type(self).__name__, {})
        self._squares, self._means = {}, dict(saved.get("attributes", {}).get("means", {}))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes the squares of the step into the running means, and those into the state that checkpoints save."""
        if self._squares:
            squares = self._reduce(torch.stack(list(self._squares.values()))).tolist()
            for name, square in zip(self._squares, squares, strict=True):
                self._means[name] = _MEMORY * self._means.get(name, square) + (1 - _MEMORY) * square
        self._squares = {}
        # Not an ExportableState: Trainer restores those only when asked to, and by putting another object in place.
        state.stateful_callbacks[type(self).__name__] = {"args": {}, "attributes": {"means": dict(self._means)}}
