"""A `Trainer` that pushes with `publish`: the student and its page, and nothing that is private."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import psutil
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress, logging

from distil_trainer.errors import DistilTrainerError
from distil_trainer.hub import Published, prepare_repository, publish
from distil_trainer.surviving import SurvivingTrainer

logger = logging.get_logger(__name__)


class PushingTrainer(SurvivingTrainer):
    """What `DistillationTrainer` does with the Hub. Only process 0 talks to it.

    Overrides of `Trainer`: `init_hf_repo`, `push_to_hub`, `_push_from_checkpoint`, `_finish_current_push`; for
    checkpoints those of `surviving.SurvivingTrainer`.
    """

    push_in_progress: Any
    hub_model_id: str | None  # type: ignore[assignment]  # None until the repository is known

    def write_page(self, folder: str | os.PathLike[str]) -> None:
        """Writes the page of the student into a folder."""
        raise NotImplementedError

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository if there is none; `Trainer` calls this first of all, if `args.push_to_hub`.

        Raises:
            PublishError: no token, no right to write, or the Hub cannot be reached.
        """
        if not self.is_world_process_zero():
            return
        _remove_left_over(Path(str(self.args.output_dir)))
        self.hub_model_id = prepare_repository(
            self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name,
            private=self.args.hub_private_repo if private is None else private,
            token=token or self.args.hub_token,
        )
        self.push_in_progress = None

    def push_to_hub(  # type: ignore[override]  # what `publish` returns
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Published | Future[Published] | None:
        """Saves the student, writes its page into `args.output_dir`, and publishes both.

        Arguments are those of `Trainer.push_to_hub`; `kwargs` go to `create_model_card`.

        Returns:
            What was published, or its future if not `blocking`; None on other processes than the first.

        Raises:
            PublishError: see `publish`; what was saved stays.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token or self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        self.create_model_card(**kwargs)
        job = partial(
            publish,
            str(self.args.output_dir),
            str(self.hub_model_id),
            token=token,
            revision=revision or self.args.hub_revision,
            message=commit_message or "End of training",
        )
        if blocking:
            return job()
        return self._push_in_background(job)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Publishes a checkpoint in the background; with a checkpoint strategy also what training goes on from."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if not self.args.hub_always_push and self.push_in_progress is not None and not self.push_in_progress.is_done():
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        checkpoint = Path(checkpoint_folder)
        staging = Path(str(self.args.output_dir)) / f".push-{os.getpid()}-{checkpoint.name}"
        in_steps = self.args.save_strategy == SaveStrategy.STEPS
        progress = f"step {self.state.global_step}" if in_steps else f"epoch {int(self.state.epoch or 0)}"
        job = partial(
            publish,
            staging,
            str(self.hub_model_id),
            token=self.args.hub_token,
            revision=self.args.hub_revision,
            message=f"Training in progress, {progress}",
        )
        try:
            also = self._stage(checkpoint, staging)
        except (DistilTrainerError, OSError) as error:  # no reason to stop training
            shutil.rmtree(staging, ignore_errors=True)
            self._push_in_background(partial(_fail, error))
        else:
            self._push_in_background(partial(_do_and_remove, partial(job, also=also), staging))

    def _stage(self, checkpoint: Path, staging: Path) -> list[str]:
        """Puts what is to be pushed into a folder of its own, and returns the patterns of what is not of the page.

        It holds links: the checkpoint may be deleted, and the page change, while they are being uploaded.
        """
        shutil.rmtree(staging, ignore_errors=True)
        _link_files(checkpoint, staging)
        also = []
        if self.args.hub_strategy != HubStrategy.EVERY_SAVE:
            is_last = self.args.hub_strategy == HubStrategy.CHECKPOINT
            name = "last-checkpoint" if is_last else checkpoint.name
            _link_files(checkpoint, staging / name)
            also.append(f"{name}/*")
        (staging / "README.md").unlink(missing_ok=True)  # a link to that of the checkpoint
        page = Path(str(self.args.output_dir)) / "README.md"
        if page.exists():
            shutil.copy(page, staging)  # what was written in it by hand is kept
        self.write_page(staging)
        return also

    def _push_in_background(self, job: Callable[[], Published]) -> Future[Published]:
        """One after the other, in order. A failure is logged when it happens, and counted when training ends."""
        future = self._pusher.submit(job)
        future.add_done_callback(self._report)
        if self.push_in_progress is None:
            self.push_in_progress = PushInProgress([])  # type: ignore[arg-type]  # a list, in spite of its annotation
        self.push_in_progress.jobs.append(future)
        return future

    def _report(self, push: Future[Published]) -> None:
        if not push.cancelled() and (error := push.exception()) is not None:
            logger.error(f"A push to {self.hub_model_id} failed: {error}")

    def _finish_current_push(self) -> None:
        """Waits for the pushes in the background, and says how many of them failed."""
        if getattr(self, "push_in_progress", None) is None:  # Trainer calls this also where nothing is pushed
            return
        self.push_in_progress.wait_until_done()
        failed = sum(push.exception() is not None for push in self.push_in_progress.jobs)
        if failed:
            logger.error(f"{failed} pushes to {self.hub_model_id} failed. push_to_hub() sends what is here.")
        self.push_in_progress = None

    @cached_property
    def _pusher(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")


def _fail(error: Exception) -> Published:
    raise error


def _do_and_remove(push: Callable[[], Published], staging: Path) -> Published:
    try:
        return push()
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _remove_left_over(folder: Path) -> None:
    """Removes what runs that were killed had put together to push it."""
    for left in folder.glob(".push-*"):
        process = left.name.split("-")[1]
        if left.is_dir() and process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)


def _link_files(source: Path, target: Path) -> None:
    """The tree of files of `source` once more under `target`, without copying them where the file system can."""
    for file in source.rglob("*"):
        copy = target / file.relative_to(source)
        if file.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, copy)
            except OSError:
                shutil.copy2(file, copy)
