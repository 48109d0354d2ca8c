"""A process in which `publish` runs, one call after another, with the unmodified client and the server as its Hub."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from server import HubServer

# Answers each line, the arguments of `publish` as JSON, with a line: what it returned or raised, and the seconds.
_LOOP = """
import json, sys, time
from distil_trainer import publish
from distil_trainer.errors import DistilTrainerError

for line in sys.stdin:
    start = time.perf_counter()
    try:
        done = publish(**json.loads(line))
        answer = {"url": done.url, "commit": done.commit, "sent": done.sent, "files": list(done.contents.files)}
        answer |= {"left_out": done.contents.left_out}
    except DistilTrainerError as error:
        answer = {"error": type(error).__name__, "reason": getattr(error, "reason", None), "message": str(error)}
    print(json.dumps(answer | {"seconds": time.perf_counter() - start}), flush=True)
"""


class Publisher:
    """A context manager; `log` holds what the process wrote to its standard error."""

    def __init__(self, hub: HubServer, home: Path, **environment: str) -> None:
        self.hub, self.home, self.environment = hub, home, environment

    def __enter__(self) -> "Publisher":
        self.home.mkdir(parents=True, exist_ok=True)
        self.log = self.home / "stderr.txt"
        self._errors = self.log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOOP],
            env=self.hub.environment(self.home, **self.environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def publish(self, folder: Path, repo_id: str, **options: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"folder": str(folder), "repo_id": repo_id, **options}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self.log.read_text()[-4000:]
        return json.loads(answer)
