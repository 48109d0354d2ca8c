"""Compressed files as blocks of bytes of a bounded size, whatever the file claims or hides."""

import bz2
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# Bytes of one block: what is in memory of a file at a time. More than the 900 kB that bzip2 compresses together: taking
# them out in smaller parts, with other work in between, costs a third of the speed.
BLOCK = 1 << 20
_PART = 1 << 16  # compressed bytes read at a time
SUFFIXES = (".xml", ".bz2", ".gz")


class BrokenStreamError(Exception):
    """The compressed file cannot be read on from about `byte`. `unread`: bytes of it behind that place."""

    def __init__(self, reason: str, byte: int, size: int) -> None:
        super().__init__(f"{reason} near byte {byte:,} of {size:,} of the compressed file")
        self.unread = size - byte


def read_blocks(path: Path) -> Iterator[bytes]:
    """What the file holds, decompressed (.bz2, .gz) or as it is (.xml), in blocks of at most twice `BLOCK` bytes.

    Streams put end to end, as parallel compressors write them, are read one after another, and small ones together: a
    block is never smaller than half of `BLOCK`, but for the last. Raises `BrokenStreamError` where the compressed data
    is damaged or cut off, after everything that comes before, and OSError when the file cannot be read.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        read = {".bz2": _bz2_parts, ".gz": _gzip_parts}.get(path.suffix, _plain_parts)
        held = bytearray()
        broken: BrokenStreamError | None = None
        try:
            for part in read(file):
                held += part
                if len(held) >= BLOCK // 2:
                    yield bytes(held)
                    held.clear()
        except (EOFError, zlib.error) as error:
            broken = BrokenStreamError(str(error), file.tell(), size)
        except OSError as error:
            if error.errno is not None:  # the disk, not the data
                raise
            broken = BrokenStreamError(f"damaged bzip2 data ({error})", file.tell(), size)
        if held:
            yield bytes(held)
        if broken:
            raise broken


def _plain_parts(file: BinaryIO) -> Iterator[bytes]:
    while part := file.read(BLOCK):
        yield part


def _bz2_parts(file: BinaryIO) -> Iterator[bytes]:
    # not bz2.open: that one loses what it has decompressed of a block when the rest of it is damaged
    decompressor = bz2.BZ2Decompressor()
    while True:
        part = b""
        if decompressor.eof:
            part = decompressor.unused_data or file.read(_PART)
            if not part:
                return
            decompressor = bz2.BZ2Decompressor()
        elif decompressor.needs_input:
            part = file.read(_PART)
            if not part:
                raise EOFError("the bzip2 data is cut off")
        if block := decompressor.decompress(part, BLOCK):
            yield block


def _gzip_parts(file: BinaryIO) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(wbits=31)
    while True:
        if decompressor.eof:
            part = decompressor.unused_data or file.read(_PART)
            if not part:
                return
            decompressor = zlib.decompressobj(wbits=31)
        else:
            part = decompressor.unconsumed_tail or file.read(_PART)
        block = decompressor.decompress(part, BLOCK)  # without new input: what is left in its window
        if block:
            yield block
        elif not part and not decompressor.eof:
            raise EOFError("the gzip data is cut off")
