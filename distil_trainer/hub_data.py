"""A split of a data set on the Hub, whichever way its files are laid out there."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from datasets import load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from huggingface_hub import HfApi

from distil_trainer.errors import DataError

CONVERTED = "refs/convert/parquet"  # where the Hub keeps its own conversion of a data set


def commit_of(hub_id: str, revision: str | None = None) -> str | None:
    """The commit that a data set on the Hub has at `revision`; None where the Hub does not say."""
    try:
        sha: str | None = HfApi().dataset_info(hub_id, revision=revision, timeout=30).sha
    except Exception:  # offline, or it is not there: reading it will tell
        return None
    return sha


def load_split(
    hub_id: str, split: str, *, config: str | None = None, revision: str | None = None, stream: bool = False
) -> Any:
    """The split, as a `Dataset`, or as an `IterableDataset` with `stream`.

    `config` is one of the data set's configurations or, where it has none of that name, a folder with a folder for each
    split: that is how the Hub's conversion to parquet is laid out. Raises DataError when there is no such data set,
    revision, configuration or split, or when it cannot be read.
    """
    how: dict[str, Any] = {"revision": revision, "split": split, "streaming": stream}
    try:
        try:
            return load_dataset(hub_id, config, **how)
        except ValueError as error:
            files = _converted_files(hub_id, config, split, revision)
            if config is None:
                raise
            if not files:
                raise ValueError(f"{error} There is no file {config}/{split}/*.parquet either.") from error
            return load_dataset(hub_id, data_files={split: files}, **how)
    except Exception as error:  # of datasets, pyarrow, or of the Hub's client, whose errors differ by version
        reason = error.__cause__ if isinstance(error, DatasetGenerationError) else error
        place = f"{hub_id}{f' ({config})' if config else ''}{f' at {revision}' if revision else ''}, split {split}"
        told = " ".join(str(reason).split()).rstrip(".")
        raise DataError(f"{place} cannot be read: {told}; {_remedy(error)}") from error


def _converted_files(hub_id: str, config: str | None, split: str, revision: str | None) -> list[str]:
    """The files of a split in the layout of the Hub's conversion; as for `load_dataset`, a folder here comes first."""
    folder = Path(hub_id)
    if folder.is_dir():
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    else:
        names = HfApi().list_repo_files(hub_id, repo_type="dataset", revision=revision)
    files = sorted(name for name in names if config and fnmatch(name, f"{config}/{split}/*.parquet"))
    script = f"{hub_id.split('/')[-1]}.py"
    if not files and script in names:  # what `load_dataset` says of it, if it has no other version in its cache
        raise RuntimeError(f"Dataset scripts are no longer supported, but found {script}")
    return files


def _remedy(error: Exception) -> str:
    if "scripts are no longer supported" in str(error):
        return f"it is made by a script, which `datasets` does not run; read it with revision: {CONVERTED}"
    is_gone = isinstance(error, DatasetNotFoundError)
    if is_gone and CONVERTED in str(error):
        return "the Hub has not converted it to parquet; download its files and name them"
    if is_gone:
        return "check its id and revision, and log in with `hf auth login` if it is private or gated"
    if isinstance(error, ConnectionError):
        return "connect to the Hub, or download its files and name them"
    return "check the names of configuration and split"
