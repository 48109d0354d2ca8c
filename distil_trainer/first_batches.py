"""What the first batches tell of the data, before any step."""

from collections.abc import Iterable, Mapping, Sequence, Sized
from itertools import islice
from typing import Any

from torch import Tensor

from distil_trainer.alignment import Alignment
from distil_trainer.errors import DataError
from distil_trainer.positions import UNITS, count_positions, label_mask

_BATCHES = 16  # that are looked at until one has something to learn from
_WITHOUT = {
    "rows": "no attended token: all of it is padding. Check the texts, and attention_mask",
    "labels": "no label but -100, while an alignment compares labelled positions. Check the collator and the columns",
    "task": "no label but -100, while task_weight trains on labels. Check the collator and the columns",
}


def first_batch(
    loader: Iterable[Any],
    alignments: Sequence[Alignment],
    *,
    has_task: bool,
    vocabulary: int | None,
    shifts_labels: bool,
) -> Any:
    """The first batch, after a look at it and, if it has nothing to learn from, at some more.

    Args:
        loader: of the training data.
        alignments: what will be compared.
        has_task: the student learns from labels, too.
        vocabulary: pieces that the student has; None if it has none.
        shifts_labels: see `positions.count_positions`.

    Raises:
        DataError: there is no batch; labels are compared, and the batch has no such column; an id of the first is none
            of the student's; or none of the first 16 batches has a position that counts for each of the losses.
    """
    needed = {"rows"} | {"labels" for a in alignments if a.positions == "labels"} | ({"task"} if has_task else set())
    first = None
    for batch in islice(loader, _BATCHES):
        if first is None:
            first = batch
            check_ids(batch, vocabulary)
        if "labels" in needed:
            label_mask(batch)  # raises where there is no such column
        counts = dict(zip(UNITS, count_positions([batch], shifts_labels=shifts_labels).tolist(), strict=True))
        needed = {unit for unit in needed if not counts[unit]}
        if not needed:
            return first
    if first is None:
        raise DataError(
            "expected training data, but there is not one batch. Check the data set and dataloader_drop_last."
        )
    unit = next(unit for unit in _WITHOUT if unit in needed)
    raise DataError(f"expected positions to learn from, but the first batches have {_WITHOUT[unit]}.")


def check_rows(dataset: Any) -> None:
    """Raises DataError if a data set is known to be empty."""
    if isinstance(dataset, Sized) and not len(dataset):
        raise DataError("expected training data with rows, got an empty data set; check how it was made.")


def check_ids(batch: Mapping[str, Any], vocabulary: int | None) -> None:
    """Raises DataError if an id of the batch is none of so many pieces."""
    ids = batch.get("input_ids")
    if vocabulary is None or not isinstance(ids, Tensor) or not ids.numel():
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        raise DataError(
            f"expected input_ids from 0 to {vocabulary - 1}, the student's pieces; got {low} to {high}. Tokenize the "
            "text with the student's tokenizer (with kept_ids, that of the trimmed vocabulary)."
        )
