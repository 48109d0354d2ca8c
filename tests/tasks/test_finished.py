import json

import pytest
from conftest import tiny_config
from datasets import Dataset
from torch import nn

from distil_trainer.errors import RecordError
from distil_trainer.tasks.finished import changes, content_hash, depends_on, load_scores, save_scores

SCORES = {"test": {"f1": 0.1 + 0.2}}


def depends(model, processes=1, data=("train",), precision="no", **training):
    launch = {"processes": processes, "mixed_precision": precision}
    return depends_on(model, dict.fromkeys(data, "x"), training, launch)


@pytest.fixture
def model():
    model = nn.BatchNorm1d(2)  # with a buffer that has no dimension
    model.config = tiny_config(id2label={0: "O", 1: "B-X"})
    return model


def test_scores_come_back_as_they_were(tmp_path, model):
    save_scores(tmp_path / "scores" / "a.json", SCORES, depends(model, learning_rate=1e-5))
    found = load_scores([tmp_path / "scores" / "a.json", tmp_path / "scores" / "b.json"])
    assert list(found) == [tmp_path / "scores" / "a.json"]
    assert found[tmp_path / "scores" / "a.json"]["scores"] == SCORES
    assert changes(found[tmp_path / "scores" / "a.json"], depends(model, learning_rate=1e-5)) == []


def test_every_change_is_named(model):
    known = depends(model, learning_rate=1e-5, optim_args=None, logging_steps=1)
    before = {"scores": SCORES, "depends_on": json.loads(json.dumps(known))}
    assert changes(before, depends(model, learning_rate=1e-5, optim_args=None, disable_tqdm=True)) == []
    assert changes(before, depends(model, learning_rate=2e-5)) == ["training.learning_rate"]
    assert changes(before, depends(model, 2, learning_rate=1e-5, seed=1)) == ["training.seed", "processes"]
    assert changes(before, depends(model)) == ["training.learning_rate"]
    assert changes(before, depends(model, data=["train", "test"], learning_rate=1e-5)) == ["data of test"]
    assert changes(before, depends(model, data=[], learning_rate=1e-5)) == []
    assert changes(before, depends(model, precision="bf16", learning_rate=1e-5)) == ["mixed_precision"]
    model.config.hidden_dropout_prob = 0.5
    assert changes(before, depends(model, learning_rate=1e-5)) == ["config"]
    model.running_mean[0] = 1
    assert changes(before, depends(model, learning_rate=1e-5)) == ["weights", "config"]


def test_content_hash():
    rows = {"input_ids": [[1, 2], [3]], "labels": [0, 1]}
    same = content_hash(Dataset.from_dict(rows))
    assert content_hash(Dataset.from_dict(rows)) == same
    assert content_hash(Dataset.from_dict({**rows, "labels": [0, 0]})) != same
    assert content_hash(Dataset.from_dict(rows).select([1, 0])) != same


@pytest.mark.parametrize("text", ["", "[]", '{"scores": {}}'])
def test_other_content_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RecordError, match=r"a\.json holds no scores of a finished run"):
        load_scores([tmp_path / "a.json"])
