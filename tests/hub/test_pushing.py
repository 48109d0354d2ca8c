"""What `DistillationTrainer` does with the Hub, in a process of its own, against the server."""

import json
import re
import subprocess
import sys

import pytest
from client import run_client
from server import HubServer

TOKEN = "hf_" + "t" * 34
SETUP = f"""
import sys
sys.path.insert(0, {__file__.rsplit("/", 2)[0]!r})
import os
os.environ["HF_HUB_OFFLINE"] = "0"  # else conftest switches it on
from conftest import pad_batch, ragged_examples, tiny_model
from transformers import BertModel, TrainingArguments
from distil_trainer import DistillationTrainer, build_student, methods, student_config
from distil_trainer.errors import PublishError

def make_trainer(folder, page_facts=None, **options):
    teacher = tiny_model(BertModel)
    student = build_student(teacher, student_config(teacher.config, num_hidden_layers=2))
    defaults = dict(max_steps=3, logging_steps=1, save_steps=1, report_to="none", use_cpu=True, disable_tqdm=True,
                    dataloader_pin_memory=False, push_to_hub=True, hub_token={TOKEN!r}, save_total_limit=2)
    return DistillationTrainer(
        model=student, teacher_model=teacher, alignments=methods.lightmbert(student_layers=2, teacher_layers=4),
        args=TrainingArguments(folder, **{{**defaults, **options}}), train_dataset=ragged_examples(24, labels=False),
        data_collator=pad_batch, eval_dataset=ragged_examples(8, labels=False), page_facts=page_facts)
"""


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


def run(hub, tmp_path, code, **environment):
    return run_client(hub, tmp_path / "hf", f"{SETUP}\nfolder = {str(tmp_path / 'out')!r}\n{code}", **environment)


def test_the_strategies_push_the_student_and_its_page(hub, tmp_path):
    run(
        hub,
        tmp_path,
        """
for strategy in ("end", "every_save", "checkpoint", "all_checkpoints"):
    trainer = make_trainer(f"{folder}/{strategy}", hub_strategy=strategy, hub_always_push=True,
                           hub_model_id=f"me/{strategy}", hub_private_repo=True)
    trainer.train()
    trainer._finish_current_push()
done = trainer.push_to_hub("The end", license="mit", language="sv")
assert done.commit and done.repo_id == "me/all_checkpoints", done
""",
    )
    repos = {name: hub.repo("model", f"me/{name}") for name in ("end", "every_save", "checkpoint", "all_checkpoints")}
    titles = [f"Training in progress, step {step}" for step in (3, 2, 1)]
    assert all(repo.private for repo in repos.values())
    assert [c.title for c in repos["end"].commits()] == ["initial commit"]  # Trainer leaves the end to push_to_hub
    assert [c.title for c in repos["every_save"].commits()] == [*titles, "initial commit"]
    assert [c.title for c in repos["all_checkpoints"].commits()] == ["The end", *titles, "initial commit"]
    page = {".gitattributes", "README.md", "config.json", "distillation.json", "layer_map.png", "loss_curves.png"}
    assert repos["every_save"].files().keys() == page | {"model.safetensors"}
    resume = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors", "config.json"}
    assert {n for n in repos["checkpoint"].files() if "/" in n} == {f"last-checkpoint/{name}" for name in resume}
    assert {n.split("/")[0] for n in repos["all_checkpoints"].files() if "/" in n} == {
        f"checkpoint-{step}" for step in (1, 2, 3)
    }
    card = repos["all_checkpoints"].files()["README.md"].decode()
    assert "# all\\_checkpoints" in card
    assert 'name = "me/all_checkpoints"' in card
    assert "license: mit" in card
    record = json.loads(repos["every_save"].files()["distillation.json"])
    assert (record["student"]["id"], record["steps"]) == ("me/every_save", 3)
    for repo in repos.values():
        for commit in repo.commits():
            assert not [name for name in commit.files if name.endswith("training_args.bin")]
            assert not [name for name, file in commit.files.items() if TOKEN.encode() in file.data]
            assert not [name for name, file in commit.files.items() if str(tmp_path).encode() in file.data]
    assert not list(tmp_path.glob("out/*/.push-*"))


def test_a_push_that_fails_in_the_background_is_reported_and_made_up_for(hub, tmp_path):
    hub.fault("preupload", "status", status=403, times=2, body={"error": "storage quota exceeded"})
    output = run(
        hub,
        tmp_path,
        """
import logging
trainer = make_trainer(folder, hub_strategy="every_save", hub_always_push=True, max_steps=2)
seen = []
handler = logging.Handler()
handler.emit = lambda record: seen.append(record.getMessage())
logging.getLogger("transformers").addHandler(handler)
logging.getLogger("distil_trainer").addHandler(handler)
trainer.train()
print([line for line in seen if "failed" in line])
future = trainer.push_to_hub(blocking=False)
print("sent", len(future.result().sent))
""",
    )
    assert len(re.findall("A push to me/out failed.*?quota", output)) == 2
    assert "2 pushes to me/out failed" in output
    assert "sent 6" in output
    assert "model.safetensors" in hub.repo("model", "me/out").files()


