"""What a row is found by: a hash of what the teacher reads of it."""

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from distil_trainer.errors import DataError
from distil_trainer.teacher_cache.store import KEY_BYTES


def check_columns(columns: Mapping[str, Any]) -> None:
    """Raise DataError unless all that the teacher reads is given by token: [B, T] or [B, T, ...]."""
    ids = columns.get("input_ids")
    if ids is None:
        raise DataError(
            f"a teacher cache finds rows by `input_ids`; the batch has {', '.join(columns)}. Give them, or leave "
            "teacher_cache out."
        )
    for name, column in columns.items():
        if not isinstance(column, Tensor) or column.shape[:2] != ids.shape:
            shape = tuple(column.shape) if isinstance(column, Tensor) else type(column).__name__
            raise DataError(
                f"a teacher cache can tell rows apart by what is given for each token, {tuple(ids.shape)}; the teacher "
                f"also reads {name!r}, {shape}. Take that column out, or leave teacher_cache out."
            )


def row_keys(columns: Mapping[str, Tensor], tokens: Tensor, counted: Tensor | None) -> list[bytes]:
    """For each row a hash of what the teacher reads of it and of which positions are kept.

    What is padded behind the last token is left out. Padding in front is not: most models number positions from there.
    """
    read: dict[str, Any] = {name: columns[name].cpu() for name in sorted(columns) if name != "attention_mask"}
    read = {name: (c.double() if c.is_floating_point() else c.long()).numpy() for name, c in read.items()}
    if counted is not None:
        read["counted"] = counted.cpu().numpy()
    keys = []
    for row, attended in enumerate(tokens.cpu().numpy()):
        end = int(attended.nonzero()[0].max(initial=-1)) + 1
        digest = hashlib.blake2b(f"{end} ".encode(), digest_size=KEY_BYTES)
        digest.update(attended[:end].tobytes())
        for name, values in read.items():
            digest.update(name.encode())
            digest.update(values[row][attended].tobytes())
        keys.append(digest.digest())
    return keys
