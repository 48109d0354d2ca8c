"""Code-entity recognition: which words of a docstring's prose name a parameter, a class, a function or a constant.

The labels come from the source itself (distant supervision), by these rules:

- PARAM  a parameter of the documented function, or a parameter or annotated field of the class it belongs to.
- CLASS  a class of the module, of its package or of the language (`str`, `ValueError`), or what `:class:` marks.
- FUNC   a function or method of the module, of its package or of the language, or what `:func:`, `:meth:` mark.
- CONST  a string value ("mean") written in quotes that is a string of the module's code too, or an UPPER_CASE name
  assigned at the top of a module of the package.
  None, True and False are not labelled: they are always spelled the same, so there is nothing to recognise.

Many parameters are called like English words (`copy`, `order`, `name`, `a`), so a word counts as a mention when

1. the author marked it: back-ticks, a role, asterisks, quotation marks around one word, or
2. it does not look like English: an underscore inside, CamelCase, UPPER_CASE, or a single letter that is a parameter
   ("the graph G"; not a, A, I); or
3. it is a parameter followed by `=`, or by "is" and a constant ("if copy is True"); or
4. it is a capitalised class of this very module ("a Series") and does not open a sentence; or
5. it is short or capitalised, and is marked elsewhere in the same paragraph ("a matrix `x`. When x is ...").

A name takes the first of these that knows it: the role; the documented signature; classes, functions and constants of
the module; of the package; of the language. The mark-up is removed before the model sees the words (see `prose.py`).
A paragraph that marks a word which nothing explains, or holds an unexplained word with an underscore, is left out
of the task: whether that word is an entity is not known.
"""

import ast
import builtins
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prose import Piece, is_prose, paragraphs, pieces, plain

LABELS = ("O", "B-CLASS", "B-CONST", "B-FUNC", "B-PARAM")
_UNLABELLED = frozenset(("None", "True", "False", "self", "cls", "nan", "NaN"))
_ROLES = {"class": "CLASS", "exc": "CLASS", "func": "FUNC", "meth": "FUNC", "function": "FUNC", "method": "FUNC"}
_MARKS = ("code", "emphasis", "attr", "obj", "data", "const", "paramref")
_ARTICLES = frozenset(("a", "A", "I", "an", "in", "is", "of", "to", "on", "at", "as", "by", "it", "or", "if", "no"))
# Marked text that can be read word by word: a name, a number, `name=value`.
_SPELLED_OUT = re.compile(r"[A-Za-z_]\w*|-?\d+(\.\d+)?|[A-Za-z_]\w* ?= ?(\w+|-?\d+(\.\d+)?)")
_TOKEN = re.compile(r"(?:[a-z]\.){2,}|[A-Za-z_]\w*(?:-[A-Za-z]\w*)*|'[a-z]{1,2}\b|\d+(?:\.\d+)*|[^\w\s]")
_NAME = re.compile(r"[A-Za-z_]\w*")
_UPPER = re.compile(r"_?[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*")
_CAMEL = re.compile(r"(?:[A-Z]+[a-z0-9]+){2,}[A-Z]*|[A-Z]{2,}[a-z]+|[A-Z][a-z]+[A-Z]+")
_BUILTIN_CLASSES = frozenset(n for n, value in vars(builtins).items() if isinstance(value, type))
_BUILTIN_FUNCTIONS = frozenset(n for n, v in vars(builtins).items() if callable(v)) - _BUILTIN_CLASSES


@dataclass
class Names:
    """Names that a module or a package defines."""

    classes: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    constants: set[str] = field(default_factory=set)

    def add(self, other: "Names") -> None:
        """Take the names of `other` too."""
        self.classes |= other.classes
        self.functions |= other.functions
        self.constants |= other.constants

    def kind(self, name: str) -> str | None:
        """CLASS, FUNC, CONST, or None for an unknown name."""
        if name in self.classes:
            return "CLASS"
        if name in self.functions:
            return "FUNC"
        return "CONST" if name in self.constants else None


LANGUAGE = Names(set(_BUILTIN_CLASSES), set(_BUILTIN_FUNCTIONS))


@dataclass
class Paragraph:
    """One paragraph of prose: its words, the same in pieces with their marks, the parameters it may mention."""

    text: str
    parts: list[Piece]
    parameters: frozenset[str]


@dataclass
class Module:
    """What one source file gives: its names, its prose, and which words quoted there are strings of its code."""

    name: str
    names: Names
    strings: set[str]
    paragraphs: list[Paragraph]


