"""The Hub for tests answers the unmodified client as the real one does, and its faults do what they say."""

import http.client
import io
import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
from card_metadata import check_metadata
from client import run_client
from conftest import tiny_config
from datasets import Dataset
from server import HubServer
from store import GITATTRIBUTES
from transformers import BertModel, BertTokenizer

README = "---\nlanguage: [en, multilingual]\nlicense: mit\ntags: [distillation]\n---\n# A model\n"
WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    files = {"README.md": README.encode(), "config.json": b"{}", "model.safetensors": WEIGHTS, "logs/a.txt": b"1"}
    for path, data in files.items():
        (tmp_path / "student" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "student" / path).write_bytes(data)
    return tmp_path / "student"


def test_a_folder_is_uploaded_and_downloaded(hub, folder, tmp_path):
    run_client(
        hub,
        tmp_path / "home",
        f"""
        import warnings
        from pathlib import Path
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download

        api = HfApi()
        assert (api.whoami()["name"], api.whoami()["auth"]["accessToken"]["role"]) == ("me", "write")
        assert api.create_repo("student", private=True) == api.create_repo("me/student", exist_ok=True)
        made = api.upload_folder(
            repo_id="me/student", folder_path={str(folder)!r}, commit_message="Release", commit_description="Why"
        )
        assert made.repo_url.repo_id == "me/student"
        unchanged = api.upload_folder(repo_id="me/student", folder_path={str(folder)!r})
        assert unchanged.oid == made.oid == api.model_info("me/student").sha

        info = api.model_info("me/student", revision=made.oid, files_metadata=True)
        assert info.private and info.tags == ["distillation"] and info.card_data.license == "mit"
        weights = next(file for file in info.siblings if file.rfilename == "model.safetensors")
        assert weights.lfs.size == weights.size == {len(WEIGHTS)}
        names = [".gitattributes", "README.md", "config.json", "logs", "model.safetensors"]
        assert [entry.path for entry in api.list_repo_tree("me/student")] == names
        assert [entry.path for entry in api.list_repo_tree("me/student", "logs")] == ["logs/a.txt"]
        found = api.get_paths_info("me/student", ["logs", "model.safetensors", "nothing"])
        assert [entry.path for entry in found] == ["logs", "model.safetensors"]
        assert found[1].lfs.sha256 == weights.lfs.sha256 and found[1].blob_id == weights.blob_id

        copy = Path(snapshot_download("me/student"))
        assert (copy / "model.safetensors").read_bytes() == Path({str(folder)!r}, "model.safetensors").read_bytes()
        assert (copy / "model.safetensors").resolve().name == weights.lfs.sha256

        api.create_tag("me/student", tag="v1")
        api.create_branch("me/student", branch="trial/a")
        operations = [CommitOperationAdd("new.txt", b"new"), CommitOperationDelete("logs/")]
        trial = api.create_commit("me/student", operations, commit_message="Trial", revision="trial/a")
        assert "logs/a.txt" not in api.list_repo_files("me/student", revision="trial/a")
        assert api.file_exists("me/student", "logs/a.txt", revision="v1")
        assert not api.file_exists("me/student", "new.txt", revision=made.oid)
        refs = api.list_repo_refs("me/student")
        assert {{ref.name: ref.target_commit for ref in refs.branches}} == {{"main": made.oid, "trial/a": trial.oid}}
        assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1", made.oid)]
        titles = [commit.title for commit in api.list_repo_commits("me/student", revision="trial/a")]
        assert titles == ["Trial", "Release", "initial commit"]
        api.delete_branch("me/student", branch="trial/a")
        assert not api.revision_exists("me/student", "trial/a")

        assert list(api.list_models(author="me")) == []
        api.update_repo_settings("me/student", private=False, gated="auto")
        assert [(model.id, model.gated) for model in api.list_models(author="me")] == [("me/student", "auto")]
        api.create_repo("me/gone", repo_type="dataset")
        api.delete_repo("me/gone", repo_type="dataset")
        """,
    )
    assert list(hub.repos) == [("model", "me/student")]
    release, initial = hub.repo("model", "me/student").commits()
    assert (release.title, release.description, release.parent, initial.parent) == ("Release", "Why", initial.oid, None)
    uploaded = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert hub.repo("model", "me/student").files() == uploaded | {".gitattributes": GITATTRIBUTES}
    assert [path for path, file in release.files.items() if file.lfs] == ["model.safetensors"]
    puts = [request for request in hub.requests if request.route == "lfs_put"]
    assert [request.body for request in puts] == [WEIGHTS]  # once, and without the token
    assert "Authorization" not in puts[0].headers


