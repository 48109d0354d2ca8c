"""A run that was killed, wherever it was, goes on from a whole checkpoint and ends with the same bits and logs."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from killed_runs import FOUND, PLACES

HERE = Path(__file__).parent
# what there is after the kill -> whether it is the one that a run goes on from
CHECKPOINTS = {
    "a step": {"checkpoint-3": True},
    "evaluation": {"checkpoint-6": True},
    "the first checkpoint": {"checkpoint-3": False},
    "the weights": {"checkpoint-3": True, "checkpoint-6": False},
    "the state": {"checkpoint-3": True, "checkpoint-6": False},
    "a push": {"checkpoint-3": False, "checkpoint-6": True},
    "the rotation": {"checkpoint-3": False, "checkpoint-6": True},
    "the end": {"checkpoint-10": True},  # nothing is left to do
}


def run(folder, *kills):
    """What killed_runs.py found."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parent.parent)])}
    command = [sys.executable, str(HERE / "killed_runs.py"), str(folder), *kills]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-4000:]
    return [json.loads(line) for line in (folder / FOUND).read_text().splitlines()]


def test_a_run_that_is_killed_at_any_place_ends_as_if_it_had_not_been(tmp_path):
    lines = run(tmp_path, *PLACES)
    assert {line["kill"]: line["found"] for line in lines} == CHECKPOINTS
    for line in lines:
        assert line["status"] == 9, line["kill"]
        assert line["same"], line["kill"]
        alone, gone_on = line["logs"]
        assert gone_on == alone, line["kill"]


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_moments_ends_as_if_it_had_not_been(tmp_path):
    draw = random.Random(0)
    for line in run(tmp_path, *(f"{draw.random():.3f}" for _ in range(20))):
        assert line["same"], (line["kill"], line["found"])
        alone, gone_on = line["logs"]
        assert gone_on == alone, (line["kill"], line["found"])
