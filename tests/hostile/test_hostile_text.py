"""Files of text from strangers: archives, bombs, lines without an end, and names that mean something else."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import pytest
from hostile_input import ACTIVE, MIB, fuzz, memory_below
from hypothesis import given
from hypothesis import strategies as st

from distil_trainer.corpora import read_gigaword
from distil_trainer.data import find_files
from distil_trainer.errors import DataError
from distil_trainer.tasks.labelled import read_files
from distil_trainer.text.files import load_text, stream_text
from distil_trainer.text.looked_through import MAX_DEPTH, look_through

pytestmark = pytest.mark.usefixtures("own_datasets_cache")
WAYS = {"read": load_text, "streamed": stream_text, "labelled": lambda path: read_files([str(path)], ["text"])}
WAYS_OF_TEXT = {name: WAYS[name] for name in ("read", "streamed")}
text_ways = pytest.mark.parametrize("way", WAYS_OF_TEXT.values(), ids=WAYS_OF_TEXT)


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("../../outside.txt", "/tmp/outside.txt", "inside.txt"):
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(b"a\n"))
    return file.getvalue()


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../outside.txt", "a\n")
    return file.getvalue()


ARCHIVES = {
    "a.txt": tar,
    "b.txt": zipped,
    "c.txt": lambda: bz2.compress(b"a\n"),
    "d.txt": lambda: lzma.compress(b"a\n"),
    "e.txt": lambda: gzip.compress(b"a\n"),
    "f.txt.gz": lambda: gzip.compress(tar()),
    "g.txt.gz": tar,
    "h.jsonl": zipped,
    "i.parquet": zipped,
    "j.jsonl.gz": lambda: bz2.compress(b'{"text": "a"}\n'),
}


@pytest.mark.parametrize(("name", "make"), ARCHIVES.items(), ids=ARCHIVES)
@text_ways
def test_archives_are_not_unpacked(tmp_path, name, make, way):
    """`datasets` would: it goes by what a file begins with, not by its name."""
    path = tmp_path / "in" / "it" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(make())
    with pytest.raises(DataError, match=r"got (tar|zip|bz2|xz|gzip); unpack it, and name the files inside"):
        way(path)
    assert [found.name for found in tmp_path.rglob("*") if found.is_file()] == [name]


def bomb(tmp_path, name, start, again, times=150):
    """A MiB of `again`, so often, in a file of about a thousandth of that."""
    path = tmp_path / name
    pack = bz2.compress if name.endswith(".bz2") else gzip.compress
    path.write_bytes(pack(start) + pack(again * (MIB // len(again))) * times)
    return path


BOMBS = {
    "lines": ("a.txt.gz", b"", b"a" * 63 + b"\n", "as no text does; leave the file out"),
    "one line": ("a.txt.gz", b"", b"a", r"expected lines of at most 16,777,216 bytes .* break it into lines"),
    "one string": ("a.jsonl.gz", b'{"text": "', b"a", "expected lines of at most 16,777,216 bytes"),
    "one list": ("a.jsonl.gz", b'{"text": [', b"1,", "expected lines of at most 16,777,216 bytes"),
    "objects": ("a.jsonl.gz", b"", b'{"text": "a"}\n', "as no text does; leave the file out"),
}


@pytest.mark.parametrize(("name", "start", "again", "message"), BOMBS.values(), ids=BOMBS)
def test_a_small_file_does_not_fill_the_memory_or_the_disk(tmp_path, name, start, again, message):
    path = bomb(tmp_path, name, start, again)
    with memory_below(100 * MIB), pytest.raises(DataError, match=message):
        load_text(path)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*")) < 3 * path.stat().st_size


def test_a_corpus_of_one_sentence_does_not_fill_the_memory(tmp_path):
    """With what expat holds, which is not Python's."""
    for start in (b"<corpus><text><sentence><w>", b'<corpus><text><w lemma="', b"<corpus><!-- "):
        path = bomb(tmp_path, "a.xml.bz2", start, b"a")
        with memory_below(100 * MIB), pytest.raises(DataError, match="more than 1,000,000"):
            list(read_gigaword(path))


@text_ways
def test_a_long_line_in_the_middle(tmp_path, monkeypatch, way):
    monkeypatch.setattr("distil_trainer.text.looked_through.MAX_LINE", 3 * MIB)
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\n" * 10 + b"b" * 8 * MIB + b"\nc\n")
    with pytest.raises(DataError, match="that begins near byte 20;"):
        way(path)
    path.write_bytes(b"a\n" * 10 + b"b" * 3 * MIB + b"\r" + b"c" * 3 * MIB + b"\n")
    look_through(path, "text")


DEEP = {
    "lists": b"[" * 100_000 + b"]" * 100_000,
    "objects": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "mixed": b'[{"a": "]]]\\"}}"}, {"b": ' * 500,
    "open": b"[" * 2_000,
}


@pytest.mark.parametrize("deep", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_deep_json_does_not_end_the_process(tmp_path, deep, way):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": ' + deep + b"}\n")
    with pytest.raises(DataError, match=f"JSON of at most {MAX_DEPTH} lists and objects in each other"):
        way(path)


@fuzz(20)
@given(st.recursive(st.one_of(st.text('[]{}"\\ a', max_size=60), st.integers(), st.none()), st.lists, max_leaves=40))
def test_brackets_in_strings_are_no_depth(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "strings.jsonl"
    for _ in range(2):
        path.write_text(json.dumps({"text": ["[" * 200, value]}) + "\n")
        look_through(path, "json")


@pytest.mark.parametrize("name", ["a[1].txt", "*.txt", "**.txt", "?.txt", "a{b}.txt", "ö \u202e.txt"], ids=ascii)
@text_ways
def test_a_name_stands_for_its_file_alone(tmp_path, name, way):
    (tmp_path / "other.txt").write_text("other\n")
    (tmp_path / name).write_text("this\n")
    assert [row["text"] for row in way(tmp_path / name)] == ["this"]


@pytest.mark.parametrize("name", ["a\0b.txt", "\x1b[2J.txt", "zip://a.txt::b.zip", "http://a.b/c.txt"], ids=ascii)
def test_a_name_that_is_no_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for read in (load_text, stream_text, read_gigaword):
        with pytest.raises(DataError) as error:
            read(name)
        assert not ACTIVE.search(str(error.value))
    with pytest.raises(DataError, match="no file matches"):
        find_files([name])
