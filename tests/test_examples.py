"""The example pages in model_card/examples are what their records give, and what the Hub takes."""

from pathlib import Path

import pytest

from distil_trainer import Record, render_card
from distil_trainer.metadata import check_metadata

EXAMPLES = Path(__file__).parent.parent / "model_card" / "examples"
FOLDERS = sorted(path.parent for path in EXAMPLES.glob("*/distillation.json"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_example_follows_from_its_records(folder):
    records = [Record.load(folder / name) for name in ("distillation.json", "finetune.json")]
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert render_card(*records, layer_map="layer_map.png") == text
    check_metadata(text)


def test_the_published_facts_of_the_reference_student():
    text = (EXAMPLES / "mbert_swedish" / "README.md").read_text(encoding="utf-8")
    metadata = check_metadata(text)
    assert (metadata["license"], metadata["language"]) == ("apache-2.0", ["multilingual", "sv"])
    assert metadata["base_model"] == "google-bert/bert-base-multilingual-cased"
    assert "datasets" not in metadata  # the corpus is not on the Hub
    (index,) = metadata["model-index"]
    scores = {r["dataset"]["type"]: r["metrics"][0]["value"] for r in index["results"]}
    assert scores == {"KBLab/sucx3_ner": 0.859, "unimelb-nlp/wikiann": 0.826}
    assert "| 0.866 | 0.859 | -0.007 | 99.2% |" in text
    assert "| 0.849 | 0.826 | -0.023 | 97.3% |" in text
    assert "Nothing was frozen." in text
    assert FOLDERS[0].name == "kbbert"
