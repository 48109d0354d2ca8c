"""What the tests of hostile input share."""

import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

TIMES = int(os.environ.get("FUZZ", "0"))
ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
MIB = 2**20


def fuzz(examples):
    """So many examples, always the same; with FUZZ=100 in the environment 100 times as many, other ones each time."""
    return settings(
        max_examples=examples * max(TIMES, 1),
        derandomize=not TIMES,
        deadline=None,
        phases=[Phase.generate, Phase.shrink] if TIMES else [Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def memory_below(limit):
    """Fails if this process, its C libraries included, comes to need more than so many bytes besides what it has."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    yield
    assert _status("VmHWM") - before < limit


def _status(name):
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def message_of(error, function, *args, **kwargs):
    """What an error of this kind says; "" without one. Any other error comes through."""
    try:
        function(*args, **kwargs)
    except error as raised:
        return str(raised)
    return ""


class Trap:
    """Pickled, it makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)