def _parameters(node: ast.AST) -> set[str]:
    """Parameters of a function; of a class: those of `__init__` and `__new__`, and its annotated fields."""
    if isinstance(node, ast.ClassDef):
        found: set[str] = set()
        for child in node.body:
            if isinstance(child, ast.FunctionDef) and child.name in ("__init__", "__new__", "forward", "__call__"):
                found |= _parameters(child)
            elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
                found.add(child.target.id)
        return found
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return set()
    args = node.args
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
    return {arg.arg for arg in every} - {"self", "cls"}


def _documented(node: ast.AST, inherited: set[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Every docstring below `node` with the parameters it may speak of: its own, and those of its class."""
    own = inherited | _parameters(node)
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node, clean=False)
        if docstring:
            yield docstring, frozenset(own)
        passed = own if isinstance(node, ast.ClassDef) else inherited
        for child in node.body:
            yield from _documented(child, passed)


def read_module(name: str, source: str) -> Module:
    """Parse one source file; nothing is imported or run. A SyntaxError is the caller's to handle."""
    tree = ast.parse(source)
    names = Names()
    for node in _statements(tree.body):
        if isinstance(node, ast.ClassDef):
            names.classes.add(node.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_property(node):
            names.functions.add(node.name)
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names.constants |= {t.id for t in targets if isinstance(t, ast.Name) and _UPPER.fullmatch(t.id)}
    found = []
    for docstring, parameters in _documented(tree, set()):
        for paragraph in paragraphs(docstring):
            parts = pieces(paragraph)
            text = plain(parts)
            if is_prose(text):
                found.append(Paragraph(text, parts, parameters))
    quoted = {part.text for paragraph in found for part in paragraph.parts if part.mark == "quote"}
    constants = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)) if quoted else ()
    strings = quoted & {value for value in constants if isinstance(value, str)}
    return Module(name, names, strings, found)


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Every statement below, also in `if` and `try`; expressions, which are most of a tree, are not entered."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody", "handlers"):
            yield from _statements(getattr(node, part, ()))


def _tokens(parts: list[Piece]) -> list[tuple[str, str]]:
    """Words, numbers and punctuation marks, each with the mark of the piece it starts in.

    The joined text is cut, not each piece: where words end must not tell what was marked.
    """
    marks = [part.mark for part in parts for _ in part.text]
    return [(match.group(), marks[match.start()]) for match in _TOKEN.finditer("".join(p.text for p in parts))]


def label(paragraph: Paragraph, module: Module, package: Names) -> tuple[list[str], list[str]] | None:
    """Tokens and BIO tags of a paragraph; None when a marked word cannot be explained (see the module's rules)."""
    if any(p.mark in ("code", "quote") and not _SPELLED_OUT.fullmatch(p.text) for p in paragraph.parts):
        return None
    scopes = (module.names, package, LANGUAGE)

    def known(name: str) -> str | None:
        if name in paragraph.parameters:
            return "PARAM"
        return next((kind for scope in scopes if (kind := scope.kind(name))), None)

    marked = _tokens(paragraph.parts)
    tokens = [token for token, _ in marked]
    repeated = {t for t, mark in marked if mark in _MARKS and (len(t) < 3 or t[0].isupper()) and t not in _ARTICLES}
    tags = ["O"] * len(tokens)
    for at, (token, mark) in enumerate(marked):
        if not _NAME.fullmatch(token) or token in _UNLABELLED:
            continue
        opens = at == 0 or tokens[at - 1] in ".!?:"
        after, then = (*tokens[at + 1 : at + 3], "", "")[:2]
        if mark == "quote":
            kind = "CONST" if token in module.strings else None
        elif mark in _ROLES:
            kind = _ROLES[mark]
        elif mark in _MARKS or "_" in token.strip("_") or token in repeated:
            kind = known(token)
            if kind is None and mark == "emphasis":  # said with stress
                continue
        elif token in paragraph.parameters and (
            (len(token) == 1 and token not in _ARTICLES) or after == "=" or (after == "is" and then in _UNLABELLED)
        ):
            kind = "PARAM"
        elif _CAMEL.fullmatch(token) or (token[0].isupper() and not opens and token in module.names.classes):
            kind = known(token)
            if kind is None:  # a proper noun: PyTorch
                continue
        elif len(token) > 3 and _UPPER.fullmatch(token) and known(token) == "CONST":
            kind = "CONST"
        else:
            continue
        if kind is None:
            return None
        tags[at] = "B-" + kind
    return tokens, tags
