"""The rules that the metadata of a model card has to keep.

The rules are those of huggingface/hub-docs at 242f4a1 (2026-08-22): modelcard.md, and in docs/hub model-cards.md,
model-cards-co2.md and repositories-licenses.md. A check takes a value and its dotted key, and yields what is wrong.
"""

import re
from collections.abc import Callable, Collection, Iterator
from difflib import get_close_matches
from typing import Any

from distil_trainer.errors import CardError
from distil_trainer.metadata.front_matter import QUOTES, Problem, join, line, read_front_matter
from distil_trainer.metadata.lists import LICENSES, TASKS, is_language, language_meant
from distil_trainer.record import HUB_ID

Problems = Iterator[Problem]
Check = Callable[[Any, str], Problems]  # of a value at a dotted key; `...` stands for a required one that is missing


def check_metadata(card: str) -> dict[str, Any]:
    """The metadata of `card`, the whole text of a README.md.

    Keys that are not known here are left alone, except that their values are to be plain, like all others.

    Raises:
        CardError: every problem, one a line. Text that cannot be read as YAML is a single problem.
    """
    metadata, problems = read_front_matter(card)
    lines: dict[str, str] = {}
    for where, text in [*problems, *_metadata(metadata)]:
        lines.setdefault(where, text)  # what is said first of a key is the root of what follows
    if lines:
        raise CardError("\n".join(["The Hub would refuse the metadata of this card:", *lines.values()]))
    return metadata


def _one(good: Callable[[Any], object], expected: str, advice: str | Callable[[Any], str]) -> Check:
    def check(value: Any, where: str) -> Problems:
        if not good(value):
            yield where, line(where, expected, value, advice if isinstance(advice, str) else advice(value))

    return check


def _text(pattern: re.Pattern[str], expected: str, advice: str) -> Check:
    return _one(lambda value: isinstance(value, str) and pattern.fullmatch(value), expected, advice)


def _choice(options: Collection[str], expected: str, advice: str) -> Check:
    def meant(value: Any) -> str:
        name = "-".join(value.lower().split()) if isinstance(value, str) else ""
        near = get_close_matches(name, sorted(options), n=1)
        return f"Did you mean '{near[0]}'? {advice}" if near else advice

    return _one(lambda value: isinstance(value, str) and value in options, expected, meant)


def _each(item_check: Check, *, alone: bool = False) -> Check:
    """For a list; with `alone`, also for a value that stands there without one."""

    def check(value: Any, where: str) -> Problems:
        if isinstance(value, list) and value:
            for index, item in enumerate(value):
                yield from item_check(item, f"{where}[{index}]")
        elif alone and not isinstance(value, list):
            yield from item_check(value, where)
        else:
            advice = "Leave the key out instead." if value == [] else "Write a line `- ...` for each."
            yield where, line(where, "a list that is not empty", value, advice)

    return check


def _or_empty(check: Check) -> Check:
    """For a list that the Hub takes empty, too."""
    return lambda value, where: iter(()) if value == [] else check(value, where)


def _keys(required: dict[str, Check], optional: dict[str, Check]) -> Check:
    def check(value: Any, where: str) -> Problems:
        if not isinstance(value, dict):
            yield where, line(where, "a mapping", value, "Write `key: value` lines below the key.")
            return
        for key, inner in {**required, **optional}.items():
            if key in required or key in value:
                yield from inner(value.get(key, ...), join(where, key))

    return check


