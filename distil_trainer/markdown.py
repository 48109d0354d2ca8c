"""Markdown that facts cannot break out of: the escaping, and the environment that the templates of the card run in.

Whatever a template prints is escaped by the environment (`finalize`), unless it is `_Raw`: there is no place where
escaping can be forgotten.
"""

import importlib.resources
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import jinja2

from distil_trainer.errors import RecordError
from distil_trainer.metadata import language_name
from distil_trainer.record import Evaluation

_SPECIAL = {**{c: "\\" + c for c in "\\`*_[]|~$"}, "&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
# Characters that are not text, and those that turn the writing direction of what follows.
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\u061c]")


class _Raw(str):
    """Markdown that was made here and is not escaped again."""

    __slots__ = ()


def escape_markdown(text: str) -> str:
    """`text` as one line of Markdown that shows it literally: no markup, HTML, table cell, link or mention."""
    text = "".join(_SPECIAL.get(c, c) for c in one_line(text))
    text = re.sub(
        r"(?i)(?<=http)(s?):(?=//)|(?<=www)\.", lambda m: f"{m[1] or ''}&#58;" if ":" in m[0] else "&#46;", text
    )
    numbered = re.sub(r"^(\d+)(?=[.)](\s|$))", r"\1\\", text)
    return re.sub(r"^(?=#{1,6}(\s|$)|[+-](\s|$)|[=-]{2,}$)", r"\\", numbered)


def one_line(text: str) -> str:
    return " ".join(_INVISIBLE.sub("", text).split())


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")


# The filters of the templates. Each takes None for "not known" and gives it back.


def _code(value: object) -> str:
    """`value` in backticks; plain where backticks could be broken out of."""
    text = one_line(value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False))
    return text if not text or any(mark in text for mark in ("`", "|", "<!--")) else _Raw(f"`{text}`")


def _fence(text: str, language: str) -> str:
    """A block of code. The fence is longer than any run of backticks in it."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    lines = _INVISIBLE.sub("", text).strip().splitlines()  # of every kind that Python knows
    text = "\n".join(lines).replace("<!--", "<! --")  # no marker of text by hand
    return _Raw(f"{ticks}{language}\n{text}\n{ticks}")


def _link(text: str, url: str | None) -> str:
    if url is None or not re.match(r"https?://", url):
        return text
    return _Raw(f"[{escape_markdown(text)}]({quote(url, safe=':/?#&=%@+,;~')})")


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:,}"


def _decimals(value: float | None, digits: int = 2) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%" if abs(value) >= 0.0005 or value == 0 else "less than 0.1%"


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


def environment() -> jinja2.Environment:
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
        "quoted": lambda text: _Raw(json.dumps(one_line(text), ensure_ascii=False).replace("<", r"\u003c")),
        "short": lambda text: text[:7] if re.fullmatch("[0-9a-f]{40}", text) else text,
        "significant": lambda value: f"{value:.4g}",
        "language": language_name,
        "url": lambda name: _Raw(quote(name, safe="")),
    }
    environment.filters.update(filters)
    environment.globals["keep"] = lambda name: _Raw(f"<!-- keep: {name} -->\n<!-- /keep: {name} -->")
    return environment
