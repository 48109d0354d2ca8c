"""The Hub's answers: one function a route, all of them in `ROUTES` under their names."""

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any
from urllib.parse import parse_qs

from aiohttp import web
from card_metadata import card_data, check_metadata
from store import GITATTRIBUTES, Commit, Discussion, File, Hub, HubError, Repo, git_oid

DATE = "2026-01-01T00:00:00.000Z"
API = r"/api/(?P<kind>model|dataset)s/(?P<repo>[^/]+(?:/[^/]+)?)"
PAGE = r"/(?:(?P<kind>dataset)s/)?(?P<repo>[^/]+(?:/[^/]+)?)"
REVISION = r"/(?P<revision>[^/]+)"


@dataclass(frozen=True)
class Request:
    """A received request; `match` holds the parts of its path, unquoted."""

    route: str
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    match: Mapping[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = Callable[[Hub, Request], Any]  # JSON, or a web.Response


@dataclass(frozen=True)
class Route:
    methods: tuple[str, ...]
    pattern: re.Pattern[str]
    answer: Answer


ROUTES: dict[str, Route] = {}


def route(method: str, pattern: str) -> Callable[[Answer], Answer]:
    """Puts a function into `ROUTES` under its own name. The first route that matches answers."""

    def register(answer: Answer) -> Answer:
        ROUTES[answer.__name__] = Route(tuple(method.split()), re.compile(pattern), answer)
        return answer

    return register


def authenticated(hub: Hub, request: Request) -> bool:
    """Whether a token was sent; a wrong one is refused."""
    header = request.headers.get("Authorization")
    if header not in (None, f"Bearer {hub.token}"):
        raise HubError(401, "Invalid credentials in Authorization header")
    return header is not None


def require_writer(hub: Hub, request: Request) -> None:
    if not authenticated(hub, request):
        raise HubError(401, "Invalid username or password.", "RepoNotFound" if "repo" in request.match else None)
    if hub.role == "read":
        raise HubError(403, "Forbidden: you must use a write token to upload to a repository.")


def readable(hub: Hub, request: Request) -> Repo:
    """The repository of a request, where the sender may see it."""
    known = authenticated(hub, request)
    repo = hub.repos.get((request.match["kind"] or "model", request.match["repo"]))
    if repo is None or (repo.private and not (known and hub.owns(repo.id))):
        message = "Repository not found" if known else "Invalid username or password."
        raise HubError(404 if known else 401, message, "RepoNotFound")
    return repo


def writable(hub: Hub, request: Request, proposal: bool = False) -> Repo:
    """The same, where the sender may write to it. Everybody may make proposals."""
    require_writer(hub, request)
    repo = readable(hub, request)
    if not (hub.owns(repo.id) or proposal):
        raise HubError(403, f"Forbidden: you don't have the rights to write to {repo.id}")
    return repo


def url_of(hub: Hub, repo: Repo) -> str:
    return f"{hub.endpoint}/{'datasets/' * (repo.kind == 'dataset')}{repo.id}"


# Accounts and repositories


@route("GET", "/api/whoami-v2")
def whoami(hub: Hub, request: Request) -> Any:
    if not authenticated(hub, request):
        raise HubError(401, "Invalid username or password.")
    organisations = [{"type": "org", "name": name} for name in hub.organisations]
    token = {"type": "access_token", "accessToken": {"displayName": "test", "role": hub.role}}
    return {"type": "user", "name": hub.user, "orgs": organisations, "auth": token}


def _addressed(hub: Hub, request: Request) -> tuple[str, str]:
    """The kind and id in the body of a request about a whole repository."""
    require_writer(hub, request)
    asked = request.json
    repo_id = f"{asked.get('organization') or hub.user}/{asked['name']}"
    if not hub.owns(repo_id):
        raise HubError(403, f"You don't have the rights to create or delete {repo_id}")
    return asked.get("type") or "model", repo_id


@route("POST", "/api/repos/create")
def create_repo(hub: Hub, request: Request) -> Any:
    kind, repo_id = _addressed(hub, request)
    repo = Repo(kind, repo_id, private=request.json.get("visibility") == "private")
    described = {"url": url_of(hub, repo), "name": repo_id}
    if (kind, repo_id) in hub.repos:
        return web.json_response({"error": f"You already created this {kind} repo", **described}, status=409)
    repo.commit({".gitattributes": GITATTRIBUTES}, "initial commit")
    hub.repos[kind, repo_id] = repo
    return described


@route("DELETE", "/api/repos/delete")
def delete_repo(hub: Hub, request: Request) -> Any:
    if hub.repos.pop(_addressed(hub, request), None) is None:
        raise HubError(404, "Repository not found", "RepoNotFound")
    return {}


@route("PUT", API + "/settings")
def settings(hub: Hub, request: Request) -> Any:
    repo = writable(hub, request)
    repo.gated = request.json.get("gated", repo.gated)
    repo.private = request.json.get("visibility", "private" if repo.private else "public") == "private"
    return {"private": repo.private, "gated": repo.gated}


# Reading


def _lfs(file: File, name: str) -> dict[str, Any]:
    pointer = {name: file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
    return {"lfs": pointer} if file.lfs else {}


def _info(repo: Repo, commit: Commit, blobs: bool = False) -> dict[str, Any]:
    card = card_data(commit.files.get("README.md", File(b"")).data.decode())
    siblings = [
        {"rfilename": path} | ({"size": len(file.data), "blobId": file.oid, **_lfs(file, "sha256")} if blobs else {})
        for path, file in sorted(commit.files.items())
    ]
    page = {"cardData": card, "tags": card.get("tags", [])}
    page |= {key: card[key] for key in ("library_name", "pipeline_tag") if key in card}
    access = {"private": repo.private, "gated": repo.gated, "disabled": False}
    history = {"sha": commit.oid, "createdAt": DATE, "lastModified": DATE}
    return {"id": repo.id, "author": repo.id.partition("/")[0], **history, **access, **page, "siblings": siblings}


@route("GET", API + "/revision" + REVISION)
def revision_info(hub: Hub, request: Request) -> Any:
    repo = readable(hub, request)
    commit = repo.head(request.match["revision"])
    return _info(repo, commit, request.query.get("blobs", "") == "true")


def _refuse_gated(hub: Hub, request: Request, repo: Repo) -> None:
    if repo.gated and not (authenticated(hub, request) and hub.owns(repo.id)):
        status = 403 if authenticated(hub, request) else 401
        raise HubError(status, f"Access to {repo.kind} {repo.id} is restricted.", "GatedRepo")


@route("GET HEAD", PAGE + "/resolve" + REVISION + "/(?P<path>.+)")
def resolve(hub: Hub, request: Request) -> Any:
    repo = readable(hub, request)
    _refuse_gated(hub, request, repo)
    commit, path = repo.head(request.match["revision"]), request.match["path"]
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    file = commit.files.get(path)
    if file is None:
        return refusal(HubError(404, "Entry not found", "EntryNotFound"), headers)
    headers["ETag"] = f'"{file.etag}"'
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.data))}
    part = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    return _part(file.data, headers, *part.groups()) if part else web.Response(body=file.data, headers=headers)


