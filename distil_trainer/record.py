"""Record: the facts of a run, read and written as JSON. The model card is a pure function of records.

Everything in a record may become public. So every value is checked when it is constructed: types are exact, numbers
are finite and plain, access tokens are refused, and absolute paths are cut to their last part.
"""

import dataclasses
import json
import os
import re
import statistics
import typing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from distil_trainer.errors import RecordError
from distil_trainer.files import write_atomically
from distil_trainer.plain import CheckedFields, checked, wrong_value

SCHEMA = 1
Role = Literal["teacher", "student", "undistilled"]
HUB_ID = re.compile(r"(?=.{1,96}$)(?!.*(--|\.\.))[A-Za-z0-9](?:[\w.-]*\w)?(?:/\w(?:[\w.-]*\w)?)?", re.ASCII)
REVISION = re.compile(r"(?!.*(\.\.|//|@\{))[^\x00-\x20\x7f~^:?*\[\\/-][^\x00-\x20\x7f~^:?*\[\\]*")
"""A branch, tag or commit, as git allows them: no path that leads elsewhere."""
WITHOUT_EFFECT = re.compile(r"logging_.*|report_to|run_name|disable_tqdm|dataloader_(pin_memory|num_workers)")
"""Names of `TrainingArguments` that change no score: what is shown, and how data is fetched."""
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}|multilingual|code")


@dataclass(frozen=True, kw_only=True)
class ModelFacts(CheckedFields):
    """One model. `name` is what people call it; `id` is its Hub id, if it has one; `license` is the Hub's identifier.

    `license_name` and `license_link` say more where `license` is "other". `base_model` is the Hub id of the model that
    this one was fine-tuned from. `language` holds ISO 639 codes, "multilingual" or "code". `citation` is BibTeX.
    `dtype` is what the weights are stored in. Of a model with two stacks `layers` is the encoder's.
    """

    name: str
    id: str | None = None
    base_model: str | None = None
    revision: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: tuple[str, ...] = ()
    citation: str | None = None
    class_name: str | None = None
    model_type: str | None = None
    layers: int | None = None
    decoder_layers: int | None = None
    hidden_size: int | None = None
    heads: int | None = None
    vocabulary: int | None = None
    max_length: int | None = None
    parameters: int | None = None
    embedding_parameters: int | None = None
    block_parameters: int | None = None
    dtype: str | None = None
    bytes_on_disk: int | None = None

    def __post_init__(self) -> None:
        _check_hub_id(self.id, "ModelFacts.id")
        _check_hub_id(self.base_model, "ModelFacts.base_model")
        super().__post_init__()
        _check_languages(self.language, "ModelFacts.language")
        if self.license is not None and not _LICENSE.fullmatch(self.license):
            raise wrong_value(
                "ModelFacts.license", "the Hub's identifier of a licence, such as 'apache-2.0'", self.license
            )


@dataclass(frozen=True, kw_only=True)
class Provenance(CheckedFields):
    """Where the student's weights came from: the same fields as the provenance that `build_student` reports.

    `kept_pieces` of the teacher's vocabulary of `teacher_pieces` are the student's; None where it has all. Of a student
    that is narrower `kept_units` says how many units of what it kept of how many, and `units_chosen_by` how.
    """

    teacher: str
    revision: str | None = None
    teacher_layers: int
    copied_blocks: tuple[int, ...] = ()
    copied_decoder_blocks: tuple[int, ...] = ()
    frozen: tuple[str, ...] = ()
    kept_pieces: int | None = None
    teacher_pieces: int | None = None
    kept_units: dict[str, tuple[int, int]] = field(default_factory=dict, hash=False)
    units_chosen_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class AlignmentFacts(CheckedFields):
    """One term of the loss, with the fields of `Alignment` and its name.

    Of a weight or temperature that changed, the number is the last, and the schedule is told in words.
    """

    name: str
    feature: str
    student_layer: int | None = None
    teacher_layer: int | None = None
    loss: str
    weight: float = 1.0
    weight_schedule: str | None = None
    temperature: float = 1.0
    temperature_schedule: str | None = None
    projection: Literal[True, False, "shared"] = False
    relation_heads: int | None = None
    positions: str = "tokens"
    stack: str | None = None
    teacher: int | None = None


