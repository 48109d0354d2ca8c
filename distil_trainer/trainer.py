"""`DistillationTrainer`: a `Trainer` whose loss is a sum of alignments between student and teacher."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.modeling_outputs import BaseModelOutput
from transformers.trainer_utils import EvalLoopOutput

from distil_trainer.alignment import Alignment, check_alignments
from distil_trainer.compatibility import check_pair
from distil_trainer.errors import TrainingSetupError
from distil_trainer.features import FeatureReader, Features, logits_of
from distil_trainer.meter import Meter
from distil_trainer.page import write_page
from distil_trainer.positions import UNITS, count_positions
from distil_trainer.run_record import record_run
from distil_trainer.teacher import Teacher, forward_columns, load_teacher, reader_for
from distil_trainer.terms import Term, compute_term


class DistillationTrainer(Trainer):
    """Trains a student to agree with a teacher.

    The loss of an optimizer step is `sum(weight * term) + task_weight * task loss`, where every term is a sum over
    counted positions divided by their number in the whole step: how a step is split over micro-batches or processes
    does not change the update. Terms are logged unweighted, as `loss/<alignment name>` and `loss/task`.

    With no alignments, `task_weight=1.0` and no teacher this is `Trainer`, bit for bit. With alignments but no teacher
    it can evaluate (the student's own loss), but not train.

    Args:
        model: the student, `trainer.model`. The only weights that are trained, saved and pushed.
        args: `TrainingArguments`.
        teacher_model: the teacher: a model (it is put to `eval()` and frozen), or a Hub id or path.
        alignments: what is compared; see `distil_trainer.methods`.
        task_weight: weight of the student's own loss on labels; 0 leaves it out.
        **kwargs: everything else that `Trainer` takes.

    Raises:
        TrainingSetupError, AlignmentError: arguments that do not fit together.

    Overrides of `Trainer`: `train` (checks), `compute_loss`, `_get_num_items_in_batch` (counts positions),
    `prediction_step` and `evaluation_loop` (exact averages of every term), `log` (adds the terms),
    `_set_signature_columns_if_needed` (keeps what either model reads), `create_model_card`.
    """

    model: Any  # the student: always the module itself, also where accelerate runs a wrapper of it
    label_names: list[str]
    _signature_columns: Any

    def __init__(
        self,
        model: nn.Module | None = None,
        args: Any = None,
        *,
        teacher_model: nn.Module | str | None = None,
        alignments: Sequence[Alignment] = (),
        task_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.alignments = tuple(alignments)
        check_alignments(self.alignments)
        if isinstance(task_weight, bool) or not isinstance(task_weight, int | float) or not 0 <= task_weight < inf:
            raise TrainingSetupError(f"task_weight should be a number from 0; got {task_weight!r}.")
        self.task_weight = float(task_weight)
        super().__init__(model, args, **kwargs)
        adds_means = len(self.label_names) > 1 and "labels" in self.label_names and self.compute_loss_func is None
        if self.alignments and self.task_weight and adds_means:
            raise TrainingSetupError(
                f"the loss of {type(self.model).__name__} adds means over different things "
                f"({', '.join(self.label_names)}), which cannot be averaged over a step. Pass compute_loss_func, "
                "or task_weight=0."
            )
        self.teacher: Teacher | None = None
        self._reader: FeatureReader | None = None
        if teacher_model is not None and self.alignments:
            if self.args.n_gpu > 1:
                raise TrainingSetupError(
                    f"{self.args.n_gpu} GPUs are visible but one process runs, which means nn.DataParallel. Start one "
                    "process a GPU with `accelerate launch`, or set CUDA_VISIBLE_DEVICES to one GPU."
                )
            if isinstance(teacher_model, str):
                teacher_model = load_teacher(teacher_model, like=self.model, alignments=self.alignments)
            check_pair(self.model, teacher_model, self.alignments)
            self.teacher = Teacher(teacher_model.to(self.args.device), self.alignments)
            self._reader = reader_for(self.model, self.alignments, role="student")
            self.loss_is_scaled_for_ga = True
        self._training_terms, self._evaluation_terms = Meter(), Meter()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; refuses a run in which nothing could be learned.

        Raises:
            TrainingSetupError: alignments without a teacher, or neither alignments nor a task loss of weight 1.
        """
        if self.alignments and self.teacher is None:
            raise TrainingSetupError(
                "alignments need a teacher to train: pass teacher_model (a model, Hub id or path)."
            )
        if not self.alignments and self.task_weight != 1.0:
            raise TrainingSetupError(
                f"nothing to learn from: no alignments, and task_weight={self.task_weight:g}. Pass alignments "
                "(see distil_trainer.methods), or task_weight=1.0 to train on labels alone."
            )
        self._training_terms = Meter()
        return super().train(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of one micro-batch: its share of the whole step's.

        Args:
            model: the student as accelerate wrapped it.
            inputs: the batch, with the columns that either model reads.
            return_outputs: also return the student's outputs.
            num_items_in_batch: int64 [len(UNITS)], the counts of the whole step; None counts this batch alone.
        """
        if self.teacher is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        own_counts = count_positions([inputs], shifts_labels=self._loss_shifts_labels)
        step_counts = own_counts if num_items_in_batch is None else num_items_in_batch
        denominators = dict(zip(UNITS, step_counts.clamp(min=1), strict=True))
        teacher = self.teacher(inputs)
        student, outputs, task_loss = self._student_forward(model, inputs)

        weighted = [(a.name, a.weight, compute_term(a, student, teacher, inputs)) for a in self.alignments]
        if task_loss is not None:
            count = own_counts[UNITS.index("task")]
            total = torch.where(count > 0, task_loss * count, 0.0)  # the mean over no label is NaN
            weighted.append(("task", self.task_weight, Term(total, count, "task")))
        # DDP averages gradients over the processes, while the counts are already sums over them.
        processes = self.accelerator.num_processes if model.training else 1
        loss = torch.zeros((), device=step_counts.device)
        for name, weight, term in weighted:
            share = processes * term.total / denominators[term.unit]
            loss = loss + weight * share
            if model.training:
                step_share = torch.tensor(1 / self.current_gradient_accumulation_steps)
                self._training_terms.add(name, share, step_share)
            else:
                self._evaluation_terms.add(name, term.total, term.count)
        return (loss, outputs) if return_outputs else loss

    def _student_forward(self, model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Features, Any, Tensor | None]:
        """Features and outputs of the student, and the mean of its own loss over this batch if it has a weight."""
        if self._reader is None or self._reader.model is not self.model:  # made anew by model_init
            self._reader = reader_for(self.model, self.alignments, role="student")
        unwanted = () if self.task_weight else (*self.label_names, "labels")
        inputs = {k: v for k, v in inputs.items() if k in forward_columns(self.model) and k not in unwanted}
        task_loss = None
        with self._reader.reading() as features, self._handing_out(features, wrapper=model):
            if self.task_weight:
                task_loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            else:
                outputs = model(**inputs)
        features.logits = logits_of(outputs)
        return features, outputs, task_loss

    @contextmanager
    def _handing_out(self, features: Features, *, wrapper: nn.Module) -> Iterator[None]:
        """Makes the student return what the loss reads, and no more, to the wrapper (DDP) that it runs in.

        DDP finds the parameters that get no gradient by walking back from what the forward returned. Features that
        were taken out on the side would be missed, and a head that nothing reads would be waited for.
        """
        if wrapper is self.model or not wrapper.training:
            yield
            return
        reads_outputs = bool(self.task_weight) or any(a.feature == "logits" for a in self.alignments)

        def hand_out(module: nn.Module, args: Any, output: Any) -> Any:
            output = output if reads_outputs else BaseModelOutput()
            heads = features.heads.values()
            # In a field that every transformers output has: DDP rebuilds outputs by their type.
            output["hidden_states"] = (*features.hidden_states.values(), *(t for h in heads for t in (h.query, h.key)))
            return output

        with self.model.register_forward_hook(hand_out):
            yield

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """The counts of a whole optimizer step over all processes: int64 [len(UNITS)]."""
        if self.teacher is None or not batch_samples:
            return super()._get_num_items_in_batch(batch_samples, device)
        counts = count_positions(batch_samples, shifts_labels=self._loss_shifts_labels).to(device)
        return self._sum_over_processes(counts)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """As `Trainer.prediction_step`; the loss needs no labels here."""
        if self.teacher is None:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss, None, None
        if ignore_keys is None:
            ignore_keys = getattr(self.model.config, "keys_to_ignore_at_inference", ["past_key_values"])
        logits = tuple(value.detach() for key, value in outputs.items() if key not in [*ignore_keys, "loss"])
        labels = tuple(inputs[name] for name in self.label_names if inputs.get(name) is not None)
        return loss, _single(logits), _single(labels) if labels else None

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As `Trainer.evaluation_loop`; adds every term, averaged over the positions of the whole set."""
        self._evaluation_terms = Meter()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        terms = self._evaluation_terms.take(self._sum_over_processes)
        if terms and output.metrics is not None:
            weights = {alignment.name: alignment.weight for alignment in self.alignments} | {"task": self.task_weight}
            key = f"{metric_key_prefix}_loss"
            output.metrics[key] = sum(weights[name] * value for name, value in terms.items())
            output.metrics.update({f"{key}/{name}": value for name, value in terms.items()})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`; training logs also get every term, unweighted, averaged since the last of them."""
        if "loss" in logs:
            terms = self._training_terms.take(self._sum_over_processes)
            logs |= {f"loss/{name}": value for name, value in terms.items()}
        super().log(logs, start_time)

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            if self.teacher is not None:
                own: Any = self._signature_columns
                self._signature_columns = list(dict.fromkeys([*own, *self.teacher.columns, "labels"]))

    def create_model_card(  # type: ignore[override]  # several languages too
        self,
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes our page (README.md, loss curves, record) into `args.output_dir`; of Trainer's arguments it reads
        `language`, `license` and `model_name`, because the rest follows from the run.
        """
        if self.teacher is None:
            super().create_model_card(language, license, tags, model_name, **kwargs)  # type: ignore[arg-type]
            return
        known = {
            "name": model_name,
            "license": license,
            "language": [language] if isinstance(language, str) else language,
        }
        record = record_run(self, student={key: value for key, value in known.items() if value})
        if self.is_world_process_zero():
            write_page(str(self.args.output_dir), [record])

    def _sum_over_processes(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values.to(self.args.device), reduction="sum")


def _single(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else values
