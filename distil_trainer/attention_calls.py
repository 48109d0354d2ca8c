"""What one call of an attention function computes its map from, whatever else than queries and keys goes into it.

The losses compare maps that are the softmax of scaling * query . key over visible keys. A bias by position (T5), a soft
cap (Gemma 2) or a map that only the model itself can compute (DeBERTa) are brought into that form here: the scores take
the place of the queries, the identity that of the keys. Such a map is as large as T^2, in value and gradient.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from distil_trainer.errors import CaptureError
from distil_trainer.losses import Heads

# Numbers and tensors that models pass along and no map depends on: the mask holds what they say, or nothing reads them.
_HARMLESS = {"dropout", "scaling", "sliding_window", "position_ids", "cache_position", "attention_mask",
             "num_items_in_batch", "cu_seq_lens_q", "cu_seq_lens_k"}  # fmt: skip


@dataclass(frozen=True)
class ScoreChange:
    """What a model does to scaling * query . key before the mask: `softcap` * tanh(scores / `softcap`), then + `bias`,
    which is broadcastable to [B, H, T, T]. None: nothing.
    """

    softcap: float | None = None
    bias: Tensor | None = None

    def applied(self, heads: Heads) -> Heads:
        """Heads whose product is the changed scores."""
        key = heads.key.repeat_interleave(heads.query.size(1) // heads.key.size(1), dim=1)
        scores = heads.scaling * heads.query @ key.mT
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if self.bias is not None:
            scores = scores + self.bias
        return heads_of_scores(scores, heads.visible, causal=heads.causal)


def score_change(module: nn.Module, arguments: Mapping[str, Any]) -> ScoreChange | None:
    """What the keyword arguments of a call do to the scores; None for nothing.

    Raises:
        CaptureError: an argument that is not known is a number or a tensor, and may change the map.
    """
    for name, value in arguments.items():
        if isinstance(value, Tensor | float) and name not in _HARMLESS | {"softcap", "position_bias"}:
            raise CaptureError(
                f"{type(module).__name__} computes its attention with {name!r}, and it is not known what that does to "
                "the probabilities. Align hidden states or logits of this model instead."
            )
    softcap, bias = arguments.get("softcap"), arguments.get("position_bias")
    return None if softcap is None and bias is None else ScoreChange(softcap, bias)


def heads_of_scores(scores: Tensor, visible: Tensor | None = None, *, causal: bool = False) -> Heads:
    """Heads whose product is `scores` [B, H, T, T]."""
    identity = torch.eye(scores.size(-1), dtype=scores.dtype, device=scores.device)
    return Heads(scores, identity.expand(scores.size(0), 1, -1, -1), 1.0, visible, causal)


def heads_of_probs(probs: Tensor) -> Heads:
    """Heads whose map is `probs` [B, H, T, T], rows that sum to one over attended keys."""
    return heads_of_scores(probs.clamp(min=torch.finfo(probs.dtype).tiny).log())


@contextmanager
def attention_replaced(model: Any, function: Callable[..., Any]) -> Iterator[Callable[..., Any] | None]:
    """Inside this context `function` is called in the place of the backend's, under the backend's own name.

    Yields the backend's; None for eager, which each modelling file defines itself (`eager_function`).
    """
    backend = model.config._attn_implementation
    own, is_set_here = ALL_ATTENTION_FUNCTIONS.get(backend), backend in ALL_ATTENTION_FUNCTIONS._local_mapping
    ALL_ATTENTION_FUNCTIONS[backend] = function
    try:
        yield own
    finally:
        if is_set_here:
            ALL_ATTENTION_FUNCTIONS[backend] = own
        else:
            del ALL_ATTENTION_FUNCTIONS[backend]


def dispatches_attention(model: nn.Module) -> bool:
    """Whether any model inside `model` (a PEFT model wraps one) reads its attention function from the interface."""
    return any(getattr(type(m), "_can_set_attn_implementation", lambda: False)() for m in model.modules())


def eager_function(module: nn.Module) -> Callable[..., Any]:
    """The function that a modelling file defines for eager attention."""
    source = sys.modules[type(module).__module__]
    if not hasattr(source, "eager_attention_forward"):
        raise CaptureError(
            f"{type(module).__name__} defines no eager_attention_forward; use attn_implementation='sdpa' to align it."
        )
    return source.eager_attention_forward


def is_causal(module: nn.Module, query: Tensor, mask: Any, backend: str, argument: bool | None) -> bool:
    """Whether the backend hides later keys by itself, without a mask that says so."""
    causal = argument if argument is not None else getattr(module, "is_causal", True)
    return mask is None and backend != "eager" and bool(causal) and query.size(2) > 1


def visible_pairs(mask: Any, backend: str) -> Tensor | None:
    """The backend's mask as bool, broadcastable to [B, H, T, T] (True = query may look at key); None = everything."""
    if mask is None:
        return None
    if isinstance(mask, Tensor) and mask.ndim == 4:
        return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    raise CaptureError(f"cannot read the attention mask of backend {backend!r}; use attn_implementation='sdpa'.")
