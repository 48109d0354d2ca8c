"""The model card: records in, the text of README.md out. The words are in `model_card/`; here facts are put in order.

Whatever a template prints is escaped by the environment (`finalize`), unless it is `_Raw`: there is no place where
escaping can be forgotten.
"""

import dataclasses
import importlib.resources
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import quote

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from distil_trainer.errors import RecordError
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
_SPECIAL = {**{c: "\\" + c for c in "\\`*_[]|~$"}, "&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
# Characters that are not text, and those that turn the writing direction of what follows.
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


class _Raw(str):
    """Markdown that was made here and is not escaped again."""

    __slots__ = ()


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
        _environment()
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


def escape_markdown(text: str) -> str:
    """`text` as one line of Markdown that shows it literally: no markup, HTML, table cell, link or mention."""
    text = "".join(_SPECIAL.get(c, c) for c in _one_line(text))
    text = re.sub(
        r"(?i)(?<=http)(s?):(?=//)|(?<=www)\.", lambda m: f"{m[1] or ''}&#58;" if ":" in m[0] else "&#46;", text
    )
    numbered = re.sub(r"^(\d+)(?=[.)](\s|$))", r"\1\\", text)
    return re.sub(r"^(?=#{1,6}(\s|$)|[+-](\s|$)|[=-]{2,}$)", r"\\", numbered)


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
        tags=["distillation", *([_slug(method)] if method else [])],
        metrics=list(dict.fromkeys(_one_line(e.metric_type) for e in scores)) or None,
        model_name=_one_line(student.name) if scores else None,
        eval_results=[_eval_result(e) for e in scores] or None,
    )
    return data.to_yaml()


def _eval_result(score: Evaluation) -> EvalResult:
    def line(text: str | None) -> str | None:
        return None if text is None else _one_line(text)

    return EvalResult(
        task_type=_one_line(score.task_type),
        dataset_type=score.dataset_id or _slug(score.dataset_name) or "dataset",
        dataset_name=_one_line(score.dataset_name),
        dataset_config=line(score.dataset_config),
        dataset_split=line(score.dataset_split),
        dataset_revision=line(score.dataset_revision),
        metric_type=_one_line(score.metric_type),
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


def _one_line(text: str) -> str:
    return " ".join(_INVISIBLE.sub("", text).split())


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")


# The filters of the templates. Each takes None for "not known" and gives it back.


def _code(value: object) -> str:
    """`value` in backticks; plain where backticks could be broken out of."""
    text = _one_line(value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False))
    return text if "`" in text or "|" in text or not text else _Raw(f"`{text}`")


def _fence(text: str, language: str) -> str:
    """A block of code. The fence is longer than any run of backticks in it."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return _Raw(f"{ticks}{language}\n{_INVISIBLE.sub('', text).strip()}\n{ticks}")


def _link(text: str, url: str | None) -> str:
    if url is None or not re.match(r"https?://", url):
        return text
    return _Raw(f"[{escape_markdown(text)}]({quote(url, safe=':/?#&=%@+,;~')})")


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:,}"


def _decimals(value: float | None, digits: int = 2) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _megabytes(value: int | None) -> str | None:
    return None if value is None else f"{value / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _score(score: Evaluation | None) -> str:
    if score is None:
        return ""
    return f"{score.mean:.3f}" if score.sd is None else f"{score.mean:.3f} ± {score.sd:.3f}"


def _environment() -> jinja2.Environment:
    def read(name: str) -> str:
        return importlib.resources.files("distil_trainer.model_card").joinpath(name).read_text(encoding="utf-8")

    def finalize(value: object) -> str:
        if value is None or isinstance(value, jinja2.Undefined):
            raise RecordError("The template of the card prints a fact that is not known; it must leave it out.")
        return value if isinstance(value, _Raw) else escape_markdown(str(value))

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read),
        finalize=finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # this is Markdown: `finalize` escapes
    )
    filters: dict[str, Callable[..., Any]] = {
        "code": _code,
        "fence": _fence,
        "link": _link,
        "number": _number,
        "decimals": _decimals,
        "percent": _percent,
        "megabytes": _megabytes,
        "duration": _duration,
        "score": _score,
        "quoted": lambda text: _Raw(json.dumps(_one_line(text), ensure_ascii=False)),
        "url": lambda name: _Raw(quote(name, safe="")),
    }
    environment.filters.update(filters)
    return environment
