"""A weight or a temperature that changes while training goes on."""

import math
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Literal, TypeAlias

from distil_trainer.errors import AlignmentError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A number as a function of progress, the share of the optimizer steps that are done: `schedule(0.5)`.

    Attributes:
        start: its value at first.
        end: its value at last.
        shape: how it gets from one to the other: along a line, or along half a period of a cosine.
        begin: the progress at which it starts to change.
        finish: the progress at which it has arrived. The same as `begin` makes it jump there.

    Raises:
        AlignmentError: on construction, when a value is out of its range.
    """

    start: float
    end: float
    shape: Literal["linear", "cosine"] = "linear"
    begin: float = 0.0
    finish: float = 1.0

    def __post_init__(self) -> None:
        for name in ("start", "end", "begin", "finish"):
            value = getattr(self, name)
            if not is_number(value) or value < 0:
                raise AlignmentError(f"{name} of a schedule should be a number from 0; got {value!r}.")
        if not self.begin <= self.finish <= 1:
            raise AlignmentError(
                "a schedule should begin before it finishes, both from 0 to 1 (shares of the optimizer steps); got "
                f"begin={self.begin!r} and finish={self.finish!r}."
            )
        if self.shape not in ("linear", "cosine"):
            raise AlignmentError(f"shape of a schedule should be linear or cosine; got {self.shape!r}.")

    def __call__(self, progress: float) -> float:
        """The value at `progress`, from 0 to 1."""
        if progress < self.begin:
            return self.start
        if progress >= self.finish:
            return self.end
        share = (progress - self.begin) / (self.finish - self.begin)
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.start + share * (self.end - self.start)

    def __str__(self) -> str:
        change = f"{self.start:g} → {self.end:g}"
        if self.begin == self.finish:
            return f"{change} at {self.begin:.0%} of the steps"
        if (self.begin, self.finish) == (0, 1):
            return f"{change}, {self.shape}"
        return f"{change}, {self.shape} from {self.begin:.0%} to {self.finish:.0%} of the steps"


Scheduled: TypeAlias = float | Schedule


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def value_at(value: Scheduled, progress: float) -> float:
    """What a number or a schedule is at `progress`."""
    return value(progress) if isinstance(value, Schedule) else value


def scaled(value: Scheduled, factor: float) -> Scheduled:
    """A number or a schedule, times a factor."""
    if isinstance(value, Schedule):
        return replace(value, start=factor * value.start, end=factor * value.end)
    return factor * value


def ends(value: Scheduled) -> tuple[float, float]:
    """What a number or a schedule is at first and at last."""
    return (value.start, value.end) if isinstance(value, Schedule) else (value, value)
