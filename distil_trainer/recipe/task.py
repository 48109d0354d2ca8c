"""The data of a task: labelled to learn from and to score on, and unlabelled for the teacher to label."""

from dataclasses import dataclass, field

from distil_trainer.recipe.strict import require, require_revision
from distil_trainer.record import HUB_ID


@dataclass(frozen=True, kw_only=True)
class ScoredData:
    """Labelled examples to score on: local files, or a split of a data set of the Hub.

    Attributes:
        name: what the card calls the data set.
        test: paths or globs to score on, relative to the working directory: .jsonl or .json (also .gz), .parquet.
        hub_id: the data set's id on the Hub. Without files it is read from there; with them it is what the card says.
        config: its configuration; in the Hub's conversion to parquet the folder of that name.
        revision: branch, tag or commit on the Hub. "refs/convert/parquet" is the Hub's own conversion, the only way to
            a data set that is made by a script.
        test_split: the split of the Hub to score on; with files, the split that they are, for the card.
        tokens_column: the words of a sentence.
        tags_column: their BIO tags, as text or as class ids.
        text_columns: of whole texts; the one or the two that an example consists of.
        label_column: the class of a text, or the score of a pair.
        rename_types: entity type -> the type that it counts as.
        keep_types: the entity types that count, after renaming; tags of others become O. null keeps all.
        license: its license, for the card.
        language: its languages as ISO 639 codes, for the card.
    """

    name: str
    test: tuple[str, ...] = ()
    hub_id: str | None = None
    config: str | None = None
    revision: str | None = None
    test_split: str = "test"
    tokens_column: str = "tokens"
    tags_column: str = "ner_tags"
    text_columns: tuple[str, ...] = ("text",)
    label_column: str = "label"
    rename_types: dict[str, str] = field(default_factory=dict)
    keep_types: tuple[str, ...] | None = None
    license: str | None = None
    language: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_source(self, "test", self.test)
        if self.keep_types is not None:
            require(bool(self.keep_types), "keep_types", "at least one type, or null for all", self.keep_types)


@dataclass(frozen=True, kw_only=True)
class UnlabelledData:
    """Examples that fine-tuned teachers label, for those whom they teach.

    Attributes:
        name: what the card calls the data set.
        files: paths or globs, relative to the working directory: .jsonl or .json (also .gz), .parquet.
        hub_id, config, revision: as in `ScoredData`.
        splits: the splits of the Hub, put together; with files, those that they are, for the card.
        tokens_column: the words of a sentence; labels, if there are any, are not read.
        text_columns: of whole texts; the one or the two that an example consists of.
        max_examples: how many examples to use, always the same ones; null means all.
        license: its license, for the card.
        language: its languages as ISO 639 codes, for the card.
    """

    name: str
    files: tuple[str, ...] = ()
    hub_id: str | None = None
    config: str | None = None
    revision: str | None = None
    splits: tuple[str, ...] = ("train",)
    tokens_column: str = "tokens"
    text_columns: tuple[str, ...] = ("text",)
    max_examples: int | None = None
    license: str | None = None
    language: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_source(self, "files", self.files)
        require(bool(self.splits), "splits", "at least one", self.splits)
        if self.max_examples is not None:
            require(self.max_examples >= 1, "max_examples", "at least 1, or null", self.max_examples)


@dataclass(frozen=True, kw_only=True)
class TaskData(ScoredData):
    """Labelled examples to fine-tune on, and to score on.

    Attributes:
        train: paths or globs to fine-tune on; with them, all files are local. What they name is put together.
        validation: paths or globs to score on while training (`training.eval_strategy`) and at its end.
        train_splits: the splits of the Hub to fine-tune on, put together; with files, those that they are.
        validation_split: the split of the Hub to score on while training, and at its end; with files, the one they are.
        max_train_examples: how many training examples to use, always the same ones; null means all.
    """

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    train_splits: tuple[str, ...] = ("train",)
    validation_split: str | None = None
    max_train_examples: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.train or self.hub_id), "train", "at least one path, or a hub_id", self.train)
        require(bool(self.train) == bool(self.test), "test", "paths for both train and test, or for neither", self.test)
        require(bool(self.train or not self.validation), "validation", "validation_split, without train", "paths")
        require(bool(self.train_splits), "train_splits", "at least one", self.train_splits)
        if not self.train:
            scored = {self.test_split, self.validation_split} & set(self.train_splits)
            require(not scored, "train_splits", "splits that are not scored on", sorted(map(str, scored)))
        if self.max_train_examples is not None:
            require(self.max_train_examples >= 1, "max_train_examples", "at least 1, or null", self.max_train_examples)

    @property
    def has_validation(self) -> bool:
        """Whether there are examples to score on while training."""
        return bool(self.validation or (self.validation_split and not self.train))


def _check_source(data: ScoredData | UnlabelledData, name: str, files: tuple[str, ...]) -> None:
    """Raise RecipeError unless it is known where the data are: in `files`, or on the Hub."""
    require(bool(files or data.hub_id), name, "at least one path, or a hub_id", files)
    is_id = data.hub_id is None or bool(HUB_ID.fullmatch(data.hub_id))
    require(is_id, "hub_id", "an id on the Hub, such as namespace/name", data.hub_id)
    require_revision("revision", data.revision)
    is_converted = not files and (data.revision or "").startswith("refs/convert/")
    require(not is_converted or bool(data.config), "config", 'a folder of that revision, such as "default"', None)
    require(len(data.text_columns) in (1, 2), "text_columns", "one column or two", data.text_columns)
