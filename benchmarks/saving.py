"""What every benchmark saves beside its figures."""

import json
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from distil_trainer.facts import cpu_name, now, versions


def save(path: Path, results: Mapping[str, Any], *, device: str = "cpu") -> None:
    """Writes the results and where they come from as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**results, **_facts(device)}, indent=1) + "\n")


def _facts(device: str) -> dict[str, Any]:
    """Date, machine and versions."""
    found = versions()
    for package in ("textbrewer", "nvidia-modelopt", "bertdistiller"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    gpu = {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    machine = {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return {"date": now(), **machine, **gpu, "versions": found}
