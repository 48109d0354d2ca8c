"""Names that reach a terminal, the Hub or the file system."""

import json
import os
import sys
from pathlib import Path

import pytest
from conftest import tiny_model
from hostile_input import ACTIVE
from transformers import BertForMaskedLM

from distil_trainer.errors import DataError, DistilTrainerError, PublishError
from distil_trainer.hub import prepare_repository, publish
from distil_trainer.hub.contents import read_contents

ESCAPE = "\x1b[2J\x1b]0;title\x07\r\x9b31m\u202e\u2066\ud800"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "student"
    tiny_model(BertForMaskedLM, num_hidden_layers=1).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# It\n")
    return folder


def test_no_error_of_ours_acts_on_a_terminal():
    message = str(DataError(f"one\n\ttwo {ESCAPE} three"))
    assert message.startswith("one\n\ttwo \\x1b[2J\\x1b]0;title\\x07\\r\\x9b31m\\u202e\\u2066\\ud800 three")
    assert not ACTIVE.search(str(PublishError("files", ESCAPE, ESCAPE)))
    long = str(DistilTrainerError("a" * 10**6 + " the remedy"))
    assert len(long) < 11_000
    assert long.endswith("the remedy")


IDS = [
    "../x",
    "me/../x",
    "/me/x",
    "me\\x",
    "me/x\0",
    "me/x y",
    "\x1b[2J",
    "me/x/y",
    "",
    "-x",
    "http://a.b/c",
    "me/x--y",
]


@pytest.mark.parametrize("repo_id", IDS, ids=ascii)
def test_an_id_that_is_none_goes_nowhere(folder, repo_id):
    for call in (
        lambda: publish(folder, repo_id, token="secret", dry_run=True),
        lambda: publish(folder, repo_id, token="secret"),
        lambda: prepare_repository(repo_id, token="secret"),
    ):
        with pytest.raises(PublishError, match=r"cannot be the id of a repository\. Give namespace/name") as error:
            call()
        assert error.value.reason == "refused"
        assert not ACTIVE.search(str(error.value))


@pytest.mark.parametrize("revision", ["../x", "a b", "a\\b", "\0", "-x"], ids=ascii)
def test_a_branch_that_is_none_goes_nowhere(folder, revision):
    with pytest.raises(PublishError, match="cannot be a branch"):
        publish(folder, "me/x", token="secret", revision=revision)


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE.txt", "vocab.txt", "picture.png"])
def test_a_link_does_not_publish_what_is_elsewhere(folder, tmp_path, name):
    (tmp_path / "id_rsa").write_text("private")
    (folder / name).symlink_to(tmp_path / "id_rsa")
    with pytest.raises(PublishError, match=f"{name} is a link to a file outside of .* Put a copy in its place"):
        read_contents(folder)
    (folder / name).unlink()
    (folder / name).symlink_to(folder / "README.md")
    assert name in read_contents(folder).files


def test_a_list_of_files_does_not_act_on_a_terminal(folder):
    os.mkdir(folder / "\x1b[2J")
    for name in ("\x1b[2J/a.txt", "a\nb\x07.txt", "LICENSE\u202e"):
        (folder / name).write_text("a")
    told = str(read_contents(folder))
    assert not ACTIVE.search(told)
    assert "LICENSE\\u202e" in told


def test_a_table_of_genres_does_not_act_on_a_terminal(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "recipes")
    monkeypatch.delitem(sys.modules, "prepare", raising=False)
    from prepare import table

    amount = {"texts": 1, "sentences": 2, "tokens": 3}
    broken = {"files": 0, "places": 0, "lost_bytes": 0, "unread_bytes": 0}
    counts = {"kept": {f"2012 {ESCAPE}": amount}, "left_out": {}, "broken": broken, "empty": 0}
    told = table(json.loads(json.dumps(counts)))
    assert "\\x1b[2J" in told
    assert not ACTIVE.search(told)
