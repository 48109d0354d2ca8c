"""The model card: records in, the text of README.md out. Here facts are put in order; `model_card/` holds the words."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from distil_trainer.comparison import comparable_settings, compare_scores, what_was_measured
from distil_trainer.errors import RecordError
from distil_trainer.kept import insert_kept
from distil_trainer.markdown import environment, one_line, slug
from distil_trainer.record import DataFacts, Evaluation, ModelFacts, Provenance, Record, SpeedFacts

# Which pipeline a head belongs to. The last line is a model without a head.
_PIPELINES = {
    "ForMaskedLM": "fill-mask",
    "BertForPreTraining": "fill-mask",  # and next-sentence prediction
    "ForTokenClassification": "token-classification",
    "ForSequenceClassification": "text-classification",
    "ForQuestionAnswering": "question-answering",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "Model": "feature-extraction",
}
# A run that has none of these has no section.
_RUN_FACTS = (
    *("alignments", "task_weight", "never_trained", "hyperparameters", "arguments", "versions", "hardware", "date"),
    *("seconds", "steps", "tokens", "peak_memory_gib", "emissions", "command", "git_commit", "seeds", "loss_curve"),
)
_TABLE_ROWS, _FEW_ROWS = 10, 3  # of the table of losses


def render_card(
    *records: Record,
    picture: str | None = None,
    layer_map: str | None = None,
    kept: Mapping[str, str] | None = None,
) -> str:
    """The text of README.md, metadata and body. The same records give the same text.

    The card is about the student of the first record. Further records add facts: runs that the student came from
    ("distill", "adapt", and "prepare" for its text), and fine-tuning runs of teacher and student that say how good they
    are ("finetune").

    Args:
        records: the page's own run first.
        picture: file name, in the repository, of the loss curves (see `plot_loss_curves`).
        layer_map: file name, in the repository, of the map of layers (see `plot_layer_maps`).
        kept: Markdown written by hand, by the name of its section (see `kept_sections`); it is not escaped.

    Raises:
        RecordError: there is no record, the first has no student, or two records disagree about a score.
    """
    if not records or records[0].student is None:
        raise RecordError(
            "A card needs a record with a student first; came " + ("one without." if records else "none.")
        )
    records = tuple(record for i, record in enumerate(records) if record not in records[:i])
    student, teacher = records[0].student, _first(r.teacher for r in records)
    assert student is not None
    # How the student came about is told by its own distillation, which need not be the first record.
    made_by = _first(r for r in records if r.stage == "distill")
    provenance = made_by.provenance if made_by else None
    lineage = [r for i, r in enumerate(records) if i == 0 or r.stage != "finetune"]
    results = compare_scores(records)
    # The text that was prepared is told by the runs that trained on it, all of it or a part.
    training = _unique(d for r in lineage if r.stage != "prepare" for d in r.data if d.role != "evaluation")
    tuning = _unique(d for r in records if r not in lineage for d in r.data if d.role != "evaluation")
    speed = _speed_rows(*(_first(r.speed.get(role) for r in records) or () for role in ("teacher", "student")))
    method = _first(r.method for r in lineage)
    body = (
        environment()
        .get_template("card.md.j2")
        .render(
            records=records,
            lineage=lineage,
            runs=[r for r in records if any(getattr(r, name) for name in _RUN_FACTS)],
            distilled=made_by is not None,
            known={
                f.name for m in (student, teacher) if m for f in dataclasses.fields(m) if getattr(m, f.name) is not None
            },
            student=student,
            teacher=teacher,
            others=made_by.other_teachers if made_by else (),
            provenance=provenance,
            never_trained=made_by.never_trained if made_by is records[0] else None,
            pipeline=_pipeline(student),
            smaller=_ratio(teacher and teacher.parameters, student.parameters),
            faster=_faster(speed),
            speed=speed,
            results=results,
            retained=[row for row in results if row["retention"] is not None],
            training=training,
            tuning=tuning,
            tuned_alike=_tuned_alike(records),
            taught=sorted({role for r in records for role in r.taught}),
            taught_by_all=any(r.taught_by == "all_seeds" for r in records),
            taught_arguments=any(r.taught_arguments for r in records),
            evaluation_data=_unique(d for r in records for d in r.data if d.role == "evaluation"),
            training_languages=sorted({code for d in training for code in d.language}),
            method=method,
            picture=picture,
            layer_map=layer_map,
            curves=[table for r in records if r.stage == "distill" and (table := _loss_table(r))["rows"]],
            library=_first(r.versions.get("distil_trainer") for r in records),
            seed_counts=sorted({len(e.values) for row in results for e in row["scores"].values() if e.values}),
        )
    )
    metadata = _metadata(student, teacher, made_by, lineage, results, training, method)
    page = f"---\n{metadata}\n---\n\n" + re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"
    return insert_kept(page, kept or {})


def _metadata(
    student: ModelFacts,
    teacher: ModelFacts | None,
    made_by: Record | None,
    lineage: Sequence[Record],
    results: Iterable[dict[str, Any]],
    training: Sequence[DataFacts],
    method: str | None,
) -> str:
    """The YAML of the card. Evaluation sets are in the model index; `datasets` are those trained on."""
    # A page says one value for a metric of a data set: the first, which is the one that the table shows first.
    scores: dict[Any, Evaluation] = {}
    for row in results:
        if score := row["scores"].get("student"):
            scores.setdefault(what_was_measured(score), score)
    tags = [tag for tag in ("distillation" if made_by else "", slug(method or "")) if tag]
    emissions = sum(r.emissions.co2_grams for r in lineage if r.emissions)
    base_model = _base_model(student, teacher, made_by.provenance if made_by else None, lineage)
    is_adapter = (student.class_name or "").startswith("Peft")
    languages = student.language or sorted({code for d in training for code in d.language})
    data = ModelCardData(
        language=list(languages) or None,
        license=student.license,
        license_name=student.license_name,
        license_link=student.license_link,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag=_pipeline(student),
        base_model=base_model,
        base_model_relation=("adapter" if is_adapter else "finetune") if base_model else None,
        datasets=list(dict.fromkeys(d.hub_id for d in training if d.hub_id)) or None,
        tags=tags or None,
        metrics=list(dict.fromkeys(one_line(e.metric_type) for e in scores.values())) or None,
        model_name=one_line(student.name) if scores else None,
        eval_results=[_eval_result(e) for e in scores.values()] or None,
        co2_eq_emissions={"emissions": emissions, "source": "codecarbon"} if emissions else None,
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


def _base_model(
    student: ModelFacts, teacher: ModelFacts | None, provenance: Provenance | None, lineage: Sequence[Record]
) -> str | None:
    """The Hub id of the checkpoint whose weights the student started from."""
    distilled = _first(r.student.id for r in lineage[1:] if r.student)
    if lineage[0].stage == "finetune" and distilled and distilled != student.id:
        return distilled
    return (teacher.id or teacher.base_model) if teacher and provenance and provenance.copied_blocks else None


def _tuned_alike(records: Sequence[Record]) -> bool:
    settings = [comparable_settings(record) for record in records if record.stage == "finetune"]
    return all(one == settings[0] for one in settings) and not any(record.taught_arguments for record in records)


def _speed_rows(teacher: Sequence[SpeedFacts], student: Sequence[SpeedFacts]) -> list[dict[str, SpeedFacts | None]]:
    """A row for each size of batch that the student was measured with, and the teacher under the same conditions.

    All rows are of the conditions of the largest batch, so that one sentence can name them.
    """

    def conditions(facts: SpeedFacts) -> SpeedFacts:
        return dataclasses.replace(facts, ms_per_batch=0, batch_size=0)

    def like(ours: SpeedFacts) -> SpeedFacts | None:
        return _first(t for t in teacher if dataclasses.replace(t, ms_per_batch=ours.ms_per_batch) == ours)

    ordered = sorted(student, key=lambda facts: facts.batch_size)
    alike = [facts for facts in ordered if conditions(facts) == conditions(ordered[-1])]
    return [{"student": ours, "teacher": like(ours)} for ours in alike]


def _faster(rows: Sequence[Mapping[str, SpeedFacts | None]]) -> float | None:
    """Of the largest batch: only times taken under the same conditions are compared."""
    pairs = [(row["teacher"], row["student"]) for row in rows if row["teacher"] and row["student"]]
    return _ratio(pairs[-1][0].ms_per_batch, pairs[-1][1].ms_per_batch) if pairs else None


def _loss_table(record: Record) -> dict[str, Any]:
    """The training losses, and that of evaluation, by step: at evaluations, or where those are few evenly spread."""
    curve = {name: dict(points) for name, points in record.loss_curve.items() if not name.startswith("eval_loss/")}
    evaluated, logged = set(curve.get("eval_loss", ())), sorted({step for points in curve.values() for step in points})
    last = len(logged) - 1
    spread = {logged[round(i * last / (_TABLE_ROWS - 1))] for i in range(_TABLE_ROWS) if logged}
    steps = sorted(evaluated if len(evaluated) >= _FEW_ROWS else evaluated | spread)
    names = sorted(curve, key=lambda name: (name == "eval_loss", name))
    rows = [(step, [curve[name].get(step) for name in names]) for step in steps]
    return {"names": names, "rows": rows, "best": record.best_step}


def _ratio(teacher: float | None, student: float | None) -> float | None:
    return teacher / student if teacher and student else None


def _pipeline(model: ModelFacts) -> str | None:
    name = model.class_name or ""
    task = next((task for ending, task in _PIPELINES.items() if name.endswith(ending)), None)
    if task == "feature-extraction" and (model.vocabulary is None or re.search("Head|^Peft", name)):
        return None  # it does not read text, has heads that no pipeline knows, or is an adapter
    return task


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _unique(values: Iterable[DataFacts]) -> list[DataFacts]:
    return list(dict.fromkeys(values))
