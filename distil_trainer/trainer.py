"""`DistillationTrainer`: a `Trainer` whose loss is a sum of alignments between student and teacher."""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_pt_utils import find_batch_size
from transformers.trainer_utils import EvalLoopOutput

from distil_trainer.alignment import Alignment, check_alignments, check_teachers, teacher_shares
from distil_trainer.balance import GradientBalance, shared_layer
from distil_trainer.blocks import has_two_stacks
from distil_trainer.compatibility import check_pair, check_tokenizer, refuse_data_parallel
from distil_trainer.decoder import with_decoder_ids
from distil_trainer.errors import TrainingSetupError
from distil_trainer.features import FeatureReader, Features
from distil_trainer.head import HeadRows
from distil_trainer.learning import LearningTrainer
from distil_trainer.meter import Meter
from distil_trainer.nonfinite import OnNonFinite, bad_features, bad_parameters
from distil_trainer.page import PAGE, write_page
from distil_trainer.positions import UNITS, count_positions, counting_rows
from distil_trainer.run_record import record_run
from distil_trainer.schedule import Schedule, Scheduled, is_number, value_at
from distil_trainer.sharding import check_sharding, is_sharded
from distil_trainer.teacher import (
    Teacher,
    fast_dtype,
    forward_columns,
    is_placed,
    load_teacher,
    reader_for,
    reads_logits,
)
from distil_trainer.teacher_cache import CachedTeacher, TeacherCache, caches_of
from distil_trainer.terms import Term, compute_term, logit_mask, taught_by
from distil_trainer.zero import check_whole_weights, check_zero, is_partitioned, zero_of


