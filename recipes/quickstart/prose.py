"""Docstring -> English paragraphs, and a paragraph -> pieces of text that remember how they were marked up.

`paragraphs` keeps prose only: no code blocks, doctests, tables, headings, formulas, references or URLs. The line that
names a parameter ("axis : int, optional", "axis (int): ...", ":param axis: ...") goes, its description stays.
`pieces` removes the mark-up of reStructuredText, Markdown and quotation marks, and says what was marked and how, so
that `entities.py` can label the words; `plain` is the same text without the marks. `is_prose` judges the plain text.
"""

import inspect
import re
from typing import NamedTuple

MAX_WORDS = 100  # longer paragraphs are rare, and are mostly lists that lost their bullets

_SKIPPED_SECTIONS = {"example", "examples", "example usage", "usage", "references", "reference", "see also", "shape"}
_SKIPPED_SECTIONS |= {"shapes", "attributes summary", "methods", "demo", "usage example", "usage examples", "inputs"}
_PROSE_DIRECTIVES = {"note", "warning", "important", "tip", "caution", "attention"}
_UNDERLINE = re.compile(r"^\s*([-=~^\"#*+.])\1{2,}\s*$")
_TABLE = re.compile(r"^\s*([|+].*[|+]|[-=]{2,}( +[-=]{2,})+)\s*$")
_DIRECTIVE = re.compile(r"^\s*\.\. +([\w:-]+)::\s*(.*)$")
_HEADING = re.compile(r"^\s*(?:#+ *)?\**([A-Z][\w ]{0,30}?)\**:{1,2}\s*$")
_BULLET = re.compile(r"^\s*(?:[-*+•]|\d+[.)]|\(\w\)) +(.*)$")
_FIELD = re.compile(r"^\s*[:@]\w+[^:]*: *(.*)$")
_TYPED_NAME = re.compile(r"^\s*\*{0,2}`{0,2}\*{0,2}[\w.]+`{0,2}\s*\([^()]*(?:\([^()]*\)[^()]*)*\)\s*:\s*(.*)$")
_COLON_NAME = re.compile(r"^\s*\*{0,2}`{0,2}[\w.]+`{0,2}\s*:\s+(.*)$")
_NUMPY_NAME = re.compile(r"^\s*[*`\w., ]+ : \S.*$|^\s*[*`]*\w+[`]*\s*:\s*$")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def paragraphs(docstring: str) -> list[str]:
    """The prose paragraphs of a docstring, in order, mark-up still in."""
    lines = inspect.cleandoc(docstring).expandtabs(4).splitlines()
    found: list[str] = []
    current: list[str] = []
    indent = 0  # that the next line must have to belong to `current`; -1: the next line decides
    fence = doctest = False
    skip_below: int | None = None  # leave out what is indented deeper than this
    skip_section = False

    def flush() -> None:
        if current:
            found.append(" ".join(current))
            current.clear()

    for number, line in enumerate(lines):
        stripped, depth = line.strip(), _indent(line)
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if stripped.startswith(("```", "~~~")):
            flush()
            fence = not fence
            continue
        if fence:
            continue
        if not stripped:
            flush()
            doctest = False
            continue
        if skip_below is not None:
            if depth > skip_below:
                continue
            skip_below = None
        if _UNDERLINE.match(following) and len(stripped) < 60 and not _UNDERLINE.match(line):
            flush()
            skip_section = stripped.lower().rstrip(":") in _SKIPPED_SECTIONS
            continue
        heading = _HEADING.match(line)
        if heading and not current:
            skip_section = False
            if heading.group(1).lower() in _SKIPPED_SECTIONS or stripped.endswith("::"):
                skip_below = depth
            continue
        if skip_section or doctest or _UNDERLINE.match(line) or _TABLE.match(line):
            flush()
            continue
        if stripped.startswith((">>>", "$ ", "In [")):
            flush()
            doctest = True
            continue
        directive = _DIRECTIVE.match(line)
        if directive or stripped.startswith(".. ") or stripped == "..":
            flush()
            if directive and directive.group(1).lower() in _PROSE_DIRECTIVES:
                current.extend([directive.group(2)] if directive.group(2) else [])
                indent = -1
            else:
                skip_below = depth
            continue
        opens = not current or depth != indent  # a line that goes on may hold "word: " too
        named = _FIELD.match(line) or _TYPED_NAME.match(line)
        if not named and (opens or "_" in line.partition(":")[0]):
            named = _COLON_NAME.match(line)
        bullet = _BULLET.match(line)
        if _NUMPY_NAME.match(line) and (not following.strip() or _indent(following) > depth):
            flush()
            continue
        if named or bullet:
            flush()
            rest = (named or bullet).group(1).strip()  # type: ignore[union-attr]
            if bullet and (inner := _TYPED_NAME.match(rest) or _COLON_NAME.match(rest)):
                rest = inner.group(1).strip()
            current.extend([rest.lstrip("- ")] if rest else [])
            indent = -1
            continue
        if current and indent not in (-1, depth):
            flush()
        indent = depth
        current.append(stripped)
        if stripped.endswith("::"):
            current[-1] = stripped[:-1]
            skip_below = depth
    flush()
    return found


