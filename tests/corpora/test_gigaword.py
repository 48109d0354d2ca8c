import bz2
import gzip
import json
import os
import tracemalloc
from itertools import pairwise

import pytest
from corpus_files import corpus, text, w
from datasets import Dataset

from distil_trainer.corpora import Amount, GigawordCounts, GigawordFilter, read_gigaword
from distil_trainer.errors import DataError

TRAPS = """\ufeff<?xml version="1.0" encoding="UTF-8"?>
<!-- a comment with <sentence><w>no token</w></sentence> -->
<?xml-stylesheet href="http://example.com/no.xsl"?>
<corpus id="gigaword">
<text year="2012" genre="news" date="1999-01-01" title="A &lt;b&gt; &amp; c">
  <header><w>not</w> in a sentence</header>
  <paragraph n="1"><sentence id="1">
    stray
    <w pos="PN">Hon</w> <w>sa</w><w>:</w><w>&quot;</w><w>Bröd</w><!-- here <w>too</w> --><w>&amp;</w><w>b&#xF6;n</w>
    <w>&lt;3</w><?go on?><w>.</w><w>&#34;</w>
  </sentence></paragraph>
  <sentence id="2"><ne type="PRS"><w>Karl</w><w>'</w><w>s</w></ne>
    <entity><field><w>b<![CDATA[o<]]>k</w></field></entity>
  </sentence>
  <sentence id="3"></sentence><sentence id="4"><w/><w> </w></sentence>
  <sentence id="5"><w>
    <i>hu</i>
    <b>s</b>et</w><w>1 000 000</w><w>kr</w></sentence>
</text>
<text genre="socialmedia" datefrom="20100503"><sentence><w>Hej</w><w>:)</w></sentence></text>
<text date="okänt"><sentence><w>Ja</w><w>!</w></sentence></text>
<sentence><w>Utan</w><w>text</w></sentence>
</corpus>
"""
EXPECTED = [
    ('Hon sa: "Bröd & bön <3."', 2012, "news"),
    ("Karl's bo<k", 2012, "news"),
    ("huset 1 000 000 kr", 2012, "news"),
    ("Hej :)", 2010, "socialmedia"),
    ("Ja!", None, None),
    ("Utan text", None, None),
]
TOKENS = r"""<corpus><text date="2021-01-02 10:00:00" _id="a"><paragraph>
  <sentence id="1"><token _tail="\s" pos="NN">Det</token><token>”</token><token _tail="\s">går</token>
    <token _tail="\n\s" _head="\t">bra</token><token _head="\s\s">”</token><token _tail="\n\n">.</token></sentence>
  <sentence id="2"><token _head="\s\s">Hej</token><token _tail="\s\s">–</token><token _tail="\">då</token></sentence>
  <sentence id="3"><token>och</token><token>/</token><token>eller</token></sentence>
  <sentence id="4"><w>och</w><w>/</w><token _tail="\s">eller</token></sentence>
</paragraph></text></corpus>"""


@pytest.fixture
def write(tmp_path):
    def write_file(name, data):
        path = tmp_path / name
        data = data.encode() if isinstance(data, str) else data
        pack = {".bz2": bz2.compress, ".gz": gzip.compress}.get(path.suffix, bytes)
        path.write_bytes(pack(data))
        return path

    return write_file


def triples(*args, **kwargs):
    return [(s["text"], s["year"], s["genre"]) for s in read_gigaword(*args, **kwargs)]


def texts(*args, **kwargs):
    return [sentence["text"] for sentence in read_gigaword(*args, **kwargs)]


@pytest.mark.parametrize("name", ["a.xml", "a.xml.bz2", "a.xml.gz"])
def test_a_file_with_every_trap(write, name):
    assert triples(write(name, TRAPS)) == EXPECTED


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("name", ["a.xml", "a.xml.bz2", "a.xml.gz"])
def test_blocks_may_end_anywhere(write, monkeypatch, name, block):
    monkeypatch.setattr("distil_trainer.corpora.streams.BLOCK", block)
    assert triples(write(name, TRAPS)) == EXPECTED


