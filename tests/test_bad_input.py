"""The catalogue of bad input: what is said of it, and that no step was taken. docs/survival.md has it as a table."""

import os
from pathlib import Path

import pytest
import torch
from conftest import pad_batch, ragged_examples, tiny_model, word_tokenizer
from datasets import Dataset
from transformers import BertForMaskedLM, BertModel, TrainerCallback

from distil_trainer import Alignment, DistillationTrainer, build_student, methods, student_config
from distil_trainer.data import group_tokens, tokenize_text
from distil_trainer.errors import (
    AlignmentError,
    CheckpointError,
    DataError,
    NonFiniteError,
    RecipeError,
    TrainingSetupError,
)
from distil_trainer.recipe import DistillRecipe, TeacherSource, load_model, load_recipe
from distil_trainer.text.files import load_text

LAYERS = methods.lightmbert(student_layers=2, teacher_layers=4)
HIDDEN = Alignment(feature="hidden_states", student_layer=2, teacher_layer=4)
KL = Alignment(feature="logits", loss="kl")
WORDS = [f"word{number}" for number in range(94)]
RECIPE = """
teacher: {name: nothing}
student: {name: student, num_hidden_layers: 2}
data: {name: text, files: [nothing.txt], max_length: 16}
output_dir: out
method: lightmbert
"""


