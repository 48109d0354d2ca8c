"""From text and labelled words to what a model takes. All of it is `datasets`: mapped to disk, cached, lazy."""

import copy
import glob
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, IterableDataset, List, Value
from transformers import PreTrainedTokenizerBase

from distil_trainer.errors import DataError

D = TypeVar("D", Dataset, IterableDataset)

IGNORED_LABEL = -100  # transformers and torch leave positions with this label out
_TAG = re.compile(r"O|[BI]-\S+")
# Part of what `datasets` caches by: of the classes below it sees the names only.
_CODE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def find_files(patterns: Iterable[str]) -> list[str]:
    """The files that the patterns (paths or globs) name, each once, sorted. Raises DataError when there are none."""
    patterns = list(patterns)
    files = sorted({file for pattern in patterns for file in glob.glob(pattern, recursive=True)})
    if not files:
        raise DataError(f"no file matches {', '.join(patterns)}; the paths are relative to {Path.cwd()}")
    return files


def tokenize_text(
    dataset: D,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    *,
    column: str = "text",
    batch_size: int = 1000,
    num_proc: int | None = None,
) -> D:
    """Each text as the model's inputs (`tokenizer.model_input_names`), cut at `max_length` tokens, not padded.

    With `max_length=None` texts stay whole, for `group_tokens`. `num_proc`: processes, for a dataset on disk.

    Texts of which the tokenizer leaves nothing but special tokens are dropped. Raises DataError when no text is left.
    """
    _need_columns(dataset, column)
    tokenized = _map(
        dataset,
        _Encode(tokenizer, max_length),
        desc="Tokenizing text",
        num_proc=num_proc,
        batch_size=batch_size,
        input_columns=column,
        features=_features(tokenizer),
    )
    if isinstance(tokenized, Dataset) and not len(tokenized):
        raise DataError("expected texts with at least one token, but the tokenizer left none; check the tokenizer")
    return tokenized


