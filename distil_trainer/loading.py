"""What is said where a model cannot be loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError

from distil_trainer.errors import DistilTrainerError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@contextmanager
def loading(name: str, error: type[DistilTrainerError]) -> Iterator[None]:
    """Inside this context `name` (a Hub id or a folder) is loaded; what goes wrong becomes an `error` with a remedy."""
    try:
        yield
    except DistilTrainerError:
        raise
    except (OSError, ValueError, SafetensorError) as problem:
        told = " ".join(str(problem).split()).rstrip(".")
        raise error(f"{name} cannot be loaded as a model: {told}. {_remedy(name, problem)}") from problem


def _remedy(name: str, problem: Exception) -> str:
    causes = list(_causes(problem))

    def is_any(*kinds: type[Exception]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

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
        return (
            f"Only safetensors are read: a pickle such as {pickles[0]} may run any code. If you trust where it comes "
            "from, load it yourself, and save_pretrained it to another folder."
        )
    return "Check the folder: it should hold config.json and safetensors, as save_pretrained writes them."


def _causes(problem: BaseException | None) -> Iterator[BaseException]:
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__
