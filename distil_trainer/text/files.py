"""Text of local files, as datasets with the one column "text": read once and cached, or streamed."""

import glob
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset, Features, IterableDataset, Value, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError

from distil_trainer.errors import DataError
from distil_trainer.text.looked_through import look_through

D = TypeVar("D", Dataset, IterableDataset)

_BUILDERS = {".jsonl": "json", ".json": "json", ".txt": "text", ".text": "text", ".parquet": "parquet"}
_CONTENTS = {"json": "one JSON object a line", "text": "text in UTF-8", "parquet": "a table"}


def load_text(
    files: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    column: str = "text",
    cache_dir: str | PathLike[str] | None = None,
) -> Dataset:
    """Paragraphs of text from local files.

    `files`: one path or several; .jsonl (one JSON object a line, the text under `column`), .txt (one paragraph a line),
    both also compressed (.gz), or .parquet. Blank paragraphs are left out. `cache_dir` is where `datasets` keeps its
    copy (default: its usual place).
    Raises DataError when a file is missing, of another type, not readable as such, holds no text, or would fill the
    memory or the disk (`look_through`).
    """
    return concatenate_datasets([_load_file(path, column, cache_dir) for path in _check_files(files)])


def stream_text(files: str | PathLike[str] | Sequence[str | PathLike[str]], *, column: str = "text") -> IterableDataset:
    """The same, read while it is taken. Each file is a shard: what one worker or process reads alone.

    Raises DataError as `load_text` does, as far as the beginnings of the files tell.
    """
    streams = [_open_file(path, column, streaming=True) for path in _check_files(files, beginnings=True)]
    return drop_blank(concatenate_datasets(streams))


def text_column(dataset: D, column: str, place: str) -> D:
    """The dataset with that column alone, called "text". Raises DataError unless there is one, of strings."""
    features = dataset.features
    names = list(next(iter(dataset), {})) if features is None else list(features)
    if column not in names:
        raise DataError(f"expected a column {column!r} in {place}, got {names}; pass column=...")
    if features and getattr(features[column], "dtype", None) not in ("string", "large_string"):
        raise DataError(
            f"expected strings under {column!r} in {place}, got {features[column]}; pass another column=..."
        )
    texts = dataset.select_columns([column])
    if column != "text":
        texts = texts.rename_column(column, "text")
    wanted = Features({"text": Value("string")})  # what is of different origin must have equal features
    return texts if features and texts.features == wanted else texts.cast(wanted)


def drop_blank(texts: D) -> D:
    """The texts that are more than white space."""
    return texts.filter(_are_not_blank, batched=True)


def _are_not_blank(batch: dict[str, list[str | None]]) -> list[bool]:
    return [bool(text and text.strip()) for text in batch["text"]]


def _check_files(files: str | PathLike[str] | Sequence[str | PathLike[str]], *, beginnings: bool = False) -> list[Path]:
    paths = [Path(file) for file in ([files] if isinstance(files, str | PathLike) else files)]
    if not paths:
        raise DataError("expected at least one text file, got none; name .jsonl or .txt files")
    for path in paths:
        if _builder(path) is None:
            raise DataError(
                f"expected a .jsonl or .txt file (both also .gz), or a .parquet file, got {path}; rename or convert it"
            )
        if not path.is_file():
            raise DataError(f"expected a text file at {path}, but there is none; check the path")
        if not path.stat().st_size:
            raise DataError(f"expected paragraphs in {path}, but the file is empty; write it again")
        look_through(path, _builder(path) or "text", beginning=beginnings)
    return paths


def _builder(path: Path) -> str | None:
    """What of `datasets` reads the file; None if nothing does."""
    builder = _BUILDERS.get(Path(path.name.removesuffix(".gz")).suffix)
    return None if builder == "parquet" and path.suffix == ".gz" else builder


def _load_file(path: Path, column: str, cache_dir: str | PathLike[str] | None) -> Dataset:
    texts = drop_blank(_open_file(path, column, cache_dir=cache_dir and str(cache_dir)))
    if not len(texts):
        raise DataError(f"expected paragraphs in {path}, but all of them are blank; write it again")
    return texts


def _open_file(path: Path, column: str, **arguments: Any) -> Any:
    builder = _builder(path) or "text"
    try:
        loaded = load_dataset(builder, data_files=glob.escape(str(path)), split="train", **arguments)
        return text_column(loaded, "text" if builder == "text" else column, str(path))
    except DataError:
        raise
    except (DatasetGenerationError, EOFError, OSError, ValueError) as error:
        reason = error.__cause__ if isinstance(error, DatasetGenerationError) else error
        raise DataError(f"expected {_CONTENTS[builder]} in {path}, which cannot be read so: {reason}") from error