def that_pads(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, or where it has no padding a copy that pads with the end of a text: which token it is does not
    matter, because padding is not attended.
    """
    if tokenizer.pad_token_id is not None:
        return tokenizer
    copied = copy.deepcopy(tokenizer)
    copied.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return copied


def group_tokens(dataset: D, length: int, *, batch_size: int = 1000) -> D:
    """Tokenised texts put end to end and cut into rows of exactly `length` tokens: no padding, one text after another.

    The rows do not depend on `batch_size`: what is left over of a batch begins the next. What is left over at the end
    (of each worker, when several read a stream) is dropped. Raises DataError when not one row is filled.
    """
    _need_columns(dataset, "input_ids")
    if length < 1:
        raise DataError(f"expected rows of at least 1 token, got length={length}")
    grouped = _map(
        dataset,
        _Group(length),
        desc=f"Grouping to rows of {length} tokens",
        batch_size=batch_size,
        with_indices=True,
        features=dataset.features,
    )
    if isinstance(grouped, Dataset) and not len(grouped):
        raise DataError(
            f"expected at least {length} tokens to fill a row, got fewer; use more text or a smaller length"
        )
    return grouped


# Classes and no closures, because workers that read a stream may have to pickle them.


@dataclass
class _Encode:
    """From texts to tokens."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int | None
    code: str = _CODE

    def __call__(self, texts: list[str]) -> dict[str, list[Any]]:
        cut = {"truncation": False} if self.max_length is None else {"truncation": True, "max_length": self.max_length}
        encoded = self.tokenizer(texts, return_special_tokens_mask=True, verbose=False, **cut)
        kept = [row for row, special in enumerate(encoded["special_tokens_mask"]) if not all(special)]
        return _rows(encoded, self.tokenizer, kept)


@dataclass
class _Group:
    """From the tokens of texts to full rows; it holds what is left over until the next texts come."""

    length: int
    code: str = _CODE
    _next: int | None = field(default=None, init=False)  # where they begin, unless they are those of another reading
    _rest: dict[str, list[int]] = field(default_factory=dict, init=False)

    def __call__(self, columns: dict[str, list[list[int]]], indices: Sequence[int]) -> dict[str, list[list[int]]]:
        rest = self._rest if indices[0] == self._next else {}
        joined = {name: [*rest.get(name, ()), *chain.from_iterable(rows)] for name, rows in columns.items()}
        whole = len(joined["input_ids"]) // self.length * self.length
        self._next, self._rest = indices[-1] + 1, {name: row[whole:] for name, row in joined.items()}
        return {
            name: [row[start : start + self.length] for start in range(0, whole, self.length)]
            for name, row in joined.items()
        }


def _map(dataset: D, function: Any, *, desc: str, num_proc: int | None = None, **arguments: Any) -> D:
    """`map` to other columns, of either kind of dataset."""
    if isinstance(dataset, Dataset):
        arguments |= {"desc": desc, "num_proc": num_proc}
    return dataset.map(function, batched=True, remove_columns=dataset.column_names, **arguments)


def _features(tokenizer: PreTrainedTokenizerBase) -> Features:
    made = tokenizer("", verbose=False)
    names = [name for name in tokenizer.model_input_names if name in made]
    return Features({name: List(Value("int32" if name == "input_ids" else "int8")) for name in names})


def count_values(dataset: Dataset, column: str) -> int:
    """Values in the lists of a column together, or bytes of its strings; no row is made."""
    of_strings = isinstance(dataset.features[column], Value)
    length = pc.binary_length if of_strings else pc.list_value_length
    tables = dataset.select_columns([column]).with_format("arrow").iter(batch_size=10_000)
    return sum(pc.sum(length(table[column])).as_py() or 0 for table in tables)


def _rows(encoded: Any, tokenizer: PreTrainedTokenizerBase, kept: Sequence[int]) -> dict[str, list[Any]]:
    return {name: [encoded[name][i] for i in kept] for name in tokenizer.model_input_names if name in encoded}


def _need_columns(dataset: Dataset | IterableDataset, *columns: str) -> None:
    names = dataset.column_names or []
    missing = [column for column in columns if column not in names]
    if missing:
        raise DataError(f"expected the columns {list(columns)}, got {names}; missing: {missing}")
    if isinstance(dataset, Dataset) and not len(dataset):
        raise DataError("expected a dataset with rows, got an empty one; check how it was made")


def check_tags(tags: Iterable[str]) -> None:
    """Raise DataError unless every tag is O, B-something or I-something."""
    wrong = sorted({str(tag) for tag in tags if not _TAG.fullmatch(str(tag))})
    if wrong:
        raise DataError(f"expected BIO tags (O, B-TYPE, I-TYPE), got {wrong[:5]}; convert them first")


def class_names(dataset: Dataset, column: str) -> list[str] | None:
    """The names when the column holds class ids, None when it holds the tags themselves."""
    item = getattr(dataset.features[column], "feature", None)
    return list(item.names) if isinstance(item, ClassLabel) else None


def tag_names(tags: Sequence[Any], names: Sequence[str] | None) -> list[str]:
    """The tags of a row, which are class ids where there are `names`. Raises DataError for an id without a name."""
    if names is None:
        return list(tags)
    if wrong := [tag for tag in tags if tag is None or not 0 <= tag < len(names)]:
        raise DataError(f"expected class ids from 0 to {len(names) - 1}, got {wrong[0]}; is the split unlabelled?")
    return [names[tag] for tag in tags]


def _reads_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether words by themselves are not the tokens that they are in a text, as with the byte-level BPE of RoBERTa."""
    return tokenizer.tokenize("a b") != [*tokenizer.tokenize("a"), *tokenizer.tokenize("b")]


def label_list(dataset: Dataset, *, column: str = "ner_tags") -> list[str]:
    """The tags of a training split, sorted, O first. Class ids (as in WikiANN) are read as the names they stand for."""
    _need_columns(dataset, column)
    tags = set(class_names(dataset, column) or [])
    if not tags:
        for row in dataset.select_columns([column]):
            tags.update(row[column] or ())
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
    beyond `max_length` tokens are cut off, with their tags: they are not scored. Raises DataError when a row has not
    one tag a word, holds a tag that is not in `label_list` or a class id without a name, or when the tokenizer is a
    slow one (it cannot tell which word a token is of).
    """
    _need_columns(dataset, tokens_column, tags_column)
    if not tokenizer.is_fast:
        raise DataError(f"expected a fast tokenizer, got {type(tokenizer).__name__}; convert it to tokenizer.json")
    check_tags(label_list)
    ids = {tag: number for number, tag in enumerate(label_list)}
    names = class_names(dataset, tags_column)
    space = " " if _reads_spaces(tokenizer) else ""

    def encode(words: list[list[str]], tags: list[list[Any]], rows: list[int]) -> dict[str, list[Any]]:
        for row, row_words, row_tags in zip(rows, words, tags, strict=True):
            if row_words is None or row_tags is None or None in row_words:
                raise DataError(f"expected words and their tags, got None in row {row}; leave it out")
            if len(row_words) != len(row_tags):
                raise DataError(
                    f"expected a tag for each word, got {len(row_words)} words, {len(row_tags)} tags in row {row}"
                )
        wanted = [tag_names(row, names) for row in tags]
        for row, row_tags in zip(rows, wanted, strict=True):
            check_tags(row_tags)
            unknown = sorted(set(row_tags) - set(ids))
            if unknown:
                raise DataError(
                    f"expected tags of {list(ids)}, got {unknown} in row {row}; add them to the label list (a recipe's "
                    "is that of its training data), or turn them to O (keep_types)"
                )
        spaced = [[space + word for word in row] for row in words]
        encoded = tokenizer(spaced, is_split_into_words=True, truncation=True, max_length=max_length)
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
