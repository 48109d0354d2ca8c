"""The text of a recipe."""

from dataclasses import dataclass

from distil_trainer.recipe.strict import require


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
        require(bool(self.files), "files", "at least one path", self.files)
        require(self.max_length >= 1, "max_length", "at least 1", self.max_length)
        if self.max_examples is not None:
            require(self.max_examples >= 1, "max_examples", "at least 1, or null for all", self.max_examples)
        if self.mlm_probability is not None:
            require(0 < self.mlm_probability < 1, "mlm_probability", "between 0 and 1", self.mlm_probability)
