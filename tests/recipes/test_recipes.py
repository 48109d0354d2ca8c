"""Every recipe is loaded as it is, and run for two steps with tiny models, through the scripts that users call."""

import importlib.util
import json
from pathlib import Path

import pytest
import transformers
import yaml
from conftest import tiny_config
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertForPreTraining, BertModel, PreTrainedTokenizerFast, set_seed

from distil_trainer import Record
from distil_trainer.errors import DataError, RecipeError
from distil_trainer.recipe import DistillRecipe, FinetuneRecipe, load_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "accelerate")
DISTILL = [path for path in RECIPES if "teacher" in yaml.safe_load(path.read_text())]
FINETUNE = [path for path in RECIPES if "seeds" in yaml.safe_load(path.read_text())]
WORDS = """the a of to is an array that holds rows and columns copy order returns given value when""".split()  # noqa: SIM905


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tokenizer():
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **special)


def save_model(folder, model_class=BertModel, blocks=6):
    set_seed(0)
    model_class(tiny_config(num_hidden_layers=blocks)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def distill_overrides(path, tmp_path):
    recipe = load_recipe(DistillRecipe, path)
    blocks = 12 if recipe.alignments else 2 * recipe.student.num_hidden_layers
    model_class = BertForPreTraining if recipe.teacher.model_class == "AutoModelForPreTraining" else BertModel
    teacher = save_model(tmp_path / "teacher", model_class, blocks)
    text = write_lines(tmp_path / "text.jsonl", [{"text": " ".join(WORDS[i % 5 : i % 5 + 9])} for i in range(40)])
    return [
        f"teacher.name={teacher}",
        f"data.files=[{text}]",
        f"data.validation=[{text}]",
        "data.max_length=16",
        f"output_dir={tmp_path / 'student'}",
        "training.max_steps=2",
        "training.logging_steps=1",
        "training.use_cpu=true",
        "training.dataloader_pin_memory=false",
        "training.disable_tqdm=true",
    ]


@pytest.mark.parametrize("path", DISTILL, ids=lambda path: str(path.relative_to(ROOT)))
def test_distill_recipes_run(path, tmp_path, capsys):
    script("distill").main(str(path), distill_overrides(path, tmp_path))
    recipe, folder = load_recipe(DistillRecipe, path), tmp_path / "student"
    record = Record.load(folder / "distillation.json")
    assert record.student.layers == recipe.student.num_hidden_layers
    assert record.steps == 2
    assert record.tokens > 0
    assert {f"loss/{alignment.name}" for alignment in record.alignments} <= set(record.loss_curve)
    assert recipe.student.name in (folder / "README.md").read_text()
    assert (folder / "loss_curves.png").stat().st_size > 0
    assert not (folder / "training_args.bin").exists()
    assert str(tmp_path) not in (folder / "README.md").read_text() + (folder / "distillation.json").read_text()
    model_class = getattr(transformers, record.student.class_name)
    model, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.num_hidden_layers == recipe.student.num_hidden_layers
    assert "student block 3 <- teacher block 3" in capsys.readouterr().out


def test_the_reference_pairing_is_a_list_in_its_recipe():
    recipe = load_recipe(DistillRecipe, ROOT / "recipes" / "swedish_mbert" / "as_published.yaml")
    assert [a.name for a in recipe.alignments] == ["hidden_states_s5_t11", "attention_probs_s6_t12"]


def test_checkpoints_are_gone_on_from_only_when_asked(tmp_path):
    path = ROOT / "recipes" / "quickstart" / "distill.yaml"
    overrides = [*distill_overrides(path, tmp_path), "training.save_strategy=steps", "training.save_steps=1"]
    distill = script("distill")
    distill.main(str(path), overrides)
    with pytest.raises(RecipeError, match="resume=true"):
        distill.main(str(path), overrides)
    distill.main(str(path), [*overrides, "resume=true", "training.max_steps=3"])
    assert Record.load(tmp_path / "student" / "distillation.json").steps == 3


def test_missing_text_is_named(tmp_path):
    path = ROOT / "recipes" / "quickstart" / "distill.yaml"
    with pytest.raises(DataError, match="no file matches nothing/"):
        script("distill").main(str(path), [*distill_overrides(path, tmp_path), "data.files=['nothing/*.txt']"])


@pytest.mark.parametrize("path", FINETUNE, ids=lambda path: str(path.relative_to(ROOT)))
def test_finetune_recipes_run(path, tmp_path, capsys):
    tags = ["B-PARAM" if word in ("copy", "order") else "O" for word in WORDS]
    rows = [{"id": str(i), "tokens": WORDS[i % 5 :], "ner_tags": tags[i % 5 :]} for i in range(40)]
    sentences = write_lines(tmp_path / "ner.jsonl", rows)
    models_by_role = {
        role: str(save_model(tmp_path / role, blocks=2)) for role in load_recipe(FinetuneRecipe, path).models
    }
    script("finetune").main(
        str(path),
        [
            f"models={json.dumps(models_by_role)}",
            f"data.train=[{sentences}]",
            f"data.test=[{sentences}]",
            "seeds=[1, 2]",
            f"output_dir={tmp_path / 'finetune'}",
            "max_length=32",
            "training.max_steps=2",
            "training.use_cpu=true",
            "training.disable_tqdm=true",
        ],
    )
    record = Record.load(tmp_path / "finetune" / "finetune.json")
    assert [evaluation.role for evaluation in record.evaluations] == list(models_by_role)
    assert all(set(evaluation.values) == {1, 2} for evaluation in record.evaluations)
    # The three folders hold the same weights: what differs between models is the models alone.
    assert len({tuple(evaluation.values.values()) for evaluation in record.evaluations}) == 1
    assert set(record.speed) == set(models_by_role)
    assert "teacher, seed 1: F1" in capsys.readouterr().out
