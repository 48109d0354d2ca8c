import bz2
import os

import pytest
from corpus_files import corpus, text, w
from torch.utils.data import DataLoader

from distil_trainer.corpora import GigawordCounts, load_gigaword, read_gigaword, stream_gigaword
from distil_trainer.errors import DataError

BROKEN = text(w("Text & mer ."), year=2012, genre="news").replace("&amp;", "&").encode()


@pytest.fixture
def files(tmp_path):
    """Three files; the second holds nothing of 2011 to 2013."""
    contents = {
        "a.xml": corpus(*(text(w(f"A {n} ."), w(""), year=2010 + n, genre="news") for n in range(5))),
        "b.xml.bz2": bz2.compress(corpus(text(w("B"), year=1999, genre="fiction"))),
        "c.xml": corpus(text(w("C 1 ."), w("C 2 ."), year=2012, genre="science"), text(w("D"))),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in contents]


@pytest.fixture
def load(tmp_path):
    def load(files, **arguments):
        return load_gigaword(files, cache_dir=tmp_path / "cache", **arguments)

    return load


def whole_broken_whole(path):
    head, tail = corpus(text(w("A"), year=2012), text(w("C"), year=2012)).split(b"</text>", 1)
    path.write_bytes(head + b"</text>" + BROKEN + tail)
    return path


@pytest.mark.parametrize("num_proc", [None, 2, 16])
@pytest.mark.parametrize("chosen", [{}, {"years": (2011, 2013)}, {"genres": ("news", "fiction")}])
def test_rows_and_counts_are_those_of_the_reader(files, load, num_proc, chosen):
    expected = GigawordCounts()
    rows = list(read_gigaword(files, counts=expected, **chosen))
    for _ in ("read", "from the cache"):
        sentences, counts = load(files, num_proc=num_proc, **chosen)
        assert sentences.to_list() == rows
        assert counts.pop("broken") == {"files": 0, "places": 0, "lost_bytes": 0, "unread_bytes": 0}
        assert counts == expected.as_dict()
        assert list(counts["kept"]) == sorted(counts["kept"])
    assert list(stream_gigaword(files, **chosen)) == rows


def test_nothing_is_read_twice(files, load, monkeypatch):
    load(files)
    monkeypatch.setattr("distil_trainer.corpora.gigaword.SentenceParser", None)
    assert len(load(files)[0]) == 9
    with pytest.raises(TypeError):
        next(read_gigaword(files))


def test_a_file_that_changed_is_read_again(files, load):
    assert load(files[0])[0]["text"][0] == "A 0."
    files[0].write_bytes(corpus(text(w("E"))))
    os.utime(files[0], ns=(1, 1))
    assert load(files[0])[0]["text"][:] == ["E"]


@pytest.mark.parametrize("num_proc", [None, 2])
def test_broken_files(files, load, tmp_path, num_proc):
    broken = whole_broken_whole(tmp_path / "broken.xml")
    for skipped in ({}, {"genres": ("news",)}):
        with pytest.raises(
            DataError, match=r"^expected whole, well-formed XML in .*broken\.xml, got: .*; download"
        ) as e:
            load([files[0], broken], num_proc=num_proc, **skipped)
        assert e.value.__cause__ is None
        assert e.value.__suppress_context__
    sentences, counts = load([files[0], broken], num_proc=num_proc, skip_broken=True)
    assert sentences["text"][-2:] == ["A", "C"]
    assert counts["files"] == 2
    assert counts["broken"]["files"] == counts["broken"]["places"] == 1
    assert 0 < counts["broken"]["lost_bytes"] < len(BROKEN)
    with pytest.raises(DataError, match="well-formed"):
        list(stream_gigaword([broken]))
    assert [row["text"] for row in stream_gigaword([broken], skip_broken=True)] == ["A", "C"]


def test_arguments_are_checked_before_anything_is_read(files, load, tmp_path):
    for read in (load, stream_gigaword):
        with pytest.raises(DataError, match=r"gone\.xml, but there is none"):
            read([*files, tmp_path / "gone.xml"])
        with pytest.raises(DataError, match="two years"):
            read(files, years=(2012,))
    assert not (tmp_path / "cache").exists()


def test_nothing_kept(files, load):
    with pytest.raises(DataError, match=r"years=\(1900, 1901\).*the files hold texts of 1999 fiction, 2010 news"):
        load(files, years=(1900, 1901))
    files[0].write_bytes(corpus())
    with pytest.raises(DataError, match="hold no <sentence>"):
        load(files[0])


def test_workers_read_each_sentence_once(files):
    stream = stream_gigaword(files)
    loaded = DataLoader(stream, batch_size=None, num_workers=2)
    assert sorted(row["text"] for row in loaded) == sorted(row["text"] for row in stream)
