"""What must not leave this machine: access tokens, and paths that tell of its users."""

import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from distil_trainer.errors import PublishError
from distil_trainer.plain import TOKEN, without_paths

_TOKEN = re.compile(TOKEN.pattern.encode())
_BLOCK, _OVERLAP = 1 << 20, 1 << 10  # bytes
_LOCAL_PATH_KEYS = re.compile(r"(.*_)?(name_or_path|path|dir|file|folder|checkpoint)")


def without_local_paths(file: Path) -> Path | bytes:
    """The file, or its content with the paths of this machine cut to their last part."""
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PublishError("files", f"{file.name} cannot be read as JSON: {error}.", "Save the model again.") from error
    cleaned = _cleaned(content)
    return file if cleaned == content else (json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n").encode()


def _cleaned(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _cleaned(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_cleaned(inner, key) for inner in value]
    return without_paths(value) if isinstance(value, str) and _LOCAL_PATH_KEYS.fullmatch(key) else value


def check_secrets(name: str, content: Path | bytes, secrets: Sequence[str], *, is_vocabulary: bool) -> None:
    """Refuses a file that holds an access token, one of `secrets`, or a path under the home directory.

    A vocabulary may hold any word, and is searched for tokens only.

    Raises:
        PublishError: it does; the message does not repeat the token.
    """
    if isinstance(content, Path) and name.endswith(".safetensors"):
        with safe_open(content, "np") as tensors:  # the only text in it
            content = json.dumps(tensors.metadata() or {}).encode()
    home = None if is_vocabulary else _home_pattern()
    for window in _windows(content):
        if (b"hf_" in window and _TOKEN.search(window)) or any(secret.encode() in window for secret in secrets):
            raise PublishError("files", f"{name} holds an access token.", "Remove it, and revoke it on the Hub.")
        # JSON may escape slashes, and doubles backslashes; file:///home is written with three slashes.
        if home and home.search(re.sub(rb"/+", b"/", window.replace(b"\\/", b"/").replace(b"\\\\", b"\\"))):
            raise PublishError("files", f"{name} holds a path of this machine, under {Path.home()}.", "Remove it.")


def _home_pattern() -> re.Pattern[bytes] | None:
    """Finds paths under the home directory. "/" is nobody's home, and "/root" by itself a word."""
    home = Path.home()
    if len(home.parts) < 2:
        return None
    ending = rb"/" if len(home.parts) == 2 else rb"(?![\w-])"
    return re.compile(rb"(?<![\w./-])" + re.escape(str(home).encode()) + ending)


def _windows(content: Path | bytes) -> Iterator[bytes]:
    """The bytes in pieces that overlap, so that what is looked for lies in one of them whole."""
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as stream:
        tail = b""
        while block := stream.read(_BLOCK):
            yield tail + block
            tail = block[-_OVERLAP:]