@dataclass(frozen=True, kw_only=True)
class DataFacts(CheckedFields):
    """One data set. `hub_id` only if it is on the Hub; a corpus from elsewhere has a `url` or a `description`.

    `role` "unlabelled": its labels are those of teachers. `size_bytes` is the size of its text, `filtering` a sentence
    about what was left out, `counts` the figures behind that sentence.
    """

    name: str
    role: Literal["train", "unlabelled", "evaluation"]
    hub_id: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    url: str | None = None
    license: str | None = None
    language: tuple[str, ...] = ()
    examples: int | None = None
    tokens: int | None = None
    size_bytes: int | None = None
    description: str | None = None
    filtering: str | None = None
    counts: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _check_hub_id(self.hub_id, "DataFacts.hub_id")
        super().__post_init__()
        _check_languages(self.language, "DataFacts.language")


@dataclass(frozen=True, kw_only=True)
class Evaluation(CheckedFields):
    """One score of one model on one data set: per seed in `values`, or a single `value` when no seed is known."""

    role: Role
    task_type: str
    dataset_name: str
    dataset_id: str | None = None
    dataset_config: str | None = None
    dataset_split: str | None = None
    dataset_revision: str | None = None
    metric_type: str
    metric_name: str | None = None
    higher_is_better: bool = True
    values: dict[int, float] = field(default_factory=dict)
    value: float | None = None

    def __post_init__(self) -> None:
        _check_hub_id(self.dataset_id, "Evaluation.dataset_id")
        super().__post_init__()
        if bool(self.values) == (self.value is not None):
            raise RecordError(
                f"Evaluation: expected either `values` per seed or one `value`; came {self.values} and {self.value}."
            )

    @property
    def mean(self) -> float:
        """Mean over the seeds, or the single value."""
        return statistics.fmean(self.values.values()) if self.value is None else self.value

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over the seeds; None with fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class SpeedFacts(CheckedFields):
    """How long one forward pass takes: the median, in milliseconds, and what it was measured with."""

    ms_per_batch: float
    batch_size: int
    length: int
    threads: int
    dtype: str
    hardware: str


@dataclass(frozen=True, kw_only=True)
class Hardware(CheckedFields):
    """The machine: no host name, no user name."""

    cpu: str | None = None
    cores: int | None = None
    memory_gib: float | None = None
    gpus: tuple[str, ...] = ()
    processes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Emissions(CheckedFields):
    """What codecarbon measured of a run."""

    co2_grams: float
    energy_kwh: float | None = None
    country: str | None = None


