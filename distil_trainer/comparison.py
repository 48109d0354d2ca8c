"""The scores of teacher and student side by side, and what may be said of them when they are compared."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from distil_trainer.errors import RecordError
from distil_trainer.record import WITHOUT_EFFECT, Evaluation, Record

_TUNED_ON = "fine-tuned on"


def what_was_measured(score: Evaluation) -> tuple[Any, ...]:
    """The metric and the data of a score, without whose it is and its value."""
    return tuple(v for k, v in dataclasses.asdict(score).items() if k not in ("role", "values", "value"))


def comparable_settings(record: Record) -> dict[str, Any]:
    """The hyper-parameters that scores of two fine-tuning runs must share to be compared: all but the seeds, and those
    without effect.
    """
    seeds = ("seed", "data_seed")
    return {k: v for k, v in record.hyperparameters.items() if k not in seeds and not WITHOUT_EFFECT.fullmatch(k)}


def _tuned(record: Record) -> dict[str, Any]:
    """What scores of two fine-tuning runs must share to be compared: hyper-parameters, data, who was taught."""
    data = [
        " ".join([d.name, *filter(None, [d.config, d.split]), *([] if d.examples is None else [f"({d.examples:,})"])])
        for d in record.data
        if d.role == "train"
    ]
    others = "".join(f", {name} {value}" for name, value in sorted(record.taught_arguments.items()))
    by_all = " by the teachers of all seeds" if record.taught_by == "all_seeds" else ""
    also = "".join(f", also on {d.name} ({d.examples:,})" for d in record.data if d.role == "unlabelled")
    terms = ", ".join(a.name for a in record.alignments)
    lesson = {"taught": f"{', '.join(record.taught)}{by_all}: {terms}{others}{also}"}
    return (
        comparable_settings(record) | ({_TUNED_ON: "; ".join(data)} if data else {}) | (lesson if record.taught else {})
    )


def compare_scores(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A row for each data set, metric and way of fine-tuning: the scores by role, and what they give when compared.

    Scores from fine-tuning runs meet in one row only if the runs had the same hyper-parameters, training data and
    lessons from the teacher, and are compared only if they had the same seeds: anything else would be no retention.
    Where rows differ by these alone, "settings" names those that differ. It also names the training data where the
    scores are of another data set.
    """
    rows: dict[str, dict[str, Evaluation]] = {}
    settings: dict[str, dict[str, Any]] = {}
    elsewhere: set[str] = set()  # the rows of models that were fine-tuned on other data
    for record in records:
        for score in record.evaluations:
            own = _tuned(record) if record.stage == "finetune" else {}
            key = json.dumps([what_was_measured(score), own], sort_keys=True)
            row = rows.setdefault(key, {})
            row[score.role] = _merged(row[score.role], score) if score.role in row else score
            settings[key] = own
            if _TUNED_ON in own and all(d.name != score.dataset_name for d in record.data if d.role == "train"):
                elsewhere.add(key)
    return [
        {"scores": row, "settings": _telling(key, rows, settings, key in elsewhere), **_comparison(row)}
        for key, row in rows.items()
    ]


def _telling(
    key: str, rows: dict[str, dict[str, Evaluation]], settings: dict[str, dict[str, Any]], is_elsewhere: bool
) -> str:
    """How this row's fine-tuning differs from that of others about the same data and metric, or from the row's data."""
    about = what_was_measured(next(iter(rows[key].values())))
    others = [settings[k] for k, row in rows.items() if what_was_measured(next(iter(row.values()))) == about]
    names = sorted({name for other in others for name in other})
    telling = [name for name in names if any(other.get(name) != others[0].get(name) for other in others)]
    if is_elsewhere and _TUNED_ON not in telling:
        telling.append(_TUNED_ON)
    return ", ".join(f"{name} {settings[key].get(name, 'default')}" for name in telling)


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
