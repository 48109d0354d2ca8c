"""Text that is ready to train on, and the folder that keeps it: rows, their tokenizer, and a record."""

import json
import shutil
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset, load_from_disk
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from distil_trainer.errors import DataError, RecordError
from distil_trainer.record import DataFacts, Record

RECORD = "prepare.json"
_TRAIN, _VALIDATION, _TOKENIZER = "train", "validation", "tokenizer"


@dataclass(frozen=True)
class Text:
    """Tokenised text.

    Attributes:
        train: the rows to train on; a stream has no length.
        validation: the rows to evaluate on.
        facts: of the training rows.
    """

    train: Dataset | IterableDataset
    validation: Dataset | None
    facts: DataFacts


def save_text(text: Text, tokenizer: PreTrainedTokenizerBase, folder: str | PathLike[str], record: Record) -> None:
    """Writes the rows, the tokenizer and the record to a new folder, which is there as a whole or not at all.

    Raises:
        DataError: the folder holds something, or the text is a stream.
    """
    folder = Path(folder)
    check_new(folder)
    if not isinstance(text.train, Dataset):
        raise DataError("expected rows on disk, got a stream; read the text with stream: false")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        text.train.save_to_disk(unfinished / _TRAIN)
        if text.validation is not None:
            text.validation.save_to_disk(unfinished / _VALIDATION)
        tokenizer.save_pretrained(unfinished / _TOKENIZER)
        record.save(unfinished / RECORD)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def load_prepared(folder: str | PathLike[str], tokenizer: PreTrainedTokenizerBase) -> Text:
    """What `save_text` wrote.

    Raises:
        DataError: there is no such folder, it cannot be read, or it was made with another tokenizer.
    """
    record = prepared_record(folder)
    if record is None or not record.data:
        raise DataError(
            f"expected text that recipes/prepare.py wrote in {folder}, which has no {RECORD} of it; prepare it first, "
            "or correct data.prepared"
        )
    folder = Path(folder)
    own = prepared_tokenizer(folder)
    try:
        train = load_from_disk(folder / _TRAIN)
        validation = load_from_disk(folder / _VALIDATION) if (folder / _VALIDATION).exists() else None
    except Exception as error:  # datasets checks little of what it reads
        raise DataError(f"{folder} cannot be read: {error}; delete it and prepare the text again") from error
    if _identity(own) != _identity(tokenizer):
        raise DataError(
            f"expected the tokenizer that {folder} was prepared with, {_told(own)}, got {_told(tokenizer)} with other "
            "tokens or rules; prepare the text again with the tokenizer of the model, or take another model"
        )
    return Text(train, validation, record.data[0])


def prepared_tokenizer(folder: str | PathLike[str]) -> Any:
    """The tokenizer that the text in the folder was prepared with.

    Raises:
        DataError: there is no such folder, or it cannot be read.
    """
    if not (Path(folder) / RECORD).exists():
        raise DataError(
            f"expected text that recipes/prepare.py wrote in {folder}, which has no {RECORD}; prepare it first, or "
            "correct the path"
        )
    try:
        return AutoTokenizer.from_pretrained(Path(folder) / _TOKENIZER, trust_remote_code=False)
    except Exception as error:  # transformers checks little of what it reads
        raise DataError(f"{folder} cannot be read: {error}; delete it and prepare the text again") from error


def prepared_record(folder: str | PathLike[str]) -> Record | None:
    """The record in the folder; None if there is none.

    Raises:
        DataError: it cannot be read.
    """
    path = Path(folder) / RECORD
    try:
        return Record.load(path) if path.exists() else None
    except RecordError as error:
        raise DataError(f"{error}; delete {folder} and prepare the text again") from error


def check_new(folder: str | PathLike[str]) -> None:
    """Raises DataError when there is something in the folder."""
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(f"expected a new folder, got {folder}, which holds files; delete it, or choose another")


def _identity(tokenizer: PreTrainedTokenizerBase) -> Any:
    """What decides the tokens of a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return type(tokenizer).__name__, tokenizer.get_vocab()
    parts = json.loads(backend.to_str())
    return {name: part for name, part in parts.items() if name not in ("truncation", "padding")}  # set by each call


def _told(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"{type(tokenizer).__name__} of {len(tokenizer):,} tokens"