@dataclass(frozen=True, kw_only=True)
class Record(CheckedFields):
    """The facts of one run. What is not known stays None or empty; nested facts may be given as mappings.

    Attributes:
        stage: "distill"; "adapt" for a run that trained the teacher further before that; "finetune" for one that
            fine-tunes the teacher or the student on a task; "prepare" for one that tokenised the text.
        student, teacher, provenance: the two models, and how the first came from the second.
        other_teachers: those that taught besides, the second and so on, as `AlignmentFacts.teacher` counts them.
        teacher_weights: of all teachers in the mean of their logits, with the sum 1; empty for one.
        method: name of the published recipe, a function of `methods`; None for alignments of one's own.
        alignments: the terms of the loss.
        task_weight, task_weight_schedule: the weight of the student's own loss on labels.
        taught: roles that learned the alignments on the task, from fine-tuned teachers.
        taught_by: which these were: the one that was fine-tuned with the same seed, or those of all seeds together.
        taught_arguments: those of `TrainingArguments` that were others for who was taught.
        balanced: whether the terms were given gradients of the same norm.
        teacher_dtype: what the teacher computed in, as torch calls it.
        teacher_cache: what its features were kept in, where they were. top_logits: how many of its logits, if not all.
        never_trained: parameter name -> its share of the student's parameters. Empty: all were trained.
        data, evaluations: what it learned from, and how good the models are.
        hyperparameters: those that differ from the default of `TrainingArguments`; arguments: all of them.
        versions, hardware, date, seconds, steps, tokens, command, seeds: how it was run. `date` is ISO 8601 with UTC.
        git_commit: the commit of the working directory, with "-dirty" if it had changes that were not committed.
        peak_memory_gib: of the first process, on its GPU if it used one.
        emissions: what codecarbon measured.
        loss_curve: term -> (step, value) points.
        best_step: the step whose weights were kept, where that was not the last.
        speed: by role, for one or more sizes of batch.

    Raises:
        RecordError: a value of the wrong type, not finite, or that holds an access token.
    """

    stage: Literal["adapt", "distill", "finetune", "prepare"]
    student: ModelFacts | None = None
    teacher: ModelFacts | None = None
    other_teachers: tuple[ModelFacts, ...] = ()
    teacher_weights: tuple[float, ...] = ()
    provenance: Provenance | None = None
    method: str | None = None
    alignments: tuple[AlignmentFacts, ...] = ()
    task_weight: float | None = None
    task_weight_schedule: str | None = None
    taught: tuple[Role, ...] = ()
    taught_by: Literal["same_seed", "all_seeds"] | None = None
    taught_arguments: dict[str, Any] = field(default_factory=dict)
    balanced: bool | None = None
    teacher_dtype: str | None = None
    teacher_cache: str | None = None
    top_logits: int | None = None
    never_trained: dict[str, float] | None = None
    data: tuple[DataFacts, ...] = ()
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    hardware: Hardware | None = None
    date: str | None = None
    seconds: float | None = None
    steps: int | None = None
    tokens: int | None = None
    peak_memory_gib: float | None = None
    emissions: Emissions | None = None
    loss_curve: dict[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    best_step: int | None = None
    command: str | None = None
    git_commit: str | None = None
    seeds: tuple[int, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    speed: dict[Role, tuple[SpeedFacts, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.date is not None:
            try:
                offset = datetime.fromisoformat(self.date).utcoffset()
            except ValueError:
                offset = None
            if offset is None or offset.total_seconds() != 0:
                raise wrong_value(
                    "Record.date", "an ISO date and time in UTC such as 2026-01-31T12:00:00+00:00", self.date
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the record as JSON, atomically."""
        content = {"schema": SCHEMA, **dataclasses.asdict(self)}
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        write_atomically(path, (text + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Record":
        """Reads a record that `save` wrote.

        Raises:
            RecordError: the file is missing or not JSON, or a field is unknown, missing or of the wrong type.
        """
        try:
            content = json.loads(Path(path).read_bytes())
            if not isinstance(content, dict) or content.get("schema") != SCHEMA:
                came = content.get("schema") if isinstance(content, dict) else type(content).__name__
                raise wrong_value("schema", f"a JSON object with `schema` {SCHEMA}, which `Record.save` writes", came)
            del content["schema"]
            return typing.cast(Record, checked(content, cls, "Record"))
        except (OSError, ValueError, RecursionError) as error:  # JSON, UTF-8 and record errors are all ValueErrors
            raise RecordError(f"{path} cannot be read as a record: {error}") from error


def _check_hub_id(hub_id: object, where: str) -> None:
    """Before paths are cut: the last part of a local path would look like an id, of somebody else's model."""
    if isinstance(hub_id, str) and not HUB_ID.fullmatch(hub_id):
        raise wrong_value(where, "a Hub id, namespace/name, and None for a local path", hub_id)


def _check_languages(codes: tuple[str, ...], where: str) -> None:
    """The Hub refuses a page with another code, and then every later commit."""
    for code in codes:
        if not _LANGUAGE.fullmatch(code):
            raise wrong_value(where, "ISO 639 codes such as 'sv', or 'multilingual' or 'code'", code)
