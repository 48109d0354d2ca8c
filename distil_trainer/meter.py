"""Averages of named loss terms, kept on the device until somebody reads them."""

from collections.abc import Callable, Mapping

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

    def copy(self) -> "Meter":
        """Another one, which goes on from here by itself."""
        other = Meter()
        other._sums = dict(self._sums)  # of tensors that are never changed in place
        return other

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

    def sums(self, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> dict[str, list[float]]:
        """What was added since the last `take`, as [total, count] by name, for `load`; `reduce` as there."""
        if not self._sums:
            return {}
        return dict(zip(self._sums, reduce(torch.stack(list(self._sums.values()))).tolist(), strict=True))

    def load(self, sums: Mapping[str, list[float]], *, device: torch.device, share: float = 1.0) -> None:
        """Goes on from what `sums` gave; the `share` of all processes should add up to 1."""
        self._sums = {n: torch.tensor(pair, dtype=torch.float64, device=device) * share for n, pair in sums.items()}
