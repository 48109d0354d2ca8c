import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_command_saves_what_it_prints(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    benchmark = importlib.import_module("corpus")
    monkeypatch.setattr(benchmark.measure, "launch", lambda function, *args: function(*args))
    path = tmp_path / "corpus.json"
    benchmark.main(["--out", str(path), "--sizes", "1", "--rounds", "1"])
    saved = json.loads(path.read_text())
    (row,) = saved["corpus"]
    assert 1e6 < row["xml_bytes"] < 1.1e6
    assert 200 < row["xml_bytes"] / row["tokens"] < 400  # as in Gigaword
    assert row["sentences"] > 100
    assert min(row["decompression"], row["xml"], row["both"]) > 0
    assert {"date", "cpu", "versions"} <= set(saved)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_sample_is_the_same_each_time(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    benchmark = importlib.import_module("corpus")
    assert b"".join(benchmark.xml(10_000)) == b"".join(benchmark.xml(10_000))
