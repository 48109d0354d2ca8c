"""recipes/adapt.py: a model learns masked words, and keeps the head that it does not train."""

import math
import shutil

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tiny_runs import QUIET, ROOT, WORDS, recipes_with, save_model, script, write_lines
from transformers import BertForMaskedLM, BertForPreTraining

from distil_trainer import Record
from distil_trainer.errors import RecipeError, TrainingSetupError
from distil_trainer.recipe import AdaptRecipe, load_recipe

ADAPT = recipes_with("model", "data")
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
        ("training.label_smoothing_factor=0.1", "training.label_smoothing_factor: expected 0"),
    ],
)
def test_what_cannot_be_trained_is_told_at_once(tmp_path, change, message):
    words = [word for word in overrides(REFERENCE, tmp_path) if "max_steps" not in word]
    with pytest.raises(RecipeError, match=message):
        script("adapt").main(str(REFERENCE), [*words, change])


def losses(tmp_path, name, *changes):
    words = [*overrides(REFERENCE, tmp_path), f"output_dir={tmp_path / name}", "dropout=0.0", "training.max_steps=1"]
    script("adapt").main(str(REFERENCE), [*words, "training.max_grad_norm=0.0", *changes])
    record = Record.load(tmp_path / name / "adaptation.json")
    return record.loss_curve["loss"][0][1], record.evaluations[0].mean


def mask_by_place(monkeypatch):
    """Every third token is masked: the same, however the rows are put into batches."""

    def mask(self, inputs, **_):
        labels = inputs.masked_fill(torch.arange(inputs.shape[1]) % 3 > 0, -100)
        labels[inputs % 2 == 0] = -100  # another number in each row
        return inputs, labels

    monkeypatch.setattr("transformers.DataCollatorForLanguageModeling.torch_mask_tokens", mask)


def test_losses_do_not_depend_on_how_rows_are_put_into_batches(tmp_path, monkeypatch):
    mask_by_place(monkeypatch)
    sizes = ("training.per_device_train_batch_size", "training.per_device_eval_batch_size")
    whole = losses(tmp_path, "whole", *(f"{size}=8" for size in sizes))
    parts = losses(tmp_path, "parts", *(f"{size}=2" for size in sizes), "training.gradient_accumulation_steps=4")
    assert parts == pytest.approx(whole, rel=1e-5)
    assert 4 < whole[0] < 5  # the logarithm of the vocabulary's 99


def test_text_without_a_masked_token_has_no_score(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "transformers.DataCollatorForLanguageModeling.torch_mask_tokens",
        lambda self, inputs, **_: (inputs, torch.full_like(inputs, -100)),
    )
    script("adapt").main(str(REFERENCE), overrides(REFERENCE, tmp_path))
    assert Record.load(tmp_path / "teacher" / "adaptation.json").evaluations == ()
    assert all(value.isfinite().all() for value in weights(tmp_path / "teacher").values())


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_run_that_goes_on_ends_with_the_same_weights(tmp_path, stream):
    changes = [f"data.stream={stream}", "training.save_steps=3", "training.max_steps=6", "dropout=0.1"]
    words = [*overrides(REFERENCE, tmp_path), *changes]
    script("adapt").main(str(REFERENCE), words)
    ends, checkpoints = weights(tmp_path / "teacher"), tmp_path / "teacher"
    shutil.rmtree(checkpoints / "checkpoint-6")
    half_written = checkpoints / "checkpoint-5"
    half_written.mkdir()
    (half_written / "model.safetensors").write_bytes(b"")
    script("adapt").main(str(REFERENCE), [*words, "resume=true"])
    found = weights(tmp_path / "teacher")
    assert all(found[name].equal(ends[name]) for name in ends)
    assert Record.load(tmp_path / "teacher" / "adaptation.json").steps == 6


@pytest.mark.parametrize(
    ("changes", "name", "base_model"),
    [
        (["model.hub_id=org/bert"], "teacher", "org/bert"),
        (["model.hub_id=org/bert", "model.base_model=org/root", "model.title=Mine"], "Mine", "org/bert"),
        (["model.base_model=org/root"], "teacher", "org/root"),
        (["model.hub_id=org/bert", "from_scratch=true"], "teacher", None),
    ],
)
def test_the_record_tells_the_model_from_what_it_was(tmp_path, changes, name, base_model):
    script("adapt").main(str(REFERENCE), [*overrides(REFERENCE, tmp_path), "model.title=null", *changes])
    facts = Record.load(tmp_path / "teacher" / "adaptation.json").teacher
    assert (facts.name, facts.id, facts.base_model) == (name, None, base_model)


def test_weights_are_gathered_from_all_processes(tmp_path, monkeypatch):
    gather = Accelerator.get_state_dict
    name = "bert.encoder.layer.0.output.dense.bias"

    def gathered(self, model):
        return {**gather(self, model), name: torch.full((32,), 7.0)}

    monkeypatch.setattr(Accelerator, "get_state_dict", gathered)
    script("adapt").main(str(REFERENCE), overrides(REFERENCE, tmp_path))
    assert weights(tmp_path / "teacher")[name].eq(7).all()


def test_one_process_takes_one_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.TrainingArguments.n_gpu", 2)
    with pytest.raises(TrainingSetupError, match="accelerate launch"):
        script("adapt").main(str(REFERENCE), overrides(REFERENCE, tmp_path))
