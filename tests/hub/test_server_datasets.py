"""The unmodified clients read data sets and models from the Hub for tests as from the real one."""

import io
import json

import pyarrow.parquet as pq
import pytest
from client import run_client
from server import HubServer
from stand_ins import CONVERTED, MBERT, SPLITS, SUCX3, TAGS, WIKIANN, add_mbert, add_stand_ins
from store import Hub

# Answers calls of load_dataset with what each loaded or raised.
LOADER = """
import json
from datasets import IterableDataset, load_dataset

def told(arguments, options):
    try:
        loaded = load_dataset(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if isinstance(loaded, IterableDataset):
        return list(loaded)
    return {split: rows.to_list() for split, rows in loaded.items()}

print(json.dumps([told(*call) for call in json.loads(CALLS)]))
"""


@pytest.fixture(scope="module")
def filled():
    with HubServer() as server:
        add_stand_ins(server)
        yield server


@pytest.fixture
def hub(filled):
    filled.requests.clear()
    yield filled
    filled.reset_faults()


def call(*arguments, **options):
    return arguments, options


def load(hub, home, *calls):
    """What `load_dataset` gives for each of the calls, one after another in one process."""
    return json.loads(run_client(hub, home, f"CALLS = {json.dumps(calls)!r}\n{LOADER}"))


def rows(repo, path, revision="main"):
    return pq.read_table(io.BytesIO(repo.files(revision)[path])).to_pylist()


def sizes(loaded):
    return {split: len(rows) for split, rows in loaded.items()}


def test_configurations_of_a_card(hub, tmp_path):
    repo = hub.repo("dataset", WIKIANN)
    hub.fault("dataset_viewer", "status", status=500)
    half = hub.fault("resolve", "truncate", when=lambda request: "en/train-" in request.path)
    en, sv, streamed, pinned, unnamed, other, unborn, nowhere = load(
        hub,
        tmp_path,
        call(WIKIANN, "en"),
        call(WIKIANN, "sv"),
        call(WIKIANN, "en", split="validation", streaming=True),
        call(WIKIANN, "en", revision=repo.head().oid),
        call(WIKIANN),
        call(WIKIANN, "de"),
        call(WIKIANN, "en", revision="unborn"),
        call("unimelb-nlp/nowhere", "en"),
    )
    assert en == pinned == {split: rows(repo, f"en/{split}-00000-of-00001.parquet") for split in SPLITS}
    assert streamed == en["validation"]
    assert sizes(sv) == sizes(en) == {"train": 30, "validation": 10, "test": 10}
    assert sv != en
    assert unnamed.startswith("ValueError: Config name is missing.")
    assert other == "ValueError: BuilderConfig 'de' not found. Available: ['en', 'sv']"
    assert unborn == f"DatasetNotFoundError: Revision 'unborn' doesn't exist for dataset '{WIKIANN}' on the Hub."
    assert nowhere.startswith("DatasetNotFoundError: Dataset 'unimelb-nlp/nowhere' doesn't exist on the Hub")
    assert half.times == 0
    assert any("Range" in request.headers for request in hub.requests if "en/validation-" in request.path)
    assert sum(request.route == "dataset_viewer" for request in hub.requests) == 5  # not where a revision is named
    assert (tmp_path / "datasets" / "unimelb-nlp___wikiann").is_dir()


def test_a_loading_script_and_its_conversion(hub, tmp_path):
    absent, refused, named, data_dir, streamed, files, unknown, unborn, refused_now, absent_now, mixed = load(
        hub,
        tmp_path,
        call(SUCX3, data_dir="absent", revision=CONVERTED),
        call(SUCX3, "original_cased"),
        call(SUCX3, "original_cased", revision=CONVERTED),
        call(SUCX3, data_dir="original_cased", revision=CONVERTED),
        call(SUCX3, data_dir="simple_lower", revision=CONVERTED, split="test", streaming=True),
        call(SUCX3, data_files={"test": "simple_cased/test/*.parquet"}, revision=CONVERTED),
        call(SUCX3, data_dir="original_cased", revision=CONVERTED, split="dev"),
        call(SUCX3, data_dir="original_cased", revision="unborn"),
        call(SUCX3, "original_cased"),
        call(SUCX3, data_dir="absent", revision=CONVERTED),
        call(SUCX3, revision=CONVERTED),
    )
    repo = hub.repo("dataset", SUCX3)
    assert absent.startswith(f"EmptyDatasetError: The directory at hf://datasets/{SUCX3}@{repo.head(CONVERTED).oid}")
    assert refused == "RuntimeError: Dataset scripts are no longer supported, but found sucx3_ner.py"
    assert named == "ValueError: BuilderConfig 'original_cased' not found. Available: ['default']"
    assert data_dir == {split: rows(repo, f"original_cased/{split}/0000.parquet", CONVERTED) for split in SPLITS}
    assert streamed == rows(repo, "simple_lower/test/0000.parquet", CONVERTED)
    assert files == {"test": rows(repo, "simple_cased/test/0000.parquet", CONVERTED)}
    assert unknown == "ValueError: Unknown split \"dev\". Should be one of ['train', 'validation', 'test']."
    assert unborn == f"DatasetNotFoundError: Revision 'unborn' doesn't exist for dataset '{SUCX3}' on the Hub."
    # once something is in the cache, other errors are hidden behind what is not in the cache
    assert refused_now.startswith(f"ValueError: Couldn't find cache for {SUCX3} for config 'original_cased'")
    assert absent_now.startswith(f"ValueError: Couldn't find cache for {SUCX3} for config 'default-data_dir=absent'")
    assert sizes(mixed) == {"train": 120, "validation": 40, "test": 40}  # all configurations, without a word
    assert not [request for request in hub.requests if request.route == "dataset_viewer"]