def test_streams_put_end_to_end(tmp_path):
    data = TRAPS.encode()
    cuts = [0, 1, 2, 40, 500, 501, 900, len(data)]  # also within ö
    for name, pack in (("a.xml.bz2", bz2.compress), ("b.xml.gz", gzip.compress)):
        path = tmp_path / name
        path.write_bytes(b"".join(pack(data[a:b]) for a, b in pairwise(cuts)) + pack(b""))
        assert triples(path) == EXPECTED


@pytest.mark.parametrize("encoding", ["utf-16", "iso-8859-1", "windows-1252"])
def test_other_encodings(write, encoding):
    data = f"<?xml version='1.0' encoding='{encoding}'?><corpus>{text(w('Räksmörgås !'), year=2000)}</corpus>"
    assert triples(write("a.xml", data.encode(encoding))) == [("Räksmörgås!", 2000, None)]


def test_marked_white_space_is_restored_exactly(write):
    assert triples(write("a.xml", TOKENS)) == [
        ("Det ”går \tbra\n   ”.", 2021, None),
        ("Hej–  då", 2021, None),
        ("och/eller", 2021, None),
        ("och/eller", 2021, None),
    ]


def test_tokens_without_any_marked_white_space(write):
    assert texts(write("a.xml", TOKENS.replace("_tail", "tail").replace("_head", "head"))) == [
        "Det ”går bra”.",
        "Hej – då",
        "och/eller",
        "och/eller",
    ]


def test_texts_within_texts(write):
    inner = text(w("B"), year=1960)
    assert triples(write("a.xml", corpus(text(w("A"), inner, w("C"), year=1950, genre="news")))) == [
        ("A", 1950, "news"),
        ("B", 1960, "news"),
        ("C", 1950, "news"),
    ]


@pytest.mark.parametrize(
    ("attributes", "year"),
    [
        ({"year": "2012", "date": "1999"}, 2012),
        ({"year": "", "date": "1999-05-03"}, 1999),
        ({"year": "okänt", "datefrom": "19990503"}, 1999),
        ({"date": " 1999"}, 1999),
        ({"date": "03/05/1999"}, None),
        ({"datefrom": "00000101"}, None),
        ({"year": "99"}, None),
        ({"dateto": "1999"}, None),
        ({}, None),
    ],
)
def test_year(write, attributes, year):
    assert triples(write("a.xml", corpus(text(w("A"), **attributes)))) == [("A", year, None)]


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        ({}, "ABCDEF"),
        ({"years": (2010, 2015)}, "BC"),
        ({"years": [2012, 2012]}, "C"),
        ({"genres": ["news"]}, "ACD"),
        ({"genres": ("news", "science")}, "ABCD"),
        ({"years": (1990, 2012), "genres": ("news",)}, "AC"),
    ],
)
def test_filter(write, choice, kept):
    path = write(
        "a.xml",
        corpus(
            text(w("A"), year=1999, genre="news"),
            text(w("B"), year=2010, genre="science"),
            text(w("C"), year=2012, genre="news"),
            text(w("D"), genre="news"),
            text(w("E"), year=2016, genre="fiction"),
            w("F"),
        ),
    )
    assert "".join(texts(path, **choice)) == kept


def test_counts(write):
    path = write(
        "a.xml",
        corpus(
            text(w("A b ."), w(""), w("C"), year=2012, genre="news"),
            text(year=2012, genre="news"),
            text(w("D e"), year=1999, genre="news"),
            text(w("F")),
            w("G h"),
        ),
    )
    counts = GigawordCounts()
    assert texts(path, years=(2000, 2020), counts=counts) == ["A b.", "C"]
    assert (counts.files, counts.sentences, counts.tokens, counts.characters, counts.empty) == (1, 2, 4, 5, 1)
    assert counts.kept == {(2012, "news"): Amount(texts=2, sentences=2, tokens=4)}
    assert counts.left_out == {
        (1999, "news"): Amount(texts=1, sentences=1, tokens=2),
        (None, None): Amount(texts=1, sentences=2, tokens=3),
    }
    assert json.loads(json.dumps(counts.as_dict())) == {
        "files": 1,
        "sentences": 2,
        "tokens": 4,
        "characters": 5,
        "empty": 1,
        "kept": {"2012 news": {"texts": 2, "sentences": 2, "tokens": 4}},
        "left_out": {
            "unknown unknown": {"texts": 1, "sentences": 2, "tokens": 3},
            "1999 news": {"texts": 1, "sentences": 1, "tokens": 2},
        },
    }
    texts(path, counts=counts)  # the same object goes on counting
    assert (counts.files, counts.sentences) == (2, 2 + 5)


