import bz2
import gzip
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import word_tokenizer
from corpora.corpus_files import corpus, text, w
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from tokenizers import pre_tokenizers
from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling, TrainerState

from distil_trainer.data import group_tokens, tokenize_text
from distil_trainer.errors import DataError
from distil_trainer.recipe import TextData
from distil_trainer.record import Record
from distil_trainer.text import read_text
from distil_trainer.text.masking import MaskingCollator
from distil_trainer.text.prepared import load_prepared, save_text

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda my".split()  # noqa: SIM905
LINES = [" ".join(WORDS[i % 7 : i % 7 + 1 + i % 5]) for i in range(30)]
KINDS = ["a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.gz", "a.parquet", "a.xml", "a.xml.bz2", "a.xml.gz"]


@pytest.fixture
def tokenizer():
    return word_tokenizer(WORDS)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder)
    monkeypatch.setattr("datasets.config.EXTRACTED_DATASETS_PATH", folder / "extracted")
    monkeypatch.setattr("datasets.config.DOWNLOADED_DATASETS_PATH", folder / "downloads")
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)  # after Parquet
    return folder


def content(name, lines):
    if ".xml" in name:
        return corpus(*(text(w(line), year=2000 + i % 20, genre="news") for i, line in enumerate(lines)))
    if ".jsonl" in name:
        return "".join(json.dumps({"id": i, "text": line}) + "\n" for i, line in enumerate(lines)).encode()
    return "".join(line + "\n\n" for line in lines).encode()


@pytest.fixture
def write(tmp_path):
    def write_file(name, lines=LINES, data=None):
        path = tmp_path / name
        if path.suffix == ".parquet":
            pq.write_table(pa.table({"id": range(len(lines)), "text": lines}), path)
        else:
            pack = {".bz2": bz2.compress, ".gz": gzip.compress}.get(path.suffix, bytes)
            path.write_bytes(data or pack(content(name, lines)))
        return str(path)

    return write_file


def recipe(*files, **settings):
    return TextData(files=files, **{"max_length": 8, **settings})


def ids(rows):
    return [list(row["input_ids"]) for row in rows]


def expected(tokenizer, lines=LINES):
    return [tokenizer(line)["input_ids"] for line in lines]


