"""Rows on disk: found again by another store, in whole shards, and refused where they are not what is asked for."""

import json

import pytest
import torch

from distil_trainer.errors import TrainingSetupError
from distil_trainer.teacher_cache import store as stores
from distil_trainer.teacher_cache.store import RowStore

ABOUT = {"teacher": "a", "features": ["hidden states 4, tokens"], "dtype": "float32"}


def key(number):
    return number.to_bytes(stores.KEY_BYTES, "big")


def row(number):
    """A row of `number` tokens; the last of its tensors is empty for even numbers."""
    values = torch.arange(number * 3.0).view(number, 3) + number
    return {"hidden": values.to(torch.bfloat16), "scaling": torch.tensor([0.1]), "bits": values[: number % 2, 0].long()}


def check(store, numbers):
    for number in numbers:
        found = store[key(number)]
        assert sorted(found) == ["bits", "hidden", "scaling"]
        for name, tensor in row(number).items():
            assert torch.equal(found[name], tensor)
            assert found[name].dtype == tensor.dtype


def filled(folder, numbers):
    store = RowStore(folder, ABOUT)
    for number in numbers:
        store.add(key(number), row(number))
    return store


def test_rows_come_back_from_memory_and_from_disk(tmp_path):
    store = filled(tmp_path / "new" / "cache", range(6))
    check(store, range(6))
    store.flush()
    store.flush()
    check(store, range(6))
    again = RowStore(tmp_path / "new" / "cache", ABOUT)
    check(again, range(6))
    assert key(6) not in again
    assert len(list(again.folder.glob("*.safetensors"))) == 1


def test_a_shard_is_written_when_it_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "SHARD_BYTES", 60)
    store = filled(tmp_path, range(1, 9))
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    check(store, range(1, 9))


def test_what_was_not_written_is_lost_and_nothing_else(tmp_path):
    store = filled(tmp_path, range(3))
    store.flush()
    store.add(key(3), row(3))
    (tmp_path / ".shard-0.safetensors.1.tmp").write_bytes(b"half")  # what a killed process leaves
    again = RowStore(tmp_path, ABOUT)
    check(again, range(3))
    assert key(3) not in again


def test_two_stores_share_a_folder(tmp_path):
    first, second = filled(tmp_path, range(3)), filled(tmp_path, range(2, 5))
    first.flush()
    second.flush()
    assert key(4) not in first
    first.refresh()
    second.refresh()
    check(first, range(5))
    check(second, range(5))


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"teacher": "b"}, "teacher 'a' there, 'b' here. Choose another folder"),
        ({"dtype": "bfloat16"}, "dtype 'float32' there, 'bfloat16' here"),
        ({"features": ["key 1"]}, r"features \['hidden states 4, tokens'\] there, \['key 1'\] here"),
    ],
)
def test_rows_of_something_else_are_refused(tmp_path, about, message):
    filled(tmp_path, range(3)).flush()
    with pytest.raises(TrainingSetupError, match=message):
        RowStore(tmp_path, {**ABOUT, **about})


def test_another_format_is_refused(tmp_path):
    RowStore(tmp_path, ABOUT)
    path = tmp_path / "cache.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))
    with pytest.raises(TrainingSetupError, match="format 0 there, 1 here"):
        RowStore(tmp_path, ABOUT)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_an_unreadable_description_is_refused(tmp_path, text):
    (tmp_path / "cache.json").write_text(text, encoding="latin-1")
    with pytest.raises(TrainingSetupError, match=r"cache.json should be JSON .* Delete"):
        RowStore(tmp_path, ABOUT)


def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(TrainingSetupError, match=r"holds thesis.tex and no cache.json. Choose another folder"):
        RowStore(tmp_path, ABOUT)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_broken_shard_is_refused_by_name(tmp_path):
    filled(tmp_path, range(3)).flush()
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:20], b""):
        path.write_bytes(content)
        with pytest.raises(TrainingSetupError, match=rf"{path.name} should be a whole shard .* Delete it"):
            RowStore(tmp_path, ABOUT)
    stores.write_atomically(path, stores.save({"weights": torch.ones(3)}))
    with pytest.raises(TrainingSetupError, match=rf"{path.name} should be a whole shard .* Delete it"):
        RowStore(tmp_path, ABOUT)
    path.unlink()
    assert key(1) not in RowStore(tmp_path, ABOUT)
