"""Every route of a publication x every fault: how it ends, after how long, and whether anything is doubled or lost.

python tests/hub/matrix.py [--timeout 30]   # prints the table of docs/publishing.md
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from publisher import Publisher
from server import HubServer

ROUTES = (
    *("repo_info", "create_repo", "revision_info", "tree", "validate_yaml", "preupload", "lfs_batch", "lfs_put"),
    *("lfs_verify", "commit"),
)
FAULTS: dict[str, dict[str, Any]] = {
    "500 once": {"kind": "status", "status": 500},
    "500 always": {"kind": "status", "status": 500, "times": None},
    "429, Retry-After: 1": {"kind": "status", "status": 429, "headers": {"Retry-After": "1"}},
    "reset once": {"kind": "reset"},
    "reset always": {"kind": "reset", "times": None},
    "hangs once": {"kind": "hang"},
    "hangs always": {"kind": "hang", "times": None},
    "truncated once": {"kind": "truncate"},
    "applied, then 500": {"kind": "apply_then_fail", "status": 500},
    "applied, then reset": {"kind": "apply_then_fail", "reset": True},
}
README = "---\nlanguage: [sv]\nlicense: mit\ntags: [distillation]\n---\n# A student\n"


@dataclass(frozen=True)
class Outcome:
    """`error` is the reason of our error, None for success; `commits` are ours on the branch."""

    error: str | None
    seconds: float
    commits: int
    missing: list[str]
    changed_here: bool


def make_folder(folder: Path) -> Path:
    """A small model with its page."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file({"weight": torch.arange(3000.0)}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "bert"}\n')
    (folder / "README.md").write_text(README)
    return folder


def try_fault(
    hub: HubServer, publisher: Publisher, folder: Path, name: str, route: str, fault: str, timeout: float
) -> Outcome:
    """One publication to a new repository of this name, in which the route has the fault."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.reset_faults()
    if route != "create_repo":
        hub.add("model", f"me/{name}", {".gitattributes": b""})
    hub.fault(route, **FAULTS[fault])
    answer = publisher.publish(folder, f"me/{name}", timeout=timeout, message="Ours")
    hub.reset_faults()
    repo = hub.repos.get(("model", f"me/{name}"))
    commits = [] if repo is None else [commit for commit in repo.commits() if commit.title == "Ours"]
    there = {} if repo is None else repo.files()
    return Outcome(
        error=answer.get("reason"),
        seconds=answer["seconds"],
        commits=len(commits),
        missing=[path for path, content in before.items() if there.get(path) != content],
        changed_here=before != {path.name: path.read_bytes() for path in folder.iterdir()},
    )


def main() -> None:
    """All cells, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timeout", type=float, default=30.0)
    timeout = parser.parse_args().timeout
    doubled = lost = 0
    print("| route |", " | ".join(FAULTS), "|\n|:---|" + "---:|" * len(FAULTS))
    with (
        tempfile.TemporaryDirectory() as temporary,
        HubServer() as hub,
        Publisher(hub, Path(temporary) / "home") as publisher,
    ):
        folder = make_folder(Path(temporary) / "student")
        for route in ROUTES:
            cells = []
            for number, fault in enumerate(FAULTS):
                outcome = try_fault(hub, publisher, folder, f"{route}-{number}", route, fault, timeout)
                doubled += outcome.commits > 1
                lost += outcome.changed_here or (outcome.error is None and bool(outcome.missing))
                cells.append(f"{outcome.error or 'ok'} {outcome.seconds:.1f}")
            print(f"| {route} |", " | ".join(cells), "|", flush=True)
    print(f"\nDuplicate commits: {doubled}. Publications that lost a file: {lost}.")


if __name__ == "__main__":
    main()