def joined(tokenizer, length, lines=LINES):
    flat = [token for row in expected(tokenizer, lines) for token in row]
    return [flat[i : i + length] for i in range(0, len(flat) // length * length, length)]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_rows(write, tokenizer, name):
    path = write(name)
    found = read_text(recipe(path), tokenizer, seed=0)
    assert ids(found.train) == expected(tokenizer)
    assert found.train.column_names == tokenizer.model_input_names
    assert found.validation is None
    assert found.facts.examples == 30
    assert found.facts.tokens == sum(map(len, expected(tokenizer)))
    assert found.facts.size_bytes == sum(map(len, LINES))
    assert found.facts.name == str(path)[len(str(path)) - len(name) :]
    grouped = read_text(recipe(path, group=True, max_length=16), tokenizer, seed=0)
    assert ids(grouped.train) == joined(tokenizer, 16)
    assert grouped.facts.tokens == 16 * grouped.facts.examples
    for settings, rows in (({}, found), ({"group": True, "max_length": 16}, grouped)):
        stream = read_text(recipe(path, stream=True, shuffle_buffer=1, **settings), tokenizer, seed=0)
        assert isinstance(stream.train, IterableDataset)
        assert ids(stream.train) == ids(rows.train) == ids(stream.train)
        assert (stream.facts.examples, stream.facts.tokens, stream.facts.size_bytes) == (None, None, None)


def test_files_of_several_kinds(write, tokenizer):
    files = [write(name, [f"{word} my"]) for name, word in (("a.txt", "alpha"), ("b.jsonl.gz", "beta"))]
    files.append(write("c.parquet", ["gamma my"]))
    lines = ["alpha my", "beta my", "gamma my"]
    assert ids(read_text(recipe(*files), tokenizer, seed=0).train) == expected(tokenizer, lines)
    stream = read_text(recipe(*files, stream=True, shuffle_buffer=1), tokenizer, seed=0)
    assert ids(stream.train) == expected(tokenizer, lines)
    assert ids(read_text(recipe(*files, f"{files[0][:-5]}*.txt"), tokenizer, seed=0).train) == expected(
        tokenizer, lines
    )
    with pytest.raises(DataError, match=r"either XML of Språkbanken or other files, got .*d\.xml and .*a\.txt"):
        read_text(recipe(*files, write("d.xml")), tokenizer, seed=0)
    with pytest.raises(DataError, match=r"expected XML .* for years and genres, .*a\.txt"):
        read_text(recipe(*files, years=(2000, 2001)), tokenizer, seed=0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("length", [3, 7, 512])
def test_rows_of_a_length_do_not_depend_on_batches(tokenizer, stream, length):
    lines = LINES * 20
    texts = Dataset.from_dict({"text": lines})
    texts = texts.to_iterable_dataset() if stream else texts
    for batch_size in (1, 4, 10_000):
        grouped = group_tokens(tokenize_text(texts, tokenizer, None), length, batch_size=batch_size)
        assert ids(grouped) == joined(tokenizer, length, lines)
        assert ids(grouped) == ids(grouped)


def test_a_stream_is_shuffled_by_the_seed(write, tokenizer):
    def stream(seed, **settings):
        return ids(read_text(recipe(write("a.txt"), stream=True, **settings), tokenizer, seed=seed).train)

    in_order = expected(tokenizer)
    assert stream(1) == stream(1)
    assert stream(1) != stream(2)
    assert stream(1) != in_order
    assert sorted(stream(1)) == sorted(in_order)
    assert stream(1, max_examples=5) == stream(1)[:5]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet", "xml.bz2"])
def test_workers_and_processes_take_each_row_once(write, tokenizer, kind):
    files = [write(f"{name}.{kind}", LINES[start : start + 10]) for name, start in (("a", 0), ("b", 10), ("c", 20))]
    stream = read_text(recipe(*files, stream=True, shuffle_buffer=4), tokenizer, seed=0).train
    assert sorted(ids(DataLoader(stream, batch_size=None, num_workers=2))) == sorted(expected(tokenizer))
    parts = [split_dataset_by_node(stream, rank=rank, world_size=3) for rank in range(3)]
    assert sorted(row for part in parts for row in ids(part)) == sorted(expected(tokenizer))


def test_rows_are_what_a_collator_takes(write, tokenizer):
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    for settings in ({}, {"stream": True}):
        rows = read_text(recipe(write("a.txt"), group=True, **settings), tokenizer, seed=0).train
        batch = next(iter(DataLoader(rows, batch_size=4, collate_fn=collator, num_workers=settings.get("stream", 0))))
        assert batch["input_ids"].shape == batch["labels"].shape == (4, 8)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.xml"])
def test_the_second_reading_is_from_the_cache(write, cache, name):
    data = recipe(write(name), group=True)

    def files():
        return {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")}

    first, before = read_text(data, word_tokenizer(WORDS), seed=0), files()
    second = read_text(data, word_tokenizer(WORDS), seed=0)
    assert files() == before
    assert second.facts == first.facts
    assert ids(second.train) == ids(first.train)
    read_text(data, word_tokenizer([*WORDS, "more"]), seed=0)
    assert files() != before


@pytest.mark.parametrize("name", ["a.jsonl", "a.xml"])
def test_two_processes_give_the_same(write, tokenizer, name):
    data = recipe(write(name), write(f"b{name}"), group=True)
    one = read_text(data, tokenizer, seed=0)
    two = read_text(recipe(*data.files, group=True, num_proc=2), tokenizer, seed=0)
    assert ids(two.train) == ids(one.train)
    assert two.facts == one.facts


def test_facts_of_gigaword(write, tokenizer):
    chosen = {"years": (2000, 2004), "genres": ("news",), "name": "G", "url": "http://g.se", "language": ("sv",)}
    facts = read_text(recipe(write("a.xml"), **chosen), tokenizer, seed=0).facts
    assert (facts.name, facts.url, facts.language, facts.examples) == ("G", "http://g.se", ("sv",), 10)
    assert facts.counts["sentences"] == 10
    assert facts.counts["kept"]["2003 news"] == {"texts": 2, "sentences": 2, "tokens": 8}
    assert facts.filtering == "Texts of 2000 to 2004 and of the genres news: 10 sentences kept, 20 left out."
    stream = read_text(recipe(write("a.xml"), stream=True, **chosen), tokenizer, seed=0).facts
    assert stream.filtering == "Texts of 2000 to 2004 and of the genres news."
    assert stream.counts == {}
    assert read_text(recipe(write("a.xml"), filtering="F.", **chosen), tokenizer, seed=0).facts.filtering == "F."
    assert read_text(recipe(write("a.xml")), tokenizer, seed=0).facts.filtering is None
    broken = write("b.xml", data=corpus(text(w("alpha my")), text(w("A & B"))).replace(b"&amp;", b"&"))
    facts = read_text(recipe(broken, skip_broken=True), tokenizer, seed=0).facts
    assert facts.filtering.startswith(f"Left out {facts.counts['broken']['lost_bytes']:,} bytes of XML in 1 broken")
    for settings in ({}, {"stream": True}):
        with pytest.raises(DataError, match="skip_broken=True"):
            read_text(recipe(broken, **settings), tokenizer, seed=0)


def test_examples_are_drawn_by_the_seed(write, tokenizer):
    data = recipe(write("a.txt"), max_examples=7, validation=(write("b.txt"),))
    found = read_text(data, tokenizer, seed=3)
    assert ids(found.train) == ids(read_text(data, tokenizer, seed=3).train)
    assert ids(found.train) != ids(read_text(data, tokenizer, seed=4).train)
    assert found.facts.examples == 7
    assert found.facts.tokens == sum(map(len, ids(found.train)))
    assert found.facts.size_bytes is None
    assert len(found.validation) == 30


@pytest.mark.parametrize(
    ("name", "data", "settings", "message"),
    [
        ("a.txt", b" \n \n", {}, "blank|not one row"),
        ("a.txt", b"alpha", {"group": True, "max_length": 9}, "fill a row|not one row"),
        ("a.txt", b"\xff\xfe\n", {}, r"expected text in UTF-8 in .*a\.txt"),
        ("a.txt.gz", b"alpha", {}, r"which cannot be read so: Not a gzipped file"),
        ("a.jsonl", b'{"text": ', {}, r"expected one JSON object a line in .*a\.jsonl"),
        ("a.jsonl", b'{"body": "a"}\n', {}, r"expected a column 'text' in .*a\.jsonl, got \['body'\]"),
        ("a.jsonl", b'{"text": [1]}\n', {}, "expected strings under 'text'"),
        ("a.parquet.gz", b"PAR1", {}, r"expected a \.jsonl or \.txt file"),
        ("a.xml", corpus(text(w("A"), year=1999)), {"years": (2000, 2001)}, "got none|not one row"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_text_that_cannot_be_used(write, tokenizer, name, data, settings, message, stream):
    path = write(name, data=data)
    with pytest.raises(DataError, match=message):
        read_text(recipe(path, stream=stream, **settings), tokenizer, seed=0)


def test_prepared_rows(write, tokenizer, tmp_path):
    data = recipe(write("a.xml"), validation=(write("b.xml"),), group=True, name="G", years=(2000, 2010))
    text, folder = read_text(data, tokenizer, seed=0), tmp_path / "out" / "prepared"
    folder.parent.mkdir()
    save_text(text, tokenizer, folder, Record(stage="prepare", data=(text.facts,)))
    assert {path.name for path in folder.parent.iterdir()} == {"prepared"}
    for read in (
        load_prepared(folder, word_tokenizer(WORDS)),
        read_text(TextData(prepared=str(folder)), tokenizer, seed=0),
    ):
        assert ids(read.train) == ids(text.train)
        assert ids(read.validation) == ids(text.validation)
        assert read.facts == text.facts
    some = read_text(TextData(prepared=str(folder), max_examples=2, name="Other"), tokenizer, seed=0)
    assert (some.facts.name, some.facts.examples, some.facts.tokens) == ("Other", 2, 16)
    with pytest.raises(DataError, match="which holds files; delete it"):
        save_text(text, tokenizer, folder, Record(stage="prepare", data=(text.facts,)))


def test_prepared_rows_of_another_tokenizer(write, tokenizer, tmp_path):
    text = read_text(recipe(write("a.txt")), tokenizer, seed=0)
    save_text(text, tokenizer, tmp_path / "prepared", Record(stage="prepare", data=(text.facts,)))
    longer, other_rules = word_tokenizer([*WORDS, "more"]), word_tokenizer(WORDS)
    other_rules.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    for wrong in (longer, other_rules):
        with pytest.raises(DataError, match=r"was prepared with, .* of 17 tokens, got .*; prepare the text again"):
            load_prepared(tmp_path / "prepared", wrong)
    tokenizer(["alpha"], truncation=True, padding=True, max_length=3)  # which the tokenizer remembers
    load_prepared(tmp_path / "prepared", tokenizer)


def test_folders_that_hold_nothing_prepared(tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"no prepare\.json of it; prepare it first"):
        load_prepared(tmp_path / "gone", tokenizer)
    (tmp_path / "prepare.json").write_text("{}")
    with pytest.raises(DataError, match="prepare the text again"):
        load_prepared(tmp_path, tokenizer)
    Record(stage="prepare", data=({"name": "a", "role": "train"},)).save(tmp_path / "prepare.json")
    with pytest.raises(DataError, match=r"cannot be read: .*prepare the text again"):
        load_prepared(tmp_path, tokenizer)


@pytest.mark.parametrize("stream", [False, True])
def test_a_data_set_of_the_hub(write, tokenizer, tmp_path, monkeypatch, stream):
    monkeypatch.chdir(tmp_path)  # `datasets` takes a folder of that name for it, without the network
    folder = tmp_path / "me" / "texts"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        bodies = [*(f"{line} my" for line in LINES), "", None]
        pq.write_table(pa.table({"body": bodies}), folder / f"{split}-00000.parquet")

    def read(**settings):
        asked = {"hub_id": "me/texts", "column": "body", "stream": stream, "shuffle_buffer": 1} | settings
        return read_text(TextData(**asked), tokenizer, seed=0)

    found = read(validation_split="test", split="train")
    assert ids(found.train) == ids(found.validation) == expected(tokenizer, [f"{line} my" for line in LINES])
    assert (found.facts.hub_id, found.facts.name, found.facts.split) == ("me/texts", "me/texts", "train")
    assert found.facts.examples == (None if stream else 30)
    with pytest.raises(DataError, match=r"split dev cannot be read: .*test.*; check the names of configuration and"):
        read(split="dev")
    with pytest.raises(DataError, match=r"'sv' not found. Available: .*'default'.*no file sv/train/\*\.parquet either"):
        read(config="sv")
    with pytest.raises(DataError, match=r"expected a column 'text' in me/texts, split train, got \['body'\]"):
        read(column="text")
    (folder / "texts.py").write_text("")
    with pytest.raises(DataError, match="read it with revision: refs/convert/parquet"):
        read()
    with pytest.raises(DataError, match=r"nobody/nothing, split train cannot be read: .*connect to the Hub"):
        read(hub_id="nobody/nothing")


def test_a_stream_can_be_sent_to_a_worker(write, tokenizer):
    stream = read_text(recipe(write("a.xml"), group=True, stream=True), tokenizer, seed=0).train
    assert ids(pickle.loads(pickle.dumps(stream))) == ids(stream)


def test_a_stream_that_processes_cannot_share(write, tokenizer):
    for settings in ({"group": True}, {"stream": True, "group": True}, {}):
        read_text(recipe(write("a.txt"), **settings), tokenizer, seed=0, processes=2)
    with pytest.raises(DataError, match=r"2 processes can share, got a stream of texts; set data\.group=true"):
        read_text(recipe(write("a.txt"), stream=True), tokenizer, seed=0, processes=2)


def masked(tokenizer, lines, *, seed=0, epoch=0.0):
    collator = MaskingCollator(tokenizer, mlm_probability=0.5, seed=seed)
    collator.on_epoch_begin(None, TrainerState(epoch=epoch), None)
    return collator([tokenizer(line) for line in lines])["labels"].tolist()


def test_masks_follow_from_the_seed_the_epoch_and_the_batch(tokenizer):
    batch, *others = LINES[:8], LINES[8:16]
    first = masked(tokenizer, batch)
    masked(tokenizer, *others)
    assert masked(tokenizer, batch) == masked(tokenizer, batch, epoch=0.9) == first
    assert masked(tokenizer, batch, seed=1) != first
    assert masked(tokenizer, batch, epoch=1.0) != first
    assert masked(tokenizer, [*batch[:7], LINES[9]])[:7] != first[:7]


def test_workers_that_live_on_learn_of_the_epoch(tokenizer):
    collator = MaskingCollator(tokenizer, mlm_probability=0.5, seed=0)
    loader = DataLoader(
        [tokenizer(line) for line in LINES[:8]], 8, collate_fn=collator, num_workers=1, persistent_workers=True
    )
    for epoch in (0, 1):
        collator.on_epoch_begin(None, TrainerState(epoch=epoch), None)
        (batch,) = loader
        assert batch["labels"].tolist() == masked(tokenizer, LINES[:8], epoch=epoch)
