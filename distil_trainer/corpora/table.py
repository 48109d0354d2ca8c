"""The Gigaword reader as a data set of `datasets`: read once, by several processes, and cached; or streamed."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, Value, concatenate_datasets
from datasets.exceptions import DatasetGenerationError

from distil_trainer.corpora.counts import GigawordCounts
from distil_trainer.corpora.gigaword import Skipped, read_gigaword
from distil_trainer.corpora.selection import GigawordFilter
from distil_trainer.errors import DataError

_SENTENCE = {"text": Value("string"), "year": Value("int32"), "genre": Value("string")}
_COUNTS = "counts"  # JSON, in the row that ends each file; the processes that read have no other way to tell
_ERROR = re.compile(rf"^{DataError.__module__}\.{DataError.__name__}: (.*)$", re.MULTILINE)


def load_gigaword(
    files: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    years: tuple[int, int] | None = None,
    genres: Sequence[str] = (),
    skip_broken: bool = False,
    num_proc: int | None = None,
    cache_dir: str | PathLike[str] | None = None,
) -> tuple[Dataset, dict[str, Any]]:
    """The sentences of the files with the columns text, year and genre, in the order of the files, and exact counts.

    The counts are those of `GigawordCounts.as_dict`, and under "broken" what `Skipped` says: "files", "places",
    "lost_bytes" and "unread_bytes". They are the same whether the sentences are read now, by however many processes,
    or come from the cache of `datasets`. That is used as long as the files, the arguments and the reader are the same.

    Args:
        files, years, genres, skip_broken: as `read_gigaword` takes them.
        num_proc: processes; each reads one file at a time.
        cache_dir: where `datasets` keeps its copy (default: its usual place).

    Raises:
        DataError: as `read_gigaword` does.
    """
    paths = _check(files, years, genres)
    try:
        table = Dataset.from_generator(
            _read,
            gen_kwargs={**_arguments(paths, years, genres, skip_broken), "count": True},
            features=Features({**_SENTENCE, _COUNTS: Value("string")}),
            num_proc=min(num_proc or 1, len(paths)),
            cache_dir=fspath(cache_dir) if cache_dir else None,
        )
    except DatasetGenerationError as error:
        if reason := _reason(error):
            raise DataError(reason) from None
        raise
    sentences, counts = _split(table)
    if not len(sentences):
        groups = ", ".join(list(counts["left_out"])[:20])
        found = f"the files hold texts of {groups}" if groups else "the files hold no <sentence> of <w>"
        chosen = GigawordFilter(years=years, genres=genres)
        raise DataError(f"expected sentences of {chosen}, got none: {found}; choose other files, years or genres")
    return sentences, counts


def stream_gigaword(
    files: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    years: tuple[int, int] | None = None,
    genres: Sequence[str] = (),
    skip_broken: bool = False,
) -> IterableDataset:
    """The same sentences, read while they are taken. Each file is a shard: what one worker or process reads alone.

    Raises:
        DataError: as `read_gigaword` does. While it is read, a file without any sentence of these years and genres is
            no error.
    """
    arguments = _arguments(_check(files, years, genres), years, genres, skip_broken)
    return IterableDataset.from_generator(_read, gen_kwargs=arguments, features=Features(_SENTENCE))


def merge_counts(each: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of counts: numbers under the same key, also of mappings inside."""
    total: dict[str, Any] = {}
    for counts in each:
        for key, value in counts.items():
            if isinstance(value, Mapping):
                total[key] = merge_counts([total.get(key, {}), value])
            else:
                total[key] = total.get(key, 0) + value
    return total


def _check(files: Any, years: tuple[int, int] | None, genres: Sequence[str]) -> list[Path]:
    """The paths, when all of them can be opened and the arguments fit."""
    paths = [Path(file) for file in ([files] if isinstance(files, str | PathLike) else files)]
    read_gigaword(paths, years=years, genres=genres)  # checks now; it reads when it is asked for a sentence
    return paths


def _arguments(
    paths: list[Path], years: tuple[int, int] | None, genres: Sequence[str], skip_broken: bool
) -> dict[str, Any]:
    """What `_read` takes. `datasets` caches by these, and takes the one list among them for the shards."""
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return {
        "files": [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths],
        "years": tuple(years) if years else None,
        "genres": tuple(genres),
        "skip_broken": skip_broken,
        "reader": hashlib.sha256(code).hexdigest(),
    }


def _read(
    files: Sequence[tuple[str, int, int]],
    years: tuple[int, int] | None,
    genres: tuple[str, ...],
    skip_broken: bool,
    reader: str,
    count: bool = False,
) -> Iterator[dict[str, Any]]:
    """Sentences; with `count` each with the column of counts, and after each file a row of counts alone."""
    no_counts = {_COUNTS: None} if count else {}
    for file, *_ in files:
        counts = GigawordCounts()
        skipped: list[Skipped] = []
        sentences = read_gigaword(
            file, years=years, genres=genres, skip_broken=skip_broken, on_skip=skipped.append, counts=counts
        )
        try:
            for sentence in sentences:
                yield {**sentence, **no_counts}
        except DataError:
            if not counts.files:  # it was not read to its end
                raise
            # nothing is kept of this file: it is one of several
        if count:
            yield {"text": "", "year": None, "genre": None, _COUNTS: json.dumps(_as_dict(counts, skipped))}


def _as_dict(counts: GigawordCounts, skipped: Sequence[Skipped]) -> dict[str, Any]:
    broken = {
        "files": len(skipped),
        "places": sum(skip.breaks for skip in skipped),
        "lost_bytes": sum(skip.lost_bytes for skip in skipped),
        "unread_bytes": sum(skip.unread_bytes for skip in skipped),
    }
    return {**counts.as_dict(), "broken": broken}


def _split(table: Dataset) -> tuple[Dataset, dict[str, Any]]:
    """The rows of sentences, as slices of the same file on disk, and the sum of the rows of counts."""
    column = table.data.column(_COUNTS)
    ends = pc.indices_nonzero(pc.is_valid(column)).to_pylist()
    starts = [0, *(end + 1 for end in ends[:-1])]
    counts = merge_counts(json.loads(column[end].as_py()) for end in ends)
    counts.update({name: dict(sorted(counts[name].items())) for name in ("kept", "left_out")})
    parts = [table.select(range(start, end)) for start, end in zip(starts, ends, strict=True) if end > start]
    sentences = concatenate_datasets(parts) if parts else table.select([])
    return sentences.remove_columns(_COUNTS), counts


def _reason(error: BaseException | None) -> str | None:
    """The message of the DataError inside, if there is one. That of another process arrives as text."""
    while error is not None:
        if isinstance(error, DataError):
            return str(error)
        if found := _ERROR.search(str(error)):
            return found[1]
        error = error.__cause__
    return None
