"""One alignment, computed: features of both models -> a sum, a count, and what was counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distil_trainer.alignment import RELATIONS, Alignment
from distil_trainer.errors import CaptureError
from distil_trainer.features import Features
from distil_trainer.losses import LOSSES, LogitRows
from distil_trainer.positions import first_mask, label_mask, row_mask, token_mask
from distil_trainer.schedule import value_at


@dataclass(frozen=True)
class Term:
    """A loss before it is averaged: float scalars `total` and `count`, and the unit counted (`positions.UNITS`)."""

    total: Tensor
    count: Tensor
    unit: str


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
    assert alignment.student_layer is not None
    assert alignment.teacher_layer is not None
    sides = (student, alignment.student_layer), (teacher, alignment.teacher_layer)
    if alignment.feature in RELATIONS:
        which = alignment.feature.removesuffix("_relation")
        vectors = (getattr(features.heads[layer], which) for features, layer in sides)
        return Term(*loss(*vectors, token_mask(inputs), alignment.relation_heads), alignment.unit)
    if alignment.feature == "hidden_states":
        pair = tuple(features.hidden_states[layer] for features, layer in sides)
        if alignment.projection:
            pair = student.projected[alignment.name], pair[1]
        mask = first_mask(inputs) if alignment.positions == "first" else token_mask(inputs)
        return Term(*loss(*pair, mask), alignment.unit)
    maps = (features.attention(layer) for features, layer in sides)
    return Term(*loss(*maps, token_mask(inputs)), alignment.unit)


def logit_mask(alignment: Alignment, inputs: Mapping[str, Any]) -> Tensor:
    """Bool [B, T]: the positions of a logits alignment that count."""
    return label_mask(inputs) if alignment.positions == "labels" else token_mask(inputs)


def _logit_positions(alignment: Alignment, student: Features, inputs: Mapping[str, Any]) -> tuple[Tensor, str]:
    logits = student.logits.hidden if isinstance(student.logits, LogitRows) else student.logits
    assert logits is not None
    if student.is_narrow:  # the rows that do not count are not there
        return torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device), alignment.positions
    if alignment.positions == "tokens" and logits.ndim == 2:  # a classifier: one row of logits an example
        return row_mask(inputs), "rows"
    return logit_mask(alignment, inputs), alignment.positions
