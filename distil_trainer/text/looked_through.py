"""Files are looked through before `datasets` reads them, which takes lines of any length and unpacks what it finds."""

import math
import re
from pathlib import Path

from datasets.utils.extract import Extractor

from distil_trainer.corpora.streams import BrokenStreamError, read_blocks
from distil_trainer.errors import DataError

MAX_LINE = 2**24  # bytes; of a line, several copies are in memory
MAX_RATIO = 200  # bytes of text for one of the compressed file; prose has 3 to 5, the same line again and again 1,000
BEGINNING = 2**26  # bytes of text
MAX_DEPTH = 100  # of JSON; its parsers call themselves for each level, until the process dies
_MARKS = re.compile(rb'\\.|["\[\]{}]', re.DOTALL)


def look_through(path: Path, builder: str, *, beginning: bool = False) -> None:
    """Reads a file once, in constant memory, and refuses what would fill the memory or the disk.

    Args:
        path: the file; one whose name ends in .gz is compressed by gzip.
        builder: what of `datasets` will read it: "text", "json" or "parquet"; of the last only the kind is looked at.
        beginning: read the first `BEGINNING` bytes of text only.

    Raises:
        DataError: it is an archive, or compressed though its name does not say so; it has a line of more than
            `MAX_LINE` bytes (or somewhat more), or of JSON of more than `MAX_DEPTH` levels; or it unpacks to more than
            `MAX_RATIO` times its size.
    """
    is_gzip = path.suffix == ".gz"
    kind = Extractor.infer_extractor_format(path)
    if is_gzip and kind is None:
        raise DataError(f"expected gzip in {path}, which cannot be read so: Not a gzipped file; download it again")
    if kind != ("gzip" if is_gzip else None):
        raise DataError(f"expected plain text or a table in {path}, got {kind}; unpack it, and name the files inside")
    if builder != "parquet":
        try:
            _look_through_lines(path, builder == "json", is_gzip, BEGINNING if beginning else math.inf)
        except BrokenStreamError as error:
            raise DataError(f"expected gzip in {path}, which cannot be read so: {error}; download it again") from error


def _look_through_lines(path: Path, is_json: bool, is_gzip: bool, enough: float) -> None:
    most = MAX_RATIO * path.stat().st_size + MAX_LINE
    read, rest = 0, b""  # bytes of text; the beginning of a line
    for block in read_blocks(path):
        read += len(block)
        if is_gzip and read > most:
            raise DataError(
                f"expected text compressed by gzip in {path}, got {path.stat().st_size:,} bytes that unpack to more "
                f"than {most:,}, as no text does; leave the file out, or unpack it yourself"
            )
        lines = (rest + block).split(b"\n") if is_json else [*(rest + block).splitlines(), b""]
        if not is_json and not block.endswith((b"\n", b"\r")):
            lines.pop()
        rest = lines.pop()
        if len(rest) > MAX_LINE:
            raise DataError(
                f"expected lines of at most {MAX_LINE:,} bytes in {path}, got a longer one, that begins near byte "
                f"{read - len(rest):,}; break it into lines"
            )
        if is_json:
            _check_depth(lines, path)
        if read >= enough:
            return
    if is_json:
        _check_depth([rest], path)


def _check_depth(lines: list[bytes], path: Path) -> None:
    for line in lines:
        is_long = len(line) > MAX_DEPTH  # which costs least, and most are not
        if is_long and line.count(b"[") + line.count(b"{") > MAX_DEPTH and _depth(line) > MAX_DEPTH:
            raise DataError(
                f"expected JSON of at most {MAX_DEPTH} lists and objects in each other in {path}, got more in the line "
                f"that begins {line[:40]!r}; leave it out"
            )


def _depth(line: bytes) -> int:
    """Levels of lists and objects, which are none inside of strings."""
    depth = deepest = 0
    in_string = False
    for match in _MARKS.finditer(line):
        mark = match[0]
        if mark == b'"':
            in_string = not in_string
        elif not in_string and len(mark) == 1:
            depth += 1 if mark in b"[{" else -1
            deepest = max(deepest, depth)
    return deepest
