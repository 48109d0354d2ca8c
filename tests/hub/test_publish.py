"""`publish` in a process of its own, with the unmodified client, against the server."""

import base64
import json
import shutil
import struct
import time

import pytest
from matrix import FAULTS, README, ROUTES, make_folder, try_fault
from publisher import Publisher
from server import HubServer

TOKEN = "hf_" + "t" * 34
ALWAYS = [fault for fault in FAULTS if fault.endswith("always")]


@pytest.fixture(scope="module")
def server():
    with HubServer() as running:
        yield running


@pytest.fixture(scope="module")
def publisher(server, tmp_path_factory):
    with Publisher(server, tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture(scope="module")
def publisher_of_anna(server, tmp_path_factory):
    with Publisher(server, tmp_path_factory.mktemp("anna"), HOME="/home/anna") as running:
        yield running


@pytest.fixture
def hub(server):
    server.reset_faults()
    server.requests.clear()
    server.repos.clear()
    server.role = "write"
    return server


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "student")


def ours(hub, branch="main"):
    return [commit for commit in hub.repo("model", "me/student").commits(branch) if commit.title == "Ours"]


def publish(publisher, folder, repo_id="me/student", **options):
    return publisher.publish(folder, **{"repo_id": repo_id, "timeout": 30, "message": "Ours", **options})


