"""recipes/publish.py: from the records of all stages to a page on the Hub whose snippets run as they stand."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from client import run_client
from conftest import VOCABULARY, tiny_model
from server import HubServer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertForPreTraining, PreTrainedTokenizerFast

from distil_trainer.errors import DistilTrainerError
from distil_trainer.facts import model_facts
from distil_trainer.metadata import check_metadata
from distil_trainer.page import write_page
from distil_trainer.record import Record

ROOT = Path(__file__).parent.parent.parent
SCORE = {"task_type": "token-classification", "dataset_name": "SUCX 3.0", "dataset_id": "KBLab/sucx3_ner"}


def tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(VOCABULARY - 5))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


@pytest.fixture
def folder(tmp_path):
    """What the other stages leave: a student with both of its heads, and a record of its fine-tuning."""
    model = tiny_model(BertForPreTraining, num_hidden_layers=2)
    student = tmp_path / "student"
    model.save_pretrained(student)
    tokenizer().save_pretrained(student)
    facts = model_facts(model, name="small-sv", folder=student, license="apache-2.0", language=["sv"])
    write_page(student, [Record(stage="distill", student=facts, teacher={"name": "big"})])
    scores = [
        {**SCORE, "metric_type": "f1", "role": r, "values": {1: v}} for r, v in (("teacher", 0.8), ("student", 0.7))
    ]
    Record(stage="finetune", seeds=[1], evaluations=scores).save(tmp_path / "finetune.json")
    recipe = f"folder: {student}\nrepo_id: me/small-sv\nrecords: [{tmp_path / 'finetune.json'}]\n"
    (tmp_path / "publish.yaml").write_text(recipe)
    return tmp_path


def run(hub, folder, *words):
    return subprocess.run(
        [sys.executable, str(ROOT / "recipes" / "publish.py"), str(folder / "publish.yaml"), *words],
        env=hub.environment(folder / "hf"),
        capture_output=True,
        text=True,
        check=False,
    )


def test_from_the_records_to_a_page_whose_snippets_run(folder):
    with HubServer() as hub:
        tried = run(hub, folder, "--dry-run")
        assert not tried.returncode, tried.stderr
        assert "base_model" not in tried.stdout
        assert re.search(r"value: 0\.7", tried.stdout)
        assert re.search(r"[\d,]+  model\.safetensors", tried.stdout)
        assert "Nothing was sent" in tried.stdout
        assert not hub.requests

        done = run(hub, folder, "private=true")
        assert not done.returncode, done.stderr
        repo = hub.repo("model", "me/small-sv")
        assert repo.private
        assert f"{hub.endpoint}/me/small-sv (commit {repo.head().oid}" in done.stdout
        assert {"distillation.json", "finetune.json", "tokenizer.json"} <= repo.files().keys()
        card = repo.files()["README.md"].decode()
        assert "keeps 87.5% of the teacher's f1 on SUCX 3.0" in card
        assert check_metadata(card)["pipeline_tag"] == "fill-mask"
        assert json.loads(repo.files()["distillation.json"])["student"]["id"] == "me/small-sv"

        snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        assert len(snippets) == 3
        output = run_client(hub, folder / "hf", "\n".join(snippets))
        offline = run_client(hub, folder / "hf", "\n".join(snippets), HF_HUB_OFFLINE="1")
        assert output.splitlines()[-1] == offline.splitlines()[-1] == "9"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("repo_id=small-sv", "namespace/name"),
        ("repo_id=/models/small", "namespace/name"),
        ("folder=/nowhere", r"distillation\.json cannot be read"),
        ("records=[nothing.json]", "no file matches"),
        ("privat=true", "Did you mean private"),
        ("token=secret", "secrets do not belong in a recipe"),
    ],
)
def test_what_cannot_be_published_is_told_at_once(folder, change, message):
    spec = importlib.util.spec_from_file_location("publish", ROOT / "recipes" / "publish.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with pytest.raises(DistilTrainerError, match=message):
        script.main(str(folder / "publish.yaml"), [change])
