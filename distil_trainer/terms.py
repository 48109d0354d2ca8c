"""One alignment, computed: features of both models -> a sum, a count, and what was counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distil_trainer.alignment import RELATIONS, Alignment
from distil_trainer.errors import CaptureError
from distil_trainer.features import Features
from distil_trainer.losses import LOSSES, LogitMean, LogitRows
from distil_trainer.positions import decoder_mask, first_of, is_dense, label_mask, row_mask, token_mask
from distil_trainer.schedule import value_at


@dataclass(frozen=True)
class Term:
    """A loss before it is averaged: float scalars `total` and `count`, and the unit counted (`positions.UNITS`)."""

    total: Tensor
    count: Tensor
    unit: str


def taught_by(alignment: Alignment, teachers: Sequence[Features], shares: Sequence[float]) -> Features:
    """What an alignment reads of the teachers' features: those of one, or the mean of all their logits.

    Args:
        alignment: what is compared.
        teachers: the features of each teacher.
        shares: the weight of each in the mean; their sum is 1.

    Raises:
        CaptureError: logits are aligned and a teacher gave none.
    """
    if alignment.teacher is not None or len(teachers) == 1:
        return teachers[(alignment.teacher or 1) - 1]
    logits = tuple(features.logits for features in teachers if features.logits is not None)
    if len(logits) < len(teachers):
        raise CaptureError("logits are aligned, but a teacher returned none: load all with a head.")
    return Features(logits=LogitMean(logits, tuple(shares)))  # type: ignore[arg-type]


def compute_term(
    alignment: Alignment, student: Features, teacher: Features, inputs: Mapping[str, Any], progress: float = 0.0
) -> Term:
    """The sum of an alignment's loss over the counted positions of one micro-batch; `progress` tells the temperature.

    Raises:
        CaptureError: logits are aligned and a model gave none.
    """
    loss = LOSSES[alignment.feature][alignment.loss].function
    if alignment.feature == "logits":
        if student.logits is None or teacher.logits is None:
            who = "student" if student.logits is None else "teacher"
            raise CaptureError(f"logits are aligned, but the {who} returned none: load it with a head.")
        mask, unit = _logit_positions(alignment, student, inputs)
        return Term(*loss(student.logits, teacher.logits, mask, value_at(alignment.temperature, progress)), unit)
    sides = (student, alignment.place("student")), (teacher, alignment.place("teacher"))
    options: tuple[int | None, ...] = ()
    if alignment.feature in RELATIONS:
        which = alignment.feature.removesuffix("_relation")
        pair = [getattr(features.heads[place], which) for features, place in sides]
        options, length = (alignment.relation_heads,), pair[0].size(2)
    elif alignment.feature == "hidden_states":
        pair = [features.hidden_states[place] for features, place in sides]
        length = pair[0].size(1)
        if alignment.projection:
            pair[0] = student.projected[alignment.name]
    else:
        pair = [features.attention(place) for features, place in sides]
        length = pair[0].query.size(2)
    mask = _mask(alignment, inputs, length)
    total, count = loss(*pair, first_of(mask) if alignment.positions == "first" else mask, *options)
    if alignment.stack == "decoder" or not is_dense(inputs):
        return Term(total, count, alignment.unit)
    # as many positions in every row: the mean over positions is the mean over rows of the mean in a row
    each = {"tokens": length, "pairs": length**2, "rows": 1}[alignment.unit]
    return Term(total / each, count / each, "rows")


def _mask(alignment: Alignment, inputs: Mapping[str, Any], length: int) -> Tensor:
    """Bool [B, T]: the positions that count of the stack that is compared, of which the model has `length`."""
    if alignment.stack == "decoder":
        return decoder_mask(inputs)
    return row_mask(inputs)[:, None].expand(-1, length) if is_dense(inputs) else token_mask(inputs)


def logit_mask(alignment: Alignment, inputs: Mapping[str, Any]) -> Tensor:
    """Bool [B, T]: the positions of a logits alignment that count."""
    return label_mask(inputs) if alignment.positions == "labels" else token_mask(inputs)


def _logit_positions(alignment: Alignment, student: Features, inputs: Mapping[str, Any]) -> tuple[Tensor, str]:
    logits = student.logits.hidden if isinstance(student.logits, LogitRows) else student.logits
    assert isinstance(logits, Tensor)
    if student.is_narrow:  # the rows that do not count are not there
        return torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device), alignment.positions
    if alignment.positions == "tokens" and logits.ndim == 2:  # a classifier: one row of logits an example
        return row_mask(inputs), "rows"
    if alignment.positions == "tokens" and student.has_decoder:
        return decoder_mask(inputs), "decoder_tokens"
    return logit_mask(alignment, inputs), alignment.positions
