"""A process in which `publish` runs, one call after another, with the unmodified client and the server as its Hub."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from server import HubServer

# Answers each line, the arguments of calls of `publish` as JSON, with a line: for each call what it returned or raised,
# and its seconds. Several calls run at once. `new_client` closes the client's session in the middle of the call, as
# huggingface_hub does after a connection that failed.
_LOOP = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
from huggingface_hub import HfApi, close_session
from distil_trainer import publish
from distil_trainer.errors import DistilTrainerError

create_commit = HfApi.create_commit

def answer(arguments):
    start = time.perf_counter()
    if arguments.pop("new_client", False):
        HfApi.create_commit = lambda *args, **kwargs: (close_session(), create_commit(*args, **kwargs))[1]
    try:
        done = publish(**arguments)
        told = {"url": done.url, "commit": done.commit, "sent": done.sent, "files": list(done.contents.files)}
        told |= {"left_out": done.contents.left_out}
    except DistilTrainerError as error:
        told = {"error": type(error).__name__, "reason": getattr(error, "reason", None), "message": str(error)}
    finally:
        HfApi.create_commit = create_commit
    return told | {"seconds": time.perf_counter() - start}

for line in sys.stdin:
    calls = json.loads(line)
    with ThreadPoolExecutor(len(calls)) as pool:
        print(json.dumps(list(pool.map(answer, calls))), flush=True)
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
        """One call."""
        return self.publish_at_once([{"folder": str(folder), "repo_id": repo_id, **options}])[0]

    def publish_at_once(self, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Several calls, each in a thread of its own."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(calls) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self.log.read_text()[-4000:]
        return json.loads(answer)
