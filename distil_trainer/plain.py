"""What may stand in a record: plain, finite values of exact types, without access tokens and without local paths."""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distil_trainer.errors import RecordError

TOKEN = re.compile(r"hf_\w{20,}", re.ASCII)
_HALF = re.compile("[\ud800-\udfff]")
_PATH = re.compile(r"(?<![\w./\\])(?:~?/|[A-Za-z]:[\\/]|\\\\)(?:[^\\/\s\"'`<>()=,;]+[\\/]+)*[^\\/\s\"'`<>()=,;]+[\\/]?")


def without_paths(text: str) -> str:
    """`text` with every absolute path (also of Windows, and `~/...`, `file://...`) cut to its last part."""

    def last_part(match: re.Match[str]) -> str:
        parts = [part for part in re.split(r"[\\/]+", match[0]) if part]
        is_home = match[0].rstrip("\\/") == str(Path.home())
        if is_home or (parts[0] in ("home", "Users") and len(parts) == 2):
            return "~"  # the last part would be the user's name
        return parts[-1] if len(parts) > 1 else match[0]

    return _PATH.sub(last_part, text.replace("file://", ""))


class CheckedFields:
    """Base of the dataclasses of a record: each field is checked against its annotation, and made plain."""

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            value = checked(getattr(self, f.name), f.type, f"{type(self).__name__}.{f.name}")
            object.__setattr__(self, f.name, value)


def wrong_value(where: str, expected: str, came: object) -> RecordError:
    return RecordError(f"{where}: expected {expected}; came {came!r} ({type(came).__name__}).")


def checked(value: Any, hint: Any, where: str) -> Any:
    """`value` as plain Python of the type `hint`, or a `RecordError` that names the field."""
    if isinstance(value, np.generic):
        value = value.item()
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):  # only `X | None` is used
        return None if value is None else checked(value, inner[0], where)
    if hint is Any:
        return _plain(value, where)
    if origin is Literal and value in inner:
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        hints = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(hints) == len(value):
            return tuple(checked(v, h, f"{where}[{i}]") for i, (v, h) in enumerate(zip(value, hints, strict=True)))
    if origin is dict and isinstance(value, Mapping):
        return {_key(k, inner[0], where): checked(v, inner[1], f"{where}[{k!r}]") for k, v in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if isinstance(value, Mapping):
            return _build(value, hint, where)
    if hint is str and isinstance(value, str):
        if TOKEN.search(value):
            raise RecordError(f"{where}: holds an access token (hf_...); a record is public. Remove it, and revoke it.")
        if _HALF.search(value):
            raise wrong_value(where, "text that UTF-8 can write, without halves of characters (surrogates)", value)
        return without_paths(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and number and math.isfinite(value):
        return float(value)
    if (hint is int and number and not isinstance(value, float)) or (hint is bool and isinstance(value, bool)):
        return value
    names = {float: "a finite number", str: "text", int: "a whole number", bool: "true or false"}
    expected = " or ".join(map(repr, inner)) if origin is Literal else names.get(hint, str(hint))
    raise wrong_value(where, expected, value)


def _build(value: Mapping[str, Any], cls: type, where: str) -> Any:
    known = {f.name: f for f in fields(cls)}
    if unknown := [name for name in value if name not in known]:
        raise RecordError(f"{where}: unknown field {unknown[0]!r}; expected {', '.join(known)}.")
    required = {n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    if missing := sorted(required - value.keys()):
        raise RecordError(f"{where}: the field {missing[0]!r} is missing.")
    return cls(**{name: checked(v, known[name].type, f"{where}.{name}") for name, v in value.items()})


def _key(key: Any, hint: Any, where: str) -> Any:
    if hint is int and isinstance(key, str) and re.fullmatch(r"-?\d+", key):
        key = int(key)  # JSON has string keys only
    return checked(key, hint, f"{where} key")


def _plain(value: Any, where: str) -> Any:
    """What JSON can hold, for fields whose content is not ours."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(v, where) for v in value]
    if isinstance(value, Mapping):
        return {checked(k, str, f"{where} key"): _plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if value is None or isinstance(value, bool):
        return value
    if type(value) not in (int, float, str):
        raise wrong_value(where, "a plain JSON value", value)
    return checked(value, type(value), where)
