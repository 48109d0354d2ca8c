"""Reads YAML into frozen dataclasses, strictly: unknown keys, wrong types and secrets are errors that say where."""

import re
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from distil_trainer.errors import DistilTrainerError, RecipeError
from distil_trainer.plain_yaml import PlainLoader
from distil_trainer.record import REVISION

T = TypeVar("T")

MAX_BYTES = 200_000  # of one file
MAX_DIGITS = 100  # of a number

_SCALARS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
_KINDS = {**_SCALARS, list: "a list", dict: "a mapping"}
_EXPONENT = re.compile(r"([-+]?)(\d+\.?\d*|\.\d+)[eE]([-+]?\d+)")
_SECRET_KEY = re.compile(r"(^|_)(token|password|secret|api_key)$")
_SECRET_VALUE = re.compile(r"hf_[A-Za-z0-9]{20,}")


class PlacedError(RecipeError):
    """A problem with the value at a dotted key; the loader adds the file's name, or the override's text."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}" if where else problem)
        self.where, self.problem = where, problem


def load_recipe(cls: type[T], path: str | PathLike[str], overrides: Sequence[str] = ()) -> T:
    """The YAML file at `path` as an instance of the dataclass `cls`.

    Types are taken literally: text is no number and a bool is no int; a whole number is fine where a number is wanted.
    Lists become tuples where the field is one. `null` is accepted only where the field can be None.

    Args:
        cls: a frozen keyword-only dataclass; its fields may be dataclasses, tuples, lists, dicts, unions, Literals.
        path: the file, plain YAML of at most `MAX_BYTES`, without tags. Its key `extends` names a recipe
            to start from (`read_tree`).
        overrides: `"a.b=value"`, applied in turn after the file. The value is read as YAML, except that `2e-5`, which
            is text to YAML 1.1, is a number here. Text that looks like something else needs quotes that the
            shell leaves in: `name='"1e5"'`. A list is replaced as a whole: `alignments=[{...}]`.

    Raises:
        RecipeError: naming the file (or the override), the dotted key, what was expected, what came.
    """
    tree = read_tree(path)
    origins: dict[str, str] = {}
    for override in overrides:
        _apply(tree, override, origins)
    try:
        _refuse_secrets(tree, "")
        return convert(tree, cls, "")
    except PlacedError as problem:
        parts = problem.where.split(".")
        places = [".".join(parts[:k]) for k in range(len(parts), 0, -1)]
        origin = next((origins[place] for place in places if place in origins), str(path))
        raise RecipeError(f"{origin}: {problem}") from problem


def convert(value: Any, hint: Any, where: str) -> Any:
    """`value`, as YAML gives it, as the type `hint`; `where` is its dotted key. Raises `PlacedError`."""
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, hint, where)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        _refuse(value, hint, where)
    if isinstance(origin, type) and is_dataclass(origin):
        return _convert_dataclass(value, origin, where)
    if isinstance(origin, type) and issubclass(origin, Enum):
        return value if value in [member.value for member in origin] else _refuse(value, hint, where)
    if origin in (list, tuple) and isinstance(value, list):
        inner = arguments[0] if arguments else Any
        return origin(convert(item, inner, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        check_text_keys(value, where)
        inner = arguments[1] if arguments else Any
        return {key: convert(item, inner, join(where, key)) for key, item in value.items()}
    if origin is float and type(value) is int:
        return float(value)
    return value if type(value) is origin and origin in _SCALARS else _refuse(value, hint, where)


def require(holds: bool, key: str, expected: str, came: object) -> None:
    """Refuses the value of `key` in the dataclass that is being made, unless the condition holds."""
    if not holds:
        raise PlacedError(key, f"expected {expected}; came {came!r}.")


def require_revision(key: str, revision: str | None) -> None:
    """Refuses what can be no branch, tag or commit."""
    is_one = revision is None or bool(REVISION.fullmatch(revision))
    require(is_one, key, "a branch, tag or commit", revision)


def join(where: str, key: str) -> str:
    """The dotted key of `key` inside `where`."""
    return f"{where}.{key}" if where else key


def check_text_keys(value: dict[Any, Any], where: str) -> None:
    """Refuses keys that YAML did not read as text (`1:`, `no:`)."""
    for key in value:
        if not isinstance(key, str):
            raise PlacedError(where, f"keys should be text; came {_came(key)}. Put it in quotes.")


def refuse_unknown(key: str, known: Iterable[str], where: str) -> NoReturn:
    """Raises for an unknown `key` of the section `where`, naming the nearest known one."""
    names = sorted(known)
    near = get_close_matches(key, names, n=1, cutoff=0.5)
    raise PlacedError(
        join(where, key), f"unknown key. Did you mean {near[0]}?" if near else f"unknown key. Known: {names}"
    )


def _convert_dataclass(value: Any, cls: type, where: str) -> Any:
    if not isinstance(value, dict):
        raise PlacedError(where, f"expected a mapping with keys of {cls.__name__}; came {_came(value)}.")
    check_text_keys(value, where)
    known, hints = {field.name: field for field in fields(cls)}, get_type_hints(cls)
    for key in value:
        if key not in known:
            refuse_unknown(key, known, where)
    no_default = [name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in no_default if name not in value]
    if missing:
        raise PlacedError(where, f"missing {', '.join(missing)}: required, and without a default.")
    values = {key: convert(item, hints[key], join(where, key)) for key, item in value.items()}
    try:
        return cls(**values)
    except PlacedError as problem:  # a check of the dataclass itself that knows the key
        raise PlacedError(join(where, problem.where) if problem.where else where, problem.problem) from problem
    except DistilTrainerError as error:
        raise PlacedError(where, str(error)) from error


def _convert_union(value: Any, members: tuple[Any, ...], hint: Any, where: str) -> Any:
    if value is None and type(None) in members:
        return None
    if any(isinstance(member, type) and issubclass(member, Enum) for member in members):
        members = tuple(member for member in members if member is not str)  # the text is one of the Enum's values
    members = tuple(member for member in members if member is not type(None))
    if len(members) == 1:
        return convert(value, members[0], where)  # its own message is the better one
    for member in members:
        try:
            return convert(value, member, where)
        except PlacedError:
            continue
    return _refuse(value, hint, where)


def _refuse(value: Any, hint: Any, where: str) -> NoReturn:
    advice = ""
    wanted = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if isinstance(value, str) and {int, float} & set(wanted):
        advice = _number_advice(value)
    elif isinstance(value, bool):
        advice = " YAML reads yes, no, on and off as true and false: put a word in quotes."
    raise PlacedError(where, f"expected {_describe(hint)}; came {_came(value)}.{advice}")


def _number_advice(text: str) -> str:
    """What to write for a number that came as text: YAML 1.1 wants a dot and a signed exponent."""
    if match := _EXPONENT.fullmatch(text.strip()):
        sign, digits, exponent = match.groups()
        whole, _, decimals = digits.partition(".")
        return f" Write {sign}{whole or '0'}.{decimals or '0'}e{int(exponent):+d}: YAML takes {text} for text."
    return " Write it without quotes." if re.fullmatch(r"\s*[-+]?[\d.]+\s*", text) else ""


def _describe(hint: Any) -> str:
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        enums = any(isinstance(member, type) and issubclass(member, Enum) for member in arguments)
        return " or ".join(_describe(member) for member in arguments if not (enums and member is str))
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments)) if len(arguments) > 1 else str(arguments[0]).lower()
    if isinstance(origin, type) and issubclass(origin, Enum):
        return "one of " + ", ".join(str(member.value) for member in origin)
    if origin in (list, tuple):
        return "a list" + (f" of {_describe(arguments[0])} each" if arguments else "")
    return _KINDS.get(origin, getattr(origin, "__name__", str(origin)))


def _came(value: Any) -> str:
    if value is None:
        return "null (nothing)"
    shown = repr(value)
    return f"{shown[:57] + '...' if len(shown) > 60 else shown} ({_KINDS.get(type(value), type(value).__name__)})"


class _Loader(PlainLoader):
    """The plain loader, with aliases, and without its habit of keeping the last of two equal keys."""

    takes_aliases = True

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node: yaml.ScalarNode = super().compose_scalar_node(anchor)
        if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
            problem = f"a number of more than {MAX_DIGITS} digits"
            raise yaml.composer.ComposerError(None, None, problem, node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return node


def _parse(text: str, fail: Callable[[str], RecipeError]) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise fail(f"{place}this is not valid YAML: {error.problem}.") from error
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:  # a date that does not exist
        raise fail(f"this is not valid YAML: {error}.") from error


def read_tree(path: str | PathLike[str]) -> dict[Any, Any]:
    """The file's mapping, put over that of the file it `extends` (a path relative to it), if it says so.

    Mappings are merged key by key; lists and everything else are replaced.
    """
    tree = _read(path)
    below = [Path(path)]
    while "extends" in tree:
        base = tree.pop("extends")
        if not isinstance(base, str) or "\0" in base:
            raise RecipeError(f"{below[-1]}: extends: expected the path of another recipe; came {_came(base)}.")
        below.append(below[-1].parent / base)
        if len({file.resolve() for file in below}) < len(below):
            raise RecipeError(f"{path}: extends: {below[-1]} is extended by itself. Take one extends out.")
        tree = _merged(_read(below[-1]), tree)
    return tree


def _merged(base: Any, over: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return base | {key: _merged(base.get(key), value) for key, value in over.items()}


def _read(path: str | PathLike[str]) -> dict[Any, Any]:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode()
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: expected UTF-8 text; byte {error.start} is not.") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        told = getattr(error, "strerror", None) or error
        raise RecipeError(f"{path}: cannot be read: {told}. Give the path of a recipe's YAML file.") from error
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{path}: expected a recipe of at most {MAX_BYTES:,} bytes; came more. Give another file.")
    tree = _parse(text, lambda message: RecipeError(f"{path}: {message}"))
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: expected a mapping (key: value); came {_came(tree)}.")
    return tree


def _apply(tree: dict[Any, Any], override: str, origins: dict[str, str]) -> None:
    """Puts one `a.b=value` into the tree; `origins` remembers which keys it made."""
    source = f"override {override!r}"
    if _SECRET_VALUE.search(override) or _SECRET_KEY.search(override.partition("=")[0]):
        source = f"override {override.partition('=')[0]!r}"
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"{source}: expected key=value, such as training.seed=1.")
    value = _parse(text, lambda message: RecipeError(f"{source}: {message}"))
    if isinstance(value, str) and _EXPONENT.fullmatch(text.strip()):
        value = float(text)
    here = tree
    for depth, key in enumerate(keys[:-1], start=1):
        if here.get(key) is None:
            here[key] = {}
            origins[".".join(keys[:depth])] = source
        here = here[key]
        if not isinstance(here, dict):
            raise RecipeError(
                f"{source}: {'.'.join(keys[:depth])} is {_came(here)}, with no keys inside. Give it as a whole."
            )
    here[keys[-1]] = value
    origins[".".join(keys)] = source


def _refuse_secrets(value: Any, where: str) -> None:
    """A recipe is published with its results, so it holds no secrets. The message never prints the value."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, str) and _SECRET_KEY.search(key):
                raise PlacedError(
                    join(where, key), "secrets do not belong in a recipe: log in with `hf auth login` instead."
                )
            _refuse_secrets(item, join(where, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_secrets(item, f"{where}[{index}]")
    elif isinstance(value, str) and _SECRET_VALUE.search(value):
        raise PlacedError(
            where, "this looks like a Hugging Face token: take it out, revoke it, and log in with `hf auth login`."
        )
