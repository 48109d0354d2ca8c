"""The whole of recipes/swedish_mbert, from raw corpus to published page, on the Hub for tests: two steps a training.

Models and data sets are small ones under the real names; the recipes are as they lie there.
"""

import bz2
import json
from xml.sax.saxutils import escape

import pytest
from client import run_client
from made_sentences import SWEDISH, made_sentences
from server import HubServer
from stand_ins import CONVERTED, MBERT, ROOT, SUCX3, WIKIANN, add_stand_ins

from distil_trainer import Record
from distil_trainer.metadata import check_metadata

FOLDER = ROOT / "recipes" / "swedish_mbert"
QUICK = ["training.max_steps=2", "training.use_cpu=true", "training.disable_tqdm=true"]
PUBLISHED = "runs/swedish_mbert/as_published"
SCORED = [*QUICK, "seeds=[100, 101]", f"models.student={PUBLISHED}", f"models.undistilled={PUBLISHED}/undistilled"]
STAGES = [
    ("prepare", "corpus_1990s.yaml", ["data.files=[corpus/1990.xml.bz2]", "data.num_proc=1"]),
    ("prepare", "corpus.yaml", ["data.files=[corpus/2010.xml.bz2]", "data.num_proc=1"]),
    ("adapt", "adapt.yaml", QUICK),
    ("distill", "as_published.yaml", QUICK),
    ("finetune", "finetune_sucx3.yaml", SCORED),
    ("finetune", "finetune_wikiann_en.yaml", SCORED),
    ("publish", "publish.yaml", [f"folder={PUBLISHED}", "repo_id=me/mbert-sv"]),
]
# Calls one script after another, as the commands in the README do, in one process: to import everything takes seconds.
DRIVER = """
import importlib.util, json, os
os.chdir(HOME)
for name, recipe, overrides in json.loads(STAGES):
    spec = importlib.util.spec_from_file_location(name, f"{ROOT}/recipes/{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(f"{FOLDER}/{recipe}", overrides)
"""


def write_corpus(path, years):
    """A file of Gigaword with the made sentences once for each year."""
    sentences = "".join(
        "<sentence>{}</sentence>".format("".join(f"<w>{escape(token)}</w>\n" for token in sentence.tokens))
        for sentence in made_sentences(SWEDISH) * 6
    )
    texts = "".join(f'<text year="{year}" genre="news">{sentences}</text>' for year in years)
    path.write_bytes(bz2.compress(f"<corpus>{texts}</corpus>".encode()))


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The Hub and the folder after all stages, and what they printed."""
    home = tmp_path_factory.mktemp("story")
    (home / "corpus").mkdir()
    write_corpus(home / "corpus" / "2010.xml.bz2", (2009, 2010, 2012, 2015))
    write_corpus(home / "corpus" / "1990.xml.bz2", (1989, 1991, 1995, 1999))
    places = {"HOME": str(home), "ROOT": str(ROOT), "FOLDER": str(FOLDER), "STAGES": json.dumps(STAGES)}
    code = "".join(f"{name} = {value!r}\n" for name, value in places.items()) + DRIVER
    with HubServer() as hub:
        add_stand_ins(hub)
        yield hub, home, run_client(hub, home / "hf", code, timeout=300)


def test_every_stage_leaves_its_record(story):
    hub, home, _ = story
    runs = home / "runs" / "swedish_mbert"
    corpus = Record.load(runs / "corpus" / "prepare.json").data[0]
    assert corpus.counts["kept"]["2012 news"]["sentences"] == 300
    assert corpus.counts["left_out"].keys() == {"2009 news"}
    assert corpus.tokens == 512 * corpus.examples
    adapted = Record.load(runs / "teacher" / "adaptation.json")
    assert (adapted.teacher.class_name, adapted.teacher.base_model) == ("BertForPreTraining", MBERT)
    assert (adapted.teacher.id, adapted.steps) == (None, 2)
    distilled = Record.load(runs / "as_published" / "distillation.json")
    assert distilled.data == (corpus,)
    assert distilled.teacher.revision == hub.repo("model", MBERT).head().oid
    assert (distilled.student.class_name, distilled.student.layers, distilled.steps) == ("BertForPreTraining", 6, 2)
    # The pairing of 2022 leaves most of the last block, and the heads, as they were copied.
    assert {"cls.seq_relationship.weight", "bert.encoder.layer.5.output.dense.weight"} <= set(distilled.never_trained)


def test_models_are_scored_on_the_data_of_the_hub(story):
    hub, home, _ = story
    runs = home / "runs" / "swedish_mbert"
    for name, dataset, commit, config in (
        ("finetune_sucx3", SUCX3, hub.repo("dataset", SUCX3).head(CONVERTED).oid, "original_cased"),
        ("finetune_wikiann_en", WIKIANN, hub.repo("dataset", WIKIANN).head().oid, "en"),
    ):
        record = Record.load(runs / name / "finetune.json")
        assert [score.role for score in record.evaluations] == ["teacher", "student", "undistilled"]
        for score in record.evaluations:
            assert (score.dataset_id, score.dataset_config, score.dataset_split) == (dataset, config, "test")
            assert score.dataset_revision == commit
            assert set(score.values) == {100, 101}
        assert record.data[0].examples == 40  # train and validation


def test_one_page_from_all_records_is_on_the_hub(story):
    hub, home, printed = story
    repo = hub.repo("model", "me/mbert-sv")
    assert f"{hub.endpoint}/me/mbert-sv (commit {repo.head().oid}" in printed
    card = repo.files()["README.md"].decode()
    metadata = check_metadata(card)
    assert metadata["base_model"] == MBERT
    assert metadata["license"] == "apache-2.0"
    assert {result["dataset"]["type"] for result in metadata["model-index"][0]["results"]} == {SUCX3, WIKIANN}
    assert "Swedish Culturomics Gigaword Corpus" in card
    pushed = b"".join(repo.files().values())
    assert str(home).encode() not in pushed
    assert hub.token.encode() not in pushed


def test_the_published_student_fills_masks_and_tells_next_sentences(story):
    hub, home, _ = story
    output = run_client(
        hub,
        home / "fresh",
        """
        from transformers import AutoModelForNextSentencePrediction, AutoTokenizer, pipeline
        tokenizer = AutoTokenizer.from_pretrained("me/mbert-sv")
        print(len(pipeline("fill-mask", "me/mbert-sv")("Anna bor i [MASK].")))
        model, info = AutoModelForNextSentencePrediction.from_pretrained("me/mbert-sv", output_loading_info=True)
        print(model(**tokenizer("Hon reste.", "Han kom.", return_tensors="pt")).logits.shape[1], info["missing_keys"])
        """,
    )
    assert output.splitlines()[-2:] == ["5", "2 set()"]
