import gzip
import json

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from distil_trainer.errors import DataError
from distil_trainer.hub_data import CONVERTED, commit_of
from distil_trainer.tasks.labelled import map_types, read_files, read_hub

COLUMNS = ("tokens", "ner_tags")
ROWS = [{"id": 1, "tokens": ["a", "cat"], "ner_tags": ["O", "B-X"]}, {"id": 2, "tokens": ["b"], "ner_tags": ["O"]}]
NAMED = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B-X"]))})


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def hub(tmp_path):
    """The Hub's conversion to parquet: a folder for each configuration, and in it for each split."""
    for config in ("one", "two"):
        for split, rows in (("train", ROWS), ("validation", ROWS[:1]), ("odd_name", ROWS[1:])):
            folder = tmp_path / "hub" / config / split
            folder.mkdir(parents=True)
            Dataset.from_list([{**row, "id": f"{config} {split}"} for row in rows]).to_parquet(folder / "0000.parquet")
    return tmp_path / "hub"


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_files_of_all_kinds_are_put_together(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(ROWS))
    (tmp_path / "b.json").write_text(json.dumps([{**row, "id": "text here"} for row in ROWS]))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines([{**ROWS[0], "more": 1}]).encode()))
    Dataset.from_list(ROWS[1:]).to_parquet(tmp_path / "d.parquet")
    together = read_files([str(tmp_path / "[a-c].*"), str(tmp_path / "d.parquet")], COLUMNS)
    assert together.column_names == list(COLUMNS)
    assert together["tokens"][:] == [["a", "cat"], ["b"], ["a", "cat"], ["b"], ["a", "cat"], ["b"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a.csv": "tokens"}, r"expected a file of \.jsonl, .*a\.csv; convert it"),
        ({"a.jsonl": '{"tokens": '}, r"a\.jsonl cannot be read"),
        ({"a.jsonl": '{"tokens": ["a"]}\n'}, r"expected the columns \['tokens', 'ner_tags'\] in .*got \['tokens'\]"),
        ({"a.jsonl": lines(ROWS), "b.jsonl": lines([{"tokens": ["a"], "ner_tags": [1]}])}, "expected the same types"),
        ({}, "no file matches"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, message):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_files([str(tmp_path / "*.*")], COLUMNS)


def test_the_hubs_conversion_is_read_by_folders(hub):
    read = read_hub(str(hub), ["train", "validation"], ("id",), config="two", revision=CONVERTED)
    assert read["id"][:] == ["two train"] * 2 + ["two validation"]
    assert read_hub(str(hub), ["odd_name"], ("id",), config="one")["id"][:] == ["one odd_name"]


def test_configurations_of_the_page_come_first(hub):
    page = "---\nconfigs:\n- config_name: one\n  data_files:\n  - {split: train, path: two/train/*}\n---\n"
    (hub / "README.md").write_text(page)
    assert read_hub(str(hub), ["train"], ("id",), config="one")["id"][:] == ["two train"] * 2
    assert read_hub(str(hub), ["train"], ("id",))["id"][:] == ["two train"] * 2


@pytest.mark.parametrize(
    ("split", "config", "message"),
    [
        ("train", "three", r"hub \(three\), split train cannot be read: .*no file three/train/\*\.parquet.*check"),
        ("test", "one", r"no file one/test/\*\.parquet"),
        ("test", None, r"split test cannot be read: Unknown split"),
    ],
)
def test_parts_that_are_not_there(hub, split, config, message):
    with pytest.raises(DataError, match=message):
        read_hub(str(hub), [split], ("id",), config=config)


def test_a_script_is_not_run_and_the_conversion_is_named(hub):
    (hub / "hub.py").write_text("raise SystemExit")
    with pytest.raises(DataError, match=r"made by a script.*revision: refs/convert/parquet"):
        read_hub(str(hub), ["train"], ("id",), config="one")


def test_without_the_hub(monkeypatch):
    assert commit_of("nobody/nothing") is None
    with pytest.raises(DataError, match=r"nobody/nothing, split train cannot be read: .*connect to the Hub"):
        read_hub("nobody/nothing", ["train"], ("id",))


def tagged(*tags, features=None):
    return Dataset.from_dict({"tokens": [["a"] * len(row) for row in tags], "ner_tags": list(tags)}, features=features)


def test_types_are_renamed_then_chosen():
    splits = {"train": tagged(["B-a", "I-a", "O", "B-b"]), "test": tagged(["B-c", "I-c"])}
    mapped = map_types(splits, "ner_tags", rename={"a": "X", "b": "Y"}, keep=["X"])
    assert mapped["train"]["ner_tags"][:] == [["B-X", "I-X", "O", "O"]]
    assert mapped["test"]["ner_tags"][:] == [["O", "O"]]
    assert map_types(splits, "ner_tags", rename={"c": "a"}, keep=None)["test"]["ner_tags"][:] == [["B-a", "I-a"]]


def test_types_of_class_ids_become_text():
    mapped = map_types({"test": tagged([1, 0], features=NAMED)}, "ner_tags", rename={"X": "Y"}, keep=None)["test"]
    assert mapped["ner_tags"][:] == [["B-Y", "O"]]
    assert mapped.features["ner_tags"] == List(Value("string"))


def test_an_unlabelled_split_has_no_types():
    with pytest.raises(DataError, match="class ids from 0 to 1, got -1"):
        map_types({"test": tagged([1, -1], features=NAMED)}, "ner_tags", rename={}, keep=["X"])


@pytest.mark.parametrize(("rename", "keep"), [({"z": "X"}, None), ({}, ["a", "z"]), ({"a": "b"}, ["a"])])
def test_types_that_do_not_occur_are_refused(rename, keep):
    with pytest.raises(DataError, match="expected entity types of"):
        map_types({"test": tagged(["B-a"])}, "ner_tags", rename=rename, keep=keep)
