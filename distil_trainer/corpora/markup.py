r"""Språkbanken's XML, in blocks, to sentences.

Two layouts, by the FAQ "What are corpus sentence sets?" of Språkbanken Text and the README.dataset of Gigaword:
`<w>` (all of Gigaword, Sparv before 4.0), which keeps no white space, and `<token>`, where `_tail` and `_head` hold the
white space after and before the token, as `\s` (space), `\n` and `\t` (Sparv's annotator misc:text_headtail). Sparv
leaves empty attributes out, may put elements inside a token, and may nest what it likes around sentences and tokens.
"""

from pathlib import Path
from typing import TypedDict
from xml.parsers import expat

from distil_trainer.corpora.counts import Amount, GigawordCounts
from distil_trainer.corpora.selection import GigawordFilter, year_of
from distil_trainer.corpora.swedish import detokenize_swedish
from distil_trainer.errors import DataError

MAX_SENTENCE = 1_000_000  # characters
MAX_TOKENS = 100_000  # of a sentence
MAX_MARKUP = 1_000_000  # bytes of one tag, comment or instruction: the parser holds it whole
MAX_DEPTH = 1_000
MAX_NAMES = 10_000  # of elements and attributes, which the parser remembers, and of years with genres
MAX_GENRE = 100  # characters


class Sentence(TypedDict):
    """A sentence, and what its text is known to be of. None is unknown."""

    text: str
    year: int | None
    genre: str | None


class BrokenMarkupError(Exception):
    """The XML cannot be read on. `byte` counts from the start of the decompressed file."""

    def __init__(self, reason: str, byte: int, line: int, column: int) -> None:
        super().__init__(f"{reason} at byte {byte:,} of the XML (line {line:,}, column {column:,})")
        self.byte = byte


