"""From the text of a recipe to tokenised rows, on disk or as a stream, with exact facts about them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from datasets.exceptions import DatasetsError
from transformers import PreTrainedTokenizerBase

from distil_trainer.corpora import load_gigaword, stream_gigaword
from distil_trainer.data import count_values, find_files, group_tokens, sample_rows, tokenize_text
from distil_trainer.errors import DataError
from distil_trainer.hub_data import commit_of, load_split
from distil_trainer.recipe import TextData
from distil_trainer.record import DataFacts
from distil_trainer.text.files import drop_blank, load_text, stream_text, text_column
from distil_trainer.text.prepared import Text, load_prepared

_XML = (".xml", ".xml.bz2", ".xml.gz")


@dataclass(frozen=True)
class _Source:
    """Texts as they were read, and what is known of them."""

    texts: Dataset | IterableDataset
    counts: dict[str, Any] = field(default_factory=dict)
    commit: str | None = None


def read_text(data: TextData, tokenizer: PreTrainedTokenizerBase, *, seed: int, processes: int = 1) -> Text:
    """The rows that a recipe says. `seed` draws `max_examples`, and shuffles a stream; `processes` train on them.

    What is read, tokenised and grouped is cached by `datasets`; a stream leaves nothing on disk, and is read from the
    files, one shard each, by as many workers of a `DataLoader`, or processes, as there are.

    Raises:
        DataError: no such text, text that cannot be read, text prepared with another tokenizer, or a stream that
            several processes cannot share.
    """
    if data.stream and not data.group and processes > 1:  # the first reads for all, and hands out slices of one tensor
        raise DataError(
            f"expected rows of one length, which {processes} processes can share, got a stream of texts; set "
            "data.group=true, prepare the text (recipes/prepare.py), or train with one process"
        )
    if data.prepared is not None:
        return _prepared(data, data.prepared, tokenizer, seed)
    validation = None
    if data.validation or data.validation_split:
        texts = _read(data, data.validation, data.validation_split or "", stream=False).texts
        validation = _rows(texts, data, tokenizer)
    source = _read(data, data.files, data.split, stream=data.stream)
    if isinstance(source.texts, IterableDataset):
        return Text(_stream(source.texts, data, tokenizer, seed), validation, _facts(data, source))
    rows = _rows(source.texts, data, tokenizer)
    if data.max_examples is not None:
        return _sampled(Text(rows, validation, _facts(data, source)), data.max_examples, seed)
    facts = _facts(data, source, size_bytes=count_values(source.texts, "text"), **_amount(rows))
    return Text(rows, validation, facts)


def raw_texts(data: TextData, number: int | None = None) -> Iterator[str]:
    """The training text of a recipe as it is, one text after the other: the first `number`, or all.

    Raises:
        DataError: no such text, or text that cannot be read.
    """
    batches = _read(data, data.files, data.split, stream=data.stream).texts.iter(batch_size=1000)
    return islice(chain.from_iterable(batch["text"] for batch in batches), number)


def _read(data: TextData, patterns: Sequence[str], split: str, *, stream: bool) -> _Source:
    """Texts from the files that the patterns name; without patterns, a split of the Hub."""
    files = find_files(patterns) if patterns else []
    of_xml = [file for file in files if file.endswith(_XML)]
    if not of_xml and (data.years or data.genres):
        raise DataError(
            "expected XML of Språkbanken for years and genres, which other text does not tell, got "
            f"{files[0] if files else data.hub_id}; leave years and genres out"
        )
    if not files:
        hub_id, commit = str(data.hub_id), commit_of(str(data.hub_id), data.revision)
        revision = commit or data.revision
        loaded = load_split(hub_id, split, config=data.config, revision=revision, stream=stream)
        return _Source(drop_blank(text_column(loaded, data.column, f"{hub_id}, split {split}")), commit=commit)
    if not of_xml:
        return _Source((stream_text if stream else load_text)(files, column=data.column))
    if len(of_xml) < len(files):
        other = next(file for file in files if file not in of_xml)
        raise DataError(f"expected either XML of Språkbanken or other files, got {of_xml[0]} and {other}; choose one")
    chosen: Any = {"years": data.years, "genres": data.genres, "skip_broken": data.skip_broken}
    if stream:
        return _Source(stream_gigaword(of_xml, **chosen))
    return _Source(*load_gigaword(of_xml, num_proc=data.num_proc, **chosen))


def _rows(texts: Any, data: TextData, tokenizer: PreTrainedTokenizerBase) -> Any:
    num_proc = data.num_proc if data.num_proc != 1 else None
    if data.group:
        return group_tokens(tokenize_text(texts, tokenizer, None, num_proc=num_proc), data.max_length)
    return tokenize_text(texts, tokenizer, data.max_length, num_proc=num_proc)


def _stream(texts: IterableDataset, data: TextData, tokenizer: PreTrainedTokenizerBase, seed: int) -> IterableDataset:
    try:
        first = next(iter(_rows(texts, data, tokenizer)), None)
    except DataError:
        raise
    except (DatasetsError, EOFError, OSError, ValueError) as error:
        raise DataError(f"expected text, which cannot be read: {error}; check the files") from error
    if first is None:
        raise DataError("expected a stream of text, got not one row; check the files, years, genres and max_length")
    if data.shuffle_buffer > 1:
        texts = texts.shuffle(seed=seed, buffer_size=data.shuffle_buffer)
    rows: IterableDataset = _rows(texts, data, tokenizer)
    return rows if data.max_examples is None else rows.take(data.max_examples)


def _prepared(data: TextData, folder: str, tokenizer: PreTrainedTokenizerBase, seed: int) -> Text:
    text = load_prepared(folder, tokenizer)
    given = {name: getattr(data, name) for name in ("name", "description", "filtering", "url", "license", "language")}
    text = replace(text, facts=replace(text.facts, **{name: value for name, value in given.items() if value}))
    return text if data.max_examples is None else _sampled(text, data.max_examples, seed)


def _sampled(text: Text, number: int, seed: int) -> Text:
    assert isinstance(text.train, Dataset)
    rows = sample_rows(text.train, number, seed=seed)
    return replace(text, train=rows, facts=replace(text.facts, size_bytes=None, **_amount(rows)))


def _amount(rows: Dataset) -> dict[str, Any]:
    return {"examples": len(rows), "tokens": count_values(rows, "input_ids")}


def _facts(data: TextData, source: _Source, **amounts: Any) -> DataFacts:
    from_hub = not data.files
    names = ", ".join(Path(file).name for file in data.files)
    return DataFacts(
        name=data.name or names or str(data.hub_id),
        role="train",
        hub_id=data.hub_id,
        config=data.config if from_hub else None,
        split=data.split if from_hub else None,
        revision=source.commit or data.revision,
        url=data.url,
        license=data.license,
        language=data.language,
        description=data.description,
        filtering=data.filtering or _filtering(data, source.counts),
        counts=source.counts,
        **amounts,
    )


def _filtering(data: TextData, counts: dict[str, Any]) -> str | None:
    """What the filter and broken files did, in words."""
    told = []
    chosen = [f"of {data.years[0]} to {data.years[1]}"] if data.years else []
    chosen += [f"of the genres {', '.join(data.genres)}"] if data.genres else []
    if chosen:
        left_out = sum(amount["sentences"] for amount in counts["left_out"].values()) if counts else 0
        effect = f": {counts['sentences']:,} sentences kept, {left_out:,} left out" if counts else ""
        told.append(f"Texts {' and '.join(chosen)}{effect}.")
    if counts and counts["broken"]["places"]:
        broken = counts["broken"]
        told.append(
            f"Left out {broken['lost_bytes']:,} bytes of XML in {broken['places']:,} broken places and "
            f"{broken['unread_bytes']:,} bytes that cannot be decompressed."
        )
    return " ".join(told) or None
