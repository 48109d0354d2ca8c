"""The text of a recipe."""

from dataclasses import dataclass, fields

from distil_trainer.recipe.strict import require, require_revision
from distil_trainer.record import DataFacts

_OF_READING = ("config", "split", "revision", "validation_split", "column", "years", "genres", "max_length", "group")


@dataclass(frozen=True, kw_only=True)
class TextData:
    """Text to train on: local files, a data set of the Hub, or what `recipes/prepare.py` made of either.

    Attributes:
        files: paths or globs of the training text, relative to the working directory: .txt with one example a line,
            .jsonl or .json with one JSON object a line, .parquet, or XML of Språkbanken (.xml, .xml.bz2, .xml.gz). .txt
            and .jsonl may be compressed (.gz).
        hub_id: the data set's id on the Hub. Without `files` it is read from there; with them it is what the card says.
        config: the data set's configuration on the Hub.
        split: its split to train on.
        revision: branch, tag or commit on the Hub.
        prepared: a folder that `recipes/prepare.py` wrote; then nothing else says where the text comes from.
        validation: paths or globs of the validation text; none means no evaluation.
        validation_split: the split of the data set on the Hub to evaluate on.
        column: the key of the text in .jsonl, .parquet and on the Hub.
        years: first and last year of the texts to take, both included; XML of Språkbanken only.
        genres: genres of the texts to take; XML of Språkbanken only. None means all.
        skip_broken: leave out what cannot be read of broken XML, with a warning; else it is an error.
        stream: train from the text as it is read, without a tokenised copy on disk; needs `training.max_steps`.
        shuffle_buffer: with `stream`, how many texts are held to draw from. The order of the text itself is kept else.
        max_length: tokens an example is cut to, or with `group` the tokens of each row.
        group: put the texts end to end and cut rows of `max_length` tokens, so that there is no padding.
        max_examples: how many training examples to use, drawn by the seed; with `stream` the first of each pass. None
            means all.
        mlm_probability: share of tokens to mask; None leaves the text as it is.
        num_proc: processes that read and tokenise; None is one.
        name: what the card calls the data.
        description: a sentence about it for the card.
        filtering: a sentence about what was left out of it, for the card.
        url: where it can be had, if it is not on the Hub.
        license: its license, for the card.
        language: its languages as ISO 639 codes, for the card.
    """

    files: tuple[str, ...] = ()
    hub_id: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    prepared: str | None = None
    validation: tuple[str, ...] = ()
    validation_split: str | None = None
    column: str = "text"
    years: tuple[int, ...] | None = None
    genres: tuple[str, ...] = ()
    skip_broken: bool = False
    stream: bool = False
    shuffle_buffer: int = 10_000
    max_length: int = 128
    group: bool = False
    max_examples: int | None = None
    mlm_probability: float | None = None
    num_proc: int | None = None
    name: str | None = None
    description: str | None = None
    filtering: str | None = None
    url: str | None = None
    license: str | None = None
    language: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        is_raw = bool(self.files or self.hub_id)
        require(is_raw or self.prepared is not None, "files", "files, hub_id or prepared", self.files)
        if self.prepared is not None:
            require(not is_raw and not self.validation, "prepared", "no files, hub_id or validation beside it", "both")
            require(not self.stream, "stream", "false with prepared, which is on disk already", self.stream)
            for option in fields(self):
                value = getattr(self, option.name)
                is_free = option.name not in _OF_READING or value == option.default
                require(is_free, option.name, "nothing with prepared, whose rows are as they were made", value)
        require_revision("revision", self.revision)
        if self.validation_split is not None:
            require(not self.files, "validation_split", "null with files; name files in validation", "both")
        if self.years is not None:
            is_range = len(self.years) == 2 and self.years[0] <= self.years[1]
            require(is_range, "years", "the first and the last year", self.years)
        require(self.shuffle_buffer >= 1, "shuffle_buffer", "at least 1", self.shuffle_buffer)
        require(self.max_length >= 1, "max_length", "at least 1", self.max_length)
        if self.max_examples is not None:
            require(self.max_examples >= 1, "max_examples", "at least 1, or null for all", self.max_examples)
        if self.mlm_probability is not None:
            require(0 < self.mlm_probability < 1, "mlm_probability", "between 0 and 1", self.mlm_probability)
        if self.num_proc is not None:
            require(self.num_proc >= 1, "num_proc", "at least 1, or null for one", self.num_proc)
        DataFacts(  # raises now for what no record takes, not after all has been read
            name=self.name or "text",
            role="train",
            hub_id=self.hub_id,
            url=self.url,
            license=self.license,
            language=self.language,
            description=self.description,
            filtering=self.filtering,
        )