def test_with_xet_on_everything_can_be_uploaded_as_regular_files(folder, tmp_path):
    with HubServer(regular_only=True) as hub:
        run_client(
            hub,
            tmp_path / "home",
            f"""
            from huggingface_hub import HfApi

            api = HfApi()
            api.create_repo("me/data", repo_type="dataset")
            api.upload_folder(repo_id="me/data", repo_type="dataset", folder_path={str(folder)!r})
            pull = api.upload_folder(
                repo_id="me/data", repo_type="dataset", folder_path={str(folder)!r}, path_in_repo="b", create_pr=True
            )
            assert pull.pr_revision == "refs/pr/1"
            assert api.dataset_info("me/data").id == "me/data"
            """,
        )
        repo = hub.repo("dataset", "me/data")
        assert repo.files()["model.safetensors"] == WEIGHTS == repo.files("refs/pr/1")["b/model.safetensors"]
        assert len(repo.commits()) == 2
        asked = {request.route for request in hub.requests}
        assert "create_discussion" in asked  # the pull request is opened first, as only the way with xet does
        assert not {"lfs_batch", "xet_write_token"} & asked


def test_pull_requests(hub, tmp_path):
    hub.add("model", "ann/base", {"config.json": b"{}", "old.txt": b"old"})
    mine = hub.add("model", "me/student", {"config.json": b"{}", "old.txt": b"old"})
    run_client(
        hub,
        tmp_path / "home",
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api = HfApi()
        change = lambda: [CommitOperationAdd("config.json", b"[]"), CommitOperationDelete("old.txt")]
        theirs = api.create_commit("ann/base", change(), commit_message="Offer", create_pr=True)
        details = api.get_discussion_details("ann/base", theirs.pr_num)
        assert (details.status, details.is_pull_request, details.git_reference) == ("open", True, "refs/pr/1")

        draft = api.create_pull_request("me/student", title="Draft")
        assert (draft.status, draft.target_branch) == ("draft", "refs/heads/main")
        api.create_commit("me/student", change(), commit_message="Work", revision=draft.git_reference)
        api.change_discussion_status("me/student", draft.num, "open")
        api.merge_pull_request("me/student", draft.num)
        merged = api.get_discussion_details("me/student", draft.num)
        assert (merged.status, merged.merge_commit_oid) == ("merged", api.model_info("me/student").sha)
        assert api.create_discussion("me/student", title="Talk").is_pull_request is False
        """,
    )
    assert hub.repo("model", "ann/base").files("refs/pr/1") == mine.files() == {"config.json": b"[]"}
    assert set(hub.repo("model", "ann/base").files()) == {"config.json", "old.txt"}
    assert mine.commits()[0].title == "Draft (#1)"


ERRORS = """
import json
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

api = HfApi()
found = {}
def attempt(name, function, *arguments, **options):
    try:
        function(*arguments, **options)
    except Exception as error:
        found[name] = [type(error).__name__, getattr(getattr(error, "response", None), "status_code", None)]
    else:
        found[name] = "no error"
def commit(repo, path="a.txt", data=b"1", **options):
    api.create_commit(repo, [CommitOperationAdd(path, data)], commit_message="x", **options)
"""


def test_errors_have_the_classes_of_the_real_hub(hub, tmp_path):
    hub.add("model", "me/student", {"config.json": b"{}"})
    hub.add("model", "me/private", {"config.json": b"{}"}, private=True)
    hub.add("model", "ann/private", {"config.json": b"{}"}, private=True)
    hub.add("model", "ann/gated", {"config.json": b"{}"}, gated="manual")
    hub.add("model", "gpt2", {"config.json": b"{}"})
    hub.fault("validate_yaml", "status", times=None, status=200, body={}, when=lambda request: b"bad" in request.body)
    output = run_client(
        hub,
        tmp_path / "home",
        ERRORS
        + """
attempt("a name without namespace", api.hf_hub_download, "gpt2", "config.json")
attempt("own and private", api.hf_hub_download, "me/private", "config.json")
attempt("private, anonymous", api.model_info, "me/private", token=False)
attempt("private of another", api.hf_hub_download, "ann/private", "config.json")
attempt("no repository", api.snapshot_download, "me/nothing")
attempt("no repository, anonymous", api.model_info, "me/nothing", token=False)
attempt("no revision", api.hf_hub_download, "me/student", "config.json", revision="nothing")
attempt("no file", api.hf_hub_download, "me/student", "nothing")
attempt("no folder", lambda: list(api.list_repo_tree("me/student", "nothing")))
attempt("gated", api.hf_hub_download, "ann/gated", "config.json")
attempt("gated, anonymous", api.hf_hub_download, "ann/gated", "config.json", token=False)
attempt("wrong token", api.whoami, token="hf_wrong")
attempt("wrong token, repository", api.model_info, "me/student", token="hf_wrong")
attempt("repository of another", commit, "gpt2")
attempt("namespace of another", api.create_repo, "ann/new")
attempt("anonymous", commit, "me/student", token=False)
attempt("exists", api.create_repo, "me/student")
attempt("bad metadata, seen before", commit, "me/student", "README.md", b"---\\nlanguage: Swedish\\n---\\n")
attempt("bad metadata", commit, "me/student", "README.md", b"---\\nlanguage: Swedish # bad\\n---\\n")
attempt("commit to no branch", commit, "me/student", revision="nothing")
attempt("stale parent", commit, "me/student", parent_commit="0" * 40)
delete = [CommitOperationDelete("nothing")]
attempt("delete no file", api.create_commit, "me/student", delete, commit_message="x")
print(json.dumps(found))
""",
    )
    assert json.loads(output) == {
        "a name without namespace": "no error",
        "own and private": "no error",
        "private, anonymous": ["RepositoryNotFoundError", 401],
        "private of another": ["RepositoryNotFoundError", 404],
        "no repository": ["RepositoryNotFoundError", 404],
        "no repository, anonymous": ["RepositoryNotFoundError", 401],
        "no revision": ["RevisionNotFoundError", 404],
        "no file": ["RemoteEntryNotFoundError", 404],
        "no folder": ["RemoteEntryNotFoundError", 404],
        "gated": ["GatedRepoError", 403],
        "gated, anonymous": ["GatedRepoError", 401],
        "wrong token": ["HfHubHTTPError", 401],
        "wrong token, repository": ["HfHubHTTPError", 401],
        "repository of another": ["HfHubHTTPError", 403],
        "namespace of another": ["HfHubHTTPError", 403],
        "anonymous": ["RepositoryNotFoundError", 401],
        "exists": ["HfHubHTTPError", 409],
        "bad metadata, seen before": ["ValueError", None],
        "bad metadata": ["BadRequestError", 400],
        "commit to no branch": ["RevisionNotFoundError", 404],
        "stale parent": ["HfHubHTTPError", 412],
        "delete no file": ["RemoteEntryNotFoundError", 404],
    }
    assert len(hub.repo("model", "me/student").commits()) == 1


def test_a_token_for_reading_cannot_write(tmp_path):
    with HubServer(role="read") as hub:
        hub.add("model", "me/student", {"config.json": b"{}"})
        script = """
attempt("read", api.hf_hub_download, "me/student", "config.json")
attempt("write", commit, "me/student")
attempt("create", api.create_repo, "me/new")
print(json.dumps(found))
"""
        output = run_client(hub, tmp_path / "home", ERRORS + script)
    assert json.loads(output) == {
        "read": "no error",
        "write": ["HfHubHTTPError", 403],
        "create": ["HfHubHTTPError", 403],
    }


def test_a_lost_race(hub, tmp_path):
    repo = hub.add("model", "me/student", {"config.json": b"{}"})
    hub.before("commit", lambda request: repo.commit({"theirs.txt": b"1"}, "Theirs"))
    run_client(
        hub,
        tmp_path / "home",
        """
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.errors import HfHubHTTPError

        api = HfApi()
        head = api.model_info("me/student").sha
        for parent in (head, api.model_info("me/student").sha):
            try:
                operations = [CommitOperationAdd("mine.txt", b"1")]
                api.create_commit("me/student", operations, commit_message="Mine", parent_commit=parent)
            except HfHubHTTPError as error:
                assert error.response.status_code == 412 and "A commit has happened since" in str(error)
            else:
                raise AssertionError("the race was not lost")
        operations = [CommitOperationAdd("mine.txt", b"1")]
        head = api.model_info("me/student").sha
        api.create_commit("me/student", operations, commit_message="Mine", parent_commit=head)
        """,
    )
    assert [commit.title for commit in repo.commits()] == ["Mine", "Theirs", "Add files"]


def test_transformers_loads_a_model_and_its_tokenizer(hub, tmp_path):
    model = BertModel(tiny_config())
    model.save_pretrained(tmp_path / "bert")
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    hub.add("model", "google-bert/bert-base-multilingual-cased", tmp_path / "bert")
    output = run_client(
        hub,
        tmp_path / "home",
        """
        from transformers import AutoModel, AutoTokenizer

        name = "google-bert/bert-base-multilingual-cased"
        print(AutoModel.from_pretrained(name).num_parameters(), AutoTokenizer.from_pretrained(name)("a b").input_ids)
        """,
    )
    assert output.split(maxsplit=1) == [str(model.num_parameters()), "[2, 5, 6, 3]\n"]


def parquet(rows):
    written = io.BytesIO()
    Dataset.from_dict({"text": [f"text {i}" for i in range(rows)]}).to_parquet(written)
    return written.getvalue()


def test_datasets_loads_parquet_and_json_lines(hub, tmp_path):
    configs = [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in ("de", "en")]
    card = f"---\nconfigs: {json.dumps(configs)}\n---\n"
    files = {"README.md": card.encode(), "de/train.parquet": parquet(4), "en/train.parquet": parquet(3)}
    hub.add("dataset", "ann/texts", files)
    hub.add("dataset", "ann/texts", {"en/train/0000.parquet": parquet(5)}, branch="refs/convert/parquet")
    hub.add("dataset", "ann/lines", {"train.jsonl": b'{"text": "one"}\n{"text": "two"}\n'})
    output = run_client(
        hub,
        tmp_path / "home",
        """
        from datasets import load_dataset
        from huggingface_hub import HfApi

        en = load_dataset("ann/texts", "en", split="train")
        exported = load_dataset("ann/texts", data_dir="en", split="train", revision="refs/convert/parquet")
        streamed = load_dataset("ann/texts", "de", split="train", streaming=True)
        lines = load_dataset("ann/lines", split="train")
        print(len(en), len(exported), len(list(streamed)), lines["text"][:])
        converted = HfApi().list_repo_refs("ann/texts", repo_type="dataset").converts
        assert [ref.ref for ref in converted] == ["refs/convert/parquet"]
        """,
    )
    assert output == "3 5 4 ['one', 'two']\n"
    assert "dataset_viewer" in {request.route for request in hub.requests}


# Faults, seen from a bare connection


def ask(hub, method="GET", path="/api/whoami-v2", body=None, timeout=10, **headers):
    with closing(
        http.client.HTTPConnection("127.0.0.1", int(hub.endpoint.rpartition(":")[2]), timeout=timeout)
    ) as line:
        line.request(method, path, body, {"Authorization": f"Bearer {hub.token}", **headers})
        answer = line.getresponse()
        return answer.status, answer.headers, answer.read()


def test_status_and_its_number_of_times(hub):
    hub.fault("whoami", "status", status=503, times=2, headers={"Retry-After": "1"}, body="<html>busy</html>")
    hub.fault("whoami", "status", status=429, body={"error": "slower"})
    answers = [ask(hub) for _ in range(4)]
    assert [status for status, _, _ in answers] == [503, 503, 429, 200]
    assert (answers[0][1]["Retry-After"], answers[0][2], answers[2][2]) == (
        "1",
        b"<html>busy</html>",
        b'{"error": "slower"}',
    )
    hub.fault("whoami", "status", times=None, when=lambda request: request.headers.get("X-Try") == "1")
    assert [ask(hub, **{"X-Try": number})[0] for number in "1221"] == [500, 200, 200, 500]
    hub.reset_faults()
    assert ask(hub, **{"X-Try": "1"})[0] == 200
    assert len(hub.requests) == 9


def test_delay_hang_and_reset(hub):
    hub.fault("whoami", "delay", seconds=0.2)
    start = time.monotonic()
    assert ask(hub)[0] == 200
    assert 0.2 <= time.monotonic() - start < 2
    hub.fault("whoami", "hang")
    with pytest.raises(socket.timeout):
        ask(hub, timeout=0.2)
    hub.fault("whoami", "reset")
    with pytest.raises(ConnectionResetError):
        ask(hub)
    assert ask(hub)[0] == 200


def test_truncate(hub):
    hub.add("model", "me/student", {"model.bin": WEIGHTS})
    path = "/me/student/resolve/main/model.bin"
    hub.fault("resolve", "truncate")
    status, headers, _ = ask(hub, "HEAD", path)
    assert (status, headers["Content-Length"]) == (200, str(len(WEIGHTS)))
    with pytest.raises(http.client.IncompleteRead) as broken:
        ask(hub, path=path)
    assert broken.value.partial == WEIGHTS[: len(WEIGHTS) // 2]
    assert ask(hub, path=path, Range="bytes=9000-")[::2] == (206, WEIGHTS[9000:])
    assert ask(hub, path=path, Range="bytes=-10")[::2] == (206, WEIGHTS[-10:])
    assert ask(hub, path=path, Range="bytes=99999-")[0] == 416


def test_apply_then_fail(hub):
    hub.fault("create_repo", "apply_then_fail")
    hub.fault("create_repo", "apply_then_fail", reset=True)
    assert ask(hub, "POST", "/api/repos/create", b'{"name": "one"}')[0] == 500
    with pytest.raises(ConnectionResetError):
        ask(hub, "POST", "/api/repos/create", b'{"name": "two"}')
    assert list(hub.repos) == [("model", "me/one"), ("model", "me/two")]
    assert ask(hub, "POST", "/api/repos/create", b'{"name": "one"}')[0] == 409


def test_lfs_objects_must_be_what_they_are_announced_as(hub):
    repo = hub.add("model", "me/student", {"config.json": b"{}"})
    oid = "0" * 64
    assert ask(hub, "PUT", f"/lfs/model/me/student/{oid}?size=1", b"1")[0] == 400
    commit = [{"key": "header", "value": {"summary": "x"}}]
    commit += [{"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": oid, "size": 1}}]
    body = "\n".join(json.dumps(line) for line in commit).encode()
    assert ask(hub, "POST", "/api/models/me/student/commit/main", body)[0] == 400
    assert len(repo.commits()) == 1


# Faults, seen from the client


def test_what_the_client_makes_of_faults(hub, tmp_path):
    repo = hub.add("model", "me/student", {"model.bin": WEIGHTS})
    hub.fault("resolve", "truncate")
    hub.fault("lfs_put", "reset")
    hub.fault("commit", "apply_then_fail", reset=True)
    hub.fault("commit", "hang")
    run_client(
        hub,
        tmp_path / "home",
        """
        import httpx2
        from huggingface_hub import CommitOperationAdd, HfApi, set_client_factory

        api = HfApi()
        path = api.hf_hub_download("me/student", "model.bin")  # repeated after the break
        assert open(path, "rb").read() == bytes(range(256)) * 40

        def commit(name):
            api.create_commit("me/student", [CommitOperationAdd(name, b"1")], commit_message=name)

        try:
            commit("one.bin")  # the upload is repeated, the commit is not
        except httpx2.NetworkError:
            pass
        set_client_factory(lambda: httpx2.Client(follow_redirects=True, timeout=0.5))
        try:
            commit("two.bin")
        except httpx2.ReadTimeout:
            pass
        commit("three.bin")
        """,
    )
    assert [commit.title for commit in repo.commits()] == ["three.bin", "one.bin", "Add files"]
    assert [r.method for r in hub.requests if r.route == "resolve"] == ["HEAD", "GET", "GET"]
    assert [r.route for r in hub.requests].count("lfs_put") == 2  # the content of all three files is the same


# The server itself


def test_nothing_but_the_server_can_be_reached(hub, tmp_path):
    code = "import urllib.request; urllib.request.urlopen('{}://example.org/a')"
    for scheme in ("http", "https"):
        command = [sys.executable, "-c", code.format(scheme)]
        result = subprocess.run(command, env=hub.environment(tmp_path), capture_output=True, text=True, timeout=60)
        assert "404" in result.stderr.splitlines()[-1]
    assert [request.route for request in hub.requests] == ["foreign", "foreign"]


def test_settings_of_the_calling_process_do_not_reach_the_client(hub, tmp_path, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "ALL_PROXY"):
        monkeypatch.setenv(name, "1")
    environment = hub.environment(tmp_path, HF_HUB_ETAG_TIMEOUT="2")
    assert not {"HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "ALL_PROXY"} & set(
        environment
    )
    assert (environment["HF_ENDPOINT"], environment["HF_HUB_ETAG_TIMEOUT"]) == (hub.endpoint, "2")


def test_it_starts_and_stops_quickly_and_leaves_no_thread():
    before, start = threading.active_count(), time.monotonic()
    with HubServer() as hub:
        hub.fault("whoami", "hang")
        waiting = socket.create_connection(("127.0.0.1", int(hub.endpoint.rpartition(":")[2])))
        waiting.sendall(b"GET /api/whoami-v2 HTTP/1.1\r\nHost: hub\r\n\r\n")
        while not hub.requests:
            time.sleep(0.01)
    with closing(waiting), pytest.raises(ConnectionResetError):
        waiting.recv(1)
    assert time.monotonic() - start < 1
    assert threading.active_count() == before


def test_a_mistake_in_a_test_is_not_hidden():
    with pytest.raises(ZeroDivisionError), HubServer() as hub:  # noqa: PT012
        hub.before("whoami", lambda request: 1 / 0)
        assert ask(hub)[0] == 500
    with pytest.raises(ValueError, match="no route"):
        HubServer().fault("nothing", "status")


def test_commits_are_content_addressed():
    first, second = (HubServer().add("model", "me/student", {"a.txt": b"1"}) for _ in range(2))
    assert first.head().oid == second.head().oid
    assert first.commit({"a.txt": None}).oid == second.commit({"a.txt": None}).oid != first.commit({"a.txt": b"1"}).oid
    assert len(first.head().oid) == 40


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ("language: es-ES", "ISO 639"),
        ("language: [en, no]", "ISO 639"),  # false, for YAML
        ("license: [mit, MIT License]", "license"),
        ("datasets: [null]", "datasets[0]"),
        ("a: !!python/object/apply:os.getcwd []", "Invalid YAML"),
        ("just text", "mapping"),
        (
            "model-index: [{name: a, results: [{task: {type: b}, dataset: {type: c, name: d}, metrics: [{type: e}]}]}]",
            "value",
        ),
        ("model-index: [{results: [{task: {type: b}, dataset: {type: c}, metrics: []}]}]", "dataset.name"),
    ],
)
def test_metadata_that_the_hub_refuses(metadata, complaint):
    errors, _ = check_metadata(f"---\n{metadata}\n---\n# A model\n")
    assert complaint in " ".join(errors)


def test_metadata_that_the_hub_takes():
    index = "model-index:\n- name: a\n  results:\n  - task: {type: b}\n    dataset: {type: c, name: d}\n"
    value = "    metrics:\n    - {type: e, value: 0.0}\n"
    assert check_metadata(README.replace("license", index + value + "license")) == ([], [])
    assert check_metadata("# A model\n") == ([], ["empty or missing yaml metadata in repo card"])
