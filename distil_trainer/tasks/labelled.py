"""Labelled examples from local files or from the Hub, as datasets of the columns that a task needs."""

import glob
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from datasets import Dataset, List, Value, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError

from distil_trainer.data import class_names, find_files, label_list, tag_names
from distil_trainer.errors import DataError
from distil_trainer.hub_data import load_split
from distil_trainer.text.looked_through import look_through

_BUILDERS = {".jsonl": "json", ".json": "json", ".jsonl.gz": "json", ".json.gz": "json", ".parquet": "parquet"}


def read_files(patterns: Iterable[str], columns: Sequence[str]) -> Dataset:
    """The `columns` of the examples in the files that the patterns (paths or globs) name, put together.

    .jsonl and .json, also compressed (.gz), and .parquet. Raises DataError when there is no such file, when one cannot
    be read or lacks a column, or when a column is of one type here and of another there.
    """
    return _together({file: _chosen(_load_file(file), file, columns) for file in find_files(patterns)})


def read_hub(
    hub_id: str,
    splits: Iterable[str],
    columns: Sequence[str],
    *,
    config: str | None = None,
    revision: str | None = None,
) -> Dataset:
    """The `columns` of the examples in `splits` of a data set on the Hub, put together.

    `config` is one of its configurations or, where it has none of that name, a folder with a folder for each split:
    that is how the Hub's conversion to parquet is laid out. Raises DataError as `read_files` does.
    """
    parts = {
        split: _chosen(load_split(hub_id, split, config=config, revision=revision), f"{hub_id}, split {split}", columns)
        for split in splits
    }
    return _together({f"split {split}": part for split, part in parts.items()})


def map_types(
    splits: Mapping[str, Dataset], column: str, *, rename: Mapping[str, str], keep: Sequence[str] | None
) -> dict[str, Dataset]:
    """The splits with entity types renamed, and then those that are not in `keep` turned to O (None keeps all).

    The BIO tags under `column` become text. Raises DataError for a type that none of the splits has.
    """
    types = {tag[2:] for split in splits.values() for tag in label_list(split, column=column) if tag != "O"}
    new_types = {rename.get(name, name) for name in types}
    for key, given, known in [("rename_types", rename, types), ("keep_types", keep or (), new_types)]:
        if unknown := sorted(set(given) - known):
            raise DataError(f"expected entity types of {sorted(known)} in {key}, got {unknown}; correct them")

    def mapped(tag: str) -> str:
        name = rename.get(tag[2:], tag[2:])
        return "O" if tag == "O" or (keep is not None and name not in keep) else tag[:2] + name

    def map_split(split: Dataset) -> Dataset:
        names = class_names(split, column)
        features = split.features.copy()
        features[column] = List(Value("string"))
        return split.map(
            lambda tags: {column: [mapped(tag) for tag in tag_names(tags or (), names)]},
            input_columns=column,
            features=features,
            desc="Mapping entity types",
        )

    return {name: map_split(split) for name, split in splits.items()}


def _load_file(file: str) -> Dataset:
    builder = next((name for suffix, name in _BUILDERS.items() if file.endswith(suffix)), None)
    if builder is None:
        raise DataError(f"expected a file of {', '.join(_BUILDERS)}, got {file}; convert it")
    look_through(Path(file), builder)
    try:
        return load_dataset(builder, data_files=glob.escape(file), split="train")
    except Exception as error:  # of datasets or pyarrow
        reason = error.__cause__ if isinstance(error, DatasetGenerationError) else error
        raise DataError(f"{file} cannot be read: {reason}; check the file") from error


def _chosen(dataset: Dataset, place: str, columns: Sequence[str]) -> Dataset:
    missing = [column for column in columns if column not in dataset.column_names]
    if missing:
        raise DataError(f"expected the columns {list(columns)} in {place}, got {dataset.column_names}; name its own")
    if not len(dataset):
        raise DataError(f"expected examples in {place}, but it is empty; check how it was made")
    return dataset.select_columns(list(columns))


def _together(parts: Mapping[str, Dataset]) -> Dataset:
    first, *others = parts
    for other in others:
        if parts[other].features != parts[first].features:
            raise DataError(
                f"expected the same types in all parts, got {dict(parts[first].features)} in {first} and "
                f"{dict(parts[other].features)} in {other}; convert one of them"
            )
    return concatenate_datasets(list(parts.values()))
