"""The YAML of a run as frozen dataclasses: `load_recipe(DistillRecipe, "recipe.yaml", ["training.seed=1"])`.

Science only: what is learned from what, and how. Hardware is in the YAML that `accelerate launch` reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_type_hints

from transformers import TrainingArguments

from distil_trainer._strict import PlacedError, check_text_keys, convert, join, load_recipe, refuse_unknown
from distil_trainer.alignment import Alignment, check_alignments
from distil_trainer.errors import RecipeError
from distil_trainer.methods import METHODS
from distil_trainer.record import HUB_ID

__all__ = [
    "DistillRecipe",
    "FinetuneRecipe",
    "NerData",
    "PublishRecipe",
    "StudentSpec",
    "TeacherSource",
    "TextData",
    "load_recipe",
    "model_path",
]


@dataclass(frozen=True, kw_only=True)
class TeacherSource:
    """Where the teacher comes from.

    Attributes:
        name: a Hub id, a local path, or `package:` and the name of a Python package that holds a model.
        revision: branch, tag or commit on the Hub.
        model_class: the Auto class to load it with; the student gets the same heads.
        dtype: what it computes in while it teaches; null takes bfloat16 where the hardware multiplies that natively,
            else float32. The student is always copied from the weights as they are stored.
        hub_id: the Hub id that the card states, when the teacher is loaded from elsewhere.
        title: what the card calls the teacher; None takes the last part of its id or path.
        base_model: the Hub id of the model that the teacher was fine-tuned from, for the card.
        license: the teacher's license, for the card.
        language: the teacher's languages as ISO 639 codes, for the card.
    """

    name: str
    revision: str | None = None
    model_class: Literal[
        "AutoModel",
        "AutoModelForMaskedLM",
        "AutoModelForPreTraining",
        "AutoModelForSequenceClassification",
        "AutoModelForTokenClassification",
    ] = "AutoModel"
    dtype: Literal["float32", "bfloat16"] | None = None
    hub_id: str | None = None
    title: str | None = None
    base_model: str | None = None
    license: str | None = None
    language: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """What the student is made of.

    Attributes:
        num_hidden_layers: its number of blocks.
        name: what the card calls it.
        layers: which teacher blocks it starts from: bottom, top, spread, or a list counted from 1.
        freeze_embeddings: keep the teacher's embeddings as they are.
        dropout: every dropout probability of the student while it is distilled; null keeps the teacher's.
        license: the student's license, for the card; "other" needs the two that follow.
        license_name: of a license that the Hub has no identifier for.
        license_link: where it can be read.
        language: the student's languages as ISO 639 codes, for the card.
    """

    num_hidden_layers: int
    name: str
    layers: Literal["bottom", "top", "spread"] | tuple[int, ...] = "bottom"
    freeze_embeddings: bool = False
    dropout: float | None = 0.0
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self.num_hidden_layers >= 1, "num_hidden_layers", "at least 1", self.num_hidden_layers)
        if self.dropout is not None:
            _require(0 <= self.dropout < 1, "dropout", "from 0 to below 1", self.dropout)


@dataclass(frozen=True, kw_only=True)
class TextData:
    """The text to distil on.

    Attributes:
        files: paths or globs of the training text, relative to the working directory: .txt with one example a line,
            or .jsonl with one JSON object a line.
        validation: paths or globs of the validation text, alike; none means no evaluation.
        column: the key of the text in .jsonl files.
        max_length: tokens an example is cut to, or with `group` the tokens of each row.
        group: put the texts end to end and cut rows of `max_length` tokens, so that there is no padding.
        max_examples: how many training examples to use; None means all.
        mlm_probability: share of tokens to mask; None leaves the text as it is.
        name: what the card calls the data.
        description: a sentence about it for the card.
        filtering: a sentence about what was left out of it, for the card.
        url: where it can be had, if it is not on the Hub.
        license: its license, for the card.
        language: its languages as ISO 639 codes, for the card.
        hub_id: its id on the Hub, if it is there.
        revision: branch, tag or commit on the Hub.
    """

    files: tuple[str, ...]
    validation: tuple[str, ...] = ()
    column: str = "text"
    max_length: int = 128
    group: bool = False
    max_examples: int | None = None
    mlm_probability: float | None = None
    name: str | None = None
    description: str | None = None
    filtering: str | None = None
    url: str | None = None
    license: str | None = None
    language: tuple[str, ...] = ()
    hub_id: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        _require(bool(self.files), "files", "at least one path", self.files)
        _require(self.max_length >= 1, "max_length", "at least 1", self.max_length)
        if self.max_examples is not None:
            _require(self.max_examples >= 1, "max_examples", "at least 1, or null for all", self.max_examples)
        if self.mlm_probability is not None:
            _require(0 < self.mlm_probability < 1, "mlm_probability", "between 0 and 1", self.mlm_probability)


@dataclass(frozen=True, kw_only=True)
class DistillRecipe:
    """One distillation: `recipes/distill.py`.

    Attributes:
        teacher: where the teacher comes from.
        student: what the student is made of.
        data: the text.
        output_dir: where checkpoints, the student and the record go.
        method: a published method by name (`distil_trainer.methods`); else give `alignments`.
        alignments: what is compared, each with the fields of `distil_trainer.Alignment`; else give `method`.
        task_weight: weight of the student's own loss on labels.
        balance_terms: give all terms gradients of the same norm (`distil_trainer.DistillationTrainer`).
        training: `transformers.TrainingArguments`, as they are called there.
        resume: go on from the newest checkpoint in `output_dir`, if there is one.
    """

    teacher: TeacherSource
    student: StudentSpec
    data: TextData
    output_dir: str
    method: str | None = None
    alignments: tuple[Alignment, ...] = ()
    task_weight: float = 0.0
    balance_terms: bool = False
    training: dict[str, Any] = field(default_factory=dict)
    resume: bool = False

    def __post_init__(self) -> None:
        if (self.method is None) == (not self.alignments):
            came = "neither" if self.method is None else "both"
            raise RecipeError(f"expected either method or alignments; came {came}. Methods: {', '.join(METHODS)}.")
        if self.method is not None:
            _require(self.method in METHODS, "method", f"one of {', '.join(METHODS)}", self.method)
        check_alignments(self.alignments, student_layers=self.student.num_hidden_layers)
        _require(self.task_weight >= 0, "task_weight", "0 or more", self.task_weight)
        _check_training(self.training, {"output_dir": "output_dir"})


@dataclass(frozen=True, kw_only=True)
class NerData:
    """Sentences with named entities: JSONL with `tokens` and `ner_tags` (BIO tags as text), and where they are from.

    Attributes:
        train: paths or globs to fine-tune on, relative to the working directory.
        test: paths or globs to score on.
        validation: paths or globs to score on after each epoch; none means no evaluation.
        name: what the card calls the data set.
        config: the data set's configuration, for the card.
        split: the split that the test files are, for the card.
        hub_id: its id on the Hub, if it is there.
        revision: branch, tag or commit on the Hub.
        license: its license, for the card.
        language: its languages as ISO 639 codes, for the card.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    validation: tuple[str, ...] = ()
    name: str
    config: str | None = None
    split: str = "test"
    hub_id: str | None = None
    revision: str | None = None
    license: str | None = None
    language: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(bool(self.train), "train", "at least one path", self.train)
        _require(bool(self.test), "test", "at least one path", self.test)


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """The same fine-tuning of several models with several seeds: `recipes/finetune.py`.

    Attributes:
        models: teacher, student or undistilled -> a Hub id, path, or `package:NAME`.
        data: the sentences.
        seeds: one run a seed; scores are averaged.
        output_dir: where the runs and their records go.
        task: what is learned.
        max_length: tokens a sentence is cut to.
        training: `transformers.TrainingArguments`, as they are called there.
        save_models: keep every fine-tuned model, as `output_dir/NAME-SEED`.
    """

    models: dict[Literal["teacher", "student", "undistilled"], str]
    data: NerData
    seeds: tuple[int, ...]
    output_dir: str
    task: Literal["token-classification"] = "token-classification"
    max_length: int = 128
    training: dict[str, Any] = field(default_factory=dict)
    save_models: bool = False

    def __post_init__(self) -> None:
        _require(bool(self.models), "models", "at least one name: path", self.models)
        _require(bool(self.seeds), "seeds", "at least one", self.seeds)
        _require(len(set(self.seeds)) == len(self.seeds), "seeds", "different numbers", self.seeds)
        _require(self.max_length >= 1, "max_length", "at least 1", self.max_length)
        _check_training(self.training, {"output_dir": "output_dir", "seed": "seeds"})


