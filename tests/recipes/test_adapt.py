"""recipes/adapt.py: a model learns masked words, and keeps the head that it does not train."""

import math

import pytest
from safetensors.torch import load_file
from tiny_runs import QUIET, ROOT, WORDS, recipes_with, save_model, script, write_lines
from transformers import BertForMaskedLM, BertForPreTraining

from distil_trainer import Record
from distil_trainer.errors import RecipeError
from distil_trainer.recipe import AdaptRecipe, load_recipe

ADAPT = recipes_with("model")
REFERENCE = ROOT / "recipes" / "swedish_mbert" / "adapt.yaml"

pytestmark = pytest.mark.usefixtures("own_datasets_cache")


def overrides(path, tmp_path):
    model_class = {"AutoModelForPreTraining": BertForPreTraining, "AutoModelForMaskedLM": BertForMaskedLM}
    model = save_model(tmp_path / "model", model_class[load_recipe(AdaptRecipe, path).model.model_class], blocks=2)
    text = write_lines(tmp_path / "text.jsonl", [{"text": " ".join(WORDS[i % 5 : i % 5 + 9])} for i in range(40)])
    data = f"{{files: [{text}], validation: [{text}], max_length: 16, group: true, mlm_probability: 0.3, name: text}}"
    out = f"output_dir={tmp_path / 'teacher'}"
    return [f"model.name={model}", f"data={data}", out, "training.max_steps=2", "training.logging_steps=1", *QUIET]


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("path", ADAPT, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_model_is_trained_and_its_other_head_is_kept(path, tmp_path, capsys):
    script("adapt").main(str(path), overrides(path, tmp_path))
    before, after = weights(tmp_path / "model"), weights(tmp_path / "teacher")
    assert before.keys() == after.keys()
    untouched = {name for name in before if before[name].equal(after[name])}
    assert untouched == {name for name in before if "pooler" in name or "seq_relationship" in name}
    record = Record.load(tmp_path / "teacher" / "adaptation.json")
    assert record.stage == "adapt"
    assert record.teacher.class_name == load_recipe(AdaptRecipe, path).model.model_class.replace("AutoModel", "Bert")
    assert record.steps == 2
    assert record.data[0].tokens == 16 * record.data[0].examples
    (score,) = record.evaluations
    assert score.mean == pytest.approx(math.exp(record.loss_curve["eval_loss"][-1][1]))
    assert f"perplexity of masked tokens: {score.mean:.2f}" in capsys.readouterr().out


def test_from_scratch_reads_the_configuration_alone(tmp_path):
    changes = ["from_scratch=true", "dropout=0.0", "training.learning_rate=1.0e-12"]
    script("adapt").main(str(REFERENCE), [*overrides(REFERENCE, tmp_path), *changes])
    before, after = weights(tmp_path / "model"), weights(tmp_path / "teacher")
    name = "bert.encoder.layer.0.output.dense.weight"
    assert not before[name].equal(after[name])
    assert before[name].shape == after[name].shape


def test_training_goes_on_from_a_checkpoint_when_asked(tmp_path):
    words = [*overrides(REFERENCE, tmp_path), "training.save_steps=1", "training.max_steps=1"]
    adapt = script("adapt")
    adapt.main(str(REFERENCE), words)
    with pytest.raises(RecipeError, match="resume=true"):
        adapt.main(str(REFERENCE), words)
    adapt.main(str(REFERENCE), [*words, "resume=true", "training.max_steps=3"])
    assert Record.load(tmp_path / "teacher" / "adaptation.json").steps == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.model_class=AutoModel", "AutoModelForMaskedLM, AutoModelForPreTraining"),
        ("data.mlm_probability=null", "a number such as 0.15"),
        ("dropout=1.0", "from 0 to below 1"),
        ("data.stream=true", "training.max_steps: data.stream needs a number of steps"),
    ],
)
def test_what_cannot_be_trained_is_told_at_once(tmp_path, change, message):
    words = [word for word in overrides(REFERENCE, tmp_path) if "max_steps" not in word]
    with pytest.raises(RecipeError, match=message):
        script("adapt").main(str(REFERENCE), [*words, change])