class DistillationTrainer(LearningTrainer):
    """Trains a student to agree with a teacher.

    The loss of an optimizer step is `sum(weight * term) + task_weight * task loss`, where every term is a sum over
    counted positions divided by their number in the whole step: how a step is split over micro-batches or processes
    does not change the update. Terms are logged unweighted, as `loss/<alignment name>` and `loss/task`.

    With no alignments, `task_weight=1.0` and no teacher this is `Trainer`, bit for bit. With alignments but no teacher
    it can evaluate (the student's own loss), but not train.

    Args:
        model: the student, `trainer.model`. The only weights that are trained, saved and pushed.
        args: `TrainingArguments`.
        teacher_model: the teacher: a model (it is put to `eval()` and frozen), or a Hub id or path. A list of them is
            several teachers, which read the same ids and may have different depths and widths: an alignment says by
            `teacher` which of them it means, and logits without it are compared with the mean of all
            (`methods.of_teachers`). The page is about the first.
        teacher_weights: of the teachers in that mean of logits; None for equal ones. They are divided by their sum.
        alignments: what is compared; see `distil_trainer.methods`.
        task_weight: weight of the student's own loss on labels, a number or a `Schedule`; 0 leaves it out.
        teacher_dtype: what the teacher computes in: its weights are cast to this, in place. None leaves a model as it
            is, and loads one by its id or path in bfloat16 where the hardware multiplies that natively, else float32.
        balance_terms: multiply every term, besides its weight, by a factor that gives all terms gradients of the same
            norm where they still share the student; see `distil_trainer.balance`.
        kept_ids: for a student in a smaller vocabulary (`distil_trainer.vocabulary`): for each of its ids the teacher's
            id of the same piece. Batches hold the student's ids; the teacher is given its own, and its logits are those
            of the kept pieces, so that its probabilities are taken among them.
        teacher_cache: keep what the alignments read of the teacher in this folder, or as a `TeacherCache` says, so that
            later epochs and later runs on the same inputs need not run it; see docs/teacher_cache.md. Of several
            teachers each has a folder in it, `teacher-1` and so on.
        on_nonfinite: what to do where a loss or a gradient is NaN or infinite: "stop" before that step, with the batch
            saved, or "skip" it; see `distil_trainer.nonfinite`.
        page_facts: what the page says besides what the run itself tells: arguments of `run_record.record_run`, such as
            `{"method": "lightmbert", "student": {"license": "apache-2.0"}, "data": [DataFacts(...)]}`.
        **kwargs: everything else that `Trainer` takes.

    Raises:
        TrainingSetupError, AlignmentError, StudentError: arguments that do not fit together.

    Attributes:
        teachers: all of them as they are run; `teacher` is the first, or None.
        unreached: parameters of the student that no loss reaches, by name; frozen while `train` runs.
        projections: the learned maps of alignments with `projection`; parameters of the student while `train` runs,
            never saved with it. None without any.
        cached_teachers: answer in the teachers' place where there is a `teacher_cache`; else none.

    Overrides of `Trainer`: `train` (checks), `compute_loss`, `_get_num_items_in_batch` (counts positions),
    `prediction_step` and `evaluation_loop` (exact averages of every term), `log` (adds the terms),
    `_set_signature_columns_if_needed` (keeps what either model reads), `create_model_card`; for the optimizer those of
    `learning.LearningTrainer`, for the Hub those of `pushing.PushingTrainer`, and for what may go wrong those of
    `nonfinite.FiniteTrainer` and `surviving.SurvivingTrainer`.
    """

    model: Any  # the student: always the module itself, also where accelerate runs a wrapper of it
    label_names: list[str]
    _signature_columns: Any

    def __init__(
        self,
        model: nn.Module | None = None,
        args: Any = None,
        *,
        teacher_model: nn.Module | str | Sequence[nn.Module | str] | None = None,
        teacher_weights: Sequence[float] | None = None,
        alignments: Sequence[Alignment] = (),
        task_weight: Scheduled = 0.0,
        teacher_dtype: torch.dtype | None = None,
        balance_terms: bool = False,
        kept_ids: Sequence[int] | None = None,
        teacher_cache: TeacherCache | str | os.PathLike[str] | None = None,
        on_nonfinite: OnNonFinite = "stop",
        page_facts: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.alignments = tuple(alignments)
        check_alignments(self.alignments)
        if not isinstance(task_weight, Schedule):
            if not is_number(task_weight) or task_weight < 0:
                raise TrainingSetupError(f"task_weight should be a number from 0, or a Schedule; got {task_weight!r}.")
            task_weight = float(task_weight)
        self.task_weight = task_weight
        self.balance_terms = balance_terms
        self.page_facts = dict(page_facts or {})
        self._weights = {alignment.name: alignment.weight for alignment in self.alignments} | {"task": self.task_weight}
        super().__init__(model, args, on_nonfinite=on_nonfinite, **kwargs)
        adds_means = len(self.label_names) > 1 and "labels" in self.label_names and self.compute_loss_func is None
        if self.alignments and self.task_weight and adds_means:
            raise TrainingSetupError(
                f"the loss of {type(self.model).__name__} adds means over different things "
                f"({', '.join(self.label_names)}), which cannot be averaged over a step. Pass compute_loss_func, "
                "or task_weight=0."
            )
        self.unreached = {}
        self._reader: FeatureReader | None = None  # of the student
        self._student_columns: list[str] = []
        self._balance: GradientBalance | None = None
        if balance_terms and self.args.torch_compile:
            raise TrainingSetupError(
                "balance_terms walks the graph more than once, which compiled graphs do not allow. Leave one of "
                "balance_terms and torch_compile out."
            )
        if balance_terms and has_two_stacks(self.model):
            raise TrainingSetupError(
                "balance_terms needs hidden states that all terms share; an encoder and a decoder have none. Leave it "
                "out."
            )
        self.teachers: tuple[Teacher, ...] = ()
        if teacher_model is not None and self.alignments:
            refuse_data_parallel(self.args)
            if self.is_fsdp_enabled:
                plugin = self.accelerator.state.fsdp_plugin
                check_sharding(plugin, compiles=self.args.torch_compile, balances=balance_terms)
            if self.is_deepspeed_enabled:
                check_zero(self.accelerator.state.deepspeed_plugin.deepspeed_config, balances=balance_terms)
                check_whole_weights(self.model, "student")
            models = [teacher_model] if isinstance(teacher_model, nn.Module | str) else list(teacher_model)
            check_teachers(self.alignments, len(models), teacher_weights)
            self.teacher_shares = teacher_shares(teacher_weights, len(models))
            self._kept_ids = kept_ids
            self.teachers = tuple(
                self._make_teacher(model, number, teacher_dtype) for number, model in enumerate(models, start=1)
            )
            self.teacher = self.teachers[0]
            if any(alignment.projection for alignment in self.alignments):
                self.projections = self._make_projections([teacher.model for teacher in self.teachers])
            if balance_terms:
                layer = shared_layer(self.alignments, depth=self.model.config.num_hidden_layers)
                self._balance = GradientBalance(layer, self._sum_over_processes)
                self.add_callback(self._balance)
            self._student_reader()
            self.loss_is_scaled_for_ga = True
        self.cached_teachers: tuple[CachedTeacher, ...] = ()
        if teacher_cache is not None:
            self._keep_features(teacher_cache)
        self._training_terms, self._evaluation_terms = Meter(), Meter()
        self._terms_before_step = Meter()

    def _make_teacher(self, model: Any, number: int, dtype: torch.dtype | None) -> Teacher:
        """One teacher, loaded and checked, for the alignments that read it."""
        alignments = self._alignments_of(number)
        if isinstance(model, str):
            if self._kept_ids is None:
                check_tokenizer(model, self.processing_class)
            model = load_teacher(model, like=self.model, alignments=alignments)
            dtype = dtype or fast_dtype(self.args.device)
        check_whole_weights(model, "teacher")
        check_pair(self.model, model, alignments, self._kept_ids)
        options = {"backend": self.args.torch_compile_backend, "mode": self.args.torch_compile_mode}
        return Teacher(
            model if is_placed(model) else model.to(self.args.device),
            alignments,
            dtype=dtype,
            compile_options=options if self.args.torch_compile else None,
            kept_ids=self._kept_ids,
        )

    def _alignments_of(self, number: int) -> list[Alignment]:
        """Those that read this teacher (one-based)."""
        return [alignment for alignment in self.alignments if alignment.teacher in (None, number)]

    def _keep_features(self, cache: TeacherCache | str | os.PathLike[str]) -> None:
        if not self.teachers:
            raise TrainingSetupError(
                "teacher_cache keeps what alignments read of a teacher; there is none. Pass a teacher_model and "
                "alignments, or leave teacher_cache out."
            )
        if not isinstance(cache, TeacherCache):
            cache = TeacherCache(folder=os.fspath(cache))
        self.cached_teachers = tuple(
            CachedTeacher(teacher, self._alignments_of(number), own)
            for number, (teacher, own) in enumerate(
                zip(self.teachers, caches_of(cache, len(self.teachers)), strict=True), start=1
            )
        )
        self.callback_handler.callbacks += self.cached_teachers  # add_callback warns of a second one of a class

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
                f"nothing to learn from: no alignments, and task_weight={self.task_weight}. Pass alignments "
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
            return_outputs: also return the student's outputs, whole.
            num_items_in_batch: int64 [len(UNITS)], the counts of the whole step; None counts this batch alone.
        """
        if self.teacher is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = self._with_decoder_ids(inputs)
        step_counts = self._count([inputs]) if num_items_in_batch is None else num_items_in_batch
        rows = None if return_outputs else self._head_rows(inputs)
        teachers = [teacher(inputs, rows) for teacher in self.cached_teachers or self.teachers]
        student, outputs, task_loss = self._student_forward(model, inputs, rows, whole=return_outputs)
        with self.accelerator.autocast():
            terms = {
                a.name: compute_term(a, student, taught_by(a, teachers, self.teacher_shares), inputs, self.progress)
                for a in self.alignments
            }
        if task_loss is not None:
            count = (step_counts if num_items_in_batch is None else self._count([inputs]))[UNITS.index("task")]
            total = torch.where(count > 0, task_loss * count, 0.0)  # the mean over no label is NaN
            terms["task"] = Term(total, count, "task")
        loss = self._weighted_sum(terms, step_counts, student)
        if self._shares_weights:
            loss = loss + zero_of(outputs)
        return (loss, outputs) if return_outputs else loss

    def _with_decoder_ids(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return with_decoder_ids(self.model, inputs, is_read=any(a.stack != "encoder" for a in self.alignments))

    @property
    def progress(self) -> float:
        """The share of the optimizer steps that are done; schedules follow it. 0 before training."""
        return self._progress_after(0)

    def _progress_after(self, steps: int) -> float:
        """The same, so many steps later."""
        done = max(self.state.global_step + steps, 0)
        return min(done / self.state.max_steps, 1.0) if self.state.max_steps > 0 else 0.0

    def _weighted_sum(self, terms: Mapping[str, Term], step_counts: Tensor, student: Features) -> Tensor:
        """The share of these terms in the loss of the step; each is put down for the logs, too."""
        is_training = self.model.training
        # DDP averages gradients over the processes, while the counts are already sums over them.
        processes = self.accelerator.num_processes if is_training else 1
        factors = self._balance.factors() if self._balance is not None and is_training else {}
        loss = torch.zeros((), device=step_counts.device)
        for name, term in terms.items():
            share = term.total / step_counts[UNITS.index(term.unit)].clamp(min=1)
            weight = value_at(self._weights[name], self.progress)
            loss = loss + processes * weight * factors.get(name, 1.0) * share
            if not is_training:
                self._evaluation_terms.add(name, term.total, term.count)
                continue
            self._training_terms.add(
                name, processes * share, torch.tensor(1 / self.current_gradient_accumulation_steps)
            )
            if self._balance is not None:
                self._balance.observe(name, share, student.hidden_states[self._balance.layer])
        return loss

    def _head_rows(self, inputs: Mapping[str, Any]) -> HeadRows | None:
        """The rows of logits that are read; None where only whole outputs will do."""
        student = self._student_reader().head
        logits = [alignment for alignment in self.alignments if alignment.feature == "logits"]
        if student is None or any(teacher.reads_logits and teacher.reader.head is None for teacher in self.teachers):
            return None
        own_loss_reads_rows = (
            student.reads_rows_alone
            and self.compute_loss_func is None
            and self.label_smoother is None
            and inputs.get("labels") is not None
        )
        if self.task_weight and not own_loss_reads_rows:
            return None
        if not self.task_weight and not logits:
            return HeadRows.none(inputs) if self._shares_weights else None
        return HeadRows.read_by(
            aligned=logit_mask(logits[0], inputs) if logits else None,
            labels=inputs["labels"] if self.task_weight else None,
            shifts_labels=self._loss_shifts_labels,
        )

    def _student_forward(
        self, model: nn.Module, inputs: Mapping[str, Any], rows: HeadRows | None, *, whole: bool
    ) -> tuple[Features, Any, Tensor | None]:
        """Features and outputs of the student, and the mean of its own loss over this batch if it has a weight."""
        reader = self._student_reader()
        reads_outputs = whole or reads_logits(self.alignments) or bool(self.task_weight)
        unwanted = () if self.task_weight else (*self.label_names, "labels")
        inputs = {k: v for k, v in inputs.items() if k in self._student_columns and k not in unwanted}
        plain = rows is not None and not self._shares_weights and reader.leaves_logits(inputs)
        if rows is not None and rows.labels is not None:
            inputs["labels"] = rows.labels_for(plain=plain)
        task_loss = None
        ends_early = not reads_outputs and not self._shares_weights
        is_wrapped = (model is not self.model or is_sharded(model)) and model.training
        with reader.reading(ends_early=ends_early, rows=rows, plain=plain, hands_out=is_wrapped) as features:
            if self.task_weight:
                task_loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            else:
                outputs = model(**inputs)
        return features, outputs, task_loss

    @property
    def _shares_weights(self) -> bool:
        """Whether each weight of the student is there in the forward of its own module only, and forwards are whole."""
        return self.is_deepspeed_enabled and is_partitioned(self.model)

    def _student_reader(self) -> FeatureReader:
        if self._reader is None or self._reader.model is not self.model:  # made anew by model_init
            for number, teacher in enumerate(self.teachers, start=1):
                check_pair(self.model, teacher.model, self._alignments_of(number), self._kept_ids)
            also = () if self._balance is None else (self._balance.layer,)
            self._reader = reader_for(
                self.model, self.alignments, role="student", also=also, projections=self.projections
            )
            self._student_columns = forward_columns(self.model)
        return self._reader

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """The counts of a whole optimizer step over all processes: int64 [len(UNITS)]."""
        if self.teacher is None or not batch_samples:
            return super()._get_num_items_in_batch(batch_samples, device)
        return self._sum_over_processes(self._count(batch_samples).to(device))

    def _count(self, batches: Sequence[Mapping[str, Any]]) -> Tensor:
        return count_positions(batches, shifts_labels=self._loss_shifts_labels)

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
        inputs = self._without_repeated(self._prepare_inputs(inputs))
        with torch.no_grad(), self.compute_loss_context_manager():
            if prediction_loss_only:
                return self.compute_loss(model, inputs), None, None
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if ignore_keys is None:
            ignore_keys = getattr(self.model.config, "keys_to_ignore_at_inference", ["past_key_values"])
        logits = tuple(value.detach() for key, value in outputs.items() if key not in [*ignore_keys, "loss"])
        labels = tuple(inputs[name] for name in self.label_names if inputs.get(name) is not None)
        return loss, _single(logits), _single(labels) if labels else None

    def _without_repeated(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch without the examples that accelerate repeats where the last one does not suffice all processes."""
        state = self.accelerator.gradient_state
        if self.accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return inputs
        rows = find_batch_size(inputs)
        return counting_rows(inputs, min(max(state.remainder - self.args.process_index * rows, 0), rows))

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
            key = f"{metric_key_prefix}_loss"
            output.metrics[key] = sum(value_at(self._weights[n], self.progress) * value for n, value in terms.items())
            output.metrics.update({f"{key}/{name}": value for name, value in terms.items()})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`; training logs also get every term, unweighted, averaged since the last of them, and those
        weights that change, as they were in the last step.
        """
        if "loss" in logs:
            terms = self._training_terms.take(self._sum_over_processes)
            logs |= {f"loss/{name}": value for name, value in terms.items()}
            changing = {name: weight for name, weight in self._weights.items() if isinstance(weight, Schedule)}
            logs |= {f"weight/{name}": weight(self._progress_after(-1)) for name, weight in changing.items()}
        super().log(logs, start_time)

    def _terms_since_log(self) -> dict[str, Any]:
        return self._training_terms.sums(self._sum_over_processes)

    def _take_up_terms(self, terms: dict[str, Any]) -> None:
        share = float(self.args.process_index == 0)  # the others begin with zeros: they are summed
        self._training_terms.load(terms, device=self.args.device, share=share)

    def _begin_step(self) -> None:
        self._terms_before_step = self._training_terms.copy()

    def _forget_step(self) -> None:
        self._training_terms = self._terms_before_step
        if self._balance is not None:
            self._balance.forget_step()

    def _why(self, inputs: Mapping[str, Any]) -> str:
        if self.teacher is None:
            return super()._why(inputs)
        inputs = self._with_decoder_ids(self._prepare_inputs(dict(inputs)))
        rows = self._head_rows(inputs)
        for number, teacher in enumerate(self.teachers, 1):
            found = bad_features(teacher(inputs, rows), inputs)
            if found:
                which = f"teacher {number}" if len(self.teachers) > 1 else "the teacher"
                return f"; not finite in {which}: {', '.join(found + bad_parameters(teacher.model))}"
        return super()._why(inputs)

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            if self.teacher is not None:
                own: Any = self._signature_columns
                theirs = (column for teacher in self.teachers for column in teacher.columns)
                self._signature_columns = list(dict.fromkeys([*own, *theirs, "labels"]))

    def create_model_card(  # type: ignore[override]  # several languages too
        self,
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes our page (README.md, pictures, record) into `args.output_dir`; of Trainer's arguments it reads
        `language`, `license` and `model_name`, because the rest follows from the run.
        """
        if self.teacher is None:
            of_hub = self.hub_model_id.split("/")[-1] if self.hub_model_id else None
            name = model_name or self.page_facts.get("student", {}).get("name") or of_hub
            super().create_model_card(language, license, tags, name, **kwargs)  # type: ignore[arg-type]
            return
        known = {
            "name": model_name,
            "license": license,
            "language": [language] if isinstance(language, str) else language,
        }
        self.write_page(str(self.args.output_dir), {key: value for key, value in known.items() if value})

    def write_page(self, folder: str | os.PathLike[str], student: Mapping[str, Any] | None = None) -> None:
        """Writes the page (README.md, pictures, record) into a folder.

        Args:
            folder: of the student.
            student: facts of it that no run can know, besides those of `page_facts`; see `record.ModelFacts`.
        """
        if not self.is_world_process_zero():
            return
        if self.teacher is None:
            super().create_model_card()
            page = Path(str(self.args.output_dir)) / PAGE
            if not page.parent.samefile(folder):
                shutil.copy(page, folder)
            return
        pushed_to = {"id": self.hub_model_id} if self.hub_model_id else {}
        student = {**self.page_facts.get("student", {}), **pushed_to, **(student or {})}
        with nullcontext() if self.projections is None else self.projections.outside(self.model):
            record = record_run(self, **{**self.page_facts, "student": student, "folder": folder})
        write_page(folder, [record])


def _single(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else values
