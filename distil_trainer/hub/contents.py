"""What of a folder is published: the files that a model page needs, without secrets, and nothing else."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open

from distil_trainer.errors import DistilTrainerError, PublishError, RecordError, printable
from distil_trainer.hub.private import check_secrets, without_local_paths
from distil_trainer.metadata import check_metadata
from distil_trainer.record import HUB_ID, Record

_CONFIGS = (
    *("config.json", "generation_config.json", "adapter_config.json", "preprocessor_config.json"),
    *("processor_config.json", "video_preprocessor_config.json", "tokenizer_config.json", "normalizer.json"),
)
_CLEANED = (*_CONFIGS, "trainer_state.json")  # paths of this machine are taken out of these
_VOCABULARIES = (
    *("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt"),
    *("entity_vocab.json", "dict.txt", "bpe.codes", "spiece.model", "spm.model", "sentencepiece.model", "tekken.json"),
    *("sentencepiece.bpe.model", "tokenizer.model", "source.spm", "target.spm", "vocab.spm", "*.tiktoken"),
)
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")
_WEIGHTS = ("model.safetensors", "adapter_model.safetensors", "*-of-*.safetensors")
_RECORDS = (
    *("distillation.json", "adapt.json", "adapt-*.json", "finetune.json", "finetune-*.json"),
    *("prepare.json", "prepare-*.json"),
)
_PUBLISHED = (
    *("README.md", "LICENSE*", "NOTICE*", *_CONFIGS, *_VOCABULARIES, *_TEMPLATES, *_WEIGHTS, *_RECORDS),
    *("*.safetensors.index.json", "*.png", "*.jpg", "*.jpeg", "*.webp"),
)
# Not even when asked for: pickles that hold paths and tokens, and what is hidden.
_NEVER = ("training_args.bin", "*.pkl", "*.pickle", ".*")


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
        lines += [f"{'stays here':>15}  {name} ({why})" for name, why in self.left_out.items()]
        return "\n".join(map(printable, lines))


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
    try:
        return _read(folder, also, secrets)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, DistilTrainerError):
            raise
        raise PublishError(
            "files", f"{folder} cannot be read as a model and its page: {error}.", "Save it again."
        ) from error


def _read(folder: Path, also: Sequence[str], secrets: Sequence[str]) -> Contents:
    files: dict[str, Path | bytes] = {}
    left_out: dict[str, str] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        if _in(name, _NEVER) or any(_in(part, _NEVER) for part in name.split("/")):
            left_out[name] = "never published"
        elif _in(name, _RECORDS) and not _is_record(file):
            left_out[name] = "no record"
        elif _in(name, also) or any(_in(name, [p]) and p.count("/") == name.count("/") for p in _PUBLISHED):
            if not file.resolve().is_relative_to(folder.resolve()):
                remedy = "Put a copy in its place, if it is to be published."
                raise PublishError("files", f"{name} is a link to a file outside of {folder}.", remedy)
            files[name] = without_local_paths(file) if file.name in _CLEANED else file
        else:
            left_out[name.split("/")[0] + "/" * ("/" in name)] = "no part of a model page"
    _check_complete(folder, files)
    for name, content in files.items():
        check_secrets(name, content, secrets, is_vocabulary=_in(name.split("/")[-1], _VOCABULARIES))
    return Contents(files, left_out, check_metadata((folder / "README.md").read_bytes().decode(errors="replace")))


def _is_record(file: Path) -> bool:
    try:
        Record.load(file)
    except RecordError:
        return False
    return True


def _in(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_complete(folder: Path, files: dict[str, Path | bytes]) -> None:
    """Refuses what could not be loaded from the Hub."""

    def refuse(what: str, remedy: str = "Save the model again: trainer.save_model().") -> NoReturn:
        raise PublishError("files", what, remedy)

    if "README.md" not in files:
        refuse(f"{folder} has no README.md.", "Write the page first: distil_trainer.page.write_page.")
    if not {"config.json", "adapter_config.json"} & files.keys():
        refuse(f"{folder} has no config.json.")
    weights = [name for name in files if _in(name, _WEIGHTS) and "/" not in name]
    if not weights:
        refuse(f"{folder} has no weights as safetensors.", "Save them: trainer.save_model(). Pickles stay here.")
    for name in weights:
        try:
            with safe_open(folder / name, "np"):
                pass
        except (SafetensorError, OSError) as error:
            refuse(f"{name} cannot be read: {error}.")
    indices = [name for name in files if name.endswith(".safetensors.index.json") and "/" not in name]
    shards: set[str] = set()
    for index in indices:
        try:
            shards |= set(json.loads((folder / index).read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            refuse(f"{index} is no index of weights: {error}.")
    if missing := sorted(shards - files.keys()):
        refuse(f"The index of the weights names {missing[0]}, which is not there.")
    if alone := [name for name in weights if "-of-" in name and name not in shards]:
        refuse(f"{alone[0]} is a part of the weights without an index.")
    for name in {"config.json", "tokenizer_config.json"} & files.keys():
        if "auto_map" in json.loads((folder / name).read_bytes()) and not any(f.endswith(".py") for f in files):
            refuse(f"{name} names code (auto_map) that stays here.", "Publish it too, if you may: also=('*.py',).")
    if "adapter_config.json" in files:
        base = json.loads((folder / "adapter_config.json").read_bytes()).get("base_model_name_or_path")
        if not (isinstance(base, str) and HUB_ID.fullmatch(base) and not Path(base).exists()):
            refuse(
                f"The adapter's base model is {base!r}, from where nobody else can load it.",
                "Publish the base model, or merge the adapter into it (merge_and_unload), and save again.",
            )
