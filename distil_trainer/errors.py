"""The errors this library raises on purpose. Each message says what was expected, what came, and what to do."""

import re

# Characters that move the cursor, change colours or turn the writing direction, and halves of a character.
_ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_START, _END = 8_000, 2_000  # characters of a message that is cut


def printable(text: str) -> str:
    r"""`text`, with what a terminal would act upon spelled out: `\x1b` for the escape character. Lines stay lines."""
    return _ACTIVE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class DistilTrainerError(Exception):
    """Base of every error of ours: `except DistilTrainerError` catches them all.

    A message may quote a file or a name of any origin: it is made `printable`, and cut in the middle if it is long.
    """

    def __init__(self, message: str = "") -> None:
        cut = len(message) > _START + _END
        super().__init__(printable(f"{message[:_START]} [...] {message[-_END:]}" if cut else message))


class AlignmentError(DistilTrainerError, ValueError):
    """An alignment or a layer map that cannot be computed."""


class StudentError(DistilTrainerError, ValueError):
    """A student that cannot be built from this teacher."""


class VocabularyError(DistilTrainerError, ValueError):
    """A tokenizer whose vocabulary cannot be trimmed as asked."""


class CaptureError(DistilTrainerError, RuntimeError):
    """A model whose blocks or attention inputs cannot be read."""


class TrainingSetupError(DistilTrainerError, ValueError):
    """Arguments of `DistillationTrainer` that do not fit together."""


class CheckpointError(DistilTrainerError, RuntimeError):
    """A checkpoint that cannot be written, or that no run can go on from. Older ones are as they were."""


class NonFiniteError(DistilTrainerError, FloatingPointError):
    """A loss, a gradient or a teacher's output that is NaN or infinite. The student is as it was before that step."""


class DataError(DistilTrainerError, ValueError):
    """Data that cannot be used as it is."""


class RecordError(DistilTrainerError, ValueError):
    """A record that is incomplete, or not one of ours."""


class RecipeError(DistilTrainerError, ValueError):
    """A recipe (YAML and overrides) with an unknown key or a value of the wrong type."""


class CardError(DistilTrainerError, ValueError):
    """The page of a model, or its metadata, that the Hub would refuse."""


class PublishError(DistilTrainerError, RuntimeError):
    """A model that could not be published. Nothing local was changed, and the same call may be made again.

    Attributes:
        reason: "files" (the folder), "token" (none, or not valid), "permission", "gated", "missing" (repository or
            revision), "conflict" (somebody else changed it), "refused" (by the Hub, for what was sent), "offline",
            "network", "server", or "unexpected".
    """

    def __init__(self, reason: str, what: str, remedy: str) -> None:
        super().__init__(f"{what} {remedy}")
        self.reason = reason
