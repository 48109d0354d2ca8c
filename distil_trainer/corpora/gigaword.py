"""The Swedish Culturomics Gigaword Corpus, and other exports of Språkbanken, sentence by sentence."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from distil_trainer.corpora.counts import GigawordCounts
from distil_trainer.corpora.markup import BrokenMarkupError, Sentence, SentenceParser
from distil_trainer.corpora.selection import GigawordFilter
from distil_trainer.corpora.streams import SUFFIXES, BrokenStreamError, read_blocks
from distil_trainer.errors import DataError, printable

logger = logging.getLogger(__name__)

MAX_BREAKS = 1_000  # of one file, after which the rest of it is left out
_TEXT = re.compile(rb"<text[\s/>]")
_TEXT_LENGTH = 6  # bytes that the pattern matches


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """What was left out of a file because it is broken.

    Attributes:
        file: the file.
        reason: what is wrong in the first place, and where.
        breaks: how many places.
        lost_bytes: bytes of XML from a break to the next `<text>`, or to the end of the file, together. The sentence
            that a break is in is lost too.
        unread_bytes: bytes of the compressed file behind a place where it cannot be decompressed.
    """

    file: Path
    reason: str
    breaks: int
    lost_bytes: int
    unread_bytes: int


def read_gigaword(
    files: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    years: tuple[int, int] | None = None,
    genres: Sequence[str] = (),
    skip_broken: bool = False,
    on_skip: Callable[[Skipped], None] | None = None,
    counts: GigawordCounts | None = None,
) -> Iterator[Sentence]:
    """The sentences of the files, one after another: {"text": ..., "year": ..., "genre": ...}.

    Memory does not grow with the files. One process reads one file at a time; several are
    `Dataset.from_generator(read_gigaword, gen_kwargs={"files": files, ...}, num_proc=...)`.

    Args:
        files: one path or several, .xml, .xml.bz2 or .xml.gz; in the order given.
        years: first and last year, both included. Texts without a year are then left out.
        genres: names of genres (`GENRES` for Gigaword). Texts without a genre are then left out.
        skip_broken: leave out what follows broken XML up to the next `<text>`, and what follows damaged compression,
            with a warning for each such file; default: raise.
        on_skip: called with what was left out of a file, if anything was, when its reading ends.
        counts: takes the counts of what is kept and left out.

    Raises:
        DataError: now, for arguments that do not fit and for files that are missing; while reading, for a file that is
            broken or has a document type declaration, and at the end when no sentence was kept.
    """
    chosen = GigawordFilter(years=years, genres=genres)
    paths = [Path(file) for file in ([files] if isinstance(files, str | PathLike) else files)]
    if not paths:
        raise DataError("expected at least one file of the corpus, got none; name .xml.bz2, .xml.gz or .xml files")
    for path in paths:
        if path.suffix not in SUFFIXES:
            raise DataError(f"expected a .xml.bz2, .xml.gz or .xml file, got {path}; leave it out or convert it")
        if not path.is_file():
            raise DataError(f"expected a file of the corpus at {path}, but there is none; check the path")
    return _read_files(paths, chosen, skip_broken, on_skip, GigawordCounts() if counts is None else counts)


def _read_files(
    paths: list[Path],
    chosen: GigawordFilter,
    skip_broken: bool,
    on_skip: Callable[[Skipped], None] | None,
    counts: GigawordCounts,
) -> Iterator[Sentence]:
    is_empty = True
    for path in paths:
        reading = _Reading(path, SentenceParser(path, chosen, counts), skip_broken)
        try:
            for sentence in reading.sentences():
                is_empty = False
                yield sentence
        except OSError as error:
            raise DataError(f"expected to read {path}, but {error}; check the disk and the permissions") from error
        counts.files += 1
        if skipped := reading.skipped():
            logger.warning(
                "%s is broken: %s. Left out %s bytes of its XML in %d places and %s bytes that cannot be decompressed.",
                *(
                    printable(str(skipped.file)),
                    printable(skipped.reason),
                    f"{skipped.lost_bytes:,}",
                    skipped.breaks,
                    f"{skipped.unread_bytes:,}",
                ),
            )
            if on_skip:
                on_skip(skipped)
    if is_empty:
        groups = sorted({f"{year or 'no year'} {genre or 'no genre'}" for year, genre in counts.left_out})
        found = f"the files hold texts of {', '.join(groups[:20])}" if groups else "the files hold no <sentence> of <w>"
        raise DataError(f"expected sentences of {chosen}, got none: {found}; choose other files, years or genres")


class _Reading:
    """Goes through one file, and notes what is lost of it."""

    def __init__(self, path: Path, parser: SentenceParser, skip_broken: bool) -> None:
        self._path = path
        self._parser = parser
        self._skip_broken = skip_broken
        self._reasons: list[str] = []
        self._lost = self._unread = 0

    def sentences(self) -> Iterator[Sentence]:
        position = 0  # of the end of what has been read, in bytes of XML
        begun = 0  # where the parser began or began again
        lost_from: int | None = None  # a break whose end is looked for
        data = b""
        try:
            for block in read_blocks(self._path):
                position += len(block)
                data = data[1 - _TEXT_LENGTH :] + block if lost_from is not None else block
                while data:
                    if lost_from is not None:
                        found = self._next_text(data, lost_from - (position - len(data)))
                        if found is None:
                            break
                        data = data[found:]
                        begun = position - len(data)
                        self._lost += begun - lost_from
                    try:
                        if lost_from is not None:
                            lost_from = None
                            self._parser.restart(begun)
                        self._parser.feed(data)
                        data = b""
                    except BrokenMarkupError as error:
                        lost_from = max(self._note(error), begun)
                    yield from self._taken()
            if lost_from is None:
                lost_from = self._close(position)
                yield from self._taken()
        except BrokenStreamError as error:
            self._note(error)
            self._unread = error.unread
        if lost_from is not None:
            self._lost += position - lost_from

    def _taken(self) -> list[Sentence]:
        sentences, self._parser.sentences = self._parser.sentences, []
        return sentences

    def _next_text(self, data: bytes, after: int) -> int | None:
        """Where in the data a text begins, later than `after`."""
        if len(self._reasons) > MAX_BREAKS:
            return None
        match = _TEXT.search(data, max(after + 1, 0))
        return match.start() if match else None

    def _close(self, position: int) -> int | None:
        try:
            self._parser.close()
        except BrokenMarkupError as error:
            self._note(error)
            return min(error.byte, position)
        return None

    def _note(self, error: BrokenMarkupError | BrokenStreamError) -> int:
        """Raises DataError, or notes the break and gives its place."""
        if not self._skip_broken:
            raise DataError(
                f"expected whole, well-formed XML in {self._path}, got: {error}; download the file again, or pass "
                f"skip_broken=True to leave out what cannot be read"
            ) from error
        self._reasons.append(str(error))
        return error.byte if isinstance(error, BrokenMarkupError) else 0

    def skipped(self) -> Skipped | None:
        """What was left out, if anything was."""
        if not self._reasons:
            return None
        return Skipped(
            file=self._path,
            reason=self._reasons[0],
            breaks=len(self._reasons),
            lost_bytes=self._lost,
            unread_bytes=self._unread,
        )
