"""From the labelled data of a recipe to examples, and what the record says of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from datasets import Dataset

from distil_trainer.data import sample_rows
from distil_trainer.hub_data import commit_of
from distil_trainer.recipe import ScoredData, TaskData, UnlabelledData
from distil_trainer.record import DataFacts
from distil_trainer.tasks.labelled import map_types, read_files, read_hub

Wanted = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]  # a part of a data set -> files, and splits of the Hub


@dataclass(frozen=True, kw_only=True)
class Split:
    """Examples, and what is known of them.

    `columns` are those that the task reads, the label's the last if there is one. `kept_types` are the entity types
    that count, if that is not all of them.
    """

    rows: Dataset
    columns: tuple[str, ...]
    facts: DataFacts
    kept_types: tuple[str, ...] = ()


def read_splits(data: TaskData, also_test: Sequence[ScoredData], *, words: bool) -> dict[str, Split]:
    """The examples: "train", "test", "validation" if there is one, and "also_test NAME" for each of the others.

    With `words` the columns of tagged words are read, else those of labelled texts.

    Raises:
        DataError: no such data, data that cannot be read, or that lacks a column or a type of entities.
    """
    wanted = {"train": (data.train, data.train_splits), "test": (data.test, (data.test_split,))}
    if data.has_validation:
        wanted["validation"] = (data.validation, (data.validation_split or "validation",))
    splits = _read(data, wanted, words)
    for other in also_test:
        splits |= _read(other, {f"also_test {other.name}": (other.test, (other.test_split,))}, words)
    return splits


def read_unlabelled(data: UnlabelledData, *, words: bool) -> Split:
    """Examples without their labels. Raises DataError as `read_splits` does."""
    columns = (data.tokens_column,) if words else data.text_columns
    rows, revision = _rows(data, {"unlabelled": (data.files, data.splits)}, columns, are_files=bool(data.files))
    facts = _facts(data, "unlabelled", data.splits, revision, len(rows["unlabelled"]))
    return sampled(Split(rows=rows["unlabelled"], columns=columns, facts=facts), data.max_examples)


def sampled(split: Split, number: int | None) -> Split:
    """At most `number` examples of the split, always the same ones; None means all."""
    total = len(split.rows)
    if number is None or number >= total:
        return split
    note = f"{number:,} of its {total:,} examples, drawn at random."
    facts = replace(split.facts, examples=number, filtering=" ".join(filter(None, [note, split.facts.filtering])))
    return replace(split, rows=sample_rows(split.rows, number), facts=facts)


def _read(source: ScoredData, wanted: Wanted, words: bool) -> dict[str, Split]:
    """The `wanted` parts of one data set."""
    columns = (source.tokens_column, source.tags_column) if words else (*source.text_columns, source.label_column)
    rows, revision = _rows(source, wanted, columns, are_files=bool(source.test))
    filtering = None
    if source.rename_types or source.keep_types is not None:
        rows = map_types(rows, source.tags_column, rename=source.rename_types, keep=source.keep_types)
        renamed = [f"{old} counts as {new}" for old, new in source.rename_types.items()]
        kept = [f"only {', '.join(source.keep_types)} count"] if source.keep_types else []
        filtering = f"Entity types: {'; '.join(renamed + kept)}."
    return {
        key: Split(
            rows=rows[key],
            columns=columns,
            facts=_facts(
                source, "train" if key == "train" else "evaluation", names, revision, len(rows[key]), filtering
            ),
            kept_types=source.keep_types or (),
        )
        for key, (_, names) in wanted.items()
    }


def _rows(
    source: ScoredData | UnlabelledData, wanted: Wanted, columns: tuple[str, ...], *, are_files: bool
) -> tuple[dict[str, Dataset], str | None]:
    """The `columns` of the `wanted` parts, and the revision that they are of: all are of one commit."""
    if are_files:
        return {key: read_files(patterns, columns) for key, (patterns, _) in wanted.items()}, source.revision
    hub_id = source.hub_id or ""
    revision = commit_of(hub_id, source.revision) or source.revision
    rows = {
        key: read_hub(hub_id, names, columns, config=source.config, revision=revision)
        for key, (_, names) in wanted.items()
    }
    return rows, revision


def _facts(
    source: ScoredData | UnlabelledData,
    role: Literal["train", "unlabelled", "evaluation"],
    splits: tuple[str, ...],
    revision: str | None,
    examples: int,
    filtering: str | None = None,
) -> DataFacts:
    """What the record says of one part."""
    return DataFacts(
        name=source.name,
        role=role,
        hub_id=source.hub_id,
        config=source.config,
        split="+".join(splits),
        revision=revision,
        license=source.license,
        language=source.language,
        examples=examples,
        filtering=filtering,
    )
