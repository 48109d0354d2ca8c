"""Text and labelled tokens, from files to what a model takes. All of it is `datasets`: mapped to disk, cached, lazy."""

import glob
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError
from transformers import PreTrainedTokenizerBase

from distil_trainer.errors import DataError

IGNORED_LABEL = -100  # transformers and torch leave positions with this label out
_TAG = re.compile(r"O|[BI]-\S+")
_JSON_SUFFIXES = (".jsonl", ".json")
_TEXT_SUFFIXES = (".txt", ".text")


def find_files(patterns: Iterable[str]) -> list[str]:
    """The files that the patterns (paths or globs) name, sorted. Raises DataError when there are none."""
    patterns = list(patterns)
    files = sorted(file for pattern in patterns for file in glob.glob(pattern, recursive=True))
    if not files:
        raise DataError(f"no file matches {', '.join(patterns)}; the paths are relative to {Path.cwd()}")
    return files


def load_text(
    files: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    column: str = "text",
    cache_dir: str | PathLike[str] | None = None,
) -> Dataset:
    """Paragraphs of text from local files, as a dataset with the one column "text".

    `files`: one path or several; .jsonl (one JSON object a line, the text under `column`) or .txt (one paragraph a
    line). Blank paragraphs are left out. `cache_dir` is where `datasets` keeps its copy (default: its usual place).
    Raises DataError when a file is missing, of another type, not readable as such, or holds no text.
    """
    paths = [Path(file) for file in ([files] if isinstance(files, str | PathLike) else files)]
    if not paths:
        raise DataError("expected at least one text file, got none; name .jsonl or .txt files")
    return concatenate_datasets([_load_file(path, column, cache_dir) for path in paths])


def _load_file(path: Path, column: str, cache_dir: str | PathLike[str] | None) -> Dataset:
    if path.suffix not in _JSON_SUFFIXES + _TEXT_SUFFIXES:
        raise DataError(f"expected a .jsonl or .txt file, got {path}; rename or convert it")
    if not path.is_file():
        raise DataError(f"expected a text file at {path}, but there is none; check the path")
    if not path.stat().st_size:
        raise DataError(f"expected paragraphs in {path}, but the file is empty; write it again")
    builder = "json" if path.suffix in _JSON_SUFFIXES else "text"
    try:
        loaded = load_dataset(builder, data_files=str(path), split="train", cache_dir=cache_dir and str(cache_dir))
    except DatasetGenerationError as error:
        raise DataError(
            f"expected one JSON object a line in {path}, which cannot be read so: {error.__cause__}"
        ) from error
    key = column if builder == "json" else "text"
    if key not in loaded.column_names:
        raise DataError(f"expected a column {key!r} in {path}, got {loaded.column_names}; pass column=...")
    if str(loaded.features[key].dtype) not in ("string", "large_string"):
        raise DataError(
            f"expected strings under {key!r} in {path}, got {loaded.features[key]}; pass another column=..."
        )
    texts = loaded.select_columns([key])
    if key != "text":
        texts = texts.rename_column(key, "text")
    texts = texts.cast(Features({"text": Value("string")}))  # files of different origin must have equal features
    texts = texts.filter(_is_not_blank, input_columns="text", desc=f"Reading {path.name}")
    if not len(texts):
        raise DataError(f"expected paragraphs in {path}, but all of them are blank; write it again")
    return texts


def _is_not_blank(text: str | None) -> bool:
    return bool(text and text.strip())


def tokenize_text(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    *,
    column: str = "text",
    batch_size: int = 1000,
) -> Dataset:
    """Each text as the model's inputs (`tokenizer.model_input_names`), cut at `max_length` tokens, not padded.

    With `max_length=None` texts stay whole, for `group_tokens`.

    Texts of which the tokenizer leaves nothing but special tokens are dropped. Raises DataError when no text is left.
    """
    _need_columns(dataset, column)

    def encode(texts: list[str]) -> dict[str, list[Any]]:
        cut = {"truncation": False} if max_length is None else {"truncation": True, "max_length": max_length}
        encoded = tokenizer(texts, return_special_tokens_mask=True, verbose=False, **cut)
        kept = [row for row, special in enumerate(encoded["special_tokens_mask"]) if not all(special)]
        return _rows(encoded, tokenizer, kept)

    tokenized = dataset.map(
        encode,
        batched=True,
        batch_size=batch_size,
        input_columns=column,
        remove_columns=dataset.column_names,
        desc="Tokenizing text",
    )
    if not len(tokenized):
        raise DataError("expected texts with at least one token, but the tokenizer left none; check the tokenizer")
    return tokenized


