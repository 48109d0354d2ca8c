"""The models of a recipe: where the teacher comes from, and what the student is made of."""

from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import transformers
from transformers import AutoConfig, AutoTokenizer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from distil_trainer.errors import RecipeError
from distil_trainer.facts import cached_revision, hub_id
from distil_trainer.loading import check_files, loading
from distil_trainer.recipe.strict import require, require_revision
from distil_trainer.record import ModelFacts


@dataclass(frozen=True, kw_only=True)
class TeacherSource:
    """Where the teacher comes from.

    Attributes:
        name: a Hub id, a local path, or `package:` and the name of a Python package that holds a model.
        revision: branch, tag or commit on the Hub.
        model_class: the Auto class to load it with; the student gets the same heads.
        dtype: what it computes in while it teaches; null takes bfloat16 where the hardware multiplies that natively,
            else float32. The student is always copied from the weights as they are stored.
        attn_implementation: what computes attention in teacher and student, as transformers calls it (sdpa, eager,
            flash_attention_2, ...); null takes its own choice. On a CPU in bfloat16 eager is the
            fastest for short rows.
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
        "AutoModelForCausalLM",
        "AutoModelForMaskedLM",
        "AutoModelForPreTraining",
        "AutoModelForSequenceClassification",
        "AutoModelForTokenClassification",
    ] = "AutoModel"
    dtype: Literal["float32", "bfloat16"] | None = None
    attn_implementation: str | None = None
    hub_id: str | None = None
    title: str | None = None
    base_model: str | None = None
    license: str | None = None
    language: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_attention(self.attn_implementation)
        require_revision("revision", self.revision)
        ModelFacts(  # raises now for what no record takes, not after training
            name=self.title or "teacher",
            id=self.hub_id,
            base_model=self.base_model,
            license=self.license,
            language=self.language,
        )


@dataclass(frozen=True, kw_only=True)
class VocabularySpec:
    """How much of the teacher's vocabulary the training text needs: arguments of `vocabulary.trim_vocabulary`.

    Attributes:
        coverage: keep as few pieces as make up this share of the tokens.
        min_count: keep no piece that occurs less often.
        max_size: keep at most so many.
        multiple_of: keep further pieces until their number is a multiple of this.
        always: pieces to keep, spelled as in the vocabulary.
        texts: how many texts are counted, from the first on; null: all.
        prepared: keep the pieces that `data.prepared` was made with, instead of all that.
    """

    coverage: float | None = None
    min_count: int | None = None
    max_size: int | None = None
    multiple_of: int = 1
    always: tuple[str, ...] = ()
    texts: int | None = None
    prepared: bool = False

    def __post_init__(self) -> None:
        limited = any(limit is not None for limit in (self.coverage, self.min_count, self.max_size))
        require(limited or self.prepared, "coverage", "coverage, min_count or max_size", None)
        require(not (limited and self.prepared), "prepared", "false with coverage, min_count or max_size", True)
        if self.coverage is not None:
            require(0 < self.coverage <= 1, "coverage", "above 0 and at most 1", self.coverage)
        for name in ("min_count", "max_size", "multiple_of", "texts"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, "at least 1", value)

    @property
    def limits(self) -> dict[str, Any]:
        """What `trim_vocabulary` takes."""
        names = [field.name for field in fields(self) if field.name not in ("texts", "prepared")]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """What the student is made of.

    Attributes:
        num_hidden_layers: its number of blocks.
        name: what the card calls it.
        layers: which teacher blocks it starts from: bottom, top, spread, a list counted from 1, or importance: those
            without which the teacher's output on the text would change most.
        freeze_embeddings: keep the teacher's embeddings as they are.
        dropout: every dropout probability of the student while it is distilled; null keeps the teacher's.
        hidden_size: channels of its residual stream; null: as many as the teacher has. This and the two that follow are
            cut out of the teacher: what matters most on the text is kept.
        num_attention_heads: heads of each block; each is as wide as the teacher's, so half the hidden size needs half
            the heads.
        intermediate_size: neurons of the feed-forward network of each block.
        init: copy takes the teacher's weights; random draws new ones, embeddings too, from the run's seed.
        vocabulary: how much of the teacher's it keeps; null: all of it.
        license: the student's license, for the card; "other" needs the two that follow.
        license_name: of a license that the Hub has no identifier for.
        license_link: where it can be read.
        language: the student's languages as ISO 639 codes, for the card.
    """

    num_hidden_layers: int
    name: str
    layers: Literal["bottom", "top", "spread", "importance"] | tuple[int, ...] = "bottom"
    freeze_embeddings: bool = False
    dropout: float | None = 0.0
    hidden_size: int | None = None
    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    init: Literal["copy", "random"] = "copy"
    vocabulary: VocabularySpec | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self.num_hidden_layers >= 1, "num_hidden_layers", "at least 1", self.num_hidden_layers)
        if self.dropout is not None:
            require(0 <= self.dropout < 1, "dropout", "from 0 to below 1", self.dropout)
        for name, width in self.widths.items():
            require(width >= 1, name, "at least 1", width)
        if self.init == "random":
            require(self.layers == "bottom", "layers", "bottom, its default, with init=random", self.layers)
            require(not self.freeze_embeddings, "freeze_embeddings", "false with init=random", True)
        ModelFacts(  # raises now for what no record takes, not after training
            name=self.name,
            license=self.license,
            license_name=self.license_name,
            license_link=self.license_link,
            language=self.language,
        )

    @property
    def widths(self) -> dict[str, int]:
        """The widths that are given, as `student_config` takes them."""
        names = ("hidden_size", "num_attention_heads", "intermediate_size")
        return {name: width for name in names if (width := getattr(self, name)) is not None}


def require_attention(name: str | None) -> None:
    """Raise PlacedError unless transformers itself has a function of this name, or none is given."""
    known = ("eager", *sorted(ALL_ATTENTION_FUNCTIONS))
    require(name is None or name in known, "attn_implementation", f"one of {', '.join(known)}, or null", name)


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer that lies beside the model of this name.

    Raises:
        RecipeError: there is none, or it cannot be loaded.
    """
    try:
        path = model_path(name)
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision or "main", trust_remote_code=False)
        if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
            raise ValueError("of its files none is there.")  # transformers makes an empty one
    except RecipeError:
        raise
    except Exception as error:  # transformers checks little of what it reads
        told = " ".join(str(error).split()).rstrip(".")
        raise RecipeError(
            f"{name} has no tokenizer that can be loaded: {told}. Give a folder with its tokenizer beside it, or a Hub "
            "id; no code that comes with a model is run."
        ) from error
    return tokenizer


