"""The teacher's features of a batch <-> what is kept of each row: what the alignments read, without padding."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distil_trainer.alignment import RELATIONS, Alignment
from distil_trainer.errors import CaptureError, TrainingSetupError
from distil_trainer.features import FeatureReader, Features
from distil_trainer.losses import Heads, LogitRows, TopLogits, top_logits
from distil_trainer.positions import first_of
from distil_trainer.schedule import value_at
from distil_trainer.teacher_cache.store import Row
from distil_trainer.teacher_cache.visible import packed, unpacked

_OF_ROWS = "logits of rows"
_BEFORE = "before the logits"
_LOGITS = "logits"
_TOP = ("largest logits", "tokens of the largest", "rest of the logits")


class CachedRows:
    """What is kept of the features that some alignments read, and how they come back from it.

    Args:
        reader: of the teacher.
        alignments: what is compared.
        dtype: what floating-point numbers are kept in.
        top_k: how many logits of each position are kept; None for all of them, or what they are formed from.

    Attributes:
        names: what is kept, in words: where two differ in this, their rows do.
    """

    def __init__(
        self, reader: FeatureReader, alignments: Sequence[Alignment], dtype: torch.dtype, top_k: int | None
    ) -> None:
        self._reader, self._dtype, self._top_k = reader, dtype, top_k
        self._positions: dict[Any, str] = {}  # layer -> which of its hidden states
        self._heads: dict[Any, set[str]] = {}  # layer -> what of its attention
        self.logits: Alignment | None = None
        for alignment in alignments:
            if alignment.feature == "logits":
                self.logits = alignment
                continue
            layer = alignment.place("teacher")
            if alignment.feature == "hidden_states":
                if self._positions.get(layer) != "tokens":
                    self._positions[layer] = alignment.positions
            elif alignment.feature in RELATIONS:
                self._heads.setdefault(layer, set()).add(alignment.feature.removesuffix("_relation"))
            else:
                self._heads.setdefault(layer, set()).update(("query", "key", "visible"))
        self.names = [f"hidden states {layer}, {where}" for layer, where in sorted(self._positions.items())]
        self.names += [f"{part} {layer}" for layer, parts in sorted(self._heads.items()) for part in sorted(parts)]
        if self.logits is not None:
            largest = f"the {top_k} largest at temperature {self.logits.temperature}, " if top_k else ""
            self.names.append(f"logits, {largest}{self.logits.positions}")

    def split(self, features: Features, tokens: Tensor, counted: Tensor | None) -> list[Row]:
        """What is kept of each row of a batch.

        Args:
            features: of the batch; the logits of a language model's head are those of the counted positions alone.
            tokens: bool [B, T], the attended tokens.
            counted: bool [B, T], the positions whose logits are compared, if they are; None for one row an example.

        Raises:
            CaptureError: the teacher changes its attention scores, or sees different keys in different heads.
            TrainingSetupError: a number is too large for float16.
            ValueError: there are no more logits than `top_k`.
        """
        if features.changes:
            raise CaptureError(
                "a teacher cache cannot hold attention scores that the model changes (position biases, soft caps). "
                "Leave teacher_cache out, or align hidden states or logits of this model."
            )
        kept: dict[str, Sequence[Tensor]] = {}
        for layer, where in self._positions.items():
            mask = first_of(tokens) if where == "first" else tokens
            kept[f"hidden_states {layer}"] = self._by_row(features.hidden_states[layer][mask], mask)
        for layer, parts in self._heads.items():
            heads = features.heads[layer]
            for part in parts - {"visible"}:
                kept[f"{part} {layer}"] = self._by_row(getattr(heads, part).transpose(1, 2)[tokens], tokens)
            if "visible" in parts:
                kept[f"visible {layer}"] = packed(heads, tokens)
                kept[f"scaling {layer}"] = [torch.tensor([heads.scaling], dtype=torch.float64)] * len(tokens)
        if self.logits is not None:
            kept |= self._split_logits(features, counted)
        return [dict(zip(kept, row, strict=True)) for row in zip(*kept.values(), strict=True)]

    def join(self, rows: Sequence[Row], tokens: Tensor, counted: Tensor | None, *, narrow: bool) -> Features:
        """The features of a batch of rows that were kept, with zeros where it is padded.

        Args:
            rows: B of them.
            tokens, counted: as for `split`.
            narrow: whether the logits are those of the counted positions alone.
        """
        features = Features(is_narrow=narrow)

        def padded(name: str, mask: Tensor) -> Tensor:
            return _padded(_together(rows, name, mask), mask)

        for layer, where in self._positions.items():
            mask = first_of(tokens) if where == "first" else tokens
            features.hidden_states[layer] = padded(f"hidden_states {layer}", mask)
        for layer, parts in self._heads.items():
            nothing = torch.empty(0, dtype=self._dtype, device=tokens.device)  # what no alignment reads
            found = {part: padded(f"{part} {layer}", tokens).transpose(1, 2) for part in parts - {"visible"}}
            heads = Heads(found.get("query", nothing), found.get("key", nothing), 1.0, value=found.get("value"))
            if "visible" in parts:
                scaling = float(rows[0][f"scaling {layer}"])
                visible, causal = unpacked([row[f"visible {layer}"] for row in rows], tokens)
                heads = heads._replace(scaling=scaling, visible=visible, causal=causal)
            features.heads[layer] = heads
        if self.logits is not None:
            features.logits = self._join_logits(rows, tokens, counted, narrow)
        return features

    def _by_row(self, values: Tensor, mask: Tensor) -> Sequence[Tensor]:
        """Values [N, ...] of the positions in `mask` [B, T], as they are kept: B tensors."""
        return self._as_kept(values).split(mask.sum(1).tolist())

    def _as_kept(self, values: Tensor) -> Tensor:
        kept = values.to(self._dtype)
        if self._dtype == torch.float16 and not torch.equal(kept.isinf(), values.isinf()):
            raise TrainingSetupError(
                "the teacher computes numbers above 65504, which float16 cannot hold. Choose bfloat16 or float32 for "
                "the teacher cache, and another folder."
            )
        return kept.cpu()

    def _split_logits(self, features: Features, counted: Tensor | None) -> dict[str, Sequence[Tensor]]:
        logits = features.logits
        assert self.logits is not None
        if isinstance(logits, Tensor) and logits.ndim == 2:  # a classifier
            return {_OF_ROWS: self._as_kept(logits).split(1)}
        if not isinstance(logits, Tensor | LogitRows) or counted is None:
            raise CaptureError("logits are aligned, but the teacher returned none: load it with a head.")
        if isinstance(logits, Tensor) and not features.is_narrow:
            logits = logits[counted][None]
        if self._top_k is not None:
            top = top_logits(logits, self._top_k, value_at(self.logits.temperature, 0.0))
            tokens = top.tokens[0].to(torch.int32).cpu().split(counted.sum(1).tolist())
            parts = self._by_row(top.values[0], counted), tokens, self._by_row(top.rest[0], counted)
            return dict(zip(_TOP, parts, strict=True))
        if isinstance(logits, LogitRows):
            return {_BEFORE: self._by_row(logits.hidden[0], counted)}
        return {_LOGITS: self._by_row(logits[0], counted)}

    def _join_logits(
        self, rows: Sequence[Row], tokens: Tensor, counted: Tensor | None, narrow: bool
    ) -> Tensor | LogitRows | TopLogits:
        if _OF_ROWS in rows[0]:
            return _together(rows, _OF_ROWS, tokens)
        assert counted is not None

        def kept(name: str) -> Tensor:
            values = _together(rows, name, tokens)
            return values[None] if narrow else _padded(values, counted)

        if _TOP[0] in rows[0]:
            values, places, rest = map(kept, _TOP)
            return TopLogits(values, places.long(), rest)
        if _BEFORE in rows[0]:
            assert self._reader.head is not None
            logits = self._reader.head.rows_of(kept(_BEFORE))
            return logits._replace(hidden=logits.hidden.to(logits.weight.dtype))
        return kept(_LOGITS)


def _together(rows: Sequence[Row], name: str, like: Tensor) -> Tensor:
    """What was kept of all rows under a name, one after another, where `like` is."""
    return torch.cat([row[name] for row in rows]).to(like.device)


def _padded(values: Tensor, mask: Tensor) -> Tensor:
    """Values [N, ...] at the N positions of `mask` bool [B, T], zeros elsewhere: [B, T, ...]."""
    padded = values.new_zeros(*mask.shape, *values.shape[1:])
    padded[mask] = values
    return padded