def test_files_one_after_another(write):
    first, second = write("a.xml", corpus(w("A"))), write("b.xml.bz2", corpus(w("B")))
    assert texts([second, str(first), second]) == ["B", "A", "B"]


def test_nothing_kept(write):
    path = write("a.xml", corpus(text(w("A"), year=1999, genre="news"), text(w("B"))))
    with pytest.raises(DataError, match=r"years=\(2010, 2015\).*got none: .*1999 news, no year no genre"):
        texts(path, years=(2010, 2015))
    with pytest.raises(DataError, match="hold no <sentence>"):
        texts(write("b.xml", "<corpus><text><w>A</w></text></corpus>"))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"years": 2012}, r"expected years=\(first, last\).*got 2012"),
        ({"years": (2012,)}, "two years"),
        ({"years": ("2010", "2012")}, "two years"),
        ({"years": (2010, 20120)}, "four digits"),
        ({"years": (2015, 2010)}, "not to be after"),
        ({"genres": "news"}, "sequence of names.*'news'"),
        ({"genres": ("",)}, "sequence of names"),
        ({"genres": (1,)}, "sequence of names"),
    ],
)
def test_filters_that_do_not_fit(write, choice, message):
    with pytest.raises(DataError, match=message):
        GigawordFilter(**choice)
    with pytest.raises(DataError, match=message):
        read_gigaword(write("a.xml", TRAPS), **choice)


def test_files_are_checked_before_anything_is_read(write, tmp_path):
    broken = write("a.xml", "no XML")
    for wrong, message in [
        ([broken, tmp_path / "gone.xml.bz2"], "gone.xml.bz2, but there is none"),
        ([broken, tmp_path], "expected a .xml.bz2, .xml.gz or .xml file"),
        ([broken, write("a.zip", "")], "a.zip"),
        ([], "got none"),
    ]:
        with pytest.raises(DataError, match=message):
            read_gigaword(wrong)
    (tmp_path / "folder.xml").mkdir()
    with pytest.raises(DataError, match="there is none"):
        read_gigaword(tmp_path / "folder.xml")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind here")
def test_a_file_that_may_not_be_read(write):
    path = write("a.xml", TRAPS)
    path.chmod(0)
    with pytest.raises(DataError, match=r"expected to read .*a\.xml"):
        texts(path)


def test_a_dataset_of_it(write, tmp_path):
    arguments = {"files": [str(write("a.xml", TRAPS))], "years": (2010, 2012)}
    data = Dataset.from_generator(read_gigaword, gen_kwargs=arguments, cache_dir=str(tmp_path / "cache"))
    assert data[0] == {"text": EXPECTED[0][0], "year": 2012, "genre": "news"}
    assert len(data) == 4


def test_memory_does_not_grow_with_the_file(tmp_path):
    texts_ = "".join(text(w("Det var en gång en bil , sa hon . ") * 5, year=2012, genre="news") for _ in range(400))
    head, tail = corpus().split(b"</corpus>")
    body = texts_.encode()
    path = tmp_path / "a.xml.bz2"
    times = 20 * 2**20 // len(body)
    path.write_bytes(bz2.compress(head) + bz2.compress(body) * times + bz2.compress(b"</corpus>" + tail))

    tracemalloc.start()
    try:
        number = sum(1 for _ in read_gigaword(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert number == 400 * times * 5
    assert peak < 8 * 2**20