def test_a_push_that_goes_on_makes_the_next_wait_for_the_end_and_branches_are_kept_to(hub, tmp_path):
    hub.fault("commit", "delay", seconds=2)
    run(
        hub,
        tmp_path,
        """
trainer = make_trainer(folder, hub_strategy="every_save", hub_revision="dev")
trainer.train()
trainer.push_to_hub("The end", revision="v1")
""",
    )
    repo = hub.repo("model", "me/out")
    assert [commit.title for commit in repo.commits("dev")] == ["Training in progress, step 1", "initial commit"]
    assert [commit.title for commit in repo.commits("v1")] == ["The end", "initial commit"]
    assert [commit.title for commit in repo.commits()] == ["initial commit"]


def test_a_token_that_may_not_write_is_told_before_training(hub, tmp_path):
    hub.add("model", "me/student", {"a": b"1"})
    hub.role = "read"
    output = run(
        hub,
        tmp_path,
        """
try:
    make_trainer(folder, hub_model_id="me/student")
except PublishError as error:
    print(error.reason)
""",
    )
    assert output == "permission\n"


def test_text_by_hand_survives_and_the_student_loads_without_a_warning(hub, tmp_path):
    output = run(
        hub,
        tmp_path,
        """
from pathlib import Path
trainer = make_trainer(folder, push_to_hub=False, save_strategy="no", hub_model_id="me/student")
trainer.train()
trainer.push_to_hub()
page = Path(folder, "README.md")
page.write_text(page.read_text().replace("<!-- keep: notes -->", "<!-- keep: notes -->\\nAsk *Anna*."))
print(len(trainer.push_to_hub().sent))

import logging
from transformers import AutoModel
seen = []
handler = logging.Handler()
handler.emit = lambda record: seen.append(record.getMessage())
logging.getLogger("transformers").addHandler(handler)
model = AutoModel.from_pretrained("me/student")
print(seen, all((a == b).all() for a, b in zip(model.state_dict().values(), trainer.model.state_dict().values())))
""",
    )
    sent, loaded = output.splitlines()[-2:]
    assert int(sent) >= 1
    assert loaded == "[] True"
    assert "Ask *Anna*.\n<!-- /keep: notes -->" in hub.repo("model", "me/student").files()["README.md"].decode()


def test_a_page_that_cannot_be_written_does_not_stop_training_and_facts_given_once_stay(hub, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("<!-- keep: notes -->\nnot closed\n")
    (tmp_path / "out" / ".push-999999999-checkpoint-9").mkdir()
    output = run(
        hub,
        tmp_path,
        """
from pathlib import Path
facts = {"method": "lightmbert", "student": {"name": "Small", "license": "mit"},
         "data": [{"name": "Books", "role": "train", "hub_id": "me/books"}]}
trainer = make_trainer(folder, hub_strategy="checkpoint", max_steps=2, page_facts=facts, eval_strategy="steps",
                       eval_steps=1, load_best_model_at_end=True, hub_always_push=True, save_total_limit=1)
print(trainer.train().global_step)
Path(folder, "README.md").unlink()
trainer.push_to_hub()
trainer.train(resume_from_checkpoint=True)
trainer.args.max_steps = 3
trainer.train(resume_from_checkpoint=True)
""",
    )
    assert output.splitlines()[-1]
    repo = hub.repo("model", "me/out")
    assert not list(tmp_path.glob("out/.push-*"))
    card = repo.files()["README.md"].decode()
    assert "# Small" in card
    assert all(text in card for text in ("- me/books", "license: mit", "- lightmbert"))
    state = json.loads(repo.files()["last-checkpoint/trainer_state.json"])
    assert "/" not in state["best_model_checkpoint"]
    assert (tmp_path / "out").name == "out"


def test_without_a_teacher_the_card_of_trainer_is_pushed_and_nothing_private(hub, tmp_path):
    run(
        hub,
        tmp_path,
        """
from transformers import BertForMaskedLM
trainer = DistillationTrainer(
    model=tiny_model(BertForMaskedLM), task_weight=1.0, train_dataset=ragged_examples(8), data_collator=pad_batch,
    args=TrainingArguments(folder, max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True, push_to_hub=True,
                           dataloader_pin_memory=False, save_strategy="no", hub_token=os.environ["HF_TOKEN"]))
trainer.train()
trainer.push_to_hub()
""",
    )
    files = hub.repo("model", "me/out").files()
    assert {"README.md", "model.safetensors"} <= files.keys()
    assert "training_args.bin" not in files


def test_of_two_processes_only_the_first_talks_to_the_hub(hub, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        f"""{SETUP}
trainer = make_trainer({str(tmp_path / "out")!r}, hub_strategy="every_save", hub_always_push=True, max_steps=2)
rank = trainer.args.process_index
if rank == 1:  # whatever asks the Hub from here would fail
    import huggingface_hub.constants, huggingface_hub.hf_api
    huggingface_hub.constants.ENDPOINT = "http://127.0.0.1:9"
trainer.train()
pushed = trainer.push_to_hub()
open({str(tmp_path)!r} + f"/rank{{rank}}.txt", "w").write(str(pushed and pushed.commit))
os._exit(0)  # two gloo processes are now and then aborted when they are taken down
"""
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**hub.environment(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(script)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert not done.returncode, done.stderr[-4000:]
    repo = hub.repo("model", "me/out")
    assert (tmp_path / "rank0.txt").read_text() == repo.head().oid
    assert (tmp_path / "rank1.txt").read_text() == "None"
    titles = ["End of training", *(f"Training in progress, step {step}" for step in (2, 1)), "initial commit"]
    assert [commit.title for commit in repo.commits()] == titles
    assert len([request for request in hub.requests if request.route == "create_repo"]) == 1
    assert json.loads(repo.files()["distillation.json"])["hardware"]["processes"] == 2
