"""Scores of finished runs, kept in files, so that an interrupted series of runs goes on where it stopped.

With the scores stands what they depend on. They are taken over only where all of that is the same.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from distil_trainer.errors import RecordError
from distil_trainer.files import write_atomically
from distil_trainer.fingerprint import config_values, weights_hash
from distil_trainer.record import WITHOUT_EFFECT

Scores = dict[str, dict[str, float]]  # by split and metric


def depends_on(
    model: PreTrainedModel, data: Mapping[str, str], training: Mapping[str, Any], others: Mapping[str, Any]
) -> dict[str, Any]:
    """All that decides on the scores of a run, by name.

    Args:
        model: as it is before the run.
        data: the `content_hash` of each split as the model takes it: so the tokenizer is in it.
        training: `TrainingArguments` as they were given.
        others: what `accelerate launch` was told (how many processes train together, and in which precision), and
            who teaches what.
    """
    return {
        "weights": weights_hash(model),
        "config": config_values(model),
        **{f"data of {name}": content for name, content in data.items()},
        **{f"training.{name}": value for name, value in training.items() if not WITHOUT_EFFECT.fullmatch(name)},
        **others,
    }


def content_hash(rows: Dataset) -> str:
    """A hash of what the rows hold."""
    digest = hashlib.sha256()
    for batch in rows.iter(batch_size=1000):
        digest.update(json.dumps(batch, sort_keys=True).encode())
    return digest.hexdigest()


def save_scores(path: str | PathLike[str], scores: Scores, depends: Mapping[str, Any]) -> None:
    """Write the scores of a finished run, atomically."""
    write_atomically(path, (json.dumps({"scores": scores, "depends_on": depends}, indent=2) + "\n").encode())


def load_scores(paths: Iterable[str | PathLike[str]]) -> dict[Path, dict[str, Any]]:
    """What `save_scores` wrote to those of the `paths` that are there. Raises RecordError for other content."""
    found = {}
    for path in map(Path, paths):
        if path.exists():
            try:
                found[path] = json.loads(path.read_bytes())
                found[path]["scores"], found[path]["depends_on"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise RecordError(f"{path} holds no scores of a finished run ({error!r}); delete it") from error
    return found


def changes(finished: Mapping[str, Any], depends: Mapping[str, Any]) -> list[str]:
    """The names of what was something else when the run finished. A split that is now left out is no change."""
    before, now = finished["depends_on"], json.loads(json.dumps(depends))
    names = dict.fromkeys([*now, *(name for name in before if not name.startswith("data of "))])
    return [name for name in names if now.get(name) != before.get(name)]