def test_a_snapshot_of_a_conversion_is_read_offline(hub, tmp_path):
    get = f"""
    import os
    from huggingface_hub import snapshot_download

    where = {{"repo_type": "dataset", "revision": {CONVERTED!r}}}
    folder = snapshot_download({SUCX3!r}, allow_patterns=["original_cased/*"], **where)
    print(os.path.basename(folder))
    """
    read = """
    from datasets import load_dataset
    print({split: len(rows) for split, rows in load_dataset("parquet", data_dir=folder + "/original_cased").items()})
    """
    oid = hub.repo("dataset", SUCX3).head(CONVERTED).oid
    assert run_client(hub, tmp_path, get) == f"{oid}\n"
    hub.requests.clear()
    answer = run_client(hub, tmp_path, get + read, HF_HUB_OFFLINE="1")
    assert answer == f"{oid}\n{{'train': 30, 'validation': 10, 'test': 10}}\n"
    assert not hub.requests


def test_a_model_and_its_revisions(hub, tmp_path):
    repo = hub.repo("model", MBERT)
    oid = repo.head().oid
    add_mbert(hub, vocabulary=None, seed=1, branch="small")
    output = run_client(
        hub,
        tmp_path,
        f"""
        import json
        from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoTokenizer

        def told(revision, model_class):
            name = {{"pretrained_model_name_or_path": {MBERT!r}, "revision": revision}}
            try:
                size = AutoConfig.from_pretrained(**name).vocab_size
            except OSError as error:
                return str(error)
            words = AutoTokenizer.from_pretrained(**name).tokenize("Anna bor i Umeå.")
            model, found = model_class.from_pretrained(**name, use_safetensors=True, output_loading_info=True)
            return [size, words[0], words[-1], type(model).__name__, sorted(found["missing_keys"])]

        calls = ("main", AutoModelForPreTraining), ("small", AutoModel), ({oid!r}, AutoModel), ("unborn", AutoModel)
        print(json.dumps([told(*call) for call in calls]))
        """,
    )
    *loaded, refused = json.loads(output)
    size, small = (repo.files(revision)["vocab.txt"].count(b"\n") for revision in (oid, "small"))
    assert loaded == [
        [size, "Anna", ".", "BertForPreTraining", []],
        [small, "Anna", ".", "BertModel", []],
        [size, "Anna", ".", "BertModel", []],
    ]
    assert refused.startswith("unborn is not a valid git identifier")


def test_stand_ins_are_made_as_the_real_ones_and_always_alike(hub):
    again = Hub()
    add_stand_ins(again)
    assert all(hub.repos[key].head().oid == repo.head().oid for key, repo in again.repos.items())
    sucx, wikiann = again.repo("dataset", SUCX3), again.repo("dataset", WIKIANN)
    manual, simple = (
        rows(sucx, f"{name}/train/0000.parquet", CONVERTED) for name in ("original_cased", "simple_lower")
    )
    assert manual[0] == {
        "id": "00000000",
        "tokens": ["Anna", "Lindqvist", "bor", "i", "Malmö", "."],
        "pos_tags": ["PM", "PM", "VB", "PP", "PM", "MAD"],
        "ner_tags": ["B-person", "I-person", "O", "O", "B-place", "O"],
    }
    assert simple[0]["id"] == "00000000_lower"
    assert simple[0]["tokens"] == ["anna", "lindqvist", "bor", "i", "malmö", "."]
    assert simple[0]["ner_tags"] == ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]
    schema = pq.read_schema(io.BytesIO(wikiann.files()["en/test-00000-of-00001.parquet"]))
    tags = json.loads(schema.metadata[b"huggingface"])["info"]["features"]["ner_tags"]["feature"]
    assert tags == {"names": list(TAGS), "_type": "ClassLabel"}
    for split in SPLITS:  # every tag, so that each split can be learned and scored
        found = rows(wikiann, f"en/{split}-00000-of-00001.parquet")
        assert {tag for row in found for tag in row["ner_tags"]} == set(range(len(TAGS)))