@dataclass(frozen=True, kw_only=True)
class PublishRecipe:
    """A page from the records of all stages, and its way to the Hub: `recipes/publish.py`.

    Attributes:
        folder: of the student, as the distillation left it.
        repo_id: namespace/name on the Hub.
        records: paths or globs of the records of the other stages; the student's own is in `folder`.
        private: whether a new repository is private; null takes the account's default.
        revision: branch to publish on; null is "main".
        create_pr: open a pull request instead.
        message: title of the commit.
        timeout: seconds after which a publication that makes no progress ends.
        dry_run: write the page and list what would be uploaded, send nothing.
    """

    folder: str
    repo_id: str
    records: tuple[str, ...] = ()
    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    message: str = "Publish the model and its page"
    timeout: float = 180.0
    dry_run: bool = False

    def __post_init__(self) -> None:
        is_id = bool(HUB_ID.fullmatch(self.repo_id)) and "/" in self.repo_id
        _require(is_id, "repo_id", "namespace/name on the Hub", self.repo_id)
        _require(self.timeout > 0, "timeout", "more than 0", self.timeout)


def model_path(name: str) -> str:
    """Where a recipe's model is: `package:NAME` is the `model` folder of an installed package, the rest stays as it is.

    Raises:
        RecipeError: the package is not installed.
    """
    if not name.startswith("package:"):
        return name
    package = name.removeprefix("package:")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise RecipeError(f"{name!r}: the package {package!r} is not installed. Install it with pip.")
    return str(Path(spec.origin).parent / "model")


def _require(holds: bool, key: str, expected: str, came: object) -> None:
    if not holds:
        raise PlacedError(key, f"expected {expected}; came {came!r}.")


def _check_training(training: Mapping[str, Any], elsewhere: Mapping[str, str]) -> None:
    """Checks names and types against `TrainingArguments`; `elsewhere` are the ones with a place of their own."""
    check_text_keys(dict(training), "training")
    hints = get_type_hints(TrainingArguments)
    for key, value in training.items():
        if key in elsewhere:
            raise PlacedError(
                join("training", key), f"this is {elsewhere[key]} at the top of the recipe; give it there only."
            )
        if key not in TrainingArguments.__dataclass_fields__:
            refuse_unknown(key, set(TrainingArguments.__dataclass_fields__) - set(elsewhere), "training")
        convert(value, hints[key], join("training", key))