def test_a_model_and_its_page_arrive_and_nothing_else(hub, publisher, folder):
    for name in ("training_args.bin", "optimizer.pt", "notes.txt", ".secret", "model.bin"):
        (folder / name).write_bytes(b"private")
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "model.safetensors").write_bytes(b"x")
    answer = publish(publisher, folder, private=True)
    repo = hub.repo("model", "me/student")
    assert repo.private
    assert sorted(repo.files()) == [".gitattributes", "README.md", "config.json", "model.safetensors"]
    assert repo.files()["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert answer["commit"] == repo.head().oid
    assert answer["left_out"] == {
        ".secret": "never published",
        "checkpoint-3/": "no part of a model page",
        "model.bin": "no part of a model page",
        "notes.txt": "no part of a model page",
        "optimizer.pt": "no part of a model page",
        "training_args.bin": "never published",
    }


def test_a_second_call_sends_only_what_changed(hub, publisher, folder):
    publish(publisher, folder)
    again = publish(publisher, folder)
    assert (again["sent"], len(ours(hub))) == ([], 1)
    (folder / "README.md").write_text(README + "More.\n")
    assert publish(publisher, folder)["sent"] == ["README.md"]
    assert len(ours(hub)) == 2


def test_the_user_is_the_namespace_of_a_bare_name(hub, publisher, folder):
    assert publish(publisher, folder, "student")["url"] == f"{hub.endpoint}/me/student"


def test_old_weights_do_not_stay_beside_new_ones(hub, publisher, folder):
    old = {"model-00001-of-00002.safetensors": b"1", "model.safetensors.index.json": b"{}"}
    kept = {"mine.txt": b"1", "model-int8.safetensors": b"2", "model.fp16.safetensors": b"3"}
    hub.add("model", "me/student", old | kept)
    publish(publisher, folder)
    files = hub.repo("model", "me/student").files()
    assert files.keys() == kept.keys() | {"README.md", "config.json", "model.safetensors"}


def test_a_branch_is_made(hub, publisher, folder):
    hub.add("model", "me/student", {"a": b"1"})
    publish(publisher, folder, revision="v2/rc")
    assert "README.md" in hub.repo("model", "me/student").files("v2/rc")
    assert "README.md" not in hub.repo("model", "me/student").files()


def test_a_pull_request_is_opened_once_and_brought_up_to_date(hub, publisher, folder):
    repo = hub.add("model", "me/student", {"a": b"1"})
    hub.fault("commit", "apply_then_fail", reset=True)
    first = publish(publisher, folder, create_pr=True)
    assert first["url"] == f"{hub.endpoint}/me/student/discussions/1"
    (folder / "README.md").write_text(README + "More.\n")
    assert publish(publisher, folder, create_pr=True)["sent"] == ["README.md"]
    assert len(repo.discussions) == 1
    assert repo.files("refs/pr/1")["README.md"].endswith(b"More.\n")
    assert "README.md" not in repo.files()


def test_a_lost_race_is_built_upon(hub, publisher, folder):
    repo = hub.add("model", "me/student", {"a": b"1"})
    hub.before("commit", lambda request: repo.commit({"theirs.txt": b"2"}))
    publish(publisher, folder)
    assert {"theirs.txt", "README.md"} <= repo.files().keys()
    assert [commit.title for commit in repo.commits()] == ["Ours", "Another change", "Add files"]


def test_a_lost_race_for_our_files_is_reported(hub, publisher, folder):
    repo = hub.add("model", "me/student", {"README.md": b"# Old\n"})
    hub.before("commit", lambda request: repo.commit({"README.md": b"# By hand\n"}))
    answer = publish(publisher, folder)
    assert answer["reason"] == "conflict"
    assert "README.md" in answer["message"]
    assert repo.files()["README.md"] == b"# By hand\n"


def test_a_commit_that_arrives_after_its_time_out_is_not_made_again(hub, publisher, folder):
    hub.add("model", "me/student", {"a": b"1"})
    hub.fault("commit", "delay", seconds=1.5)
    assert publish(publisher, folder, timeout=1.5)["commit"]
    assert len(ours(hub)) == 1


def test_a_pull_request_that_is_opened_late_is_not_opened_twice(hub, publisher, folder):
    repo = hub.add("model", "me/student", {"a": b"1"})
    hub.fault("commit", "delay", seconds=4)
    late = publish(publisher, folder, create_pr=True, timeout=1.5)
    assert (late["reason"], "whether it opened" in late["message"]) == ("server", True)
    while not repo.discussions:
        time.sleep(0.05)
    assert publish(publisher, folder, create_pr=True)["url"].endswith("/discussions/1")
    assert len(repo.discussions) == 1


def test_files_that_the_repository_ignores_are_told_and_not_committed_again_and_again(hub, publisher, folder):
    repo = hub.add("model", "me/student", {".gitignore": b"*.safetensors"})
    answers = [publish(publisher, folder) for _ in range(2)]
    assert [(answer["reason"], ".gitignore" in answer["message"]) for answer in answers] == [("refused", True)] * 2
    assert len(repo.commits()) == 1


@pytest.mark.parametrize("headers", [{"Retry-After": "86400"}, {"ratelimit": '"api";r=0;t=3000'}])
def test_the_hub_may_not_put_us_off_for_a_day(hub, publisher, folder, headers):
    hub.fault("preupload", "status", status=429, headers=headers, times=None)
    answer = publish(publisher, folder)
    assert (answer["reason"], "wait for" in answer["message"]) == ("server", True)
    assert answer["seconds"] < 15


def test_limits_hold_for_a_client_that_was_made_anew(hub, publisher, folder):
    """After a connection that failed, huggingface_hub makes itself a new client."""
    hub.fault("commit", "hang", times=None)
    hub.add("model", "me/student", {"a": b"1"})
    assert publish(publisher, folder, timeout=1.5, new_client=True)["reason"] in ("server", "network")


def test_two_publications_at_once_keep_their_limits(hub, publisher, folder, tmp_path):
    other = make_folder(tmp_path / "other")
    hub.fault("commit", "hang", times=None, when=lambda request: "other" in request.path)
    calls = [{"folder": str(folder), "repo_id": "me/student"}, {"folder": str(other), "repo_id": "me/other"}]
    answers = publisher.publish_at_once([{**call, "timeout": 6} for call in calls])
    assert answers[0]["commit"] == hub.repo("model", "me/student").head().oid
    assert answers[1]["reason"] == "server"


def test_what_the_hub_stored_wrongly_is_found(hub, publisher, folder):
    hub.add("model", "me/student", {"a": b"1"})

    def spoil(request):
        for commit in ours(hub):
            commit.files["config.json"] = commit.files["README.md"]

    hub.before("tree", spoil, times=None)
    answer = publish(publisher, folder)
    assert (answer["reason"], "config.json" in answer["message"]) == ("server", True)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("fault", ["500 once", "applied, then reset"])
def test_a_fault_that_passes_is_survived(hub, publisher, folder, route, fault):
    outcome = try_fault(hub, publisher, folder, "student", route, fault, timeout=1.5)
    assert (outcome.error, outcome.commits, outcome.missing, outcome.changed_here) == (None, 1, [], False)


@pytest.mark.parametrize("route", ["repo_info", "tree", "lfs_put", "commit"])
@pytest.mark.parametrize("fault", ["hangs always", "500 always"])
def test_a_fault_that_stays_ends_in_our_error(hub, publisher, folder, route, fault):
    outcome = try_fault(hub, publisher, folder, "student", route, fault, timeout=0.9)
    assert outcome.error == "server"
    assert outcome.seconds < 15
    assert (outcome.commits, outcome.changed_here) == (0, False)


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_whole_matrix(hub, publisher, folder, route, fault):
    outcome = try_fault(hub, publisher, folder, "student", route, fault, timeout=6)
    succeeds = fault not in ALWAYS
    assert (outcome.error is None, outcome.commits) == (succeeds, int(succeeds))
    assert not (succeeds and outcome.missing)
    assert not outcome.changed_here
    assert outcome.seconds < 6 + 4  # the client's own pauses between tries count for more than at 180 s


def test_after_a_failure_the_same_call_goes_on(hub, publisher, folder):
    hub.fault("commit", "status", status=500, times=None)
    assert publish(publisher, folder, timeout=0.9)["reason"] == "server"
    hub.reset_faults()
    hub.requests.clear()
    assert publish(publisher, folder)["commit"]
    assert "lfs_put" not in [request.route for request in hub.requests]  # the weights had arrived


CONFLICT = {"error": "Cannot create repo: another conflicting operation is in progress"}


@pytest.mark.parametrize(
    ("prepare", "options", "reason", "message"),
    [
        (lambda hub: None, {"token": "hf_" + "x" * 34}, "token", "hf auth login"),
        (lambda hub: setattr(hub, "role", "read"), {}, "permission", "right to write"),
        (lambda hub: None, {"repo_id": "someone/student"}, "permission", "someone/student"),
        (lambda hub: hub.add("model", "me/student", {"a": b"1"}), {"private": True}, "permission", "is public"),
        (
            lambda hub: hub.fault("repo_info", "status", status=403, headers={"X-Error-Code": "GatedRepo"}, times=None),
            {},
            "gated",
            "access",
        ),
        (
            lambda hub: hub.fault("validate_yaml", "status", status=400, body={"errors": [{"message": "no such tag"}]}),
            {},
            "refused",
            "no such tag",
        ),
        (
            lambda hub: hub.fault("validate_yaml", "status", status=503, body="<html>", times=None),
            {"timeout": 0.9},
            "server",
            "Hub",
        ),
        (
            lambda hub: hub.fault("create_repo", "status", status=409, times=None, body=CONFLICT),
            {"timeout": 0.9},
            "server",
            "create",
        ),
        (lambda hub: None, {"revision": "x", "create_pr": True}, "files", "revision and create_pr"),
    ],
)
def test_an_error_has_its_reason_and_remedy(hub, publisher, folder, prepare, options, reason, message):
    prepare(hub)
    answer = publish(publisher, folder, **options)
    assert answer["reason"] == reason
    assert message in answer["message"]
    assert "hf_x" not in answer["message"]


def test_offline_and_without_a_token(hub, folder, tmp_path):
    with Publisher(hub, tmp_path / "home", HF_HUB_OFFLINE="1") as offline:
        assert publish(offline, folder)["reason"] == "offline"
    with Publisher(hub, tmp_path / "home", HF_TOKEN="") as anonymous:
        assert publish(anonymous, folder)["reason"] == "token"
    assert not hub.requests


def test_a_dry_run_asks_nobody(hub, publisher, folder):
    answer = publish(publisher, folder, dry_run=True)
    assert (answer["commit"], answer["files"]) == (None, ["README.md", "config.json", "model.safetensors"])
    assert not hub.requests


def test_regular_uploads_work_with_xet_on(folder, tmp_path):
    with HubServer(regular_only=True) as hub, Publisher(hub, tmp_path / "home") as publisher:
        hub.fault("commit", "apply_then_fail", status=500)
        assert publish(publisher, folder)["commit"]
        assert len(ours(hub)) == 1
        assert not [request for request in hub.requests if request.route == "xet_write_token"]


def write_config(folder, **more):
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **more}))


