"""The labelled data of a recipe."""

from dataclasses import dataclass

from distil_trainer.recipe.strict import require


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
        require(bool(self.train), "train", "at least one path", self.train)
        require(bool(self.test), "test", "at least one path", self.test)
