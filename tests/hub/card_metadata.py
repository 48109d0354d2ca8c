"""The metadata on top of a README.md, and a part of the rules that the Hub has for it."""

import json
import re
from typing import Any

import yaml

LANGUAGE = re.compile(r"[a-z]{2,3}|multilingual|code")
LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
REQUIRED = {"task": ("type",), "dataset": ("type", "name")}


def front_matter(readme: str) -> Any:
    """The YAML between the first two lines of three dashes; None without it. Raises yaml.YAMLError."""
    match = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*$", readme, re.DOTALL | re.MULTILINE)
    return yaml.safe_load(match[1]) if match else None


def card_data(readme: str) -> dict[str, Any]:
    """The metadata as JSON has it, empty where there is none that can be read."""
    try:
        metadata = front_matter(readme)
    except yaml.YAMLError:
        return {}
    return json.loads(json.dumps(metadata, default=str)) if isinstance(metadata, dict) else {}


def _strings(metadata: dict[str, Any], key: str) -> list[Any]:
    value = metadata.get(key, [])
    return value if isinstance(value, list) else [value]


def check_metadata(readme: str) -> tuple[list[str], list[str]]:
    """Errors and warnings."""
    try:
        metadata = front_matter(readme)
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {str(error).splitlines()[0]}"], []
    if metadata is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(metadata, dict):
        return ["The metadata must be a mapping"], []
    errors = [
        f'"language[{i}]" with value "{language}" is not valid. It must be an ISO 639-1, 639-2 or 639-3 code (two/three'
        ' letters), or a special value like "code", "multilingual".'
        for i, language in enumerate(_strings(metadata, "language"))
        if not (isinstance(language, str) and LANGUAGE.fullmatch(language))
    ]
    errors += [
        f'"license" must be one of the known licenses, got "{name}"'
        for name in _strings(metadata, "license")
        if not (isinstance(name, str) and LICENSE.fullmatch(name))
    ]
    for key in ("datasets", "base_model", "tags", "metrics"):
        values = enumerate(_strings(metadata, key))
        errors += [f'"{key}[{i}]" must be a string' for i, value in values if not isinstance(value, str) or not value]
    return errors + _index_errors(metadata.get("model-index", [])), []


def _index_errors(index: list[dict[str, Any]]) -> list[str]:
    errors = []
    for i, model in enumerate(index):
        if not model.get("name"):
            errors.append(f'"model-index[{i}].name" is required')
        for j, result in enumerate(model.get("results", [])):
            place = f"model-index[{i}].results[{j}]"
            wanted = [
                (f"{place}.{part}.{key}", result.get(part, {}), key) for part in REQUIRED for key in REQUIRED[part]
            ]
            for k, metric in enumerate(result.get("metrics", [])):
                wanted += [(f"{place}.metrics[{k}].{key}", metric, key) for key in ("type", "value")]
            errors += [f'"{name}" is required' for name, found, key in wanted if found.get(key) is None]
    return errors
