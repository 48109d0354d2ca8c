"""The hashes by which the Hub knows files."""

import hashlib
from pathlib import Path

_BLOCK = 1 << 20  # bytes


def sha256(content: Path | bytes) -> str:
    """Hex digest, by which the Hub knows large files."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    with content.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def git_sha1(content: Path | bytes) -> str:
    """Hex digest of a git blob, by which the Hub knows small files."""
    content = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()