class Piece(NamedTuple):
    """A stretch of text; `mark` is "" for plain text, "code", "quote", "emphasis", or the name of a role."""

    text: str
    mark: str


_MARKED = re.compile(
    r":(?:[\w+-]+:)?(?P<role>[\w+-]+):`(?P<roletext>[^`]+)`"
    r"|``(?P<double>[^`]+)``"
    r"|\[`(?P<link>[^`]+)`\](?:\([^)]*\))?"
    r"|\[(?P<mdlink>[^\]`]+)\]\([^)]*\)"
    r"|`(?P<rstlink>[^`<>]+?)\s*<[^`>]+>`__?"
    r"|`(?P<single>[^`]+)`_{0,2}"
    r"|(?<![\w*])\*\*(?P<bold>[^*\s](?:[^*]*[^*\s])?)\*\*(?![\w*])"
    r"|(?<![\w*])\*(?P<emph>[^*\s](?:[^*]*[^*\s])?)\*(?![\w*])"
    r"|(?<![\w])(?P<q>['\"])(?P<quoted>[^'\"\s]+)(?P=q)(?!\w)"
    r"|[‘“](?P<curly>[^’”\s]+)[’”]"
)
_NAME = re.compile(r"[A-Za-z_]\w*")
_DOTTED = re.compile(r"[~!.]?\.?(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)(?:\(\))?")
_PREFIX = re.compile(
    r"(?<![\w.])(?:np|numpy|pd|pandas|torch|nn|scipy|sklearn|sympy|nx|self|cls|F|plt|datasets|transformers)\.(?=[A-Za-z_])(?:\w+\.)*(?=[A-Za-z_])"
)
_CALL = re.compile(r"(?<=\w)\(\)")


_REFERENCES = ("ref", "term", "doc", "pep", "rfc", "numref", "sup", "sub", "user", "issue", "pr")


def _marked_piece(match: re.Match[str]) -> Piece:
    got = match.groupdict()
    if got["mdlink"] or got["rstlink"]:
        return Piece(got["mdlink"] or got["rstlink"], "")
    if got["role"]:
        text = re.sub(r"\s*<[^>]*>$", "", got["roletext"])
        mark = "" if got["role"] in _REFERENCES else got["role"]
    elif got["quoted"] or got["curly"]:
        return Piece((got["quoted"] or got["curly"]).rstrip(",."), "quote")
    elif got["bold"] or got["emph"]:
        text = got["bold"] or got["emph"]
        mark = "emphasis"
        if not _DOTTED.fullmatch(text):
            return Piece(text, "")
    else:
        text = (got["double"] or got["link"] or got["single"]).strip()
        mark = "code"
    if len(text) > 2 and text[0] in "'\"" and text[-1] == text[0]:
        return Piece(text[1:-1], "quote")
    dotted = _DOTTED.fullmatch(text)
    return Piece(dotted.group(1), mark) if dotted else Piece(text, mark)


def pieces(paragraph: str) -> list[Piece]:
    """The paragraph without its mark-up, cut where the mark-up was. Module prefixes and call brackets go too."""
    out: list[Piece] = []
    end = 0

    def add_plain(text: str) -> None:
        text = _CALL.sub("", _PREFIX.sub("", re.sub(r" ?\[\d+\]_|\\(?=\W)", "", text)))
        if text:
            out.append(Piece(text, ""))

    for match in _MARKED.finditer(paragraph):
        add_plain(paragraph[end : match.start()])
        out.append(_marked_piece(match))
        end = match.end()
    add_plain(re.sub(r"^\(\)", "", paragraph[end:]))
    return out


def plain(parts: list[Piece]) -> str:
    """The text of the pieces, in one line."""
    return re.sub(r"\s+", " ", "".join(part.text for part in parts)).strip()


_STOP = "the a an of to in is and for be are that this with as by on or if not from it can will which when used at has"
_STOP_WORDS = frozenset(_STOP.split())
_FORBIDDEN = re.compile(r"https?:|www\.|[{}|\\<>@^`#$]|:math:|==|--|\*|_{3}|\.\.\.|%\(|::|\bTODO\b|[^\x00-\x7f]")


def is_prose(text: str) -> bool:
    """Whether a plain paragraph reads as English sentences: words, stop words, letters, and a full stop."""
    words = text.split()
    if not 5 <= len(words) <= MAX_WORDS or text[-1] not in ".!?" or not (text[0].isalpha() or text[0] == "("):
        return False
    if _FORBIDDEN.search(text):
        return False
    letters = sum(c.isalpha() for c in text) / sum(not c.isspace() for c in text)
    stops = sum(w.lower() in _STOP_WORDS for w in words) / len(words)
    return letters >= 0.85 and stops >= 0.2