def load_model(source: TeacherSource, model_class: str | None = None, *, from_scratch: bool = False) -> Any:
    """The model, of another Auto class if one is named; with `from_scratch` its configuration with random weights.

    Raises:
        RecipeError: it cannot be loaded.
    """
    auto_class = getattr(transformers, model_class or source.model_class)
    path, revision = model_path(source.name), source.revision or "main"
    attention: dict[str, Any] = {"attn_implementation": source.attn_implementation}
    how: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    with loading(source.name, RecipeError):
        check_files(path, revision)
        if from_scratch:
            config = AutoConfig.from_pretrained(path, **how)
            return auto_class.from_config(config, trust_remote_code=False, **attention)
        return auto_class.from_pretrained(path, use_safetensors=True, **how, **attention)


def known_facts(source: TeacherSource) -> dict[str, Any]:
    """What the recipe says of the model, besides what the model itself tells: fields of `record.ModelFacts`."""
    name = source.hub_id or hub_id(source.name)
    facts = {
        "name": source.title or (name.split("/")[-1] if name else None),
        "id": name,
        "base_model": source.base_model,
        "revision": cached_revision(name, source.revision) if name else None,
        "license": source.license,
        "language": source.language,
    }
    return {key: value for key, value in facts.items() if value is not None}


def model_path(name: str) -> str:
    """Where a recipe's model is: `package:NAME` is the `model` folder of an installed package, the rest stays as it is.

    Raises:
        RecipeError: the package is not installed.
    """
    if not name.startswith("package:"):
        return name
    package = name.removeprefix("package:")
    # of a.b, find_spec would run a
    spec = find_spec(package) if package.isidentifier() and package != "__main__" else None
    if spec is None or spec.origin is None:
        raise RecipeError(f"{name!r}: the package {package!r} is not installed. Install it with pip.")
    return str(Path(spec.origin).parent / "model")
