"""Distillation losses: pure functions of tensors, which never hold a model.

Each returns a sum over the counted positions and their number. The mean is the trainer's: it divides by the count of
the whole optimizer step. Sums are in float32 or better, positions that are not counted contribute nothing, and the
teacher gets no gradient.
"""

from collections.abc import Callable
from typing import NamedTuple

from distil_trainer.losses import attention, hidden, logits, relation
from distil_trainer.losses._common import SumCount
from distil_trainer.losses._rows import LogitMean, LogitRows, TopLogits, top_logits
from distil_trainer.losses.attention import Heads

__all__ = ["LOSSES", "Heads", "LogitMean", "LogitRows", "Loss", "SumCount", "TopLogits", "top_logits"]


class Loss(NamedTuple):
    """A loss, and what it counts: "tokens", "pairs" (of attended tokens) or "positions" (rows of logits)."""

    function: Callable[..., SumCount]
    unit: str


LOSSES: dict[str, dict[str, Loss]] = {
    "hidden_states": {
        "mse": Loss(hidden.mse, "tokens"),
        "cosine": Loss(hidden.cosine, "tokens"),
        "normalized_mse": Loss(hidden.normalized_mse, "tokens"),
    },
    "attention_scores": {
        "mse": Loss(attention.scores_mse, "pairs"),
    },
    "attention_probs": {
        "mse": Loss(attention.probs_mse, "pairs"),
        "row_mse": Loss(attention.probs_row_mse, "tokens"),
        "kl": Loss(attention.probs_kl, "tokens"),
    },
    "query_relation": {"kl": Loss(relation.kl, "tokens")},
    "key_relation": {"kl": Loss(relation.kl, "tokens")},
    "value_relation": {"kl": Loss(relation.kl, "tokens")},
    "logits": {
        "kl": Loss(logits.kl, "positions"),
        "reverse_kl": Loss(logits.reverse_kl, "positions"),
        "js": Loss(logits.js, "positions"),
        "mse": Loss(logits.mse, "positions"),
        "soft_cross_entropy": Loss(logits.soft_cross_entropy, "positions"),
    },
}
"""Feature -> name of a loss that it accepts -> the loss. This literal is the list: there is no registry."""