def safetensors(metadata):
    header = json.dumps({"__metadata__": metadata}).encode()
    return struct.pack("<Q", len(header)) + header


def index(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "model-2.safetensors"}}')


def adapter(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/home/me/gpt2"}')


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "README.md").unlink(), "no README.md"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"short"), "cannot be read"),
        (index, "model-2.safetensors, which is not there"),
        (lambda f: shutil.copy(f / "model.safetensors", f / "model-1-of-2.safetensors"), "without an index"),
        (lambda f: write_config(f, auto_map={"AutoModel": "modeling.Mine"}), "names code"),
        (adapter, "base model"),
        (lambda f: (f / "README.md").write_text(README + TOKEN), "README.md holds an access token"),
        (lambda f: write_config(f, note=TOKEN), "config.json holds an access token"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(safetensors({"by": TOKEN})), "holds an access token"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "is no index of weights"),
        (lambda f: (f / "README.md").write_bytes(b"\xff\xfe"), "top of a card"),
        (lambda f: (f / "a.png").write_bytes(b"." * (2**20 - 9) + TOKEN.encode()), "a.png holds an access token"),
        (lambda f: (f / "loss_curves.png").write_bytes(b"PNG" + TOKEN.encode()), "holds an access token"),
        (lambda f: (f / "README.md").write_text(README + "own-secret-token"), "README.md holds an access token"),
        (lambda f: (f / "README.md").write_text("# No metadata\n"), "metadata"),
        (lambda f: (f / "README.md").write_text(README.replace("[sv]", "Swedish")), "'sv'"),
        (shutil.rmtree, "is not a folder"),
    ],
)
def test_a_folder_that_must_not_go_out_stays(hub, publisher, folder, spoil, message):
    spoil(folder)
    answer = publish(publisher, folder, token="own-secret-token")
    assert message in answer["message"]
    assert TOKEN not in answer["message"]
    assert not hub.requests


