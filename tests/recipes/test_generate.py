"""A causal language model that writes its student's lessons, and the student that learns from them."""

import json

import pytest
import torch
from conftest import word_tokenizer
from safetensors.torch import load_file
from tiny_runs import QUIET, ROOT, WORDS, script
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, set_seed

from distil_trainer import Record
from distil_trainer.errors import RecipeError
from distil_trainer.recipe import GenerateRecipe, load_recipe

pytestmark = pytest.mark.usefixtures("own_datasets_cache")
GENERATE = ROOT / "recipes" / "causal_lm" / "generate.yaml"
DISTILL = ROOT / "recipes" / "causal_lm" / "distill.yaml"


@pytest.fixture
def teacher(tmp_path):
    """A Llama whose tokenizer has no padding; [CLS] begins its texts and [SEP] ends them."""
    tokenizer = word_tokenizer(WORDS)
    tokenizer.pad_token = None
    tokenizer.bos_token, tokenizer.eos_token = "[CLS]", "[SEP]"
    set_seed(0)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, intermediate_size=48, initializer_range=0.3, bos_token_id=2, eos_token_id=3)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def overrides(teacher, folder, **changes):
    values = {"model.name": teacher, "texts": 24, "validation_texts": 4, "max_new_tokens": 12, "output_dir": folder}
    return [f"{key}={value}" for key, value in (values | changes).items()]


def read(folder, name="train"):
    return [json.loads(line)["text"] for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_texts_are_those_of_the_seed(teacher, tmp_path, capsys):
    generate = script("generate").main
    for name, changes in {"one": {}, "two": {"batch_size": 32}, "other": {"seed": 1}}.items():
        generate(str(GENERATE), overrides(teacher, tmp_path / name, **changes))
    one = read(tmp_path / "one")
    assert len(one) == 24
    assert len(read(tmp_path / "one", "validation")) == 4
    assert one == read(tmp_path / "two")
    assert one != read(tmp_path / "other")
    record = Record.load(tmp_path / "one" / "generation.json")
    assert (record.seeds, record.data[0].examples, record.teacher.layers) == ((100,), 24, 4)
    words = [text.split() for text in one + read(tmp_path / "one", "validation")]
    assert record.tokens == sum(map(len, words)) + len(words)  # [CLS], which the tokenizer puts there itself
    assert all("[SEP]" not in text[:-1] for text in words)  # nothing after the end
    with pytest.raises(RecipeError, match="holds files"):
        generate(str(GENERATE), overrides(teacher, tmp_path / "one"))


def test_texts_begin_with_the_prompts(teacher, tmp_path):
    script("generate").main(
        str(GENERATE), overrides(teacher, tmp_path / "texts", prompts="[the array, rows]", batch_size=12)
    )
    texts = read(tmp_path / "texts")
    assert all(text.startswith("the array") for text in texts[:12])
    assert all(text.startswith("rows") for text in texts[12:])


def test_a_model_that_writes_nothing(teacher, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(teacher)
    model.generation_config.eos_token_id = list(range(len(WORDS) + 5))  # whatever it says is the end
    model.generation_config.bos_token_id = 2
    torch.nn.init.zeros_(model.lm_head.weight)
    model.generation_config.suppress_tokens = list(range(4, len(WORDS) + 5))  # only special tokens are left
    model.save_pretrained(teacher)
    with pytest.raises(RecipeError, match="empty texts; give prompts"):
        script("generate").main(str(GENERATE), overrides(teacher, tmp_path / "texts"))
    assert not (tmp_path / "texts").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.model_class=AutoModel", "expected AutoModelForCausalLM"),
        ("texts=0", "texts: expected at least 1"),
        ("temperature=0.0", "temperature: expected above 0"),
        ("top_p=1.5", "top_p: expected above 0 and at most 1"),
    ],
)
def test_what_cannot_be(change, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(GenerateRecipe, GENERATE, [change])


def test_the_student_learns_from_them(teacher, tmp_path):
    texts = tmp_path / "texts"
    script("generate").main(str(GENERATE), overrides(teacher, texts, texts=64))
    layers = {"feature": "hidden_states", "student_layer": 2, "teacher_layer": 4, "loss": "normalized_mse"}
    words = [
        f"teacher.name={teacher}",
        f"data.files=[{texts / 'train.jsonl'}]",
        f"data.validation=[{texts / 'validation.jsonl'}]",
        "student.num_hidden_layers=2",
        f"alignments={json.dumps([{'feature': 'logits', 'loss': 'kl'}, layers])}",
        f"output_dir={tmp_path / 'student'}",
        "training.num_train_epochs=3",
        "training.per_device_train_batch_size=4",
        *QUIET,
    ]
    script("distill").main(str(DISTILL), words)
    record = Record.load(tmp_path / "student" / "distillation.json")
    curve = dict(record.loss_curve["eval_loss/logits"])
    assert curve[48] < 0.7 * curve[0]
    student = load_file(tmp_path / "student" / "model.safetensors")
    assert not any("layers.2." in name for name in student)
