"""A `Trainer` that optimises what its loss can reach, and the learned projections with it."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from distil_trainer.alignment import Alignment
from distil_trainer.errors import TrainingSetupError
from distil_trainer.first_batches import check_rows, first_batch
from distil_trainer.nonfinite import FiniteTrainer
from distil_trainer.probe import first_example, in_eval_mode, random_state_kept
from distil_trainer.projection import Projections
from distil_trainer.pushing import PushingTrainer
from distil_trainer.reach import unreached_parameters
from distil_trainer.schedule import Scheduled
from distil_trainer.sharding import shared_out_by_blocks, tied_again
from distil_trainer.teacher import Teacher

logger = logging.get_logger(__name__)


class LearningTrainer(FiniteTrainer, PushingTrainer):
    """Which parameters `DistillationTrainer` learns.

    Attributes:
        teacher: None leaves everything to `Trainer`.
        unreached: parameters of the student that no loss reaches, by name; frozen while `train` runs.
        projections: the learned maps of alignments with `projection`; parameters of the student while `train` runs,
            never saved with it. None without any.

    Overrides of `Trainer`: `train` (what is frozen, or added, is so for as long as it runs), `create_optimizer` (leaves
    out what no loss reaches), `_prepare_for_training` and `_save` (FSDP2 and DeepSpeed share the student out; it is
    saved whole); `_save_optimizer_and_scheduler`, `_load_optimizer_and_scheduler` and `_load_best_model` (the
    projections too).
    """

    model: Any
    alignments: tuple[Alignment, ...]
    task_weight: Scheduled
    teacher: Teacher | None = None
    projections: Projections | None = None
    unreached: dict[str, nn.Parameter]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`."""
        check_rows(self.train_dataset)
        self._release_unreached()
        self.unreached = {}
        try:
            with nullcontext() if self.projections is None else self.projections.inside(self.model):
                return super().train(*args, **kwargs)
        finally:
            self._release_unreached()

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """As `Trainer.create_optimizer`, for the parameters that some loss can reach.

        The others are frozen until training ends: they are neither decayed nor waited for by DDP, which then need not
        look for unused ones (it still does if `ddp_find_unused_parameters` says so, as layer drop needs).

        Raises:
            TrainingSetupError: an optimizer that was passed has not got the projections.
        """
        if self.teacher is not None and model is None and not self.unreached:
            self._freeze_unreached()
        optimizer = super().create_optimizer(model)
        learned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if self.projections is not None and not learned.issuperset(map(id, self.projections.parameters())):
            raise TrainingSetupError(
                "the learned projections are not in the optimizer, so they would stay random. Leave optimizers out "
                "(optimizer_cls_and_kwargs takes a class), or add a group with trainer.projections.parameters() to it."
            )
        return optimizer

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.teacher is None or not self.is_fsdp_enabled:
            return super()._prepare_for_training(*args, **kwargs)
        with shared_out_by_blocks(self.model, self.accelerator.state.fsdp_plugin):
            return super()._prepare_for_training(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        is_shared_out = self.is_fsdp_enabled or self.is_deepspeed_enabled
        is_put_together = self.teacher is not None and is_shared_out and bool(state_dict)
        super()._save(output_dir, tied_again(self.model, state_dict or {}) if is_put_together else state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.projections is not None:
            self.projections.save(output_dir, writes=self.args.should_save)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.projections is not None and checkpoint is not None:
            self.projections.load(checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.projections is not None and not self.args.save_only_model:
            self.projections.load(str(self.state.best_model_checkpoint))

    def _release_unreached(self) -> None:
        for parameter in self.unreached.values():
            parameter.requires_grad_(True)

    def _freeze_unreached(self) -> None:
        """Finds them by the loss of the first example, on every process alike."""
        with random_state_kept():
            loader = self.get_train_dataloader()
            # not accelerate's own iterator: it would put itself down as the one that training is in
            batch = first_batch(
                getattr(loader, "base_dataloader", loader),
                self.alignments,
                has_task=bool(self.task_weight),
                vocabulary=getattr(getattr(self.model, "config", None), "vocab_size", None),
                shifts_labels=self._loss_shifts_labels,
            )
        # accelerate keeps every loader, and a loader its workers if they are persistent
        self.accelerator._dataloaders = [kept for kept in self.accelerator._dataloaders if kept is not loader]
        del loader
        with in_eval_mode(self.model), torch.compiler.set_stance("force_eager"):  # layer drop would hide blocks
            example = self._prepare_inputs(first_example(batch))
            loss: Any = self.compute_loss(self.model, example)
            self._refuse_first(loss, example)
        found = unreached_parameters(loss, self.model)
        flags = torch.tensor([float(name in found) for name, _ in self.model.named_parameters()])
        everywhere = self._sum_over_processes(flags) == self.accelerator.num_processes
        self.unreached = {
            name: parameter
            for (name, parameter), unreached in zip(self.model.named_parameters(), everywhere.tolist(), strict=True)
            if unreached
        }
        for parameter in self.unreached.values():
            parameter.requires_grad_(False)
        if self.args.ddp_find_unused_parameters is None and self.accelerator.ddp_handler is not None:
            self.accelerator.ddp_handler.find_unused_parameters = False
        if self.unreached and self.is_world_process_zero():
            count, total = (sum(p.numel() for p in ps) for ps in (self.unreached.values(), self.model.parameters()))
            logger.warning(
                f"No loss reaches {count:,} of the student's {total:,} parameters ({count / total:.1%}); they keep the "
                f"values they have: {', '.join(self.unreached)}."
            )

    def _make_projections(self, teachers: Sequence[Any]) -> Projections:
        model_init: Any = self.model_init
        if self.is_deepspeed_enabled or model_init is not None:
            raise TrainingSetupError(
                "learned projections are trained in one process, by DDP or by FSDP2, with a model and no model_init. "
                "Leave DeepSpeed and model_init out, or compare relations (methods.minilmv2), which need no projection."
            )
        return Projections(
            self.alignments,
            student_width=self.model.config.hidden_size,
            teacher_widths=[teacher.config.hidden_size for teacher in teachers],
            seed=self.args.seed,
        ).to(self.args.device)
