"""Data that is read from the Hub, and what is said when it cannot be."""

import json

import pytest
from client import run_client
from datasets import Features, Value
from server import HubServer
from stand_ins import CONVERTED, SPLITS, SUCX3, add_sucx3, parquet

SCRIPT = """
import json
from distil_trainer.errors import DataError
from distil_trainer.hub_data import commit_of, load_split
from distil_trainer.text.files import text_column

def told(hub_id, options):
    split, column = options.pop("split", "train"), options.pop("column", "text")
    try:
        texts = text_column(load_split(hub_id, split, **options), column, f"{hub_id}, split {split}")
    except DataError as error:
        return str(error)
    return [type(texts).__name__, [row["text"] for row in texts], commit_of(hub_id, options.get("revision"))]

print(json.dumps([told(*call) for call in json.loads(CALLS)]))
"""


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        add_sucx3(server)
        features = Features({"id": Value("int64"), "text": Value("string")})
        for branch, texts in (("main", ["a", "b"]), ("v2", ["c"])):
            rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
            server.add("dataset", "me/texts", {"data/train-00000.parquet": parquet(rows, features)}, branch=branch)
        yield server


def load(hub, home, *calls):
    return json.loads(run_client(hub, home, f"CALLS = {json.dumps(calls)!r}\n{SCRIPT}"))


def test_text_of_the_hub(hub, tmp_path):
    script, read, streamed, branch, converted, *errors = load(
        hub,
        tmp_path,
        (SUCX3, {}),  # before anything of it is in the cache
        ("me/texts", {}),
        ("me/texts", {"stream": True}),
        ("me/texts", {"revision": "v2"}),
        (SUCX3, {"revision": CONVERTED, "config": "original_cased", "split": "test", "column": "id"}),
        ("me/texts", {"config": "sv"}),
        ("me/texts", {"split": "dev"}),
        ("me/texts", {"column": "body"}),
        ("me/texts", {"revision": "v3"}),
        ("me/gone", {}),
    )
    repo = hub.repo("dataset", "me/texts")
    assert read == ["Dataset", ["a", "b"], repo.head().oid]
    assert streamed == ["IterableDataset", ["a", "b"], repo.head().oid]
    assert branch == ["Dataset", ["c"], repo.head("v2").oid]
    assert len(converted[1]) == SPLITS["test"].stop - SPLITS["test"].start
    assert converted[2] == hub.repo("dataset", SUCX3).head(CONVERTED).oid
    config, split, column, revision, gone = errors
    assert script.startswith("KBLab/sucx3_ner, split train cannot be read: Dataset scripts are no longer supported")
    assert script.endswith(f"read it with revision: {CONVERTED}")
    assert config.startswith("me/texts (sv), split train cannot be read: BuilderConfig 'sv' not found. Available: [")
    assert "Unknown split \"dev\". Should be one of ['train']; check the names" in split
    assert column.startswith("expected a column 'body' in me/texts, split train, got ['id', 'text'];")
    assert "at v3, split train cannot be read: Revision 'v3' doesn't exist" in revision
    assert "me/gone, split train cannot be read: Dataset 'me/gone' doesn't exist" in gone
    assert gone.endswith("check its id and revision, and log in with `hf auth login` if it is private or gated")
