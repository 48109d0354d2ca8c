"""Folders of models from strangers: nothing in them runs, nobody is asked, and nothing outside of them is read."""

import builtins
import json
import shutil

import pytest
import torch
from conftest import tiny_model, word_tokenizer
from hostile_input import ACTIVE, Trap, message_of
from safetensors import safe_open
from transformers import AutoModel, BertForMaskedLM

from distil_trainer import methods
from distil_trainer.errors import RecipeError, TrainingSetupError
from distil_trainer.recipe import TeacherSource, load_model, load_tokenizer
from distil_trainer.teacher import load_teacher

CODE = """
from pathlib import Path
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast
Path({trap!r}).touch()
class Config(BertConfig): model_type = "own"
class Model(BertForMaskedLM): config_class = Config
class Tokenizer(PreTrainedTokenizerFast): pass
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    tiny_model(BertForMaskedLM, num_hidden_layers=1).save_pretrained(folder)
    word_tokenizer(["a", "b"]).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path, monkeypatch):
    def answer(question=""):
        raise AssertionError(f"a question was asked: {question}")

    monkeypatch.setattr(builtins, "input", answer)
    return shutil.copytree(whole, tmp_path / "model")


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def source(folder):
    return TeacherSource(name=str(folder), model_class="AutoModelForMaskedLM")


def add_code(folder, trap, model_type):
    (folder / "own.py").write_text(CODE.format(trap=str(trap)))
    own = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoModelForMaskedLM": "own.Model"}
    tokenizer = {"AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}
    change(folder / "config.json", model_type=model_type, auto_map=own | tokenizer)
    change(folder / "tokenizer_config.json", tokenizer_class="Tokenizer", auto_map=tokenizer)


def test_code_of_a_model_is_not_run_and_nobody_is_asked(folder, tmp_path):
    add_code(folder, tmp_path / "ran", "own")
    with pytest.raises(RecipeError, match=r"custom code .* No code that comes with a model is run here\. If you trust"):
        load_model(source(folder))
    with pytest.raises(RecipeError, match=r"custom code .* No code"):
        load_model(source(folder), from_scratch=True)
    with pytest.raises(RecipeError, match="no code that comes with a model is run"):
        load_tokenizer(str(folder))
    alignments = methods.lightmbert(student_layers=1, teacher_layers=1)
    with pytest.raises(TrainingSetupError, match=r"custom code .* No code"):
        load_teacher(str(folder), like=torch.nn.Linear(1, 1), alignments=alignments)
    assert not (tmp_path / "ran").exists()


def test_a_known_model_is_loaded_without_its_code(folder, tmp_path):
    add_code(folder, tmp_path / "ran", "bert")
    assert type(load_model(source(folder))) is BertForMaskedLM
    load_tokenizer(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize("value", ["some/kernel", {"": "some/kernel"}, "paged|some/kernel@main:f"], ids=str)
def test_kernels_of_the_hub_are_not_fetched(folder, key, value):
    """With the package `kernels` installed, transformers would download and run them."""
    change(folder / "config.json", **{key: value})
    with pytest.raises(RecipeError, match=r"names code of the Hub, '.*some/kernel.* No code that comes with a model"):
        load_model(source(folder))
    with pytest.raises(TrainingSetupError, match=r"names code of the Hub"):
        load_teacher(str(folder), like=tiny_model(BertForMaskedLM), alignments=[])


def test_pickles_beside_safetensors_are_not_read(folder, tmp_path):
    for name in (
        "pytorch_model.bin",
        "training_args.bin",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "model.pkl",
    ):
        torch.save({"weight": Trap(tmp_path / "ran")}, folder / name)
    load_model(source(folder))
    load_tokenizer(str(folder))
    assert not (tmp_path / "ran").exists()
    torch.load(folder / "training_args.bin", weights_only=False)
    assert (tmp_path / "ran").exists()  # the trap works


@pytest.mark.parametrize("target", ["weights.bin", "../weights.bin", "../model.safetensors", "{}/model.safetensors"])
def test_an_index_leads_to_safetensors_of_the_folder_only(folder, tmp_path, target):
    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
    shutil.move(folder / "model.safetensors", tmp_path)
    for place in (folder, tmp_path):
        torch.save({"weight": Trap(tmp_path / "ran")}, place / "weights.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, target.format(tmp_path))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RecipeError, match=r"index\.json names '.*', expected \.safetensors of the folder"):
        load_model(source(folder))
    assert not (tmp_path / "ran").exists()


CONFIGS = {
    "text for a number": '{"model_type": "bert", "hidden_size": "x"}',
    "no heads": '{"model_type": "bert", "num_attention_heads": 0}',
    "other sizes": '{"model_type": "bert", "hidden_size": 1000000, "num_attention_heads": 1}',
    "an activation": '{"model_type": "bert", "hidden_act": "os.system"}',
    "a dtype": '{"model_type": "bert", "dtype": "system"}',
    "a path": '{"model_type": "../../x"}',
    "an escape": '{"model_type": "\\u001b[2J"}',
    "no mapping": "[]",
    "deep": '{"a": ' * 20_000,
    "no JSON": "\0",
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_strange_configuration_is_an_error_of_ours(folder, config):
    (folder / "config.json").write_text(config)
    for load, error in (
        (lambda: load_model(source(folder)), RecipeError),
        (load_as_teacher(folder), TrainingSetupError),
    ):
        with pytest.raises(error, match="cannot be loaded as a model: ") as raised:
            load()
        assert not ACTIVE.search(str(raised.value))


def load_as_teacher(folder):
    return lambda: load_teacher(str(folder), like=tiny_model(BertForMaskedLM), alignments=[])


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["[]", '{"a": ' * 20_000, '{"tokenizer_class": 3}', '"x"', "\0"], ids=range(5))
def test_a_strange_tokenizer_is_an_error_of_ours(folder, file, content):
    (folder / file).write_text(content)
    message = message_of(RecipeError, load_tokenizer, str(folder))
    assert not message or "has no tokenizer that can be loaded" in message


@pytest.mark.parametrize("name", ["a\0b", "\x1b[2J", "a\\b", "a/../b", "http://a.b/c", "", "/", "../../.."], ids=ascii)
def test_a_name_that_is_none(name):
    for load in (lambda: load_model(TeacherSource(name=name)), lambda: load_tokenizer(name)):
        with pytest.raises(RecipeError) as error:
            load()
        assert not ACTIVE.search(str(error.value))


def test_auto_model_would_have_asked(folder, tmp_path, monkeypatch):
    """Why `trust_remote_code` is always given: left out, transformers waits for an answer on the terminal."""
    add_code(folder, tmp_path / "ran", "own")
    asked = []
    monkeypatch.setattr(builtins, "input", lambda question: asked.append(question) or "n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModel.from_pretrained(folder)
    assert asked
