"""A corpus with one damaged text: what stands in the others comes out as it was."""

import re

from hostile_input import ACTIVE, fuzz
from hypothesis import given
from hypothesis import strategies as st

from distil_trainer.corpora import read_gigaword
from distil_trainer.errors import DataError

TEXTS = [
    (
        f'<text year="2012" genre="g{n}">\n<sentence id="{n}">'
        f'<w pos="NN">Text</w><w>{n}</w><w>.</w></sentence>\n</text>\n'
    ).encode()
    for n in range(9)
]
SENTENCES = [f"Text {n}." for n in range(9)]
DAMAGED = 3
WORDS = [
    "<",
    ">",
    "&",
    "&amp;",
    "&#0;",
    "&x;",
    "]]>",
    "</w>",
    "<w>",
    "</sentence>",
    "<sentence>",
    "</text>",
    "<text>",
    "<text/",
    "</corpus>",
    "<corpus>",
    "<w",
    "<token>",
    "'",
    '"',
    "\\",
    '_tail="\\s"',
    'xmlns:a="b"',
    'a:b="c"',
    'xml:space="preserve"',
    "<a>",
    "</a>",
    "<a/>",
]
SWALLOWS = ["<!--", "<![CDATA[", "<?go", "<!DOCTYPE x>", "<!ENTITY a 'b'>", "-->", "]]>", "?>"]


def edits(words):
    piece = st.one_of(st.sampled_from([word.encode() for word in words]), st.binary(max_size=3))
    return st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), piece), min_size=1, max_size=4)


def read(path, parts, skip_broken=True):
    path.write_bytes(b"<?xml version='1.0'?>\n<corpus>\n" + b"".join(parts) + b"</corpus>\n")
    found = []
    try:
        for sentence in read_gigaword(path, skip_broken=skip_broken):
            assert set(sentence) == {"text", "year", "genre"}
            found.append(sentence)
    except DataError as error:
        message = str(error)
        return found, message
    return found, ""


def damaged(edits):
    text = TEXTS[DAMAGED]
    for place, length, piece in edits:
        at = int(place * len(text))
        text = text[:at] + piece + text[at + length :]
    return [*TEXTS[:DAMAGED], text, *TEXTS[DAMAGED + 1 :]]


def known(found):
    return [sentence["text"] for sentence in found if sentence["text"] in SENTENCES and sentence["text"] != "Text 3."]


@fuzz(100)
@given(edits(WORDS))
def test_other_texts_come_out_as_they_were(tmp_path_factory, edits):
    """The one behind the damage may be lost with it: where its `<text>` begins, the damaged one is still open."""
    found, message = read(tmp_path_factory.getbasetemp() / "a.xml", damaged(edits))
    assert not message
    texts = known(found)
    assert texts[:DAMAGED] == SENTENCES[:DAMAGED]
    assert texts[-4:] == SENTENCES[-4:]
    assert len(texts) == len(set(texts))
    for sentence in found:
        if sentence["text"] in SENTENCES[:DAMAGED] + SENTENCES[-4:]:
            assert sentence["year"] == 2012
            assert sentence["genre"] == f"g{sentence['text'][5]}"


@fuzz(60)
@given(edits(WORDS + SWALLOWS), st.booleans())
def test_whatever_is_in_a_text_the_others_are_whole_or_left_out(tmp_path_factory, edits, skip_broken):
    """A comment or a character section that does not end takes what follows with it."""
    found, message = read(tmp_path_factory.getbasetemp() / "b.xml", damaged(edits), skip_broken)
    assert not message or re.match("expected whole, well-formed XML|expected XML without a document type", message)
    assert not ACTIVE.search(message)
    texts = known(found)
    assert texts[:DAMAGED] == SENTENCES[:DAMAGED] or message  # what stands before an error in a block is not given out
    assert texts == [text for text in SENTENCES if text in texts]