class SentenceParser:
    """Parses one file. `sentences` holds those that are complete; who takes them empties the list.

    Nothing is opened on behalf of the file: a document type declaration, without which there are no entities but the
    five of XML, raises DataError. What is held of the file is bounded by the constants of this module.
    """

    def __init__(self, path: Path, chosen: GigawordFilter, counts: GigawordCounts) -> None:
        self.sentences: list[Sentence] = []
        self._path = path
        self._chosen = chosen
        self._counts = counts
        self._marked = False  # whether white space is marked in this file
        self._encoding: str | None = None
        self._start(0)

    def _start(self, byte: int) -> None:
        self._origin = byte  # of what is fed first
        self._fed = 0
        keep = self._chosen.keeps(None, None)
        self._texts: list[tuple[int | None, str | None, bool, Amount | None]] = [(None, None, keep, None)]
        self._depth = 0
        self._in_sentence = self._in_token = False
        self._pieces: list[str] = []  # of a token
        self._tokens: list[str] = []
        self._exact: list[str] = []  # the tokens with the white space around them, if the layout has it
        parser = self._parser = expat.ParserCreate(self._encoding)
        parser.buffer_text = True
        parser.StartElementHandler = self._start_element
        parser.EndElementHandler = self._end_element
        parser.CharacterDataHandler = self._pieces.append
        parser.XmlDeclHandler = self._declaration
        parser.StartDoctypeDeclHandler = self._document_type
        if hasattr(parser, "SetReparseDeferralEnabled"):  # expat from 2.6: else it may hold a break back for a block
            parser.SetReparseDeferralEnabled(False)

    def restart(self, byte: int) -> None:
        """Reads on after a break: the next block begins with a text, at this byte of the XML."""
        root = b"<corpus>"
        self._start(byte - len(root))
        self.feed(root)

    def feed(self, block: bytes) -> None:
        """Reads a block, the next of the file. Raises BrokenMarkupError, after which only `restart` goes on."""
        self._parse(block, False)
        self._fed += len(block)
        if self._fed - self._parser.CurrentByteIndex > MAX_MARKUP + len(block):
            raise self._broken(f"a tag or comment of more than {MAX_MARKUP:,} bytes")
        if len(self._parser.intern) > MAX_NAMES:
            raise self._broken(f"more than {MAX_NAMES:,} names of elements and attributes")
        if len(self._counts.kept) + len(self._counts.left_out) > MAX_NAMES:
            raise self._broken(f"more than {MAX_NAMES:,} years and genres")
        if not self._in_token:
            self._pieces.clear()
        held = sum(map(len, self._pieces)) + sum(map(len, self._tokens)) + sum(map(len, self._exact))
        if held > 2 * MAX_SENTENCE or len(self._tokens) > MAX_TOKENS:  # and exactly, when the sentence ends
            raise self._too_long()

    def close(self) -> None:
        """Ends the file. Raises BrokenMarkupError if something is still open."""
        self._parse(b"", True)

    def _parse(self, block: bytes, is_final: bool) -> None:
        try:
            self._parser.Parse(block, is_final)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code) or "unknown error"
            byte = self._origin + self._parser.ErrorByteIndex
            raise BrokenMarkupError(reason, byte, error.lineno, error.offset + 1) from error
        except DataError:
            raise
        except (LookupError, ValueError) as error:  # an encoding that Python does not know, or expat cannot read
            raise self._broken(str(error)) from error

    def _broken(self, reason: str) -> BrokenMarkupError:
        parser = self._parser
        byte, line, column = parser.CurrentByteIndex, parser.CurrentLineNumber, parser.CurrentColumnNumber
        return BrokenMarkupError(reason, self._origin + max(byte, 0), line, column + 1)

    def _too_long(self) -> BrokenMarkupError:
        return self._broken(f"a sentence of more than {MAX_SENTENCE:,} characters or {MAX_TOKENS:,} tokens")

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        self._encoding = encoding

    def _document_type(self, *_: object) -> None:
        raise DataError(
            f"expected XML without a document type declaration, got <!DOCTYPE ...> in {self._path}, which may declare "
            "entities; the corpus has none: download the file again, from Språkbanken"
        )

    def _start_element(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._broken(f"elements more than {MAX_DEPTH:,} deep")
        if name == "w" or name == "token":
            if not self._in_sentence:
                return
            if self._in_token:
                raise self._broken("a token inside a token")
            self._in_token = True
            self._pieces.clear()
            if name == "token":
                head, tail = attributes.get("_head", ""), attributes.get("_tail", "")
                self._around = (_unescape(head), _unescape(tail))
                self._marked = self._marked or bool(head or tail)
        elif name == "sentence":
            if self._in_sentence:
                raise self._broken("a sentence inside a sentence")
            self._in_sentence = True
        elif name == "text":
            year, genre, *_ = self._texts[-1]
            year, genre = year_of(attributes) or year, attributes.get("genre") or genre
            if genre and len(genre) > MAX_GENRE:
                raise self._broken(f"a genre of more than {MAX_GENRE} characters")
            keep = self._chosen.keeps(year, genre)
            amount = self._counts.amount((year, genre), keep)
            amount.texts += 1
            self._texts.append((year, genre, keep, amount))

    def _end_element(self, name: str) -> None:
        self._depth -= 1
        if name == "w" or name == "token":
            if not self._in_token:
                return
            self._in_token = False
            token = "".join(self._pieces)
            if "\n" in token:  # indentation of elements inside the token
                token = "".join([line.strip() for line in token.split("\n")])
            token = token.strip()
            if token:
                self._tokens.append(token)
                if name == "token":
                    head, tail = self._around
                    self._exact.append(head + token + tail)
        elif name == "sentence":
            self._in_sentence = False
            self._end_sentence()
        elif name == "text":
            self._texts.pop()

    def _end_sentence(self) -> None:
        tokens, exact = self._tokens, self._exact
        self._tokens, self._exact = [], []
        if not tokens:
            self._counts.empty += 1
            return
        year, genre, keep, amount = self._texts[-1]
        amount = amount or self._counts.amount((year, genre), keep)  # outside any text
        amount.sentences += 1
        amount.tokens += len(tokens)
        if not keep:
            return
        is_exact = self._marked and len(exact) == len(tokens)
        text = "".join(exact).strip() if is_exact else detokenize_swedish(tokens)
        if len(text) > MAX_SENTENCE or len(tokens) > MAX_TOKENS:
            raise self._too_long()
        self._counts.characters += len(text)
        self.sentences.append({"text": text, "year": year, "genre": genre})


def _unescape(spaces: str) -> str:
    """White space as `_head` and `_tail` spell it. A last backslash is half an escape: Sparv can cut them short."""
    if not spaces:
        return ""
    return spaces.replace("\\s", " ").replace("\\n", "\n").replace("\\t", "\t").rstrip("\\")
