"""Rows of tensors on disk, found by a key: written in shards, read through the memory map of those.

    FOLDER/cache.json                 what the rows are; a folder with other contents is refused
    FOLDER/shard-HASH.safetensors     `keys` uint8 [rows, 16]; for every tensor of a row those of all rows, one after
                                      another, and where each ends, `ends of NAME` int64 [rows]

A shard is renamed into place when it is whole, and never changed: several processes may fill a folder, and one that is
killed loses no more than the rows it had not written yet.
"""

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from distil_trainer.errors import TrainingSetupError
from distil_trainer.files import write_atomically

Row = dict[str, Tensor]
"""What is kept of a row of a batch: name -> [length, ...]; of one name all but the length is the same in every row."""
KEY_BYTES = 16
SHARD_BYTES = 2**26
"""How much a shard holds; as much waits in memory to be written."""
_FORMAT = 1
_ABOUT = "cache.json"


class RowStore:
    """The rows in a folder, and those that are about to be written there.

    Args:
        folder: of the rows; it is made if it is not there.
        about: what the rows are, as JSON can hold it: the same for all that share the folder.

    Raises:
        TrainingSetupError: the folder holds rows of something else, other files, or a shard that cannot be read.
    """

    def __init__(self, folder: str | PathLike[str], about: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._shards: list[dict[str, Tensor]] = []
        self._known: set[str] = set()  # names of shards
        self._places: dict[bytes, tuple[int, int]] = {}  # key -> shard, row
        self._waiting: dict[bytes, Row] = {}
        self._waiting_bytes = 0
        self._settle({"format": _FORMAT, **about})
        self.refresh()

    def __contains__(self, key: bytes) -> bool:
        return key in self._places or key in self._waiting

    def __getitem__(self, key: bytes) -> Row:
        if key in self._waiting:
            return self._waiting[key]
        shard, row = self._places[key]
        return _row(self._shards[shard], row)

    def add(self, key: bytes, row: Row) -> None:
        """Keeps a row, and writes those that wait when they make up a shard. The tensors are on the CPU."""
        self._waiting[key] = row
        self._waiting_bytes += sum(tensor.nbytes for tensor in row.values())
        if self._waiting_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes the rows that wait."""
        if not self._waiting:
            return
        keys = b"".join(self._waiting)
        rows = list(self._waiting.values())
        tensors = {"keys": torch.frombuffer(bytearray(keys), dtype=torch.uint8).view(-1, KEY_BYTES)}
        for name in rows[0]:
            parts = [row[name] for row in rows]
            tensors[name] = torch.cat(parts)
            tensors[_ends(name)] = torch.tensor([len(part) for part in parts]).cumsum(0)
        name = f"shard-{hashlib.sha256(keys).hexdigest()[:32]}.safetensors"
        write_atomically(self.folder / name, save(tensors))
        self._waiting, self._waiting_bytes = {}, 0
        self._open(name)

    def refresh(self) -> None:
        """Finds the shards that other processes have written since."""
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            self._open(path.name)

    def _open(self, name: str) -> None:
        if name in self._known:
            return
        path = self.folder / name
        try:
            with safe_open(path, framework="pt") as file:
                shard = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # mapped, not read
            keys = shard.pop("keys").numpy().tobytes()
            _row(shard, -1)
        except (SafetensorError, OSError, KeyError) as error:
            raise TrainingSetupError(
                f"{path} should be a whole shard of a teacher cache, but cannot be read ({error}). Delete it: its rows "
                "are computed again."
            ) from error
        number = len(self._shards)
        self._shards.append(shard)
        self._known.add(name)
        for row in range(len(keys) // KEY_BYTES):
            self._places[keys[row * KEY_BYTES : (row + 1) * KEY_BYTES]] = number, row

    def _settle(self, about: Mapping[str, Any]) -> None:
        """Writes what the rows are, or compares it with what is written there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}
        path = self.folder / _ABOUT
        if not names:
            write_atomically(path, (json.dumps(about, indent=2) + "\n").encode())
            return
        if _ABOUT not in names:
            raise TrainingSetupError(
                f"{self.folder} should be empty or a teacher cache, but holds {min(names)} and no {_ABOUT}. Choose "
                "another folder."
            )
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            differences = [key for key in {**found, **about} if found.get(key) != about.get(key)]
        except (ValueError, TypeError, AttributeError) as error:
            raise TrainingSetupError(
                f"{path} should be JSON that a teacher cache was begun with, but cannot be read ({error}). Delete "
                f"{self.folder}, or choose another folder."
            ) from error
        if differences:
            raise TrainingSetupError(
                f"{self.folder} holds what was computed otherwise: "
                + "; ".join(f"{key} {found.get(key)!r} there, {about.get(key)!r} here" for key in differences)
                + ". Choose another folder, or delete this one if nothing needs it."
            )


def _ends(name: str) -> str:
    return f"ends of {name}"


def _row(shard: Mapping[str, Tensor], row: int) -> Row:
    found = {}
    for name in shard:
        if not name.startswith(_ends("")):
            ends = shard[_ends(name)]
            row %= len(ends)
            found[name] = shard[name][int(ends[row - 1]) if row else 0 : int(ends[row])]
    return found
