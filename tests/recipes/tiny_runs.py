"""What the tests of recipes share: the scripts as users call them, and tiny models and files to call them with."""

import importlib.util
import json
from pathlib import Path

from conftest import tiny_config, word_tokenizer
from transformers import BertModel, set_seed

from distil_trainer.recipe.strict import read_tree

ROOT = Path(__file__).parents[2]
WORDS = """the a of to is an array that holds rows and columns copy order returns given value when""".split()  # noqa: SIM905
QUIET = ("training.use_cpu=true", "training.dataloader_pin_memory=false", "training.disable_tqdm=true")


def recipes_with(*keys):
    """The recipes that have these keys."""
    paths = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "accelerate")
    return [path for path in paths if set(keys) <= set(read_tree(path))]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tokenizer():
    return word_tokenizer(WORDS)


def save_model(folder, model_class=BertModel, blocks=6):
    set_seed(0)
    model_class(tiny_config(num_hidden_layers=blocks)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