def test_no_byte_that_leaves_holds_a_path_of_this_machine_or_the_token(hub, folder, tmp_path):
    home = tmp_path / "home" / "anna"
    (folder / "training_args.bin").write_bytes(TOKEN.encode())
    write_config(folder, _name_or_path=f"{home}/teacher", nested={"cache_dir": str(home)})
    tokenizer = {"name_or_path": str(home / "teacher"), "model_max_length": 5}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with Publisher(hub, tmp_path / "hf", HOME=str(home)) as publisher:
        assert publish(publisher, folder)["commit"]
        log = publisher.log.read_bytes()
    files = hub.repo("model", "me/student").files()
    assert json.loads(files["tokenizer_config.json"]) == {"name_or_path": "teacher", "model_max_length": 5}
    sent = [request.body for request in hub.requests]
    lines = [json.loads(line) for body in sent for line in body.splitlines() if line.startswith(b'{"key": "file"')]
    sent += [base64.b64decode(line["value"]["content"]) for line in lines]
    assert len(lines) == 3
    for data in (*files.values(), *sent, log):
        assert TOKEN.encode() not in data
        assert b"anna" not in data
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}  # nothing here was changed


def test_what_is_asked_for_goes_too_cleaned_but_no_pickle(hub, folder, tmp_path):
    (folder / "pooling").mkdir()
    (folder / "pooling" / "config.json").write_text('{"cache_dir": "/home/anna/x"}')
    (folder / "scores.pkl").write_bytes(b"x")
    (folder / "finetune.json").write_text("{}")
    (folder / "spm.model").write_bytes(b"x")
    with Publisher(hub, tmp_path / "hf", HOME="/home/anna") as publisher:
        answer = publish(publisher, folder, also=["pooling/*", "*.pkl"])
    assert answer["left_out"] == {"scores.pkl": "never published", "finetune.json": "no record"}
    files = hub.repo("model", "me/student").files()
    assert json.loads(files["pooling/config.json"]) == {"cache_dir": "x"}
    assert "spm.model" in files


@pytest.mark.parametrize(
    "text", ["file:///home/anna/x", "//home/anna/x", r"\/home\/anna\/x", "in /home/anna.", '"/home/anna"']
)
def test_the_home_directory_is_found_however_it_is_written(hub, folder, publisher_of_anna, text):
    (folder / "README.md").write_text(f"{README}{text}\n")
    assert "a path of this machine" in publish(publisher_of_anna, folder)["message"]


@pytest.mark.parametrize("text", ["https://a.org/home/anna/x", "/home/annabel", "x/home/anna"])
def test_what_only_looks_like_the_home_directory_goes(hub, folder, publisher_of_anna, text):
    (folder / "README.md").write_text(f"{README}{text}\n")
    assert publish(publisher_of_anna, folder)["commit"]
