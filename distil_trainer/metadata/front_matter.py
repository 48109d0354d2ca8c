"""The YAML at the top of a card, read strictly: what is not plain, or stands there twice, is a problem.

A problem is the dotted key (or the line of the card) and the line of the error's message.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from distil_trainer.errors import CardError
from distil_trainer.plain_yaml import PlainLoader

Problem = tuple[str, str]

QUOTES = "Put text in quotes: without them, YAML reads 1.0, no and 2024-01-31 as something else."
_FRONT_MATTER = re.compile(r"---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


class _Loader(PlainLoader):
    """The plain loader. It remembers the keys that came twice: YAML keeps the last of them."""

    instead = "Write the value itself, and cast numpy scalars"

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[yaml.ScalarNode] = []

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                self.repeated.append(key)
            seen.add(key.value)
        return node


def read_front_matter(card: str) -> tuple[dict[str, Any], list[Problem]]:
    """The YAML at the top of `card`, and what in it is not plain: keys that come twice, null, dates, NaN.

    Raises:
        CardError: there is none, or it cannot be read.
    """
    front = _FRONT_MATTER.match(card)
    if front is None:
        opened = re.match(r"---\r?\n", card)
        where, came = ("end of the metadata", ...) if opened else ("line 1", card.partition("\n")[0])
        raise CardError(line(where, "a line `---`", came, "YAML between two such lines is the top of a card."))
    try:
        loader = _Loader(front[1])
        metadata = loader.get_single_data()
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:  # 2026-02-30; [[[[[[...
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 2}" if mark else "metadata"
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        advice = "Text that YAML could take for something else needs quotes."
        raise CardError(f"{where}: expected plain YAML; came this: {problem}. {advice}") from error
    if not isinstance(metadata, dict):
        raise CardError(line("metadata", "a mapping", metadata, "Write `key: value` lines between the two `---`."))
    problems = []
    for key in loader.repeated:
        where = f"line {key.start_mark.line + 2}, {join('', key.value)}"
        problems.append((where, line(where, "every key once", key.value, "Keep one of them.")))
    return metadata, [*problems, *_not_plain(metadata, "")]


def line(where: str, expected: str, came: object, advice: str) -> str:
    return f"{where}: expected {expected}; came {shown(came)}. {'Add it.' if came is ... else advice}"


def shown(value: object) -> str:
    """`value` on one line, cut if long. `...` stands for a key that is missing."""
    try:
        text = "nothing" if value is ... else "null" if value is None else repr(value)
    except ValueError:  # a number of more than 4300 digits
        text = f"a {type(value).__name__} too long to print"
    return text if len(text) <= 80 else f"{text[:77]}..."


def join(where: str, key: object) -> str:
    name = key if isinstance(key, str) and re.fullmatch(r"[\w-]+", key) else shown(key)
    return f"{where}.{name}" if where else name


def _not_plain(value: object, where: str) -> Iterator[Problem]:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                yield join(where, key), line(join(where, key), "a key that is text", key, QUOTES)
            yield from _not_plain(item, join(where, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _not_plain(item, f"{where}[{index}]")
    elif value is None:
        yield where, line(where, "a value", value, "Leave the key out instead.")
    elif isinstance(value, float) and not math.isfinite(value):
        yield where, line(where, "a finite number", value, "Leave out what has no value.")
    elif not isinstance(value, (str, int, float)):
        yield where, line(where, "text, a number, true or false", value, QUOTES)
