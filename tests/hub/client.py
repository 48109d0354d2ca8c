"""The unmodified client libraries, in a process of their own that knows the Hub from its environment only."""

import subprocess
import sys
import textwrap
from pathlib import Path

from server import HubServer


def run_client(hub: HubServer, home: Path, code: str, timeout: float = 60, **environment: str) -> str:
    """What Python code prints. It must succeed, and ask no other host than the server."""
    result = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", textwrap.dedent(code)],
        env=hub.environment(home, **environment),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert not [request.path for request in hub.requests if request.route == "foreign"]
    return result.stdout
