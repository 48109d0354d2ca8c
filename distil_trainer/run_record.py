"""The record of a distillation run: everything that can be read off a trainer after `train()`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distil_trainer.facts import (
    alignment_facts,
    cached_folder,
    hub_id,
    measured_emissions,
    model_facts,
    process_facts,
    scheduled_facts,
    training_facts,
)
from distil_trainer.record import DataFacts, Provenance, Record, SpeedFacts

if TYPE_CHECKING:
    from distil_trainer.trainer import DistillationTrainer


def record_run(
    trainer: "DistillationTrainer",
    *,
    student: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | None = None,
    other_teachers: Sequence[Mapping[str, Any]] = (),
    data: Sequence[DataFacts] = (),
    method: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    speed: Mapping[Any, Sequence[SpeedFacts]] | None = None,
) -> Record:
    """The facts of a run.

    Args:
        trainer: after `train()`.
        student, teacher: facts of the two models that no run can know (`name`, `license`, `language`, ...; see
            `record.ModelFacts`). The names default to the output folder's and to the name that the teacher was
            loaded by.
        other_teachers: the same of the second teacher and those after it, where there are several.
        data: what it was trained on.
        method: the published method that the alignments came from.
        folder: where the student was saved, for its size on disk.
        speed: of teacher and student, as `measure_speeds` gives it.
    """
    trained = training_facts(trainer)
    hub_name = trainer.hub_model_id.split("/")[-1] if trainer.hub_model_id else None
    known = {"name": hub_name or Path(str(trainer.args.output_dir)).absolute().name, **(student or {})}
    is_over = trained["seconds"] is not None  # before, the weights are those of the last step, not of the best
    return Record(
        stage="distill",
        student=model_facts(trainer.model, folder=folder, **known),
        teacher=_teacher_facts(trainer.teacher, teacher or {}),
        other_teachers=tuple(
            _teacher_facts(other, other_teachers[i] if i < len(other_teachers) else {})
            for i, other in enumerate(trainer.teachers[1:])
        ),
        teacher_weights=trainer.teacher_shares if len(trainer.teachers) > 1 else (),
        provenance=_provenance(trainer, teacher or {}),
        method=method,
        alignments=alignment_facts(trainer.alignments),
        balanced=trainer.balance_terms or None,
        teacher_dtype=str(trainer.teacher.model.dtype).removeprefix("torch.") if trainer.teacher is not None else None,
        teacher_cache=trainer.cached_teachers[0].cache.dtype if trainer.cached_teachers else None,
        top_logits=trainer.cached_teachers[0].cache.top_k if trainer.cached_teachers else None,
        never_trained=_never_trained(trainer),
        data=tuple(data),
        emissions=measured_emissions(trainer.callback_handler.callbacks),
        best_step=trainer.state.best_global_step if is_over and trainer.args.load_best_model_at_end else None,
        speed={role: tuple(facts) for role, facts in (speed or {}).items()},
        **scheduled_facts("task_weight", trainer.task_weight),
        **trained,
        **process_facts(),
    )


def _teacher_facts(teacher: Any, known: Mapping[str, Any]) -> Any:
    if teacher is None:
        return None
    model = teacher.model
    path = model.name_or_path
    identity = {
        "name": Path(path).name or type(model).__name__,
        "id": hub_id(path),
        "dtype": str(teacher.stored_dtype).removeprefix("torch."),
    }
    folder = path if Path(path).is_dir() else cached_folder(path, known.get("revision")) if hub_id(path) else None
    return model_facts(model, folder=folder, **{**identity, **known})


def _provenance(trainer: "DistillationTrainer", teacher: Mapping[str, Any]) -> Provenance | None:
    """What `build_student` noted, with the teacher's public name where that is known better."""
    found = getattr(trainer.model, "provenance", None)
    if found is None:
        return None
    return Provenance(
        teacher=teacher.get("name") or found.teacher or "teacher",
        revision=teacher.get("revision") or found.revision,
        teacher_layers=found.teacher_layers,
        copied_blocks=found.copied_blocks,
        copied_decoder_blocks=found.copied_decoder_blocks,
        frozen=found.frozen,
        kept_pieces=found.kept_pieces,
        teacher_pieces=found.teacher_pieces,
        kept_units=dict(found.kept_units),
        units_chosen_by=found.units_chosen_by,
    )


def _never_trained(trainer: "DistillationTrainer") -> dict[str, float]:
    """Trainable parameters that no gradient ever reached -> their share of the student's parameters."""
    total = sum(parameter.numel() for parameter in trainer.model.parameters())
    return {name: round(parameter.numel() / total, 6) for name, parameter in trainer.unreached.items()}
