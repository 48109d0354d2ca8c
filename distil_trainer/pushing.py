"""A `Trainer` that pushes with `publish`: the student and its page, and nothing that is private."""

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress, logging

from distil_trainer.hub import Published, prepare_repository, publish

logger = logging.get_logger(__name__)


class PushingTrainer(Trainer):
    """What `DistillationTrainer` does with the Hub. Only process 0 talks to it.

    Overrides of `Trainer`: `init_hf_repo`, `push_to_hub`, `_push_from_checkpoint`, `_finish_current_push`.
    """

    push_in_progress: Any
    hub_model_id: str | None  # type: ignore[assignment]  # None until the repository is known

    def write_page(self, folder: str | os.PathLike[str], student: Mapping[str, Any]) -> None:
        """Writes the page of the student, with these facts of it, into a folder."""
        raise NotImplementedError

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository if there is none; `Trainer` calls this first of all, if `args.push_to_hub`.

        Raises:
            PublishError: no token, no right to write, or the Hub cannot be reached.
        """
        if not self.is_world_process_zero():
            return
        for left in Path(str(self.args.output_dir)).glob(".push-*"):  # of a run that was killed while it pushed
            shutil.rmtree(left)
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
        future = self._pusher.submit(job)
        self.push_in_progress = PushInProgress([future])  # type: ignore[arg-type]  # a list, in spite of its annotation
        return future

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Publishes a checkpoint in the background; with a checkpoint strategy also what training goes on from."""
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        if not self.args.hub_always_push and self.push_in_progress is not None and not self.push_in_progress.is_done():
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        checkpoint = Path(checkpoint_folder)
        # A copy of links: the checkpoint may be deleted, and its page change, while it is being uploaded.
        staging = Path(str(self.args.output_dir)) / f".push-{checkpoint.name}"
        shutil.rmtree(staging, ignore_errors=True)
        also = []
        _link_files(checkpoint, staging)
        if strategy != HubStrategy.EVERY_SAVE:
            name = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name
            _link_files(checkpoint, staging / name)
            also.append(f"{name}/*")
        page = Path(str(self.args.output_dir)) / "README.md"
        if page.exists():
            shutil.copy(page, staging)  # what was written in it by hand is kept
        self.write_page(staging, {"name": str(self.hub_model_id).split("/")[-1], "id": self.hub_model_id})
        in_steps = self.args.save_strategy == SaveStrategy.STEPS
        progress = f"step {self.state.global_step}" if in_steps else f"epoch {int(self.state.epoch or 0)}"
        push = self._pusher.submit(
            _publish_and_remove,
            staging,
            str(self.hub_model_id),
            token=self.args.hub_token,
            revision=self.args.hub_revision,
            message=f"Training in progress, {progress}",
            also=also,
        )
        if self.push_in_progress is None:
            self.push_in_progress = PushInProgress([])  # type: ignore[arg-type]
        self.push_in_progress.jobs.append(push)

    def _finish_current_push(self) -> None:
        """Waits for the pushes in the background, and says which of them failed."""
        if getattr(self, "push_in_progress", None) is None:  # Trainer calls this also where nothing is pushed
            return
        self.push_in_progress.wait_until_done()
        for job in self.push_in_progress.jobs:
            if (error := job.exception()) is not None:
                logger.error(f"A push to {self.hub_model_id} failed, what it was to send is still here: {error}")
        self.push_in_progress = None

    @cached_property
    def _pusher(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")  # one after the other, in order


def _publish_and_remove(staging: Path, repo_id: str, **options: Any) -> Published:
    try:
        return publish(staging, repo_id, **options)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


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
