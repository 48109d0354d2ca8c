"""The model card: records in, the text of README.md out. Here facts are put in order; `model_card/` holds the words."""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from distil_trainer.errors import RecordError
from distil_trainer.markdown import environment, one_line, slug
from distil_trainer.record import DataFacts, Evaluation, ModelFacts, Record, SpeedFacts

# Which pipeline a head belongs to. The last line is a model without a head.
_PIPELINES = {
    "ForMaskedLM": "fill-mask",
    "ForTokenClassification": "token-classification",
    "ForSequenceClassification": "text-classification",
    "ForQuestionAnswering": "question-answering",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "Model": "feature-extraction",
}
# A run that has none of these has no section.
_RUN_FACTS = (
    *("alignments", "task_weight", "never_trained", "hyperparameters", "versions", "hardware"),
    *("date", "seconds", "steps", "tokens", "command", "seeds"),
)


def render_card(*records: Record, picture: str | None = None) -> str:
    """The text of README.md, metadata and body. The same records give the same text.

    The card is about the student of the first record. Further records add facts: runs that the student came from
    ("distill"), and fine-tuning runs of teacher and student that say how good they are ("finetune").

    Args:
        records: the page's own run first.
        picture: file name, in the repository, of the loss curves (see `plot_loss_curves`).

    Raises:
        RecordError: there is no record, the first has no student, or two records disagree about a score.
    """
    if not records or records[0].student is None:
        raise RecordError(
            "A card needs a record with a student first; came " + ("one without." if records else "none.")
        )
    student, teacher = records[0].student, _first(r.teacher for r in records)
    provenance = _first(r.provenance for r in records)
    lineage = [r for i, r in enumerate(records) if i == 0 or r.stage == "distill"]
    results = _results(records)
    training = _unique(d for r in lineage for d in r.data if d.role == "train")
    tuning = _unique(d for r in records if r not in lineage for d in r.data if d.role == "train")
    speed = {role: _first(r.speed.get(role) for r in records) for role in ("teacher", "student")}
    method = _first(r.method for r in lineage)
    body = (
        environment()
        .get_template("card.md.j2")
        .render(
            records=records,
            lineage=lineage,
            runs=[r for r in records if any(getattr(r, name) for name in _RUN_FACTS)],
            distilled=any(r.stage == "distill" for r in records),
            known={
                f.name for m in (student, teacher) if m for f in dataclasses.fields(m) if getattr(m, f.name) is not None
            },
            student=student,
            teacher=teacher,
            provenance=provenance,
            pipeline=_pipeline(student),
            smaller=_ratio(teacher and teacher.parameters, student.parameters),
            faster=_faster(speed["teacher"], speed["student"]),
            speed=speed,
            results=results,
            retained=[row for row in results if row["retention"] is not None],
            training=training,
            tuning=tuning,
            evaluation_data=_unique(d for r in records for d in r.data if d.role == "evaluation"),
            training_languages=sorted({code for d in training for code in d.language}),
            method=method,
            picture=picture,
            seed_counts=sorted({len(e.values) for row in results for e in row["scores"].values() if e.values}),
        )
    )
    metadata = _metadata(student, teacher, lineage, results, training, method)
    return f"---\n{metadata}\n---\n\n" + re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"


def _metadata(
    student: ModelFacts,
    teacher: ModelFacts | None,
    lineage: Sequence[Record],
    results: Iterable[dict[str, Any]],
    training: Sequence[DataFacts],
    method: str | None,
) -> str:
    """The YAML of the card. Evaluation sets are in the model index; `datasets` are those trained on."""
    scores = [row["scores"]["student"] for row in results if "student" in row["scores"]]
    base_model = _base_model(student, teacher, lineage)
    languages = student.language or sorted({code for d in training for code in d.language})
    data = ModelCardData(
        language=list(languages) or None,
        license=student.license,
        library_name="transformers",
        pipeline_tag=_pipeline(student),
        base_model=base_model,
        base_model_relation="finetune" if base_model else None,
        datasets=list(dict.fromkeys(d.hub_id for d in training if d.hub_id)) or None,
        tags=["distillation", *([slug(method)] if method else [])],
        metrics=list(dict.fromkeys(one_line(e.metric_type) for e in scores)) or None,
        model_name=one_line(student.name) if scores else None,
        eval_results=[_eval_result(e) for e in scores] or None,
    )
    return data.to_yaml()


