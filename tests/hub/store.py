"""What the Hub keeps: repositories with content-addressed commits on branches, LFS objects and pull requests."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

LFS_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.h5", "*.onnx", "*.npz", "*.parquet", "*.arrow", "*.png", "*.zip")
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS).encode()


class HubError(Exception):
    """An error answer: its status, its message and the code from which the client chooses the exception."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def git_oid(data: bytes) -> str:
    """The name that git gives to this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class File:
    """A file in a commit; one in LFS is a pointer for git."""

    data: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @cached_property
    def oid(self) -> str:
        return git_oid(self.pointer if self.lfs else self.data)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    description: str
    files: Mapping[str, File]


@dataclass
class Discussion:
    """A discussion, or the pull request of the branch `reference` when it has a `base`."""

    num: int
    title: str
    description: str
    status: str
    base: str | None = None
    merge_oid: str | None = None

    @property
    def reference(self) -> str:
        return f"refs/pr/{self.num}"


@dataclass
class Repo:
    kind: str
    id: str
    private: bool = False
    gated: bool | str = False
    lfs_threshold: int = 10 * 2**20
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    discussions: list[Discussion] = field(default_factory=list)
    history: dict[str, Commit] = field(default_factory=dict, repr=False)

    def head(self, revision: str = "main") -> Commit:
        """The commit that a branch, a tag or an oid stands for."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.history:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.history[oid]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: file.data for path, file in self.head(revision).files.items()}

    def commits(self, branch: str = "main") -> list[Commit]:
        """All commits, newest first."""
        chain = [self.head(branch)]
        while chain[-1].parent:
            chain.append(self.history[chain[-1].parent])
        return chain

    def commit(
        self,
        changes: Mapping[str, bytes | File | None],
        title: str = "Another change",
        description: str = "",
        branch: str = "main",
    ) -> Commit:
        """Adds files to a branch and takes those away whose content is None. A new branch begins empty."""
        parent = self.branches.get(branch)
        files = dict(self.history[parent].files) if parent else {}
        for path, content in changes.items():
            if content is None:
                files.pop(path, None)
            else:
                files[path] = content if isinstance(content, File) else self._file(path, content)
        tree = sorted((path, file.oid) for path, file in files.items())
        name = json.dumps([self.kind, self.id, parent, title, description, tree])
        commit = Commit(hashlib.sha1(name.encode()).hexdigest(), parent, title, description, files)
        self.objects |= {file.sha256: file.data for file in files.values() if file.lfs}
        self.history[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit

    def needs_lfs(self, path: str, sample: bytes, size: int) -> bool:
        return size > self.lfs_threshold or b"\0" in sample or any(fnmatch(path, pattern) for pattern in LFS_PATTERNS)

    def _file(self, path: str, data: bytes) -> File:
        return File(data, self.needs_lfs(path, data[:512], len(data)))

    def discuss(self, title: str, description: str, base: str | None = None, status: str = "open") -> Discussion:
        """Opens a discussion, or a pull request whose branch starts at the commit `base`."""
        discussion = Discussion(len(self.discussions) + 1, title, description, status, base)
        self.discussions.append(discussion)
        if base:
            self.branches[discussion.reference] = base
        return discussion

    def discussion(self, num: int) -> Discussion:
        if not 0 < num <= len(self.discussions):
            raise HubError(404, f"Discussion not found: {num}")
        return self.discussions[num - 1]

    def merge(self, num: int) -> None:
        """Squashes a pull request into one commit on main."""
        pull = self.discussion(num)
        if pull.base is None or pull.status != "open":
            raise HubError(400, f"Cannot merge: this is not an open pull request ({pull.status})")
        before, after = self.history[pull.base].files, self.head(pull.reference).files
        changes = {
            path: after.get(path) for path in before.keys() | after.keys() if before.get(path) != after.get(path)
        }
        pull.merge_oid = self.commit(changes, f"{pull.title} (#{num})", pull.description).oid
        pull.status = "merged"


@dataclass
class Hub:
    """One account and all repositories. With `regular_only`, no file is asked to be uploaded to LFS."""

    user: str = "me"
    token: str = "hf_" + "t" * 34
    regular_only: bool = False
    role: str = "write"
    organisations: Iterable[str] = ()
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    endpoint: str = ""

    def add(
        self,
        kind: str,
        repo_id: str,
        files: Mapping[str, bytes] | Path,
        branch: str = "main",
        private: bool = False,
        gated: bool | str = False,
    ) -> Repo:
        """A repository with one commit on a branch, or one commit more on that of an existing repository."""
        if isinstance(files, Path):
            paths = [path for path in sorted(files.rglob("*")) if path.is_file()]
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        repo = self.repos.setdefault((kind, repo_id), Repo(kind, repo_id))
        repo.private, repo.gated = private, gated
        repo.commit(files, "Add files", branch=branch)
        return repo

    def repo(self, kind: str, repo_id: str) -> Repo:
        return self.repos[kind, repo_id]

    def owns(self, repo_id: str) -> bool:
        return repo_id.partition("/")[0] in (self.user, *self.organisations)
