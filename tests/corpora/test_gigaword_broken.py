import bz2
import gzip
import logging
import time
import tracemalloc

import pytest
from corpus_files import corpus, text, w
from hypothesis import given, settings
from hypothesis import strategies as st

from distil_trainer.corpora import GigawordCounts, markup, read_gigaword
from distil_trainer.errors import DataError

THREE = [text(w(f"Text {name} ."), year=2012, genre="news") for name in "ABC"]
WHOLE = corpus(*THREE)
HEAD = WHOLE[: WHOLE.index(b"<text")]
A, B, C = (part.encode() for part in THREE)


@pytest.fixture
def write(tmp_path):
    def write_file(data, name="a.xml"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write_file


def texts(*args, **kwargs):
    return [sentence["text"] for sentence in read_gigaword(*args, **kwargs)]


def skipping(path):
    """The texts that can be read, and what was skipped."""
    skipped = []
    found = texts(path, skip_broken=True, on_skip=skipped.append)
    return found, *skipped


def test_the_error_says_where_and_what_to_do(write):
    path = write(HEAD + A + B.replace(b"<w ", b"<w w ", 1) + C + b"</corpus>")
    with pytest.raises(DataError, match=r"not well-formed.* at byte [\d,]+ of the XML \(line 12, column 6\)") as error:
        texts(path)
    assert str(path) in str(error.value)
    assert "skip_broken=True" in str(error.value)


BREAKS = {
    "attribute": B.replace(b"<w ", b"<w w ", 1),
    "end tag": B.replace(b"</w>", b"</v>", 1),
    "no end tag": B.replace(b"</sentence>", b"", 1),
    "bare &": B.replace(b"Text", b"A & B"),
    "entity": B.replace(b"Text", b"&hellip;"),
    "control character": B.replace(b"Text", b"\x01"),
    "not UTF-8": B.replace(b"Text", b"\xe5"),
    "character reference": B.replace(b"Text", b"&#xD800;"),
    "second declaration": b"<?xml version='1.0'?>" + B.replace(b"<text", b"<txt"),
    "token in token": B.replace(b"Text", b"<w>Text</w>"),
    "sentence in sentence": B.replace(b"<w ", b"<sentence/><w ", 1),
    "text tag": B.replace(b'year="2012"', b"year=2012"),
    "long genre": B.replace(b"news", b"n" * 101),
    "deep": B.replace(b"Text", b"<i>" * 1001 + b"</i>" * 1001),
}


@pytest.mark.parametrize("block", [1, 7, 100, 1 << 18])
@pytest.mark.parametrize("broken", BREAKS.values(), ids=BREAKS)
def test_the_next_text_is_found(write, monkeypatch, caplog, broken, block):
    monkeypatch.setattr("distil_trainer.corpora.streams.BLOCK", block)
    path = write(HEAD + A + broken + C + b"</corpus>\n")
    with pytest.raises(DataError, match=r"expected whole, well-formed XML in .*a\.xml, got: "):
        texts(path)
    with caplog.at_level(logging.WARNING, "distil_trainer"):
        found, skipped = skipping(path)
    assert found == ["Text A.", "Text C."]
    assert (skipped.file, skipped.breaks, skipped.unread_bytes) == (path, 1, 0)
    assert 0 < skipped.lost_bytes <= len(broken)
    (record,) = caplog.records
    assert str(path) in record.message
    assert f"Left out {skipped.lost_bytes:,} bytes of its XML in 1 places" in record.message


def test_what_is_lost_is_counted(write):
    broken = B.replace(b"Text", b"&", 1)
    found, skipped = skipping(write(HEAD + broken + A + broken + broken + C + b"</corpus>\n"))
    assert found == ["Text A.", "Text C."]
    assert skipped.breaks == 3
    assert skipped.lost_bytes == 3 * (len(broken) - broken.index(b"&") - 1)


def test_after_too_many_breaks_the_rest_is_left_out(write, monkeypatch):
    monkeypatch.setattr("distil_trainer.corpora.gigaword.MAX_BREAKS", 2)
    broken = B.replace(b"Text", b"&", 1)
    found, skipped = skipping(write(HEAD + A + broken * 3 + C + b"</corpus>\n"))
    assert found == ["Text A."]
    assert skipped.breaks == 3


@pytest.mark.parametrize("end", ["", "</corpus><corpus>", "<!-- ", "<w"])
def test_a_file_that_ends_too_early(write, end):
    path = write(HEAD + A + B + end.encode())
    with pytest.raises(DataError, match="download the file again"):
        texts(path)
    assert skipping(path)[0] == ["Text A.", "Text B."]


@pytest.mark.parametrize("data", [b"", b" ", b"\x00", b"PK\x03\x04", b"<text>", b"text", b"<corpus/>", b"\xff\xfe"])
def test_a_file_without_any_sentence(write, data):
    for skip_broken in (False, True):
        with pytest.raises(DataError):
            texts(write(data), skip_broken=skip_broken)
        for name in ("a.bz2", "a.gz"):
            with pytest.raises(DataError):
                texts(write(data, name), skip_broken=skip_broken)


@pytest.mark.parametrize(("suffix", "pack"), [(".bz2", bz2.compress), (".gz", gzip.compress)])
def test_damaged_compression(write, suffix, pack):
    first, second = pack(HEAD + A + B), pack(C + b"</corpus>")
    damaged = bytearray(second)
    damaged[len(damaged) // 2] ^= 255
    for data in (first + second[:-10], first + bytes(damaged), first + b"\x00" * 50):
        path = write(data, "a.xml" + suffix)
        with pytest.raises(DataError, match=r"near byte [\d,]+ of [\d,]+ of the compressed file; download"):
            texts(path)
        found, skipped = skipping(path)
        assert found[:2] == ["Text A.", "Text B."]
        assert skipped.breaks == 1
    with pytest.raises(DataError, match="got none"):
        texts(write(WHOLE, "b" + suffix), skip_broken=True)  # not compressed at all


def test_files_after_a_broken_one_are_read(write):
    broken, counts = write(HEAD + A), GigawordCounts()
    assert texts([broken, write(WHOLE, "b.xml")], skip_broken=True, counts=counts)[1:] == [
        "Text A.",
        "Text B.",
        "Text C.",
    ]
    assert counts.files == 2


LAUGHS = "".join(f"<!ENTITY l{i} '{f'&l{i - 1};' * 10}'>" for i in range(1, 20))
DECLARATIONS = {
    "billion laughs": f"<!DOCTYPE corpus [<!ENTITY l0 'ha'>{LAUGHS}]>",
    "file": "<!DOCTYPE corpus [<!ENTITY l19 SYSTEM 'file:///etc/passwd'>]>",
    "net": "<!DOCTYPE corpus SYSTEM 'http://127.0.0.1:9/a.dtd'>",
    "parameter": "<!DOCTYPE corpus [<!ENTITY % a SYSTEM 'file:///etc/passwd'> %a;]>",
    "default": f"<!DOCTYPE corpus [<!ATTLIST w lemma CDATA '{'a' * 1000}'>]>",
    "plain": "<!DOCTYPE corpus>",
}


@pytest.mark.parametrize("declared", DECLARATIONS.values(), ids=DECLARATIONS)
@pytest.mark.parametrize("skip_broken", [False, True])
def test_entities_cannot_be_declared(write, monkeypatch, declared, skip_broken):
    body = text(w("A").replace(">A<", ">A&l19;<"))
    path = write(f"<?xml version='1.0'?>\n{declared}<corpus>{body}</corpus>".encode())
    reading = read_gigaword(path, skip_broken=skip_broken)
    opened = []
    real = type(path).open
    monkeypatch.setattr(type(path), "open", lambda self, *args: opened.append(self) or real(self, *args))
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"without a document type declaration, got <!DOCTYPE ...> in .*a\.xml"):
        list(reading)
    assert opened == [path]
    assert time.perf_counter() - start < 2


ENDLESS = {
    "token": (b"<sentence><w>", b"a", "sentence of more than"),
    "tokens": (b"<sentence>", b"<w>\xc4\x85</w>", "sentence of more than"),
    "marked": (b"<sentence>", b'<token _tail="' + b"\\s" * 50 + b'">a</token>', "sentence of more than"),
    "attribute": (b'<sentence><w lemma="', b"a", "tag or comment of more than"),
    "attributes": (b"<sentence><w ", b' a="b"', "tag or comment of more than"),
    "comment": (b"<!--", b"a", "tag or comment of more than"),
    "instruction": (b"<?go ", b"a", "tag or comment of more than"),
    "name": (b"<", b"a", "tag or comment of more than"),
    "depth": (b"", b"<a>", "deep"),
    "token depth": (b"", b"<w>", "deep"),
}


@pytest.mark.parametrize(("start", "again", "message"), ENDLESS.values(), ids=ENDLESS)
def test_a_small_file_that_would_be_endless(write, start, again, message):
    stream = bz2.compress(again * (2**20 // len(again)))
    path = write(bz2.compress(HEAD + b"<text>" + start) + stream * 2000, "a.xml.bz2")  # 2 GB
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message):
            texts(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * 2**20


def test_many_small_streams_of_one_tag(write):
    """Each would be one more look at a tag that does not end."""
    path = write(bz2.compress(HEAD + b"<w ") + bz2.compress(b"a") * 300_000, "a.xml.bz2")
    start = time.perf_counter()
    with pytest.raises(DataError, match="expected whole, well-formed XML"):
        texts(path)
    assert time.perf_counter() - start < 8


def test_white_space_and_text_between_tokens_take_no_memory(write):
    filler = bz2.compress((b" " * 1000 + b"\n") * 5000)
    path = write(
        bz2.compress(HEAD + b"<text>stray<sentence><w>A</w>")
        + filler * 4
        + bz2.compress(b"</sentence></text></corpus>"),
        "a.xml.bz2",
    )
    tracemalloc.start()
    try:
        assert texts(path) == ["A"]
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("token", [" " * 400_000, "." * 900_000, "'" * 900_000, ". " * 400_000])
def test_time_is_linear_in_the_length_of_a_token(write, token):
    path = write(HEAD + f"<text><sentence><w>.{token}.\n</w><w>b</w></sentence></text></corpus>".encode())
    start = time.perf_counter()
    assert len(texts(path)) == 1
    assert time.perf_counter() - start < 5


def test_names_and_genres_are_bounded(write, monkeypatch):
    monkeypatch.setattr(markup, "MAX_NAMES", 10)
    names = b"".join(b"<a%d/>" % i for i in range(20))
    assert skipping(write(HEAD + names + A + b"</corpus>"))[1].reason.startswith("more than 10 names")
    monkeypatch.setattr(markup, "MAX_NAMES", 18)
    genres = b"".join(A.replace(b"news", b"g%d" % i) for i in range(20))
    with pytest.raises(DataError, match="more than 18 years and genres"):
        texts(write(HEAD + genres + b"</corpus>"))


def test_the_longest_sentence(write, monkeypatch):
    monkeypatch.setattr(markup, "MAX_SENTENCE", 20)
    monkeypatch.setattr(markup, "MAX_TOKENS", 5)
    assert texts(write(corpus(w("a" * 20), w("b c d e f")))) == ["a" * 20, "b c d e f"]
    for tokens in ("a" * 21, "b c d e f g"):
        with pytest.raises(DataError, match="a sentence of more than 20 characters or 5 tokens at byte"):
            texts(write(corpus(w(tokens))))
        assert skipping(write(corpus(text(w(tokens)), text(w("A")))))[0] == ["A"]


TOKEN_LAYOUT = (
    rb'<corpus><text date="2021"><sentence><token _tail="\s">Hej</token><token _head="\n">du</token></sentence>'
    rb"</text></corpus>"
)
PIECES = """< > & &amp; ]]> <![CDATA[ <!-- --> <? ?> </w> <w> </text> <text> <text/ <sentence> </sentence> <token>
    ' " \\ <!DOCTYPE encoding='x'"""
pieces = st.sampled_from([*PIECES.encode().split(), b"\x00", b"\xff", b"\xc3"])
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), st.one_of(pieces, st.binary(max_size=4))), max_size=6)


@settings(max_examples=150, deadline=10_000, derandomize=True)
@given(
    st.sampled_from([WHOLE, TOKEN_LAYOUT]),
    edits,
    st.sampled_from(["xml", "bz2", "gz", "bz2 after", "gz after"]),
    st.booleans(),
)
def test_mutated_bytes_give_results_or_our_error(tmp_path_factory, data, edits, kind, skip_broken):
    pack = {"bz2": bz2.compress, "gz": gzip.compress}.get(kind[:3].strip(), bytes)
    data = pack(data) if "after" in kind else data
    for place, length, piece in edits:
        at = int(place * len(data))
        data = data[:at] + piece + data[at + length :]
    data = data if "after" in kind else pack(data)
    path = tmp_path_factory.getbasetemp() / f"fuzz.{kind.split()[0]}"
    path.write_bytes(data)
    try:
        for sentence in read_gigaword(path, skip_broken=skip_broken):
            assert set(sentence) == {"text", "year", "genre"}
            assert sentence["text"].strip()
    except DataError as error:
        message = str(error)
        assert message.startswith("expected ")
