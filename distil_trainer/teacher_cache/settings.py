"""Where and how the features of a teacher are kept, and what cannot be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from distil_trainer.alignment import Alignment
from distil_trainer.blocks import has_two_stacks
from distil_trainer.errors import TrainingSetupError
from distil_trainer.schedule import Schedule
from distil_trainer.teacher import Teacher

TAKE_TOP = ("kl", "soft_cross_entropy")


@dataclass(frozen=True, kw_only=True)
class TeacherCache:
    """Where the features of a teacher are kept, and how.

    Attributes:
        folder: of the cache; made if it is not there. It serves runs that compare the same features with the same
            teacher, one after another or at once.
        dtype: what numbers are kept in. float32 gives the losses of a run without a cache; the others take half the
            space, and round as a teacher in that dtype would.
        top_k: keep of a language model's logits the k largest of each position, and the probability of all other tokens
            together (see `losses.logits`); for the losses kl and soft_cross_entropy. None keeps what all the logits are
            formed from.

    Raises:
        TrainingSetupError: on construction, for another dtype, or a `top_k` below 1.
    """

    folder: str
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    top_k: int | None = None

    def __post_init__(self) -> None:
        dtypes = ("float32", "bfloat16", "float16")
        if self.dtype not in dtypes:
            raise TrainingSetupError(
                f"dtype of a teacher cache should be one of {', '.join(dtypes)}; got {self.dtype!r}."
            )
        if self.top_k is not None and (type(self.top_k) is not int or self.top_k < 1):
            raise TrainingSetupError(f"top_k should be a whole number from 1, or None; got {self.top_k!r}.")


def caches_of(cache: TeacherCache, teachers: int) -> list[TeacherCache]:
    """Where each of several teachers' features are kept: a folder for each in that of `cache`; one teacher has it all.

    Raises:
        TrainingSetupError: `top_k` for several, whose mean is one of all logits.
    """
    if teachers == 1:
        return [cache]
    if cache.top_k is not None:
        raise TrainingSetupError(
            f"top_k keeps some logits of one teacher, and the mean of {teachers} is one of all logits. Leave top_k out."
        )
    return [replace(cache, folder=str(Path(cache.folder) / f"teacher-{number}")) for number in range(1, teachers + 1)]


def check_supported(teacher: Teacher, alignments: Sequence[Alignment], cache: TeacherCache) -> None:
    """Raise TrainingSetupError for a teacher or alignments that a cache cannot serve."""
    model = teacher.model
    name = type(model).__name__
    if has_two_stacks(model):
        raise TrainingSetupError(
            f"a teacher cache holds models with one stack of blocks; {name} has an encoder and a decoder. Leave "
            "teacher_cache out."
        )
    if model.main_input_name != "input_ids":
        raise TrainingSetupError(
            f"a teacher cache finds rows by their input ids; {name} reads {model.main_input_name}. Leave "
            "teacher_cache out."
        )
    if teacher.reader.asks_for_probs:
        raise TrainingSetupError(
            f"of {name} only whole attention maps can be read, which are too large to keep. Leave teacher_cache out, "
            "or align hidden states or logits of this model."
        )
    if cache.top_k is None:
        return
    logits = [alignment for alignment in alignments if alignment.feature == "logits"]
    if not logits or teacher.reader.head is None:
        what = "no alignment compares logits" if not logits else f"{name} has none"
        raise TrainingSetupError(f"top_k is for the logits of a language model's head, but {what}. Leave top_k out.")
    losses = {alignment.loss for alignment in logits} - set(TAKE_TOP)
    if losses:
        raise TrainingSetupError(
            f"top_k is for the losses {' and '.join(TAKE_TOP)}; {min(losses)} needs all logits. Leave top_k out."
        )
    temperatures = {alignment.temperature for alignment in logits}
    if len(temperatures) > 1 or any(isinstance(temperature, Schedule) for temperature in temperatures):
        raise TrainingSetupError(
            "with top_k the probability of all other tokens is kept for one temperature, but that of logits is "
            f"{' and '.join(map(str, temperatures))}. Leave top_k out, or give one number."
        )