def _eval_result(score: Evaluation) -> EvalResult:
    def line(text: str | None) -> str | None:
        return None if text is None else one_line(text)

    return EvalResult(
        task_type=one_line(score.task_type),
        dataset_type=score.dataset_id or slug(score.dataset_name) or "dataset",
        dataset_name=one_line(score.dataset_name),
        dataset_config=line(score.dataset_config),
        dataset_split=line(score.dataset_split),
        dataset_revision=line(score.dataset_revision),
        metric_type=one_line(score.metric_type),
        metric_name=line(score.metric_name),
        metric_value=score.mean,
    )


def _base_model(student: ModelFacts, teacher: ModelFacts | None, lineage: Sequence[Record]) -> str | None:
    """The Hub id of the checkpoint whose weights the student started from."""
    distilled = _first(r.student.id for r in lineage[1:] if r.student)
    if lineage[0].stage == "finetune" and distilled and distilled != student.id:
        return distilled
    copied = any(r.provenance and r.provenance.copied_blocks for r in lineage)
    return (teacher.id or teacher.base_model) if teacher and copied else None


def _results(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A row for each data set, metric and way of fine-tuning: the scores by role, and what they give when compared.

    Scores from fine-tuning runs meet in one row only if the runs had the same hyper-parameters, and are compared only
    if they had the same seeds: anything else would be no retention.
    """
    rows: dict[str, dict[str, Evaluation]] = {}
    for record in records:
        settings = {k: v for k, v in record.hyperparameters.items() if k not in ("seed", "data_seed")}
        for score in record.evaluations:
            what = dataclasses.replace(score, role="student", values={}, value=0.0)
            key = json.dumps(
                [dataclasses.asdict(what), settings if record.stage == "finetune" else None], sort_keys=True
            )
            row = rows.setdefault(key, {})
            row[score.role] = _merged(row[score.role], score) if score.role in row else score
    return [{"scores": row, **_comparison(row)} for row in rows.values()]


def _merged(old: Evaluation, new: Evaluation) -> Evaluation:
    clash = [seed for seed in old.values.keys() & new.values.keys() if old.values[seed] != new.values[seed]]
    if clash or old.value != new.value:
        raise RecordError(
            f"Two records give different {new.metric_type} of the {new.role} on {new.dataset_name}: "
            f"{old.values or old.value} and {new.values or new.value}. Pass only the records of one set of runs."
        )
    return dataclasses.replace(old, values={**old.values, **new.values})


def _comparison(row: dict[str, Evaluation]) -> dict[str, Any]:
    teacher, student = row.get("teacher"), row.get("student")
    any_score = next(iter(row.values()))
    seeds = {role: sorted(score.values) for role, score in row.items() if score.values}
    alike = len({tuple(sorted(score.values)) for score in row.values()}) == 1
    texts = [", ".join(map(str, s)) if alike else f"{role}: {', '.join(map(str, s))}" for role, s in seeds.items()]
    comparison = {
        "about": any_score,
        "seeds": "; ".join(dict.fromkeys(texts)),
        "difference": None,
        "retention": None,
    }
    if teacher and student and set(teacher.values) == set(student.values):
        comparison["difference"] = student.mean - teacher.mean
        if any_score.higher_is_better and teacher.mean > 0:
            comparison["retention"] = student.mean / teacher.mean
    return comparison


def _faster(teacher: SpeedFacts | None, student: SpeedFacts | None) -> float | None:
    """Only times taken under the same conditions are compared."""
    if teacher is None or student is None:
        return None
    same = dataclasses.replace(teacher, ms_per_batch=0) == dataclasses.replace(student, ms_per_batch=0)
    return _ratio(teacher.ms_per_batch, student.ms_per_batch) if same else None


def _ratio(teacher: float | None, student: float | None) -> float | None:
    return teacher / student if teacher and student else None


def _pipeline(model: ModelFacts) -> str | None:
    name = model.class_name or ""
    return next((task for ending, task in _PIPELINES.items() if name.endswith(ending)), None)


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _unique(values: Iterable[DataFacts]) -> list[DataFacts]:
    return list(dict.fromkeys(values))
