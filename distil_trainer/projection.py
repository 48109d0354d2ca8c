"""Learned maps from the student's width to the teacher's, for hidden states that could not be subtracted otherwise.

While the student is distilled they are a part of it that its state does not mention: optimised, clipped and
synchronised with its other parameters, but in no file that the student is saved to. Checkpoints have them in a file of
their own.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional as F

from distil_trainer.alignment import Alignment, Place
from distil_trainer.errors import TrainingSetupError
from distil_trainer.files import write_atomically
from distil_trainer.sharding import whole

PLACE = "distillation_projections"
"""The name under which the student has them while it is trained."""
FILE = "projections.safetensors"
"""Where a checkpoint has them."""


class Projections(nn.Module):
    """A bias-free linear map for each alignment with `projection=True`, and one for all of those with `"shared"`.

    Their first weights are normal, of variance 1 / student width, and depend on `seed` alone.

    Args:
        alignments: what is compared.
        student_width: of the hidden states.
        teacher_widths: of each teacher's.
        seed: of the first weights.

    Raises:
        TrainingSetupError: teachers of several widths share a map.
    """

    def __init__(
        self, alignments: Sequence[Alignment], *, student_width: int, teacher_widths: Sequence[int], seed: int
    ) -> None:
        super().__init__()
        self._places = {a.name: a.place("student") for a in alignments if a.projection}
        self._maps = {a.name: "shared" if a.projection == "shared" else a.name for a in alignments if a.projection}
        generator = torch.Generator().manual_seed(seed)
        widths: dict[str, int] = {}
        for alignment in alignments:
            if alignment.projection:
                width, name = teacher_widths[(alignment.teacher or 1) - 1], self._maps[alignment.name]
                if widths.setdefault(name, width) != width:
                    raise TrainingSetupError(
                        f"projection='shared' is one map, but the teachers are {widths[name]} and {width} wide. Give "
                        "the alignments projection=True."
                    )
        for name, width in widths.items():
            weight = torch.randn(width, student_width, generator=generator) / student_width**0.5
            self.register_parameter(name, nn.Parameter(weight))

    def forward(self, hidden_states: Mapping[Place, Tensor]) -> dict[str, Tensor]:
        """Alignment name -> its projected hidden states [B, T, teacher width], from place -> [B, T, student width].

        In the precision of the maps (float32), whatever the student computes in.
        """
        projected = {}
        for name, place in self._places.items():
            weight = getattr(self, self._maps[name])
            projected[name] = F.linear(hidden_states[place].to(weight.dtype), weight)
        return projected

    def save(self, folder: str | os.PathLike[str], *, writes: bool = True) -> None:
        """Writes the maps into the folder of a checkpoint.

        Maps that FSDP2 shared out are put together by all processes, so all of them call it; those that do not write
        say so by `writes`.
        """
        weights = {name: whole(weight.detach()).cpu().contiguous() for name, weight in self.named_parameters()}
        if writes:
            write_atomically(Path(folder) / FILE, safetensors.torch.save(weights))

    def load(self, folder: str | os.PathLike[str]) -> None:
        """Reads what `save` wrote.

        Raises:
            TrainingSetupError: there is no such file, or it holds other maps.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise TrainingSetupError(
                f"{folder} has no {FILE}, so its learned projections are lost. Start anew, or from a checkpoint that "
                "was made with the same alignments and without save_only_model."
            )
        weights, own = safetensors.torch.load_file(path), dict(self.named_parameters())
        shapes, expected = ({name: tuple(w.shape) for name, w in side.items()} for side in (weights, own))
        if shapes != expected:
            raise TrainingSetupError(
                f"{path} should hold the projections {expected}; it holds {shapes}. Go on with the alignments that the "
                "checkpoint was made with."
            )
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(_shared_out_like(weight, weights[name]))

    @contextmanager
    def inside(self, model: nn.Module) -> Iterator[None]:
        """Inside this context the projections are a part of `model`."""
        model.add_module(PLACE, self)
        try:
            yield
        finally:
            delattr(model, PLACE)

    @contextmanager
    def outside(self, model: nn.Module) -> Iterator[None]:
        """Inside this context `model` is without the projections, be they a part of it before and after or not."""
        was_inside = hasattr(model, PLACE)
        if was_inside:
            delattr(model, PLACE)
        try:
            yield
        finally:
            if was_inside:
                model.add_module(PLACE, self)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the state of the student is that of the student alone."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Nothing, for the same reason."""


def _shared_out_like(weight: Tensor, whole: Tensor) -> Tensor:
    if not isinstance(weight, DTensor):
        return whole
    return distribute_tensor(whole.to(weight.device), weight.device_mesh, weight.placements)
