"""Averages of named loss terms, kept on the device until somebody reads them."""

from collections.abc import Callable

import torch
from torch import Tensor


class Meter:
    """Weighted sums of named scalars. Adding never waits for the device; reading costs one transfer."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor, count: Tensor) -> None:
        """Adds `total`, a sum over `count` things (both scalars)."""
        entry = torch.stack([total.detach().double(), count.detach().to(total.device).double()])
        self._sums[name] = self._sums[name] + entry if name in self._sums else entry

    def take(self, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> dict[str, float]:
        """The averages since the last call, by name; nothing counted gives 0. Forgets them.

        Args:
            reduce: sums a [names, 2] tensor over the processes; called once, on every process alike.
        """
        if not self._sums:
            return {}
        names, sums = list(self._sums), torch.stack(list(self._sums.values()))
        self._sums = {}
        return {
            n: total / count if count else 0.0 for n, (total, count) in zip(names, reduce(sums).tolist(), strict=True)
        }