class NoStep(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        raise AssertionError("a step was taken")


def train(make_args, folder, *, teacher=None, alignments=LAYERS, examples=None, args=None, student=None, **kwargs):
    """A run that should not come to its first step."""
    teacher = teacher or tiny_model(BertForMaskedLM)
    if student is None:
        like = tiny_model(BertForMaskedLM) if isinstance(teacher, str) else teacher
        student = build_student(like, student_config(like.config, num_hidden_layers=2))
    trainer = DistillationTrainer(
        model=student,
        args=make_args(**args or {}),
        teacher_model=teacher,
        alignments=alignments,
        train_dataset=ragged_examples() if examples is None else examples,
        data_collator=pad_batch,
        callbacks=[NoStep()],
        **kwargs,
    )
    trainer.train()


def saved(folder, change=lambda folder: None):
    tiny_model(BertForMaskedLM).save_pretrained(folder)
    word_tokenizer(WORDS).save_pretrained(folder)
    change(folder)
    return str(folder)


def with_ids(number):
    examples = ragged_examples()
    for example in examples:
        example["input_ids"][0] = number
    return examples


def without(column, value):
    examples = ragged_examples()
    for example in examples:
        example[column] = [value] * len(example[column])
    return examples


def broken_teacher():
    teacher = tiny_model(BertForMaskedLM)
    with torch.no_grad():
        teacher.bert.encoder.layer[2].output.dense.bias[0] = torch.nan
    return teacher


def halve(folder):
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size // 2)


def pickle_only(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def without_rights(folder):
    """For the superuser, who may write anywhere, too."""
    (folder / "file").write_text("not a folder")
    return {"args": {"output_dir": str(folder / "file" / "out")}}


def narrow():
    return {"student": tiny_model(BertForMaskedLM, num_hidden_layers=2, hidden_size=24)}


def few_heads():
    student = tiny_model(BertForMaskedLM, num_hidden_layers=2, num_attention_heads=2)
    return {"student": student, "alignments": LAYERS[1:]}


TRAINING = {
    "another tokenizer": (
        lambda folder: {"teacher": saved(folder), "processing_class": word_tokenizer(WORDS[::-1])},
        AlignmentError,
        r"read the same input ids, but 'word\d+' is \d+ for the student's tokenizer, and \d+ for .* Give the teacher's",
    ),
    "another vocabulary": (
        lambda _: {"student": tiny_model(BertForMaskedLM, num_hidden_layers=2, vocab_size=90)},
        AlignmentError,
        "vocabulary size of the student is 90, of the teacher 99. If its vocabulary was trimmed, pass the kept_ids",
    ),
    "ids beyond the vocabulary": (
        lambda _: {"examples": with_ids(99)},
        DataError,
        "expected input_ids from 0 to 98, the student's pieces; got 5 to 99|got 0 to 99. Tokenize",
    ),
    "a layer that is not there": (
        lambda _: {"alignments": methods.lightmbert(student_layers=2, teacher_layers=6)},
        AlignmentError,
        "teacher has 4 blocks",
    ),
    "widths without a projection": (
        lambda _: narrow(),
        AlignmentError,
        "hidden_size of the student is 24, of the teacher 32. Widths must be equal without projection=True",
    ),
    "numbers of heads": (
        lambda _: few_heads(),
        AlignmentError,
        "num_attention_heads of the student is 2, of the teacher 4. Head counts must be equal",
    ),
    "logits of a teacher without a head": (
        lambda _: {"teacher": tiny_model(BertModel), "alignments": [KL], "student": tiny_model(BertForMaskedLM)},
        AlignmentError,
        "BertModel has no head that gives any: load it with one",
    ),
    "no rows": (lambda _: {"examples": Dataset.from_list([])}, DataError, "with rows, got an empty data set; check"),
    "padding alone": (
        lambda _: {"examples": without("attention_mask", 0)},
        DataError,
        "have no attended token: all of it is padding. Check",
    ),
    "no labels for an alignment": (
        lambda _: {
            "examples": without("labels", -100),
            "alignments": [Alignment(feature="logits", loss="kl", positions="labels")],
        },
        DataError,
        "have no label but -100, while an alignment compares labelled positions. Check",
    ),
    "no labels for the task": (
        lambda _: {"examples": without("labels", -100), "task_weight": 1.0},
        DataError,
        "have no label but -100, while task_weight trains on labels. Check",
    ),
    "a teacher that is not finite": (
        lambda _: {"teacher": broken_teacher()},
        NonFiniteError,
        "before any step the loss is nan; not finite in the teacher: queries, keys or values of block 4",
    ),
    "a folder without rights": (without_rights, CheckpointError, "is none: .* Give another output_dir"),
    "a pickle": (
        lambda folder: {"teacher": saved(folder, pickle_only)},
        TrainingSetupError,
        "cannot be loaded as a model: .* Only safetensors are read: a pickle such as pytorch_model.bin may run any",
    ),
    "damaged weights": (
        lambda folder: {"teacher": saved(folder, halve)},
        TrainingSetupError,
        "cannot be loaded as a model: .* Its weights are damaged: download or save them again",
    ),
    "an id while offline": (
        lambda _: {"teacher": "nobody/nothing"},
        TrainingSetupError,
        "nobody/nothing cannot be loaded as a model: .* Connect to the Hub",
    ),
    "no model in the folder": (
        lambda folder: {"teacher": str(folder)},
        TrainingSetupError,
        "cannot be loaded as a model: .* Check the folder: it should hold config.json",
    ),
}


@pytest.mark.parametrize("name", TRAINING)
def test_a_run_is_refused_before_its_first_step(make_args, tmp_path, name):
    make, error, message = TRAINING[name]
    (tmp_path / "model").mkdir()
    with pytest.raises(error, match=message):
        train(make_args, tmp_path, **make(tmp_path / "model"))


RECIPES = {
    "an unknown key": ("methods: lightmbert", "methods.*did you mean method"),
    "a number as text": ("training: {learning_rate: fast}", "training.learning_rate: expected .*number.*; came"),
    "a wrong type": ("balance_terms: 1", "balance_terms: expected .*; came"),
    "no YAML": ("data: {", "cannot be read|expected"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_refused(tmp_path, name):
    line, message = RECIPES[name]
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + line + "\n")
    with pytest.raises(RecipeError, match=rf"(?si){message}"):
        load_recipe(DistillRecipe, path)


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(RecipeError, match=r"nothing\.yaml"):
        load_recipe(DistillRecipe, tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pickle_only, r"Only safetensors are read: a pickle such as pytorch_model\.bin"),
        (halve, "Its weights are damaged"),
        (lambda folder: (folder / "config.json").unlink(), r"it should hold config\.json"),
    ],
)
def test_a_model_of_a_recipe_is_refused(tmp_path, change, message):
    with pytest.raises(RecipeError, match=message):
        load_model(TeacherSource(name=saved(tmp_path, change)))


@pytest.mark.usefixtures("own_datasets_cache")
def test_text_is_refused(tmp_path):
    tokenizer = word_tokenizer(WORDS)
    blank = Dataset.from_dict({"text": ["", "  "]})
    with pytest.raises(DataError, match="expected texts with at least one token, but the tokenizer left none; check"):
        tokenize_text(blank, tokenizer, 8)
    with pytest.raises(DataError, match="expected a dataset with rows, got an empty one; check how it was made"):
        tokenize_text(Dataset.from_dict({"text": []}), tokenizer, 8)
    few = tokenize_text(Dataset.from_dict({"text": ["word1"]}), tokenizer, 8)
    with pytest.raises(DataError, match="expected at least 64 tokens to fill a row, got fewer; use more text"):
        group_tokens(few, 64)
    (tmp_path / "empty.txt").write_text("")
    for path, message in (("empty.txt", "the file is empty; write it again"), ("gone.txt", "there is none; check")):
        with pytest.raises(DataError, match=message):
            load_text([tmp_path / path])


def test_every_entry_is_in_the_table_of_the_docs():
    table = (Path(__file__).parents[1] / "docs" / "survival.md").read_text()
    errors = {error.__name__ for _, error, _ in TRAINING.values()} | {"RecipeError"}
    assert all(name in table for name in errors)
