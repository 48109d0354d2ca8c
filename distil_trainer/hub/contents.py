"""What of a folder is published: the files that a model page needs, without secrets, and nothing else."""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from distil_trainer.errors import PublishError
from distil_trainer.metadata import check_metadata
from distil_trainer.plain import TOKEN, without_paths

_CONFIGS = (
    *("config.json", "generation_config.json", "adapter_config.json", "preprocessor_config.json"),
    *("processor_config.json", "tokenizer_config.json"),
)
_VOCABULARIES = (
    *("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt"),
    *("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "chat_template.jinja", "chat_template.json"),
)
_WEIGHTS = ("model*.safetensors", "adapter_model*.safetensors")
_PUBLISHED = (
    *("README.md", "LICENSE*", "NOTICE*", *_CONFIGS, *_VOCABULARIES, *_WEIGHTS, "*.safetensors.index.json"),
    *("distillation.json", "adapt*.json", "finetune*.json", "*.png", "*.jpg", "*.jpeg", "*.webp"),
)
# Not even when asked for: pickles that hold paths and tokens, and what is hidden.
_NEVER = ("training_args.bin", "*.pkl", "*.pickle", ".*")
_TOKEN = re.compile(TOKEN.pattern.encode())
_BLOCK, _OVERLAP = 1 << 20, 1 << 10  # bytes
_LOCAL_PATH_KEYS = re.compile(r"(.*_)?(name_or_path|path|dir|file|folder)")


@dataclass(frozen=True)
class Contents:
    """The files to publish.

    Attributes:
        files: path in the repository -> the file, or its bytes where paths of this machine were taken out of it.
        left_out: files of the folder that stay here -> the reason.
        metadata: of README.md.
    """

    files: dict[str, Path | bytes]
    left_out: dict[str, str]
    metadata: dict[str, Any]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {name: len(f) if isinstance(f, bytes) else f.stat().st_size for name, f in self.files.items()}

    def __str__(self) -> str:
        lines = [f"{size:>15,}  {name}" for name, size in self.sizes.items()]
        lines.append(f"{sum(self.sizes.values()):>15,}  bytes in {len(self.files)} files")
        return "\n".join([*lines, *(f"{'stays here':>15}  {name} ({why})" for name, why in self.left_out.items())])


def read_contents(folder: str | os.PathLike[str], *, also: Sequence[str] = (), secrets: Sequence[str] = ()) -> Contents:
    """Chooses the files, and checks them. Nothing in the folder is changed.

    Args:
        folder: a model as `save_model` leaves it, with its page (`write_page`).
        also: patterns of further files to publish, such as "last-checkpoint/*".
        secrets: texts that must not be in any file, besides access tokens and paths under the home directory.

    Raises:
        PublishError: no page, configuration or weights; weights that are incomplete; a file that holds a secret.
        CardError: metadata that the Hub would refuse.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PublishError("files", f"{folder} is not a folder.", "Give the folder that the student was saved in.")
    files: dict[str, Path | bytes] = {}
    left_out: dict[str, str] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        if any(fnmatchcase(part, pattern) for part in name.split("/") for pattern in _NEVER):
            left_out[name] = "never published"
        elif _in(name, also) or ("/" not in name and _in(name, _PUBLISHED)):
            files[name] = _without_local_paths(file) if file.name in _CONFIGS else file
        else:
            left_out[name.split("/")[0] + "/" * ("/" in name)] = "no part of a model page"
    _check_complete(folder, files)
    for name, content in files.items():
        _check_secrets(name, content, secrets)
    return Contents(files, left_out, check_metadata((folder / "README.md").read_bytes().decode(errors="replace")))


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


def _in(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_complete(folder: Path, files: dict[str, Path | bytes]) -> None:
    if "README.md" not in files:
        raise PublishError(
            "files", f"{folder} has no README.md.", "Write the page first: distil_trainer.page.write_page."
        )
    if not {"config.json", "adapter_config.json"} & files.keys():
        raise PublishError("files", f"{folder} has no config.json.", "Save the model into it: trainer.save_model().")
    weights = [name for name in files if _in(name, _WEIGHTS)]
    if not weights:
        raise PublishError(
            "files",
            f"{folder} has no weights as safetensors.",
            "Save the model: trainer.save_model(). Pickles are not published.",
        )
    for name in weights:
        try:
            with safe_open(folder / name, "np"):
                pass
        except (SafetensorError, OSError) as error:
            raise PublishError("files", f"{name} cannot be read: {error}.", "Save the model again.") from error
    for index in (name for name in files if name.endswith(".safetensors.index.json")):
        try:
            shards = set(json.loads((folder / index).read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PublishError("files", f"{index} is no index of weights: {error}.", "Save the model again.") from error
        if missing := sorted(shards - files.keys()):
            raise PublishError("files", f"{index} names {missing[0]}, which is not there.", "Save the model again.")


def _without_local_paths(file: Path) -> Path | bytes:
    """The file, or its content with the paths of this machine cut to their last part."""
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise PublishError("files", f"{file.name} cannot be read as JSON: {error}.", "Save the model again.") from error
    cleaned = _cleaned(content)
    return file if cleaned == content else (json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n").encode()


def _cleaned(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _cleaned(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_cleaned(inner, key) for inner in value]
    if not isinstance(value, str) or not _LOCAL_PATH_KEYS.fullmatch(key):
        return value
    return "~" if value.rstrip("/") == str(Path.home()) else without_paths(value)


def _check_secrets(name: str, content: Path | bytes, secrets: Sequence[str]) -> None:
    if isinstance(content, Path) and name.endswith(".safetensors"):
        with safe_open(content, "np") as tensors:  # the only text in it
            content = json.dumps(tensors.metadata() or {}).encode()
    home = re.escape(str(Path.home()).encode())
    # A vocabulary may hold any word, "/root" too; and "/" alone is nobody's home.
    of_home = (
        None
        if len(home) < 2 or name.split("/")[-1] in _VOCABULARIES
        else re.compile(rb"(?<![\w./-])%b(?![\w-])" % home)
    )
    for window in _windows(content):
        if _TOKEN.search(window) or any(secret.encode() in window for secret in secrets):
            raise PublishError("files", f"{name} holds an access token.", "Remove it, and revoke it on the Hub.")
        if of_home and of_home.search(window):
            raise PublishError("files", f"{name} holds a path of this machine, under {Path.home()}.", "Remove it.")


def _windows(content: Path | bytes) -> Iterator[bytes]:
    """The bytes in pieces that overlap, so that what is looked for lies in one of them whole."""
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as stream:
        tail = b""
        while block := stream.read(_BLOCK):
            yield tail + block
            tail = block[-_OVERLAP:]
