"""A recipe for each stage, as a frozen dataclass."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from transformers import TrainingArguments

from distil_trainer.alignment import Alignment, check_alignments, check_teachers
from distil_trainer.checkpoints import newest_whole
from distil_trainer.errors import RecipeError
from distil_trainer.methods import METHODS, SETTINGS, of_teachers
from distil_trainer.recipe.models import StudentSpec, TeacherSource, VocabularySpec, require_attention
from distil_trainer.recipe.strict import (
    PlacedError,
    check_text_keys,
    convert,
    join,
    refuse_unknown,
    require,
    require_revision,
)
from distil_trainer.recipe.task import ScoredData, TaskData, UnlabelledData
from distil_trainer.recipe.text import TextData
from distil_trainer.record import HUB_ID
from distil_trainer.schedule import Scheduled, ends
from distil_trainer.teacher_cache import TeacherCache

_OF_RUNS = {"output_dir": "output_dir", "seed": "seeds"}  # what TrainingArguments call it -> where the recipe says it


@dataclass(frozen=True, kw_only=True)
class PrepareRecipe:
    """A corpus, tokenised and cut into rows once: `recipes/prepare.py`.

    Attributes:
        tokenizer: a Hub id, a local path, or `package:NAME`.
        tokenizer_revision: branch, tag or commit on the Hub.
        data: the text.
        output_dir: where the rows and the record go.
        vocabulary: how many pieces of the tokenizer the rows are made of, for a student that has no others; null: all.
    """

    tokenizer: str
    tokenizer_revision: str | None = None
    data: TextData
    output_dir: str
    vocabulary: VocabularySpec | None = None

    def __post_init__(self) -> None:
        require_revision("tokenizer_revision", self.tokenizer_revision)
        require(self.data.prepared is None, "data.prepared", "null: this makes such a folder", self.data.prepared)
        require(not self.data.stream, "data.stream", "false: a stream is not prepared", self.data.stream)
        limited = self.vocabulary is None or not self.vocabulary.prepared
        require(limited, "vocabulary.prepared", "false: this makes such a folder", True)


@dataclass(frozen=True, kw_only=True)
class GenerateRecipe:
    """Texts that a causal language model writes, for its student to learn from: `recipes/generate.py`.

    Attributes:
        model: what writes; `model_class` must be AutoModelForCausalLM.
        texts: how many it writes.
        validation_texts: how many more, to evaluate on.
        output_dir: a new folder for train.jsonl, validation.jsonl and the record.
        prompts: how the texts begin, in turns; none: with the model's first token alone.
        max_new_tokens: how long a text may become.
        temperature: divides the logits that tokens are drawn by.
        top_p: draw among the likeliest tokens that make up this share; 1.0: among all.
        batch_size: texts that are written at a time.
        seed: of the draws.
    """

    model: TeacherSource
    texts: int
    validation_texts: int = 0
    output_dir: str
    prompts: tuple[str, ...] = ()
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 32
    seed: int = 100

    def __post_init__(self) -> None:
        writes = self.model.model_class == "AutoModelForCausalLM"
        require(writes, "model.model_class", "AutoModelForCausalLM", self.model.model_class)
        for name in ("texts", "max_new_tokens", "batch_size"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.validation_texts >= 0, "validation_texts", "0 or more", self.validation_texts)
        require(self.temperature > 0, "temperature", "above 0", self.temperature)
        require(0 < self.top_p <= 1, "top_p", "above 0 and at most 1", self.top_p)


@dataclass(frozen=True, kw_only=True)
class AdaptRecipe:
    """A masked-language model trained further on text, or from scratch: `recipes/adapt.py`.

    Attributes:
        model: the model, whose head or heads are kept.
        data: the text, with `mlm_probability`.
        output_dir: where checkpoints, the model and the record go.
        from_scratch: start from random weights; only the configuration and the tokenizer of `model` are read.
        dropout: probability of every dropout layer (`torch.nn.Dropout`) while it is trained; null keeps the model's.
            What is saved has the model's in any case.
        training: `transformers.TrainingArguments`, as they are called there.
        on_nonfinite: what to do where a loss or a gradient is NaN or infinite: stop, with the batch saved, or skip the
            step.
        resume: go on from the newest whole checkpoint in `output_dir`, if there is one.
    """

    model: TeacherSource
    data: TextData
    output_dir: str
    from_scratch: bool = False
    dropout: float | None = None
    training: dict[str, Any] = field(default_factory=dict)
    on_nonfinite: Literal["stop", "skip"] = "stop"
    resume: bool = False

    def __post_init__(self) -> None:
        heads = ("AutoModelForMaskedLM", "AutoModelForPreTraining")
        is_language_model = self.model.model_class in heads
        require(is_language_model, "model.model_class", f"one of {', '.join(heads)}", self.model.model_class)
        require(self.data.mlm_probability is not None, "data.mlm_probability", "a number such as 0.15", None)
        if self.dropout is not None:
            require(0 <= self.dropout < 1, "dropout", "from 0 to below 1", self.dropout)
        _check_training(self.training, {"output_dir": "output_dir"})
        smoothing = self.training.get("label_smoothing_factor", 0)
        require(not smoothing, "training.label_smoothing_factor", "0: the loss is the model's own", smoothing)
        _check_stream(self.data, self.training)


@dataclass(frozen=True, kw_only=True)
class DistillRecipe:
    """One distillation: `recipes/distill.py`.

    Attributes:
        teacher: where the teacher comes from.
        other_teachers: further ones, which read the same tokens; an alignment counts them from 2 (`teacher: 2`). The
            student starts from the first, and all compute in its `dtype`.
        teacher_weights: of the first teacher and each other: in `method` the weight of its layers, and in the mean that
            logits are compared with. Empty: equal ones.
        student: what the student is made of.
        data: the text.
        output_dir: where checkpoints, the student and the record go.
        method: a published method by name (`distil_trainer.methods`); else give `alignments`.
        method_options: of the method, as its function calls them: `{relation_heads: 24}`.
        alignments: what is compared, each with the fields of `distil_trainer.Alignment`; else give `method`.
        task_weight: weight of the student's own loss on labels; null takes the method's, or 0 with `alignments`.
        balance_terms: give all terms gradients of the same norm (`distil_trainer.DistillationTrainer`).
        teacher_cache: keep what is compared of the teacher in a folder, `{folder: runs/cache}` with the fields of
            `distil_trainer.teacher_cache.TeacherCache`; for text that comes again as it was, without masks drawn anew.
        save_undistilled: keep the student as it is before it learns, in `output_dir/undistilled`: what to compare with.
        training: `transformers.TrainingArguments`, as they are called there.
        on_nonfinite: what to do where a loss or a gradient is NaN or infinite: stop, with the batch saved, or skip the
            step.
        resume: go on from the newest whole checkpoint in `output_dir`, if there is one.
    """

    teacher: TeacherSource
    other_teachers: tuple[TeacherSource, ...] = ()
    teacher_weights: tuple[float, ...] = ()
    student: StudentSpec
    data: TextData
    output_dir: str
    method: str | None = None
    method_options: dict[str, Any] = field(default_factory=dict)
    alignments: tuple[Alignment, ...] = ()
    task_weight: Scheduled | None = None
    balance_terms: bool = False
    teacher_cache: TeacherCache | None = None
    save_undistilled: bool = False
    training: dict[str, Any] = field(default_factory=dict)
    on_nonfinite: Literal["stop", "skip"] = "stop"
    resume: bool = False

    def __post_init__(self) -> None:
        if (self.method is None) == (not self.alignments):
            both = "both (alignments: [] or method: null takes away what `extends` brings)"
            came = "neither" if self.method is None else both
            raise RecipeError(f"expected either method or alignments; came {came}. Methods: {', '.join(METHODS)}.")
        if self.method is not None:
            require(self.method in METHODS, "method", f"one of {', '.join(METHODS)}", self.method)
        _check_options(self.method, self.method_options)
        check_alignments(self.alignments, student_layers=self.student.num_hidden_layers)
        check_teachers(self.alignments, len(self.teachers), self.teacher_weights or None)
        for number, other in enumerate(self.other_teachers):
            where = f"other_teachers[{number}].dtype"
            require(other.dtype in (None, self.teacher.dtype), where, "null, or the teacher's", other.dtype)
        if (vocabulary := self.student.vocabulary) is not None:
            is_prepared = self.data.prepared is not None
            expected = f"{str(is_prepared).lower()} {'with' if is_prepared else 'without'} data.prepared"
            require(vocabulary.prepared == is_prepared, "student.vocabulary.prepared", expected, vocabulary.prepared)
        require(min(ends(self.task_weight or 0.0)) >= 0, "task_weight", "0 or more", self.task_weight)
        _check_training(self.training, {"output_dir": "output_dir"})
        _check_stream(self.data, self.training)

    @property
    def teachers(self) -> tuple[TeacherSource, ...]:
        """All of them, as alignments count them."""
        return (self.teacher, *self.other_teachers)

    def terms(self, *teacher_layers: int) -> tuple[tuple[Alignment, ...], Scheduled]:
        """What is compared with teachers of so many blocks, and the weight of the student's own loss.

        Raises:
            AlignmentError: the method cannot have these depths or options.
        """
        alignments, task_weight = self.alignments, 0.0
        if self.method is not None:
            alignments = of_teachers(
                METHODS[self.method],
                student_layers=self.student.num_hidden_layers,
                teacher_layers=teacher_layers,
                weights=self.teacher_weights or None,
                **self.method_options,
            )
            task_weight = SETTINGS[self.method].task_weight
        return alignments, task_weight if self.task_weight is None else self.task_weight


@dataclass(frozen=True, kw_only=True)
class TaskStage:
    """Task-specific distillation: fine-tuned teachers teach while others are fine-tuned.

    Attributes:
        roles: who learns from them.
        teachers: the teacher that was fine-tuned with the same seed, or those of all seeds together. An alignment
            means one of these by its number in `seeds`, from 1; logits without it are compared with the mean of all.
        alignments: what is compared on the batches of the task, each with the fields of `distil_trainer.Alignment`.
        task_weight: weight of the labels themselves.
        unlabelled: examples to learn from besides, with the labels that those teachers give them (a transfer set).
        training: what is other than in the recipe's `training` for those who are taught, such as more epochs.
        teacher_cache: as in `DistillRecipe`; each seed's teacher has a folder of its own in that.

    Source: TinyBERT (arXiv 1909.10351) section 3.2, which has it in two steps: layers, then logits; for the transfer
    set Distilling the Knowledge in a Neural Network (arXiv 1503.02531) section 2.
    """

    roles: tuple[Literal["student", "undistilled"], ...] = ("student",)
    teachers: Literal["same_seed", "all_seeds"] = "same_seed"
    alignments: tuple[Alignment, ...]
    task_weight: Scheduled = 1.0
    unlabelled: UnlabelledData | None = None
    training: dict[str, Any] = field(default_factory=dict)
    teacher_cache: TeacherCache | None = None

    def __post_init__(self) -> None:
        require(bool(self.roles), "roles", "student, undistilled or both", self.roles)
        require(bool(self.alignments), "alignments", "at least one", self.alignments)
        check_alignments(self.alignments)
        require(min(ends(self.task_weight)) >= 0, "task_weight", "0 or more", self.task_weight)
        _check_training(self.training, _OF_RUNS)


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """The same fine-tuning of several models with several seeds: `recipes/finetune.py`.

    Attributes:
        models: teacher, student or undistilled -> a Hub id, path, or `package:NAME`.
        data: the labelled examples.
        also_test: other data sets to score the same fine-tuned models on, each with a name of its own.
        seeds: one run a seed; scores are averaged.
        output_dir: where the runs and their records go.
        task: what is learned, as the Hub calls it: tags of words (F1 of entities); the class of a text or of a pair of
            texts (accuracy, macro F1); the similarity of two texts as a number (Spearman's correlation).
        max_length: tokens an example is cut to; words beyond are neither learned nor scored.
        attn_implementation: what computes attention in all models, as in `TeacherSource`.
        task_stage: who learns from the fine-tuned teacher besides the labels, and what; null: nobody.
        training: `transformers.TrainingArguments`, as they are called there.
        save_models: keep every fine-tuned model, as `output_dir/NAME-SEED`.
        on_nonfinite: what to do where a loss or a gradient is NaN or infinite: stop, with the batch saved, or skip the
            step.
        resume: take over the scores of finished runs in `output_dir`, where model, data and settings are the same.
    """

    models: dict[Literal["teacher", "student", "undistilled"], str]
    data: TaskData
    also_test: tuple[ScoredData, ...] = ()
    seeds: tuple[int, ...]
    output_dir: str
    task: Literal["token-classification", "text-classification", "sentence-similarity"] = "token-classification"
    max_length: int = 128
    attn_implementation: str | None = None
    task_stage: TaskStage | None = None
    training: dict[str, Any] = field(default_factory=dict)
    save_models: bool = False
    on_nonfinite: Literal["stop", "skip"] = "stop"
    resume: bool = False

    def __post_init__(self) -> None:
        require(bool(self.models), "models", "at least one name: path", self.models)
        require(bool(self.seeds), "seeds", "at least one", self.seeds)
        require(len(set(self.seeds)) == len(self.seeds), "seeds", "different numbers", self.seeds)
        require(self.max_length >= 1, "max_length", "at least 1", self.max_length)
        require_attention(self.attn_implementation)
        names = [self.data.name, *(other.name for other in self.also_test)]
        require(len(set(names)) == len(names), "also_test", "a name of its own for each data set", names)
        for where, source in [("data", self.data), *((f"also_test[{i}]", d) for i, d in enumerate(self.also_test))]:
            if self.task == "sentence-similarity":
                require(len(source.text_columns) == 2, f"{where}.text_columns", "two columns", source.text_columns)
            if self.task != "token-classification":
                mapped = source.keep_types or source.rename_types
                require(not mapped, f"{where}.keep_types", f"no mapping of entity types with {self.task}", mapped)
        _check_training(self.training, _OF_RUNS)
        if self.task_stage is not None:
            all_teach = self.task_stage.teachers == "all_seeds"
            check_teachers(self.task_stage.alignments, len(self.seeds) if all_teach else 1)
            missing = [role for role in ("teacher", *self.task_stage.roles) if role not in self.models]
            require(not missing, "models", f"{' and '.join(missing)} too, as task_stage says", sorted(self.models))
            unlabelled = self.task_stage.unlabelled
            if unlabelled is not None and self.task == "sentence-similarity":
                columns = unlabelled.text_columns
                require(len(columns) == 2, "task_stage.unlabelled.text_columns", "two columns", columns)
            require(self.save_models, "save_models", "true: task_stage reads the fine-tuned teacher", self.save_models)
        if self.training.get("eval_strategy", "no") != "no":
            came = f"eval_strategy {self.training['eval_strategy']} without it"
            require(self.data.has_validation, "data.validation", "examples to score on while training", came)


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
        require(is_id, "repo_id", "namespace/name on the Hub", self.repo_id)
        require_revision("revision", self.revision)
        require(self.timeout > 0, "timeout", "more than 0", self.timeout)


def _check_options(method: str | None, options: Mapping[str, Any]) -> None:
    """Checks names and types against what the method's function takes besides the two depths."""
    if method is None:
        require(not options, "method_options", "none without a method", dict(options))
        return
    check_text_keys(dict(options), "method_options")
    hints = get_type_hints(METHODS[method])
    known = set(hints) - {"student_layers", "teacher_layers", "return"}
    for key, value in options.items():
        if key not in known:
            refuse_unknown(key, known, "method_options")
        convert(value, hints[key], join("method_options", key))


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


def newest_checkpoint(recipe: AdaptRecipe | DistillRecipe) -> str | None:
    """The checkpoint to go on from, if the recipe says so; it is never taken, or overwritten, by surprise.

    One that was being written when a run was killed is none.

    Raises:
        RecipeError: there are checkpoints, and the recipe does not say `resume`.
    """
    newest = newest_whole(recipe.output_dir)
    if newest is not None and not recipe.resume:
        raise RecipeError(
            f"{recipe.output_dir} holds checkpoints of an earlier run. Go on from the newest with resume=true, "
            "or choose another output_dir."
        )
    return newest


def _check_stream(data: TextData, training: Mapping[str, Any]) -> None:
    if data.stream and training.get("max_steps", -1) < 1:
        raise PlacedError(
            "training.max_steps", "data.stream needs a number of steps: how long a stream is, nobody knows."
        )
