"""The teacher's features, from rows that are kept, and from the teacher where they are not."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.utils import logging

from distil_trainer.alignment import Alignment
from distil_trainer.errors import DataError
from distil_trainer.features import Features
from distil_trainer.fingerprint import model_hash
from distil_trainer.head import HeadRows
from distil_trainer.positions import token_mask
from distil_trainer.teacher import Teacher
from distil_trainer.teacher_cache.keys import check_columns, row_keys
from distil_trainer.teacher_cache.rows import CachedRows
from distil_trainer.teacher_cache.settings import TeacherCache, check_supported
from distil_trainer.teacher_cache.store import Row, RowStore
from distil_trainer.terms import logit_mask

logger = logging.get_logger(__name__)

_HARDLY_ANY = 0.01  # of the rows of an epoch


class CachedTeacher(TrainerCallback):
    """Answers a batch as the teacher does, from rows that are kept; the teacher computes those that are not.

    What the teacher has just computed goes through the cache as well, so a row gives the same features, rounded alike,
    whether it was there or not. As a callback of the trainer it writes what waits in memory when an epoch, the training
    or an evaluation is over, and warns when inputs turn out not to come again.

    Args:
        teacher: the teacher.
        alignments: what is compared.
        cache: where its features are kept.

    Attributes:
        teacher, cache: as they were given.
        hits, misses: rows that were there, and rows that were not.

    Raises:
        TrainingSetupError: the folder holds something else, or a cache of these features is not supported.
    """

    def __init__(self, teacher: Teacher, alignments: Sequence[Alignment], cache: TeacherCache) -> None:
        check_supported(teacher, alignments, cache)
        self.teacher, self.cache = teacher, cache
        self.hits = self.misses = 0
        dtype: torch.dtype = getattr(torch, cache.dtype)
        self._rows = CachedRows(teacher.reader, alignments, dtype, cache.top_k)
        # A pooler that the checkpoint lacks is drawn anew in every run, and only logits can depend on it.
        teacher_hash = model_hash(teacher.reader.model, without=() if self._rows.logits else ("pooler",))
        about = {"teacher": teacher_hash, "features": self._rows.names, "dtype": cache.dtype}
        self._store = RowStore(cache.folder, about)
        self._epochs = 0
        self._in_epoch = self._before_step = (0, 0)
        self._warned = False

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Any], rows: HeadRows | None = None) -> Features:
        """The features of one batch, without a graph; what no alignment counts of them is zero.

        Args:
            inputs: the batch.
            rows: the positions whose logits are compared; None for all of them.

        Raises:
            DataError: the teacher reads something that is not given by token, or labels are on padding.
        """
        columns = {k: v for k, v in inputs.items() if k in self.teacher.columns and k != "labels" and v is not None}
        check_columns(columns)
        tokens = token_mask(inputs)
        counted = self._counted(inputs, tokens)
        keys = row_keys(columns, tokens, counted)
        missing = self._missing(keys)
        if missing:
            self._store.refresh()  # another process may have had them
            missing = self._missing(keys)
        fresh: dict[bytes, Row] = {}
        if missing:
            places = torch.tensor(list(missing.values()), device=tokens.device)
            counted_there = None if counted is None else counted[places]
            head_rows = None
            if counted_there is not None and self.teacher.reader.head is not None:
                head_rows = HeadRows.read_by(aligned=counted_there, labels=None, shifts_labels=False)
            features = self.teacher({name: column[places] for name, column in columns.items()}, head_rows)
            fresh = dict(zip(missing, self._rows.split(features, tokens[places], counted_there), strict=True))
            for key, row in fresh.items():
                if not _is_broken(row):
                    self._store.add(key, row)
        self.hits += len(keys) - len(missing)
        self.misses += len(missing)
        found = [fresh[key] if key in fresh else self._store[key] for key in keys]
        return self._rows.join(found, tokens, counted, narrow=rows is not None)

    def _missing(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """The keys that are not there, each with a row of the batch that has it."""
        return {key: row for row, key in enumerate(keys) if key not in self._store}

    def _counted(self, inputs: Mapping[str, Any], tokens: Tensor) -> Tensor | None:
        """Bool [B, T]: the positions whose logits are compared; None without any, or where examples are labelled."""
        if self._rows.logits is None:
            return None
        counted = logit_mask(self._rows.logits, inputs)
        if counted.shape != tokens.shape:
            return None
        if (counted & ~tokens).any():
            raise DataError(
                "the batch has labels at positions that are padding: what a teacher computes there depends on the rest "
                "of the batch and cannot be kept. Let the collator label padding with -100, or leave teacher_cache out."
            )
        return counted

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Notes where the counts are: between steps there may be an evaluation."""
        self._before_step = self.hits, self.misses

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Counts what the step added."""
        hits, misses = self._in_epoch
        self._in_epoch = hits + self.hits - self._before_step[0], misses + self.misses - self._before_step[1]

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes what waits; warns once if the epoch was not the first and yet hardly any row was there."""
        self._store.flush()
        self._epochs += 1
        hits, misses = self._in_epoch
        self._in_epoch = 0, 0
        if self._epochs > 1 and not self._warned and hits <= _HARDLY_ANY * (hits + misses):
            self._warned = True
            logger.warning(
                f"In epoch {self._epochs} {hits:,} of {hits + misses:,} rows were in the teacher cache: the inputs are "
                "not fixed (tokens masked anew, text cut at other places, padding on the left), so it costs time and "
                "space and saves nothing. Leave teacher_cache out, or fix the inputs."
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes what waits."""
        self._store.flush()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes what waits."""
        self._store.flush()

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        """Writes what waits."""
        self._store.flush()


def _is_broken(row: Row) -> bool:
    """Whether anything of a row is NaN or infinite, as no teacher should be; a logit may be -inf."""
    values = [tensor for tensor in row.values() if tensor.is_floating_point()]
    return any(bool((tensor.isnan() | (tensor == torch.inf)).any()) for tensor in values)
