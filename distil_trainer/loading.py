"""What is looked at before a model is loaded, and what is said where it cannot be."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from distil_trainer.errors import DistilTrainerError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_ONLY_SAFETENSORS = (
    "Only safetensors are read: a pickle such as {} may run any code. If you trust where it comes from, load it "
    "yourself, and save_pretrained it to another folder."
)


@contextmanager
def loading(name: str, error: type[DistilTrainerError]) -> Iterator[None]:
    """Inside this context `name` (a Hub id or a folder) is loaded; what goes wrong becomes an `error` with a remedy."""
    try:
        yield
    except DistilTrainerError:
        raise
    except Exception as problem:  # a configuration can be wrong in every way, and transformers checks few
        told = " ".join(str(problem).split()).rstrip(".")
        raise error(f"{name} cannot be loaded as a model: {told}. {_remedy(name, problem)}") from problem


def check_files(name: str, revision: str | None = None) -> None:
    """Refuses a model whose files lead to what `from_pretrained` would take, though it is no part of it: kernels (code)
    of the Hub that its config.json names, and in a local folder weights that lie elsewhere or in a pickle.

    Args:
        name: a Hub id or a folder; without a config.json nothing is known of its kernels.
        revision: branch, tag or commit on the Hub.

    Raises:
        ValueError: it is refused; OSError: it cannot be had.
    """
    folder = Path(name)
    is_folder = folder.is_dir()
    if is_folder and (folder / SAFE_WEIGHTS_INDEX_NAME).exists():
        files = json.loads((folder / SAFE_WEIGHTS_INDEX_NAME).read_bytes())["weight_map"].values()
        for file in sorted(set(files)):
            if Path(file).name != file or not file.endswith(".safetensors"):
                raise ValueError(f"its {SAFE_WEIGHTS_INDEX_NAME} names {file!r}, expected .safetensors of the folder")
    if is_folder and not (folder / "config.json").exists():
        return
    config, _ = PreTrainedConfig.get_config_dict(name, revision=revision or "main")
    if kernels := sorted(set(_kernels(config))):
        raise ValueError(f"its config.json names code of the Hub, {kernels[0]!r} (attn_implementation)")


def _kernels(value: Any, is_named: bool = False) -> Iterator[str]:
    """What a configuration, or one inside of it, names to compute attention with, where that is a repository."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _kernels(inner, is_named or "attn_implementation" in str(key))
    elif is_named and isinstance(value, str) and "/" in value:
        yield value


def _remedy(name: str, problem: Exception) -> str:
    causes = list(_causes(problem))

    def is_any(*kinds: type[Exception]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if "trust_remote_code" in str(problem) or "code of the Hub" in str(problem):
        return (
            "No code that comes with a model is run here. If you trust it, load the model yourself, and give "
            "DistillationTrainer the model."
        )
    if is_any(UnpicklingError):
        return _ONLY_SAFETENSORS.format("one of its files")
    if is_any(SafetensorError):
        return "Its weights are damaged: download or save them again."
    if is_any(GatedRepoError):
        return "Ask for access on its page on the Hub, and log in with `hf auth login`."
    if is_any(RepositoryNotFoundError):
        return "Check the id, and log in with `hf auth login` if it is private."
    if is_any(LocalEntryNotFoundError):
        return "Connect to the Hub (HF_HUB_OFFLINE=0), or give a folder with the model."
    folder = Path(name)
    if not folder.is_dir():
        return "Give the id of a model on the Hub, or a folder that holds one; only safetensors are read, no pickles."
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles and not list(folder.glob("*.safetensors")):
        return _ONLY_SAFETENSORS.format(pickles[0])
    return "Check the folder: it should hold config.json and safetensors, as save_pretrained writes them."


def _causes(problem: BaseException | None) -> Iterator[BaseException]:
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__
