"""Examples without labels, labelled by fine-tuned teachers: what those learn from besides whom they teach."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, concatenate_datasets
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments
from transformers.utils.logging import tqdm

from distil_trainer.errors import DataError
from distil_trainer.tasks.splits import Split

_COLUMN = "label of the teacher"
_NO_LABEL = -100  # where there is none


def without_known(split: Split, others: Iterable[Split]) -> Split:
    """The split without the examples that are in one of the others, too: their labels are known, or they are scored.

    Raises DataError when none is left.
    """
    known = {example for other in others for example in _inputs(other, len(split.columns))}
    left = [row for row, example in enumerate(_inputs(split, len(split.columns))) if example not in known]
    if not left:
        raise DataError(f"expected examples in {split.facts.name} that are in no other split, got none; take others")
    if out := len(split.rows) - len(left):
        note = f"Left out, because they are labelled or scored on: {out:,}."
        filtering = " ".join(filter(None, [split.facts.filtering, note]))
        facts = replace(split.facts, examples=len(left), filtering=filtering)
        split = replace(split, rows=split.rows.select(left), facts=facts)
    return split


def _inputs(split: Split, number: int) -> Iterator[str]:
    """Each example, without its label, as text that can be compared."""
    yield from map(repr, zip(*(split.rows[column] for column in split.columns[:number]), strict=True))


def with_placeholders(split: Split, names: Sequence[str], *, words: bool) -> Split:
    """The split with a column for the labels to come, the same for all: where labels go is known by them.

    Args:
        split: the examples.
        names: of the labels; none where a label is a number.
        words: each word has a label, not each text.
    """
    first: Any = names[0] if names else 0.0
    values = split.rows[split.columns[0]]
    labels = [[first] * len(value or ()) if words else first for value in values]
    return replace(split, rows=split.rows.add_column(_COLUMN, labels), columns=(*split.columns, _COLUMN))


def with_labels(
    train: Dataset,
    rows: Dataset,
    teachers: Sequence[PreTrainedModel],
    collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    args: TrainingArguments,
    kept_ids: Sequence[int] | None = None,
) -> Dataset:
    """`train`, and after it `rows` with the labels that the teachers give them.

    A label is the most likely class by the mean of their probabilities; where labels are numbers, the mean of theirs.
    Each process labels a part.

    Args:
        train: labelled examples as a model takes them.
        rows: others, with placeholders for labels.
        teachers: the fine-tuned models. They are moved to the device of `args`.
        collator: makes batches.
        args: the device, and the size of a batch.
        kept_ids: the teachers' ids of the pieces in `rows`, if these are not the same.
    """
    labels: list[Any] = []
    with PartialState().split_between_processes(list(range(len(rows)))) as mine:
        own, size = rows.select(mine), args.eval_batch_size
        for start in tqdm(range(0, len(own), size), desc="Teachers label", disable=not PartialState().is_main_process):
            labels += _labelled(own[start : start + size], teachers, collator, args, kept_ids)
    labelled = rows.remove_columns("labels").add_column("labels", gather_object(labels))
    return concatenate_datasets([train, labelled.cast(train.features)])


@torch.no_grad()
def _labelled(
    rows: dict[str, list[Any]],
    teachers: Sequence[nn.Module],
    collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    args: TrainingArguments,
    kept_ids: Sequence[int] | None,
) -> list[Any]:
    """The labels of a batch: a number for each text, or a list for the pieces of each sentence."""
    batch = collator([dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)])
    batch = {name: tensor.to(args.device) for name, tensor in batch.items()}
    places = batch.pop("labels")
    if kept_ids is not None:
        batch["input_ids"] = torch.tensor(kept_ids, device=args.device)[batch["input_ids"]]
    scores = [teacher.to(args.device).eval()(**batch).logits.float() for teacher in teachers]
    if scores[0].shape[-1] == 1:
        return torch.stack(scores).mean(0).squeeze(-1).tolist()
    found = torch.stack([score.softmax(-1) for score in scores]).mean(0).argmax(-1)
    if found.dim() == 1:
        return found.tolist()
    in_order = iter(found[places != _NO_LABEL].tolist())
    return [[next(in_order) if place != _NO_LABEL else place for place in places] for places in rows["labels"]]
