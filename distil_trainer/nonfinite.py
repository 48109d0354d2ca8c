"""A `Trainer` that takes no step on a loss or a gradient that is not finite."""

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor, nn
from transformers.utils import logging

from distil_trainer.errors import NonFiniteError, TrainingSetupError
from distil_trainer.features import Features
from distil_trainer.files import write_atomically
from distil_trainer.losses import LogitRows
from distil_trainer.positions import is_dense, token_mask
from distil_trainer.sharding import whole
from distil_trainer.surviving import SurvivingTrainer

logger = logging.get_logger(__name__)

OnNonFinite = Literal["stop", "skip"]
_IN_A_ROW = 10  # steps that may be left out one after the other
_NAMED = 3  # of what is not finite


class FiniteTrainer(SurvivingTrainer):
    """Stops before a step whose loss or gradient is NaN or infinite, or leaves that step out.

    This is looked at once an optimizer step, when all micro-batches are through: two numbers are summed over the
    processes, so that all of them decide alike, and the host waits for these. What was wrong is looked for only then.

    Args:
        on_nonfinite: "stop" raises NonFiniteError; "skip" goes on with the next step, and with the schedules as if it
            had been taken, but raises after 10 of them in a row.

    Raises:
        TrainingSetupError: `on_nonfinite` is neither, or steps are to be skipped under DeepSpeed.

    Overrides of `Trainer`: `get_batch_samples` (a step begins), `training_step` (keeps the losses of the step) and
    `_get_grad_norm` (the last thing before the optimizer).
    """

    model: Any

    def __init__(self, *args: Any, on_nonfinite: OnNonFinite = "stop", **kwargs: Any) -> None:
        if on_nonfinite not in ("stop", "skip"):
            raise TrainingSetupError(f"on_nonfinite should be 'stop' or 'skip'; got {on_nonfinite!r}.")
        super().__init__(*args, **kwargs)
        if on_nonfinite == "skip" and self.is_deepspeed_enabled:
            raise TrainingSetupError(
                "DeepSpeed takes its steps by itself, so that none can be left out. Leave on_nonfinite at 'stop'."
            )
        self.on_nonfinite = on_nonfinite
        self._micro_batches: list[tuple[Mapping[str, Any], Tensor]] = []  # of the step, with their losses
        self._left_out = 0  # steps in a row

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.get_batch_samples`."""
        self._micro_batches = []
        self._begin_step()
        return super().get_batch_samples(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """As `Trainer.training_step`."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._micro_batches.append((inputs, loss))
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = whole(super()._get_grad_norm(model, grad_norm))
        losses = torch.stack([loss for _, loss in self._micro_batches])
        bad_norm = ~torch.as_tensor(norm, device=losses.device).isfinite()
        if self.accelerator.scaler is not None:  # it leaves steps out until it has found a scale without overflow
            bad_norm = torch.zeros_like(bad_norm)
        bad = torch.stack([(~losses.isfinite()).sum(), bad_norm]).float()
        bad_losses, bad_norms = self._sum_over_processes(bad).tolist()
        if not bad_losses and not bad_norms:
            self._left_out = 0
            return norm
        error = NonFiniteError(self._told(elsewhere=bool(bad_losses)))
        self._left_out += 1
        if self.on_nonfinite == "stop" or self._left_out > _IN_A_ROW or bad_parameters(self.model):
            raise error
        logger.warning(f"A step is left out. {error}")
        if self.accelerator.scaler is None:  # one leaves it out by itself
            model.zero_grad()  # an optimizer changes nothing without a gradient, its own state included
        self._forget_step()
        return norm

    def _told(self, *, elsewhere: bool) -> str:
        """What is wrong with the step, where its micro-batches were saved, and what to do."""
        number = self.state.global_step + 1
        step = dict(enumerate(self._micro_batches))
        bad = {place: pair for place, pair in step.items() if not pair[1].isfinite()}
        if not bad and elsewhere:
            return f"expected finite losses, but one of step {number} is not: see the error of another process."
        which = next(iter(bad or step))
        what = f"the loss is {step[which][1].item()}" if bad else "a gradient is not"
        name = f"nonfinite-step-{number}-process-{self.args.process_index}.safetensors"
        file = Path(str(self.args.output_dir)) / name
        before = (
            "DeepSpeed has taken this step: go on from a checkpoint"
            if self.is_deepspeed_enabled
            else "The student is as it was before this step"
        )
        save_batches(file, {place: inputs for place, (inputs, _) in (bad or step).items()})
        return (
            f"expected finite numbers, but in step {number} {what}{self._why(step[which][0])}. "
            f"{before}; {file} has the batch. Look at it, lower the learning rate, or compute in float32; "
            "on_nonfinite='skip' leaves such steps out."
        )

    def _refuse_first(self, loss: Tensor, inputs: Mapping[str, Any]) -> None:
        """Raises NonFiniteError, on all processes, if the loss of an example is not finite before any step."""
        bad = ~loss.detach().isfinite()
        if self._sum_over_processes(bad.float()).item():
            why = self._why(inputs) if bad else ": see the error of another process"
            raise NonFiniteError(
                f"expected finite numbers, but before any step the loss is {loss.item()}{why}. Correct the weights, or "
                "compute in float32."
            )

    def _why(self, inputs: Mapping[str, Any]) -> str:
        """What else of a batch is not finite, as a part of a sentence."""
        names = bad_parameters(self.model)
        return f"; not finite in the student: {', '.join(names)}" if names else ""

    def _begin_step(self) -> None:
        """Notes what `_forget_step` goes back to."""

    def _forget_step(self) -> None:
        """Forgets what was summed of the step that is left out."""

    def _sum_over_processes(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values.to(self.args.device), reduction="sum")


def save_batches(file: str | os.PathLike[str], batches: Mapping[int, Mapping[str, Any]]) -> None:
    """Writes the tensors of micro-batches as safetensors: `0.input_ids` is that of the first of the step."""
    tensors = {
        f"{place}.{key}": value.detach().cpu().clone()
        for place, inputs in batches.items()
        for key, value in inputs.items()
        if isinstance(value, Tensor)
    }
    write_atomically(file, safetensors.torch.save(tensors))


def bad_parameters(model: nn.Module) -> list[str]:
    """Names of parameters that are not finite, the first few."""
    return list(islice((name for name, value in model.named_parameters() if not value.isfinite().all()), _NAMED))


def bad_features(features: Features, inputs: Mapping[str, Any]) -> list[str]:
    """What of a forward is not finite at attended tokens, the first few: `hidden_states of block 3`."""
    return list(islice(_bad_features(features, inputs), _NAMED))


def _bad_features(features: Features, inputs: Mapping[str, Any]) -> Iterator[str]:
    mask = None if is_dense(inputs) else token_mask(inputs)

    def is_bad(values: Tensor, tokens: int) -> bool:
        """Whether any value is; `tokens` is the dimension of the tokens, if it has one."""
        finite = values.isfinite()
        if mask is not None and values.ndim == tokens + 2 and values.size(tokens) == mask.size(1):
            attended = mask.view(len(mask), *[1] * (tokens - 1), -1, 1)
            finite = finite | ~attended  # what a model computes of padding is nobody's concern
        return not finite.all()

    for layer in sorted({*features.heads, *features.hidden_states}, key=_order):
        block = f"block {layer}" if isinstance(layer, int) else f"{layer[0]} block {layer[1]}"
        if (heads := features.heads.get(layer)) is not None:
            vectors = (heads.query, heads.key, heads.value)
            if any(part is not None and is_bad(part, 2) for part in vectors):
                yield f"queries, keys or values of {block}"
        if layer in features.hidden_states and is_bad(features.hidden_states[layer], 1):
            yield f"hidden_states of {block}"
    logits = features.logits.hidden if isinstance(features.logits, LogitRows) else features.logits
    if isinstance(logits, Tensor) and (not logits.isfinite().all() if features.is_narrow else is_bad(logits, 1)):
        yield "logits"


def _order(layer: int | tuple[str, int]) -> tuple[bool, int]:
    return (False, layer) if isinstance(layer, int) else (layer[0] == "decoder", layer[1])
