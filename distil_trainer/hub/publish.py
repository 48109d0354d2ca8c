"""Publishes a folder on the Hub: what arrives is what is here, once, or an error says why not and what to do.

The branch's head is the parent of the commit, and before every try the files on the Hub are compared with those here:
so a commit whose answer got lost is recognised, never made twice, and a call that was interrupted is simply repeated.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from distil_trainer.errors import PublishError
from distil_trainer.hub.contents import Contents, read_contents
from distil_trainer.hub.hashes import git_sha1, sha256
from distil_trainer.hub.patience import Patience
from distil_trainer.hub.problems import explain
from distil_trainer.record import HUB_ID, REVISION

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_TRIES = 5


@dataclass(frozen=True)
class Published:
    """What `publish` did.

    Attributes:
        url: of the repository, or of the pull request.
        commit: that holds the files; None for a dry run.
        contents: what was, or would be, uploaded.
        sent: paths that were not there yet, or differed; empty if everything was there already.
    """

    repo_id: str
    url: str
    commit: str | None
    contents: Contents
    sent: tuple[str, ...]


def publish(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    message: str = "Publish the model and its page",
    also: Sequence[str] = (),
    timeout: float = 180.0,
    dry_run: bool = False,
) -> Published:
    """Uploads a model and its page in one commit, and compares what is on the Hub with what is here.

    Weights as safetensors, configuration, tokenizer, README.md, pictures and records are uploaded; nothing else (see
    `distil_trainer.hub.contents`). Nothing local is changed; after an error, make the same call again.

    Args:
        folder: a model as `save_model` leaves it, with its page (`write_page`).
        repo_id: namespace/name; a name alone is put under the token's user. The repository is made if there is none.
        private: whether a new repository is private; None takes the account's default.
        revision: the branch, made if there is none; None is "main".
        create_pr: open a pull request instead of committing to the branch; one that is open already, with this title
            and of this user, is brought up to date.
        token: None takes the one of `hf auth login` or HF_TOKEN.
        message: title of the commit.
        also: patterns of further files, such as "last-checkpoint/*".
        timeout: seconds after which a publication that makes no progress ends. One answer may take a third of it.
        dry_run: check and list everything, send nothing.

    Raises:
        PublishError: with the reason and what to do.
        CardError: metadata that the Hub would refuse.
    """
    if create_pr and revision is not None:
        raise PublishError("files", "Both revision and create_pr were given.", "A pull request is made to main.")
    _check_names(repo_id, revision)
    token = _checked(token or get_token())
    contents = read_contents(folder, also=also, secrets=[token] if token else [])
    if dry_run:
        return Published(repo_id, f"{constants.ENDPOINT}/{repo_id}", None, contents, tuple(contents.files))
    hub = _Hub(repo_id, token, timeout)
    upload = _Upload(hub.api, contents, message, revision or "main", create_pr, hub.patience.seconds)
    return hub.insist(lambda: upload.run(_ensure_repository(hub.api, repo_id, private)))


def prepare_repository(
    repo_id: str, *, private: bool | None = None, token: str | None = None, timeout: float = 180.0
) -> str:
    """Makes the repository if there is none, so that a job fails before it starts rather than when it publishes.

    Args and errors are those of `publish`. Returns the id with its namespace.
    """
    _check_names(repo_id, None)
    hub = _Hub(repo_id, _checked(token or get_token()), timeout)
    return hub.insist(lambda: _prepare(hub.api, repo_id, private))


def _prepare(api: HfApi, repo_id: str, private: bool | None) -> str:
    if api.whoami().get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PublishError("permission", "The access token may only read.", "Use a token with the right to write.")
    return _ensure_repository(api, repo_id, private)


def _check_names(repo_id: str, revision: str | None) -> None:
    """They become parts of addresses and of folders in the client's cache."""
    if not HUB_ID.fullmatch(repo_id):
        raise PublishError(
            "refused", f"{repo_id!r} cannot be the id of a repository.", "Give namespace/name: letters, digits, - _ ."
        )
    if revision is not None and not REVISION.fullmatch(revision):
        raise PublishError("refused", f"{revision!r} cannot be a branch.", "Give a name that git allows.")


def _checked(token: str | None) -> str | None:
    """The token without white space around it; one with control characters would be repeated in errors."""
    token = token.strip() if token else None
    if token and not (token.isascii() and token.isprintable()):
        raise PublishError("token", "The access token holds characters that no token has.", "Copy it again.")
    return token or None


class _Hub:
    """The Hub for one job: its client, and how long and how often things are tried."""

    def __init__(self, repo_id: str, token: str | None, timeout: float) -> None:
        if token is None:
            raise PublishError(
                "token", "There is no access token.", "Run `hf auth login`, set HF_TOKEN, or pass token=."
            )
        self.patience = Patience(timeout)
        self.api = HfApi(token=token, library_name="distil_trainer", user_agent={"publication": self.patience.name})
        self._repo_id, self._token = repo_id, token

    def insist(self, job: Callable[[], Result]) -> Result:
        """Does a job that may be begun again after any failure, until it succeeds or there is no sense in it."""
        for attempt in range(1, _TRIES + 1):
            try:
                with self.patience.applied():
                    return job()
            except Exception as error:
                problem = explain(error, self._repo_id, self._token)
                if not problem.passing or attempt == _TRIES:
                    raise problem.error from None  # the client's error may hold the token
                logger.warning(f"{problem.error} Trying again ({attempt + 1} of {_TRIES}).")
                time.sleep(min(problem.wait or 2.0 ** (attempt - 1), self.patience.seconds))
        raise AssertionError("the last try returns or raises")


