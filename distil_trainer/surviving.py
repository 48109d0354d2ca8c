"""A `Trainer` that loses no more than the steps since its last checkpoint, whenever it is killed."""

import math
import os
import shutil
import sys
import tempfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from distil_trainer.checkpoints import (
    KEPT,
    PREFIX,
    check_whole,
    checkpoints_in,
    files_of,
    kept_state,
    newest_whole,
    problem_of,
)
from distil_trainer.errors import CheckpointError

logger = logging.get_logger(__name__)

_OF_WRITING = ("inline_container", "PytorchStreamWriter")  # a RuntimeError of torch.save


class SurvivingTrainer(Trainer):
    """Goes on from whole checkpoints only, and logs what the undisturbed run would have logged.

    The state of a checkpoint, its last file, names the files that were written before it, and holds the losses since
    the last log, and of a stream, whose length `Trainer` does not know, how far which pass over it has come.

    Raises:
        CheckpointError: `args.output_dir` cannot be written.

    Overrides of `Trainer`: `train` (chooses and checks the checkpoint), `_init_training_state` (the place in a stream),
    `_run_epoch` (a run whose steps are all done takes no more), `_save_checkpoint` (clears the place, and says what to
    do if it cannot be written), `_save_rng_state` (the last thing before the state), `_load_callback_state` (not what
    we put beside the states of callbacks).
    """

    _tr_loss: torch.Tensor  # of Trainer: summed since the last log, on this process
    _total_loss_scalar: float
    _globalstep_last_logged: int
    _reads_stream = False

    def __init__(self, model: Any = None, args: Any = None, **kwargs: Any) -> None:
        if args is not None:
            check_writable(str(args.output_dir))
        super().__init__(model, args, **kwargs)
        self.add_callback(_GoesOn(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; `resume_from_checkpoint=True` takes the newest checkpoint that is whole.

        Raises:
            CheckpointError: there is none, the one that is given is not whole, or a file of it is a pickle of more than
                tensors and plain values, of which nothing is run.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = newest_whole(str(self.args.output_dir))
            if resume_from_checkpoint is None:
                raise CheckpointError(
                    f"expected a whole checkpoint to go on from in {self.args.output_dir}, but there is none. Leave "
                    "resume_from_checkpoint out to begin anew."
                )
        elif resume_from_checkpoint:
            check_whole(resume_from_checkpoint)
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        except UnpicklingError as error:  # of torch.load(weights_only=True), the only way Trainer reads them
            if not resume_from_checkpoint:
                raise
            raise CheckpointError(
                f"expected tensors and plain values in the .pt, .pth and .bin files of {resume_from_checkpoint}, but "
                "one of them is damaged, or a pickle that may run code. Nothing of it was run. Give another checkpoint."
            ) from error

    def _init_training_state(
        self, max_steps: int, steps_in_pass: int, passes: int, resume_from_checkpoint: Any, *args: Any
    ) -> tuple[int, int]:
        done = super()._init_training_state(max_steps, steps_in_pass, passes, resume_from_checkpoint, *args)
        self._reads_stream = passes == sys.maxsize  # what Trainer takes for as many as are needed
        place = kept_state(self.state.stateful_callbacks).get("place")
        if not self._reads_stream or resume_from_checkpoint is None or place is None:
            return done
        return place["passes"], 0 if self.args.ignore_data_skip else place["batches"]

    def _place_in_stream(self) -> dict[str, int]:
        """Passes over the stream that are done, and batches of this one."""
        share, passes = math.modf(self.state.epoch or 0.0)  # to Trainer a pass has as many batches as the whole run
        batches = round(share * self.state.max_steps * self.args.gradient_accumulation_steps)
        return {"passes": int(passes), "batches": batches}

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # killed after its last checkpoint
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As `Trainer._save_checkpoint`.

        Raises:
            CheckpointError: it cannot be written. Older ones are as they were.
        """
        run = Path(self._get_output_dir(trial))
        folder = run / f"{PREFIX}{self.state.global_step}"
        losses = self.accelerator.gather(self._tr_loss[None]).tolist()
        since_log = {"step": self._globalstep_last_logged, "losses": losses, "terms": self._terms_since_log()}
        kept: Any = self.state.stateful_callbacks
        kept[KEPT] = {"args": {}, "attributes": {"since_log": since_log}}
        if self._reads_stream:
            kept[KEPT]["attributes"]["place"] = self._place_in_stream()
        try:
            if self.args.should_save:
                self._clear(run, folder)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(name in str(error) for name in _OF_WRITING):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise CheckpointError(_told(run, folder, error)) from error

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # each process writes its own
        kept_state(self.state.stateful_callbacks)["files"] = files_of(output_dir)

    def _load_callback_state(self) -> None:
        state: Any = self.state
        whole = state.stateful_callbacks
        callbacks = self.callback_handler.callbacks
        ours = {KEPT, *(type(each).__name__ for each in callbacks if not isinstance(each, ExportableState))}
        state.stateful_callbacks = {name: kept for name, kept in whole.items() if name not in ours}
        super()._load_callback_state()
        state.stateful_callbacks = whole

    def _clear(self, run: Path, folder: Path) -> None:
        """Removes what is in place of the checkpoint, and with `save_total_limit` what would count for whole."""
        shutil.rmtree(folder, ignore_errors=True)
        if self.args.save_total_limit:
            for other in checkpoints_in(run):
                if (problem := problem_of(other)) is not None:
                    logger.warning(f"{other} is removed, because {problem}: a run was killed there.")
                    shutil.rmtree(other, ignore_errors=True)

    def _terms_since_log(self) -> dict[str, Any]:
        """What else is summed since the last log, for the state of a checkpoint."""
        return {}

    def _take_up_terms(self, terms: dict[str, Any]) -> None:
        """Goes on with what `_terms_since_log` gave."""

    def _take_up_losses(self) -> None:
        """Goes on with the losses since the last log that the checkpoint holds."""
        since_log = kept_state(self.state.stateful_callbacks).get("since_log")
        if since_log is None:
            self._take_up_terms({})  # of a first try that was too large for the memory
            return
        losses = since_log["losses"]
        mean = sum(losses) / len(losses)
        own = losses[self.args.process_index] if len(losses) == self.args.world_size else mean
        self._tr_loss += own
        self._total_loss_scalar -= mean  # the `train_loss` of the end is that of the steps of this call
        self._globalstep_last_logged = since_log["step"]
        self._take_up_terms(since_log["terms"])


def check_writable(folder: str) -> None:
    """Raises CheckpointError, now and not after hours, if nothing can be written in a folder, which is made."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CheckpointError(
            f"expected a folder to write checkpoints in, but {folder} is none: {error}. Give another output_dir, or "
            "the rights to write there."
        ) from error


class _GoesOn(TrainerCallback):
    """Tells the trainer that training begins: `Trainer` has just set its sums to zero."""

    def __init__(self, trainer: SurvivingTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer._take_up_losses()


def _told(run: Path, folder: Path, error: Exception) -> str:
    newest = newest_whole(run)
    older = "There is no older one" if newest is None else f"{Path(newest).name} is whole"
    way = "start again" if newest is None else "go on with resume_from_checkpoint=True (in a recipe resume=true)"
    return (
        f"{folder.name} could not be written to {run}, where {shutil.disk_usage(run).free:,} bytes are free: {error}. "
        f"{older}. Make room, or give the rights to write there, and {way}; save_total_limit keeps fewer checkpoints."
    )
