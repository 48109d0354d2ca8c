"""Which checkpoints are whole: a run that was killed goes on from no other."""

import os
from pathlib import Path
from typing import Any

from transformers import TrainerState

from distil_trainer.errors import CheckpointError

PREFIX = "checkpoint-"
STATE = "trainer_state.json"  # what Trainer writes last of a checkpoint
KEPT = "SurvivingTrainer"  # what we put into it is beside the states of callbacks, under this name
_WITH_TENSORS = {".safetensors", ".pt", ".pth", ".bin", ".distcp"}


def files_of(checkpoint: str | os.PathLike[str]) -> dict[str, int]:
    """The files that training goes on from -> their sizes in bytes."""
    folder = Path(checkpoint)
    files = (file for file in sorted(folder.rglob("*")) if file.suffix in _WITH_TENSORS)
    names = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files if file.is_file()}
    names.pop("training_args.bin", None)  # nothing is read from it, and the Hub does not get it
    return names


def kept_state(state: Any) -> dict[str, Any]:
    """What `surviving.SurvivingTrainer` put into the state of a run; empty if that was another trainer's."""
    kept = state.get(KEPT, {}) if isinstance(state, dict) else {}
    found: dict[str, Any] = kept.get("attributes", {})
    return found


def problem_of(checkpoint: str | os.PathLike[str]) -> str | None:
    """Why a run cannot go on from this checkpoint; None if it is whole.

    It is whole if its state can be read and the files that this names have the sizes that it names. Other trainers
    name none: there it is enough that the state, which they write last, is all there.
    """
    folder = Path(checkpoint)
    try:
        state = TrainerState.load_from_json(str(folder / STATE))
        expected = kept_state(state.stateful_callbacks).get("files", {})
        is_state = {type(size) for size in expected.values()} <= {int} and type(state.global_step) is int
    except Exception:  # it may hold anything
        is_state = False
    if not is_state:
        return f"it has no {STATE} that can be read"
    found = files_of(folder)
    for name, size in expected.items():
        if found.get(name) != size:
            return f"{name} has {found.get(name, 0):,} of {size:,} bytes"
    return None


def checkpoints_in(folder: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints of a run, whole or not, by their number of steps."""
    found = [path for path in Path(folder).glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)))


def newest_whole(folder: str | os.PathLike[str]) -> str | None:
    """The checkpoint to go on from: the newest that is whole; None if there is none."""
    whole = (path for path in reversed(checkpoints_in(folder)) if problem_of(path) is None)
    newest = next(whole, None)
    return None if newest is None else str(newest)


def check_whole(checkpoint: str | os.PathLike[str]) -> None:
    """Raises CheckpointError unless the checkpoint is whole."""
    problem = problem_of(checkpoint)
    if problem is not None:
        raise CheckpointError(
            f"expected a whole checkpoint to go on from, but {checkpoint} is none: {problem}. Give another, or "
            "resume_from_checkpoint=True (in a recipe resume=true), which takes the newest that is whole."
        )
