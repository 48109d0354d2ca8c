"""The recipes of corpora, prepared through the script that users call, with small files and a tiny tokenizer."""

import bz2
import importlib.util
import json
from pathlib import Path

import pytest
import yaml
from corpora.corpus_files import corpus, text, w
from datasets import load_from_disk
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from distil_trainer import Record, render_card
from distil_trainer.errors import DataError
from distil_trainer.page import write_page
from distil_trainer.recipe import PrepareRecipe, TextData, load_recipe
from distil_trainer.record import ModelFacts
from distil_trainer.text import read_text

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.name.startswith("corpus"))
WORDS = [f"ord{i}" for i in range(20)]
YEARS = (1990, 1995, 2010, 2012, 2015, 1950)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("prepare", ROOT / "recipes" / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save_tokenizer(folder, words=WORDS):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*special, *words])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **dict(zip(names, special, strict=True)))
    made.save_pretrained(folder)
    return made


@pytest.fixture
def tokenizer(tmp_path):
    return save_tokenizer(tmp_path / "tokenizer")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def overrides(tmp_path, tokenizer):
    for name in ("a", "b"):
        sentences = [w(" ".join(WORDS[n : n + 5])) for n in range(10)]
        texts = [text(*sentences, year=year, genre="news") for year in YEARS]
        (tmp_path / f"{name}.xml.bz2").write_bytes(bz2.compress(corpus(*texts)))
    return [
        f"tokenizer={tmp_path / 'tokenizer'}",
        f"data.files=['{tmp_path}/*.xml.bz2']",
        "data.max_length=16",
        "data.num_proc=null",
        f"output_dir={tmp_path / 'runs' / 'corpus'}",
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_recipes_run(script, path, overrides, tokenizer, tmp_path, capsys):
    first, last = load_recipe(PrepareRecipe, path).data.years
    script.main(str(path), [*overrides, "data.num_proc=2", f"data.validation=[{tmp_path / 'a.xml.bz2'}]"])
    printed, folder = capsys.readouterr().out, tmp_path / "runs" / "corpus"
    years = [year for year in sorted(YEARS) if first <= year <= last]
    tokens = 2 * len(years) * 50 // 16 * 16
    assert [line.split() for line in printed.splitlines()[:2]] == [
        ["texts", "sentences", "tokens", "of", "the", "corpus"],
        [str(years[0]), "news", "2", "20", "100"],
    ]
    assert f"{tokens // 16:,} rows, {tokens:,} tokens, {len(years) * 50 // 16} rows of validation; " in printed
    assert {file.name for file in folder.iterdir()} == {"train", "validation", "tokenizer", "prepare.json"}
    assert len(load_from_disk(folder / "train")) == tokens // 16

    record = Record.load(folder / "prepare.json")
    (facts,) = record.data
    assert record.stage == "prepare"
    assert (record.tokens, facts.tokens, facts.examples) == (tokens, tokens, tokens // 16)
    assert list(facts.counts["kept"]) == [f"{year} news" for year in years]
    assert f"{20 * len(years)} sentences kept, {20 * (len(YEARS) - len(years))} left out" in facts.filtering
    assert facts.url == "https://spraakbanken.gu.se/en/resources/gigaword"
    assert record.hardware.cpu
    assert record.seconds > 0
    assert record.date
    assert record.command
    assert str(tmp_path) not in (folder / "prepare.json").read_text()

    found = read_text(TextData(prepared=str(folder)), tokenizer, seed=0)
    assert (len(found.train), found.facts) == (tokens // 16, facts)
    script.main(str(path), [*overrides, "data.num_proc=2", f"data.validation=[{tmp_path / 'a.xml.bz2'}]"])
    assert capsys.readouterr().out == f"{folder} holds this text already.\n"


def test_what_is_there_is_not_overwritten(script, overrides, tmp_path):
    prepare, folder = [str(RECIPES[0]), overrides], tmp_path / "runs" / "corpus"
    script.main(*prepare)
    before = (folder / "prepare.json").read_bytes()
    with pytest.raises(DataError, match=r"another max_length \(16, now 32\); delete the folder, or choose another"):
        script.main(prepare[0], [*overrides, "data.max_length=32"])
    save_tokenizer(tmp_path / "other" / "tokenizer", WORDS[1:])
    with pytest.raises(DataError, match="prepare the text again with the tokenizer of the model"):
        script.main(prepare[0], [*overrides, f"tokenizer={tmp_path / 'other' / 'tokenizer'}"])
    (tmp_path / "c.xml.bz2").write_bytes((tmp_path / "a.xml.bz2").read_bytes())
    with pytest.raises(DataError, match=r"another files \(.*c\.xml\.bz2"):
        script.main(*prepare)
    assert (folder / "prepare.json").read_bytes() == before
    (folder / "prepare.json").unlink()
    with pytest.raises(DataError, match="which holds files; delete it, or choose another"):
        script.main(*prepare)


@pytest.mark.parametrize("place", ["datasets.Dataset.save_to_disk", "distil_trainer.text.prepared.Record.save"])
def test_an_interruption_leaves_nothing(script, overrides, tmp_path, monkeypatch, place):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, interrupt)
        with pytest.raises(KeyboardInterrupt):
            script.main(str(RECIPES[0]), overrides)
    assert list((tmp_path / "runs").glob("*")) == []
    (tmp_path / "runs" / ".corpus.unfinished" / "train").mkdir(parents=True)  # of one that was killed
    script.main(str(RECIPES[0]), overrides)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["corpus"]


def test_only_the_main_process_works(script, overrides, tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.state.PartialState.is_main_process", False)
    script.main(str(RECIPES[0]), overrides)
    assert not (tmp_path / "runs").exists()


def test_lines_have_no_table(script, overrides, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n".join(WORDS))
    recipe = tmp_path / "lines.yaml"
    data = {"files": [str(tmp_path / "*.txt")]}
    recipe.write_text(yaml.safe_dump({"tokenizer": "t", "data": data, "output_dir": "o"}))
    script.main(str(recipe), [overrides[0], overrides[-1]])
    printed = capsys.readouterr().out
    assert printed.startswith("20 rows, 20 tokens; ")
    assert json.loads((tmp_path / "runs" / "corpus" / "prepare.json").read_text())["data"][0]["counts"] == {}


def test_a_card_tells_of_the_preparation(script, overrides, tmp_path):
    script.main(str(RECIPES[0]), overrides)
    prepared = Record.load(tmp_path / "runs" / "corpus" / "prepare.json")
    own = Record(stage="distill", student=ModelFacts(name="s"), data=prepared.data)
    card = render_card(own, prepared)
    assert card.count("Swedish Culturomics Gigaword Corpus") == 1
    assert "### Preparation of the text" in card
    assert f"- Tokens: {prepared.tokens}" in card
    assert "All hyper-parameters" not in card
    write_page(tmp_path / "student", [own, prepared])
    assert Record.load(tmp_path / "student" / "prepare.json") == prepared


def test_files_of_one_name_in_several_folders(script, tokenizer, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("\n".join(WORDS))
    recipe = tmp_path / "lines.yaml"
    recipe.write_text(yaml.safe_dump({"tokenizer": "t", "data": {"files": [f"{tmp_path}/?/*.txt"]}, "output_dir": "o"}))
    prepare = [str(recipe), [f"tokenizer={tmp_path / 'tokenizer'}", f"output_dir={tmp_path / 'corpus'}"]]
    script.main(*prepare)
    (tmp_path / "x" / "a.txt").unlink()
    with pytest.raises(DataError, match="prepared with another files"):
        script.main(*prepare)