def _ensure_repository(api: HfApi, repo_id: str, private: bool | None) -> str:
    if "/" not in repo_id:
        repo_id = f"{api.whoami()['name']}/{repo_id}"
    try:
        found = api.repo_info(repo_id)
    except GatedRepoError:  # to the client, that is a kind of not found
        raise
    except RepositoryNotFoundError:
        found = None
    if found is None:
        api.create_repo(repo_id, private=private, exist_ok=True)
    elif private and not found.private:
        raise PublishError(
            "permission",
            f"{repo_id} is public, and private=True was asked for.",
            "Make it private on the Hub, choose another name, or leave private out.",
        )
    return repo_id


@dataclass
class _Upload:
    """One publication; `run` may be called again after any failure."""

    api: HfApi
    contents: Contents
    message: str
    branch: str
    create_pr: bool
    patience: float  # seconds to look for a pull request whose opening was not answered
    additions: dict[str, CommitOperationAdd] = field(default_factory=dict)
    digests: dict[tuple[str, Callable[..., str]], str] = field(default_factory=dict)
    first_seen: dict[str, str] | None = None  # hashes on the Hub when we came
    sent: list[str] = field(default_factory=list)
    asked_for_pr: bool = False

    def run(self, repo_id: str) -> Published:
        request = self._open_pull_request(repo_id) if self.create_pr else None
        revision = f"refs/pr/{request}" if request else self.branch
        head = self._head(repo_id, revision)
        there = self._hashes(repo_id, head)
        changed = [name for name in self.contents.files if not self._is_same(name, there.get(name))]
        stale = [name for name in there if _is_stale(name, self.contents)]
        url = f"{self.api.endpoint}/{repo_id}" + (f"/discussions/{request}" if request else "")
        if not changed and not stale:
            return Published(repo_id, url, head, self.contents, tuple(self.sent))
        self._check_unchanged_since(there, [*changed, *stale])
        additions = [self._addition(name) for name in changed]
        opens = self.create_pr and request is None
        self.api.preupload_lfs_files(repo_id, additions, revision=revision, create_pr=opens, free_memory=False)
        if ignored := [addition.path_in_repo for addition in additions if addition._should_ignore]:
            raise PublishError("refused", f"The .gitignore of {repo_id} keeps {', '.join(ignored)} out.", "Change it.")
        self.sent, self.asked_for_pr = changed, opens
        commit = self.api.create_commit(
            repo_id,
            [*additions, *(CommitOperationDelete(name) for name in stale)],
            commit_message=self.message,
            revision=revision,
            parent_commit=head,
            create_pr=opens,
        )
        self._verify(repo_id, commit.oid)
        return Published(repo_id, commit.pr_url or url, commit.oid, self.contents, tuple(changed))

    def _open_pull_request(self, repo_id: str) -> int | None:
        """The number of ours. If we asked for one without an answer, it may still come: a second would be a double."""
        me = self.api.whoami()["name"]
        end = time.monotonic() + self.patience
        while True:
            requests = self.api.get_repo_discussions(
                repo_id, author=me, discussion_type="pull_request", discussion_status="open"
            )
            found = next((request.num for request in requests if request.title == self.message), None)
            if found is not None or not self.asked_for_pr:
                return found
            if time.monotonic() > end:
                raise PublishError(
                    "server",
                    f"The Hub did not say whether it opened the pull request {self.message!r} on {repo_id}.",
                    "Look there, then publish again.",
                )
            time.sleep(self.patience / 10)

    def _head(self, repo_id: str, revision: str) -> str:
        try:
            return str(self.api.repo_info(repo_id, revision=revision).sha)
        except RevisionNotFoundError:
            self.api.create_branch(repo_id, branch=revision, exist_ok=True)
            return str(self.api.repo_info(repo_id, revision=revision).sha)

    def _hashes(self, repo_id: str, commit: str) -> dict[str, str]:
        tree = self.api.list_repo_tree(repo_id, recursive=True, revision=commit)
        return {f.path: f.lfs.sha256 if f.lfs else f.blob_id for f in tree if isinstance(f, RepoFile)}

    def _is_same(self, name: str, hub_hash: str | None) -> bool:
        if hub_hash is None:
            return False
        digest = sha256 if len(hub_hash) == 64 else git_sha1
        if (name, digest) not in self.digests:
            self.digests[name, digest] = digest(self.contents.files[name])
        return hub_hash == self.digests[name, digest]

    def _addition(self, name: str) -> CommitOperationAdd:
        """Kept for a second try: what was uploaded is not uploaded again."""
        content = self.contents.files[name]
        if name not in self.additions:
            self.additions[name] = CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        return self.additions[name]

    def _check_unchanged_since(self, there: Mapping[str, str], changed: Sequence[str]) -> None:
        """A commit of others to other files is built upon; one to our files is not overwritten unseen."""
        if self.first_seen is None:
            self.first_seen = dict(there)
        by_others = [name for name in changed if there.get(name) != self.first_seen.get(name)]
        if by_others:
            raise PublishError(
                "conflict",
                f"While this was being published, somebody else changed {', '.join(by_others)} on the Hub.",
                "Look at what was changed, then publish again.",
            )

    def _verify(self, repo_id: str, commit: str) -> None:
        there = self._hashes(repo_id, commit)
        wrong = [name for name in self.contents.files if not self._is_same(name, there.get(name))]
        if wrong:
            raise PublishError(
                "server", f"On the Hub {', '.join(wrong)} are not what was sent (commit {commit}).", "Publish again."
            )


def _is_stale(name: str, contents: Contents) -> bool:
    """Whether these are old weights, which would be loaded instead of the new ones."""
    kind = "adapter_model" if "adapter_config.json" in contents.files else "model"
    is_weights = re.fullmatch(rf"{kind}(-\d+-of-\d+)?\.safetensors(\.index\.json)?", name)
    return bool(is_weights) and name not in contents.files