def _part(data: bytes, headers: dict[str, str], first: str, last: str) -> web.Response:
    """The bytes from `first` to `last`, both inclusive; without `first`, the last `last`."""
    size = len(data)
    start = int(first) if first else max(0, size - int(last or 0))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        return web.Response(status=416, headers=headers | {"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return web.Response(status=206, body=data[start:stop], headers=headers)


def _entry(path: str, file: File | None) -> dict[str, Any]:
    """A file, or a folder without one."""
    if file is None:
        return {"type": "directory", "oid": git_oid(path.encode()), "size": 0, "path": path}
    return {"type": "file", "oid": file.oid, "size": len(file.data), "path": path, **_lfs(file, "oid")}


def _tree(commit: Commit) -> dict[str, File | None]:
    """All files and all folders."""
    folders = {path[:i]: None for path in commit.files for i, letter in enumerate(path) if letter == "/"}
    return dict(sorted((folders | dict(commit.files)).items()))


@route("GET", API + "/tree" + REVISION + "(?:/(?P<path>.+))?")
def tree(hub: Hub, request: Request) -> Any:
    entries = _tree(readable(hub, request).head(request.match["revision"]))
    folder = request.match["path"].rstrip("/")
    if folder and entries.get(folder, "missing") is not None:
        raise HubError(404, f"{folder} does not exist", "EntryNotFound")
    start = folder + "/" if folder else ""
    below = {path: file for path, file in entries.items() if path.startswith(start)}
    if request.query.get("recursive", "").lower() != "true":
        below = {path: file for path, file in below.items() if "/" not in path[len(start) :]}
    return [_entry(path, file) for path, file in below.items()]


@route("POST", API + "/paths-info" + REVISION)
def paths_info(hub: Hub, request: Request) -> Any:
    entries = _tree(readable(hub, request).head(request.match["revision"]))
    asked = [path.rstrip("/") for path in parse_qs(request.body.decode()).get("paths", [])]
    return [_entry(path, entries[path]) for path in asked if path in entries]


@route("GET", API + "/commits" + REVISION)
def commits(hub: Hub, request: Request) -> Any:
    chain = readable(hub, request).commits(request.match["revision"])
    common = {"authors": [{"user": hub.user}], "date": DATE}
    return [{"id": c.oid, "title": c.title, "message": c.description, **common} for c in chain]


# Branches and tags


@route("GET", API + "/refs")
def refs(hub: Hub, request: Request) -> Any:
    repo = readable(hub, request)
    found: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
    full = {name if name.startswith("refs/") else f"refs/heads/{name}": oid for name, oid in repo.branches.items()}
    groups = {"heads": "branches", "convert": "converts", "tags": "tags", "pr": "pullRequests"}
    for ref, oid in (full | {f"refs/tags/{name}": oid for name, oid in repo.tags.items()}).items():
        _, group, name = ref.split("/", 2)
        found[groups[group]].append({"name": name, "ref": ref, "targetCommit": oid})
    return found


@route("POST", API + "/branch/(?P<branch>[^/]+)")
def create_branch(hub: Hub, request: Request) -> Any:
    repo, branch = writable(hub, request), request.match["branch"]
    if branch in repo.branches:
        raise HubError(409, f"Reference already exists: refs/heads/{branch}")
    repo.branches[branch] = repo.head(request.json.get("startingPoint", "main")).oid
    return {}


@route("DELETE", API + "/branch/(?P<branch>[^/]+)")
def delete_branch(hub: Hub, request: Request) -> Any:
    repo, branch = writable(hub, request), request.match["branch"]
    if branch == "main":
        raise HubError(403, "The main branch cannot be deleted")
    if repo.branches.pop(branch, None) is None:
        raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    return {}


@route("POST", API + "/tag" + REVISION)
def create_tag(hub: Hub, request: Request) -> Any:
    repo, tag = writable(hub, request), request.json["tag"]
    if tag in repo.tags:
        raise HubError(409, f"Tag already exists: {tag}")
    repo.tags[tag] = repo.head(request.match["revision"]).oid
    return {}


# Uploading


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: Hub, request: Request) -> Any:
    errors, warnings = check_metadata(request.json["content"])
    found = {"errors": [{"message": m} for m in errors], "warnings": [{"message": m} for m in warnings]}
    return web.json_response(found, status=400 if errors else 200)


def _ignored(path: str, rules: str) -> bool:
    """Whether a line of a .gitignore names a path or one of its folders."""
    parts = path.split("/")
    names = {*parts, *("/".join(parts[: i + 1]) for i in range(len(parts)))}
    return any(fnmatch(name, rule.strip().strip("/")) for rule in rules.splitlines() if rule.strip() for name in names)


def _target(hub: Hub, request: Request) -> tuple[Repo, Commit, bool]:
    """The repository and the head that an upload goes to, and whether it becomes a pull request."""
    revision, proposal = request.match["revision"], request.query.get("create_pr") == "1"
    repo = writable(hub, request, proposal or revision.startswith("refs/pr/"))
    if revision not in repo.branches:
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return repo, repo.head(revision), proposal


@route("POST", API + "/preupload" + REVISION)
def preupload(hub: Hub, request: Request) -> Any:
    repo, head, _ = _target(hub, request)
    rules = request.json.get("gitIgnore") or head.files.get(".gitignore", File(b"")).data.decode()
    entries = []
    for file in request.json["files"]:
        path, there = file["path"], head.files.get(file["path"])
        lfs = not hub.regular_only and repo.needs_lfs(path, base64.b64decode(file["sample"]), file["size"])
        mode = {"uploadMode": "lfs" if lfs else "regular", "shouldIgnore": _ignored(path, rules)}
        oid = {"oid": there.sha256 if lfs else git_oid(there.data)} if there else {}
        entries.append({"path": path, **mode, **oid})
    return {"files": entries}


@route("POST", PAGE + r"\.git/info/lfs/objects/batch")
def lfs_batch(hub: Hub, request: Request) -> Any:
    repo = writable(hub, request, proposal=True)
    objects = request.json["objects"]
    for entry in objects:
        if entry["oid"] not in repo.objects:
            put = f"{hub.endpoint}/lfs/{repo.kind}/{repo.id}/{entry['oid']}?size={entry['size']}"
            verify = {"href": f"{url_of(hub, repo)}.git/info/lfs/objects/verify"}
            entry["actions"] = {"upload": {"href": put}, "verify": verify}
    return {"transfer": "basic", "objects": objects}


@route("PUT", r"/lfs/(?P<kind>model|dataset)/(?P<repo>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})")
def lfs_put(hub: Hub, request: Request) -> Any:
    """The signed address of a storage, which never sees the token."""
    if (File(request.body).sha256, str(len(request.body))) != (request.match["oid"], request.query["size"]):
        raise HubError(400, "The content does not match the sha256 and the size that were announced")
    hub.repos[request.match["kind"], request.match["repo"]].objects[request.match["oid"]] = request.body
    return web.Response()


def _stored(repo: Repo, oid: str, size: int | None, status: int) -> bytes:
    data = repo.objects.get(oid)
    if data is None or size not in (None, len(data)):
        raise HubError(status, f"LFS object {oid} of {size} bytes was not uploaded")
    return data


@route("POST", PAGE + r"\.git/info/lfs/objects/verify")
def lfs_verify(hub: Hub, request: Request) -> Any:
    _stored(writable(hub, request, proposal=True), request.json["oid"], request.json["size"], status=404)
    return {}


@route("GET", API + "/xet-write-token" + REVISION)
def xet_write_token(hub: Hub, request: Request) -> Any:
    raise HubError(404, "Xet is not spoken here: set HF_HUB_DISABLE_XET=1, or make the server with regular_only=True")


def _changes(repo: Repo, head: Commit, operations: list[dict[str, Any]]) -> dict[str, File | None]:
    """What the lines of a commit do to the files of `head`; None takes one away."""
    changes: dict[str, File | None] = {}
    for operation in operations:
        value = operation["value"]
        path = value["path"].rstrip("/")
        if operation["key"] == "file":
            changes[path] = File(base64.b64decode(value["content"]))
        elif operation["key"] == "lfsFile":
            changes[path] = File(_stored(repo, value["oid"], value.get("size"), status=400), lfs=True)
        elif operation["key"] in ("deletedFile", "deletedFolder"):
            gone = [name for name in head.files if name == path or name.startswith(path + "/")]
            if not gone or (operation["key"] == "deletedFile" and gone != [path]):
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            changes |= dict.fromkeys(gone)
        else:
            raise HubError(400, f"Unknown operation: {operation['key']}")
    return changes


@route("POST", API + "/commit" + REVISION)
def commit(hub: Hub, request: Request) -> Any:
    repo, head, proposal = _target(hub, request)
    first, *operations = [json.loads(line) for line in request.body.splitlines()]
    title, description, parent = (first["value"].get(key) for key in ("summary", "description", "parentCommit"))
    if proposal and parent:
        head = repo.head(parent)
    elif parent and not head.oid.startswith(parent):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    changes = _changes(repo, head, operations)
    readme = changes.get("README.md", head.files.get("README.md"))
    errors = check_metadata(readme.data.decode())[0] if readme else []
    if errors:
        raise HubError(400, "Invalid metadata in README.md: " + " ".join(errors))
    branch, links = request.match["revision"], {}
    if proposal:
        pull = repo.discuss(title, description, base=head.oid)
        branch = pull.reference
        links = {"pullRequestUrl": f"{url_of(hub, repo)}/discussions/{pull.num}", "pullRequestNum": pull.num}
    made = repo.commit(changes, title, description, branch)
    return {"commitOid": made.oid, "commitUrl": f"{url_of(hub, repo)}/commit/{made.oid}", **links}


# Discussions and pull requests


def _discussion(hub: Hub, repo: Repo, found: Discussion) -> dict[str, Any]:
    who = {"author": {"name": hub.user}, "createdAt": DATE, "repo": {"name": repo.id, "type": repo.kind}}
    what = {"num": found.num, "title": found.title, "status": found.status, "isPullRequest": found.base is not None}
    text = {"edited": False, "hidden": False, "latest": {"raw": found.description}}
    events = [{"id": "1", "type": "comment", "data": text, **who}]
    changes = {"base": "refs/heads/main", "mergeCommitId": found.merge_oid}
    return {**who, **what, "events": events, "changes": changes, "filesWithConflicts": [], "diff": ""}


@route("POST", API + "/discussions")
def create_discussion(hub: Hub, request: Request) -> Any:
    repo, asked = writable(hub, request, proposal=True), request.json
    base, status = (repo.head().oid, "draft") if asked["pullRequest"] else (None, "open")
    return {"num": repo.discuss(asked["title"], asked["description"], base, status).num}


@route("GET", API + "/discussions")
def list_discussions(hub: Hub, request: Request) -> Any:
    found = [d for d in readable(hub, request).discussions if request.query.get("status") in (d.status, None, "all")]
    rows = [_discussion(hub, readable(hub, request), d) for d in found]
    return {"discussions": rows, "count": len(rows), "start": 0}


@route("GET", API + r"/discussions/(?P<num>\d+)")
def discussion(hub: Hub, request: Request) -> Any:
    repo = readable(hub, request)
    return _discussion(hub, repo, repo.discussion(int(request.match["num"])))


@route("POST", API + r"/discussions/(?P<num>\d+)/status")
def discussion_status(hub: Hub, request: Request) -> Any:
    found = writable(hub, request, proposal=True).discussion(int(request.match["num"]))
    found.status = request.json["status"]
    change = {"id": "2", "type": "status-change", "createdAt": DATE, "data": {"status": found.status}}
    return {"newStatus": change}


@route("POST", API + r"/discussions/(?P<num>\d+)/merge")
def merge(hub: Hub, request: Request) -> Any:
    writable(hub, request).merge(int(request.match["num"]))
    return {}


# Last, because their addresses could be read as those of other routes


@route("GET", API)
def repo_info(hub: Hub, request: Request) -> Any:
    repo = readable(hub, request)
    return _info(repo, repo.head(), request.query.get("blobs", "") == "true")


@route("GET", "/api/(?P<kind>model|dataset)s")
def list_models(hub: Hub, request: Request) -> Any:
    visible = [repo for repo in hub.repos.values() if repo.kind == request.match["kind"] and not repo.private]
    wanted = request.query.get("author", ""), request.query.get("search", "")
    chosen = [repo for repo in visible if repo.id.startswith(wanted[0]) and wanted[1] in repo.id]
    return [_info(repo, repo.head()) for repo in chosen]


@route("GET", r"http://datasets-server\..*")
def dataset_viewer(hub: Hub, request: Request) -> Any:
    raise HubError(404, "The dataset viewer has nothing about this dataset.")


def refusal(error: HubError, headers: Mapping[str, str] | None = None) -> web.Response:
    code = {"X-Error-Code": error.code} if error.code else {}
    message = error.message.encode("ascii", "replace").decode().replace("\n", " ")
    headers = {**(headers or {}), **code, "X-Error-Message": message}
    return web.json_response({"error": error.message}, status=error.status, headers=headers)