def _code_meant(value: Any) -> str:
    if value is False:
        return "Write 'no' in quotes: without them it is false."
    code = language_meant(value) if isinstance(value, str) else None
    return f"Write '{code}'." if code else "See https://huggingface.co/languages."


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_ANY_TEXT = _text(re.compile(r"(?s).*\S.*"), "text that is not empty", QUOTES)
_HUB_ID = _text(
    HUB_ID, "a Hub id such as namespace/name", "A local path is none: leave it out, or give the model's id."
)
_LANGUAGE = _one(
    lambda value: isinstance(value, str) and is_language(value),
    "an ISO 639-1 or 639-3 code, 'multilingual' or 'code'",
    _code_meant,
)
_LICENSE = _choice(LICENSES, "a licence of the Hub", "Others are 'other', with a license_name and a license_link.")
_LICENSE_TEXTS = {
    "license_name": _text(re.compile(r"[a-z0-9][a-z0-9.-]*"), "a name such as my-license-1.0", "Use a-z, 0-9, - and ."),
    "license_link": _text(
        re.compile(r"LICENSE(\.md)?|https?://\S+"), "LICENSE, LICENSE.md or a URL", "Add such a file."
    ),
}
_RELATIONS = ("adapter", "merge", "quantized", "finetune")
_RELATION = _choice(_RELATIONS, f"one of {', '.join(_RELATIONS)}", "A student copied from its teacher is 'finetune'.")
_GRAMS = _one(lambda value: _is_number(value) and value >= 0, "a number, grams of CO2", "Write it without the unit.")
_EMISSIONS = _keys(
    {"emissions": _GRAMS},
    dict.fromkeys(("source", "training_type", "geographical_location", "hardware_used"), _ANY_TEXT),
)
_SCORE = _one(
    lambda value: _is_number(value) or (isinstance(value, str) and value.strip()),  # the Hub also takes "20.0 ± 1.2"
    "a number",
    "Give the score alone, such as 0.913.",
)
_NEVER = _one(lambda value: False, "no such key", "Remove it: only the Hub may set it.")
_METRIC = _keys(
    {"type": _ANY_TEXT, "value": _SCORE},
    {"name": _ANY_TEXT, "config": _ANY_TEXT, "verified": _NEVER, "verifyToken": _NEVER},
)
_DATASET = _keys({"type": _ANY_TEXT, "name": _ANY_TEXT}, dict.fromkeys(("config", "split", "revision"), _ANY_TEXT))
_RESULT = _keys(
    {"task": _keys({"type": _ANY_TEXT}, {"name": _ANY_TEXT}), "dataset": _DATASET, "metrics": _each(_METRIC)},
    {"source": _keys({"url": _ANY_TEXT}, {"name": _ANY_TEXT})},
)
_MODEL = _keys({"name": _ANY_TEXT, "results": _or_empty(_each(_RESULT))}, {})  # Trainer's own card has none


def _model(model: Any, where: str) -> Problems:
    """Of two scores for one task, data set and metric, a reader cannot tell which holds."""
    yield from _MODEL(model, where)
    results = model.get("results") if isinstance(model, dict) else None
    first: dict[tuple[Any, ...], str] = {}
    for r, result in enumerate(results if isinstance(results, list) else ()):
        if any(_RESULT(result, "")):
            continue  # it is not known what its scores are about
        data = [result["dataset"].get(key) for key in ("type", "config", "split", "revision")]
        for m, metric in enumerate(result["metrics"]):
            place = f"{where}.results[{r}].metrics[{m}]"
            about = (result["task"]["type"], *data, metric["type"], metric.get("name"), metric.get("config"))
            if first.setdefault(about, place) != place:
                expected = f"a score of something else than {first[about]}"
                yield place, line(place, expected, metric["value"], "Keep one, or give each a name or config.")


_KNOWN = _keys(
    {},
    {
        "language": _each(_LANGUAGE, alone=True),
        "license": _each(_LICENSE, alone=True),
        **_LICENSE_TEXTS,
        "library_name": _ANY_TEXT,
        "pipeline_tag": _choice(TASKS, "a task of the Hub", "See https://huggingface.co/tasks."),
        "tags": _each(_ANY_TEXT),
        "metrics": _each(_ANY_TEXT),
        "datasets": _each(_HUB_ID),
        "base_model": _each(_HUB_ID, alone=True),
        "base_model_relation": _RELATION,
        "new_version": _HUB_ID,
        "model-index": _each(_model),
        "widget": _each(_keys({}, {})),
        "co2_eq_emissions": lambda value, where: (_EMISSIONS if isinstance(value, dict) else _GRAMS)(value, where),
    },
)


def _metadata(metadata: dict[str, Any]) -> Problems:
    yield from _KNOWN(metadata, "")
    license = metadata.get("license")
    if license == "other" or (isinstance(license, list) and "other" in license):
        yield from _keys(_LICENSE_TEXTS, {})(metadata, "")
    where, relation, models = "base_model_relation", metadata.get("base_model_relation"), metadata.get("base_model")
    if relation is not None and models is None:
        yield where, line(where, "a base_model beside it", relation, "Add that key, or remove this one.")
    elif relation is not None and (relation == "merge") != (isinstance(models, list) and len(models) > 1):
        yield where, line(where, "'merge' for several models, and only for them", relation, "Correct it or base_model.")
