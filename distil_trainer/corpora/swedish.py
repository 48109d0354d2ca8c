"""Tokens of Swedish back to text: the white space that the `<w>` layout of Språkbanken does not keep.

The rules are those of Swedish typography as the EU's style guide for Swedish sums them up (section 6.4, spacing of
punctuation marks; 10.4.8, quotation marks), for tokens as Språkbanken's tokeniser makes them. That one splits off
brackets, quotation marks, apostrophes, slashes, en and em dashes, commas and % everywhere, and leaves together
`t.ex.`, `EU:s`, `TV-apparat`, `1939-45`, `12.30`, `3,5` (between spaces), `20°C`, `:)` and addresses.
"""

import re
from collections.abc import Sequence

_STOPS = frozenset(".,;:!?…)]}")  # nothing before, a space after
_STOP_RUN = re.compile(r"[.,;:!?…]{2,}|(?:\. )+\.")
_ELLIPSIS = re.compile(r"…|\.{2,}|(?:\. )+\.")
_OPENERS = frozenset("([{¿¡#@")  # nothing after
_JOINERS = frozenset("/\\_")  # nothing on either side: och/eller
_DASHES = frozenset("–—")  # spaces on both sides, but 1939–45
_CLOSERS = frozenset(".,;:!?)]}")  # what follows a closing quotation mark
_PERCENT = frozenset("%‰")  # a space before, unlike English: 25 %
# Marks of a kind open and close in turn, which serves ”…”, "…", »…», »…«, «…» and “…” alike.
_DOUBLE, _SINGLE, _ANGLE, _SINGLE_ANGLE = range(4)
_QUOTES = (
    dict.fromkeys('"”“„‟″', _DOUBLE)
    | dict.fromkeys("'’‘‚`", _SINGLE)
    | dict.fromkeys("»«", _ANGLE)
    | dict.fromkeys("›‹", _SINGLE_ANGLE)
)
_CLITICS = frozenset({"s", "n", "t", "m", "d", "re", "ll", "ve", "ru", "na"})  # Levi's, på't, ska'ru, rock'n'roll
_ELIDED = frozenset({"d", "l", "o", "n", "j", "c", "qu"})  # d'Artagnan, O'Connor, rock'n'roll
_CLITIC_TOKEN = re.compile(r"['’](?:" + "|".join(sorted(_CLITICS)) + ")", re.IGNORECASE)
_ENDINGS = frozenset({"s", "n", "t", "ar", "or", "na", "arna", "erna"})  # after a quotation or bracket: ”Aftonbladet”:s
_SMILEY = re.compile(r">?[:;=][,*']?[-~+o^]?[()\[\]{}|\\/<>DOPpSsXx$3@#]+")  # one only where spaces surround it


def detokenize_swedish(tokens: Sequence[str]) -> str:
    """The text of one sentence, with a space between tokens except where Swedish has none.

    None before . , ; : ! ? … and closing brackets; none after opening brackets, # and @; none around slashes and _;
    none inside quotation marks, which open and close in turn, or close when a stop follows; none around the dash
    between numbers (`1939–45`) and around the apostrophe of `Levi's`. A space before %, ‰ and units, after the dash of
    a reply, around smileys, other dashes, & and +. Tokens themselves are not changed; empty ones are left out.

    What the tokens do not tell is settled for the likelier: `3 , 5` is a list, unless a % follows or brackets enclose
    it; `Göteborg – Malmö` and `” Ekofin ” - möte` keep their spaces.
    """
    marks = _Marks([token for token in tokens if token])
    parts: list[str] = []
    space = must = False  # may, and must, a space follow what is there
    for place, token in enumerate(marks.tokens):
        before, after, is_smiley = True, True, False
        if not token[0].isalnum():
            before, after = marks.spaces(place)
            is_smiley = bool(_SMILEY.fullmatch(token))
        if (space and before) or must or (is_smiley and parts):
            parts.append(" ")
        parts.append(token)
        space, must = after, is_smiley
    return "".join(parts)


class _Marks:
    """Where marks of a sentence want spaces. Asked once for each mark, from left to right."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self._open = [False] * 4  # of each kind of quotation mark
        self._singles: int | None = None  # still to come

    def _at(self, place: int) -> str:
        """The token, or "" beyond the ends."""
        return self.tokens[place] if 0 <= place < len(self.tokens) else ""

    def spaces(self, place: int) -> tuple[bool, bool]:
        """Whether a space may stand before and after the mark."""
        token, previous, following = self.tokens[place], self._at(place - 1), self._at(place + 1)
        if token in _QUOTES:
            return self._quote(_QUOTES[token], previous, following)
        if _ELLIPSIS.fullmatch(token) and (previous in _DASHES or previous in ("-", "/", ":")):
            return True, True
        if token == ",":
            return False, not self._is_decimal(place)
        if token == ":" and (previous in _QUOTES or previous in (")", "]")):
            return False, following not in _ENDINGS
        if token in _STOPS or _STOP_RUN.fullmatch(token):
            return False, True
        if token in _OPENERS:
            return True, False
        if token in _JOINERS:
            return False, False
        if token in _DASHES:
            spaced = not (previous[-1:].isdigit() and following[:1].isdigit())
            return spaced, spaced
        return not (_CLITIC_TOKEN.fullmatch(token) and previous[-1:].isalnum()), True

    def _is_decimal(self, comma: int) -> bool:
        """Decimals stand together where spaces surround them, so these three tokens touch something else."""
        if not (self._at(comma - 1).isdigit() and self._at(comma + 1).isdigit()):
            return False
        before, after = self._at(comma - 2), self._at(comma + 2)
        return after in _PERCENT or (before == "(" and after == ")")

    def _quote(self, kind: int, previous: str, following: str) -> tuple[bool, bool]:
        opens, closes = (True, False), (False, True)
        is_last = False
        if kind == _SINGLE:
            is_last = self._count_single() == 0
            if previous[-1:].isalnum() and following.lower() in _CLITICS:
                return False, False
            if previous.lower() in _ELIDED and following[:1].isalpha() and not self._open[kind]:
                return False, False
            if len(following) == 2 and following.isdigit() and not self._open[kind]:
                return opens  # sommaren '68
        if self._open[kind]:
            self._open[kind] = False
            return closes
        if not following or following in _CLOSERS:
            return closes  # what it closes began in another sentence
        if is_last and previous[-1:].isalnum():
            return closes  # Hans' bok
        self._open[kind] = True
        return opens

    def _count_single(self) -> int:
        """Apostrophes and single quotation marks to come after this one."""
        if self._singles is None:
            self._singles = sum(_QUOTES.get(token) == _SINGLE for token in self.tokens)
        self._singles -= 1
        return self._singles