def group_tokens(dataset: Dataset, length: int, *, batch_size: int = 1000) -> Dataset:
    """Tokenised texts put end to end and cut into rows of exactly `length` tokens: no padding, one text after another.

    What is left over at the end of each `batch_size` texts is dropped. Raises DataError when not one row is filled.
    """
    _need_columns(dataset, "input_ids")
    if length < 1:
        raise DataError(f"expected rows of at least 1 token, got length={length}")

    def group(columns: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {name: list(chain.from_iterable(rows)) for name, rows in columns.items()}
        whole = len(joined["input_ids"]) // length * length
        return {name: [row[i : i + length] for i in range(0, whole, length)] for name, row in joined.items()}

    grouped = dataset.map(group, batched=True, batch_size=batch_size, desc=f"Grouping to rows of {length} tokens")
    if not len(grouped):
        raise DataError(
            f"expected at least {length} tokens to fill a row, got fewer; use more text or a smaller length"
        )
    return grouped


def _rows(encoded: Any, tokenizer: PreTrainedTokenizerBase, kept: Sequence[int]) -> dict[str, list[Any]]:
    return {name: [encoded[name][i] for i in kept] for name in tokenizer.model_input_names if name in encoded}


def _need_columns(dataset: Dataset, *columns: str) -> None:
    missing = [column for column in columns if column not in dataset.column_names]
    if missing:
        raise DataError(f"expected the columns {list(columns)}, got {dataset.column_names}; missing: {missing}")
    if not len(dataset):
        raise DataError("expected a dataset with rows, got an empty one; check how it was made")


def check_tags(tags: Iterable[str]) -> None:
    """Raise DataError unless every tag is O, B-something or I-something."""
    wrong = sorted({str(tag) for tag in tags if not _TAG.fullmatch(str(tag))})
    if wrong:
        raise DataError(f"expected BIO tags (O, B-TYPE, I-TYPE), got {wrong[:5]}; convert them first")


def _class_names(dataset: Dataset, column: str) -> list[str] | None:
    """The names when the column holds class ids, None when it holds the tags themselves."""
    item = getattr(dataset.features[column], "feature", None)
    return list(item.names) if isinstance(item, ClassLabel) else None


def label_list(dataset: Dataset, *, column: str = "ner_tags") -> list[str]:
    """The tags of a training split, sorted, O first. Class ids (as in WikiANN) are read as the names they stand for."""
    _need_columns(dataset, column)
    tags = set(_class_names(dataset, column) or [])
    if not tags:
        for row in dataset.select_columns([column]):
            tags.update(row[column])
    check_tags(tags)
    return ["O", *sorted(tags - {"O"})]


def tokenize_and_label(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    label_list: Sequence[str],
    max_length: int,
    *,
    tokens_column: str = "tokens",
    tags_column: str = "ner_tags",
    batch_size: int = 1000,
) -> Dataset:
    """Words with BIO tags as model inputs and `labels`: the first sub-token of a word has the word's label.

    `labels[i]` is the place of the tag in `label_list`, or -100 for special tokens and further sub-tokens. Words
    beyond `max_length` tokens are cut off, with their tags. Raises DataError when a row has not one tag a word, holds
    a tag that is not in `label_list`, or when the tokenizer is a slow one (it cannot tell which word a token is of).
    """
    _need_columns(dataset, tokens_column, tags_column)
    if not tokenizer.is_fast:
        raise DataError(f"expected a fast tokenizer, got {type(tokenizer).__name__}; convert it to tokenizer.json")
    check_tags(label_list)
    ids = {tag: number for number, tag in enumerate(label_list)}
    names = _class_names(dataset, tags_column)

    def encode(words: list[list[str]], tags: list[list[Any]], rows: list[int]) -> dict[str, list[Any]]:
        for row, row_words, row_tags in zip(rows, words, tags, strict=True):
            if len(row_words) != len(row_tags):
                raise DataError(
                    f"expected a tag for each word, got {len(row_words)} words, {len(row_tags)} tags in row {row}"
                )
        wanted = [[names[tag] for tag in row] for row in tags] if names else tags
        for row, row_tags in zip(rows, wanted, strict=True):
            check_tags(row_tags)
            unknown = sorted(set(row_tags) - set(ids))
            if unknown:
                raise DataError(f"expected tags of {list(ids)}, got {unknown} in row {row}; add them to the label list")
        encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
        labels = []
        for row, row_tags in enumerate(wanted):
            word_ids = encoded.word_ids(row)
            first = [word is not None and word != before for before, word in zip([None, *word_ids], word_ids)]  # noqa: B905
            labels.append([ids[row_tags[w]] if f else IGNORED_LABEL for w, f in zip(word_ids, first, strict=True)])
        kept = [row for row, row_words in enumerate(words) if row_words]
        return _rows(encoded, tokenizer, kept) | {"labels": [labels[row] for row in kept]}

    return dataset.map(
        encode,
        batched=True,
        batch_size=batch_size,
        with_indices=True,
        input_columns=[tokens_column, tags_column],
        remove_columns=dataset.column_names,
        desc="Tokenizing and labelling",
    )


def sample_rows(dataset: Dataset, number: int, *, seed: int = 0) -> Dataset:
    """At most `number` rows, drawn without replacement; the same rows for the same dataset and seed."""
    if number < 1:
        raise DataError(f"expected a number of rows of at least 1, got {number}")
    return dataset.shuffle(seed=seed).select(range(min(number, len(dataset))))
