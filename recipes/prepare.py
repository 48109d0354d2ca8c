"""Reads a corpus, tokenises it and cuts it into rows once, for every run that trains on it.

    accelerate launch recipes/prepare.py RECIPE.yaml [key=value ...]

The rows, the tokenizer and a record go to output_dir, where the recipe of a training finds them with data.prepared. The
folder is there when it is finished, not before; what has been read until an interruption is in the cache of `datasets`
(HF_DATASETS_CACHE), which may be deleted afterwards.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from accelerate.state import PartialState

from distil_trainer import Record
from distil_trainer.data import find_files
from distil_trainer.errors import DataError, printable
from distil_trainer.facts import process_facts
from distil_trainer.recipe import PrepareRecipe, TextData, load_recipe, load_tokenizer
from distil_trainer.text import raw_texts, read_text
from distil_trainer.text.prepared import check_new, load_prepared, prepared_record, prepared_tokenizer, save_text
from distil_trainer.vocabulary import match_pieces, trim_vocabulary

SEED = 0  # draws data.max_examples
# What the text is called, how fast it is read and what it is for; and the patterns, for which their files stand.
_NO_SETTINGS = (
    *("name", "description", "filtering", "url", "license", "language", "num_proc"),
    *("stream", "shuffle_buffer", "mlm_probability", "prepared", "files", "validation"),
)


def main(path: str, overrides: list[str]) -> None:
    """Everything from the recipe to the finished folder."""
    recipe = load_recipe(PrepareRecipe, path, overrides)
    if not PartialState().is_main_process:
        return
    started = time.perf_counter()
    settings = settings_of(recipe)
    tokenizer = load_tokenizer(recipe.tokenizer, recipe.tokenizer_revision)
    if is_prepared(recipe.output_dir, settings):
        if recipe.vocabulary is not None:
            own = prepared_tokenizer(recipe.output_dir)
            match_pieces(tokenizer, own)
            tokenizer = own
        load_prepared(recipe.output_dir, tokenizer)  # raises if it cannot be read, or is of another tokenizer
        print(f"{recipe.output_dir} holds this text already.")
        return
    if recipe.vocabulary is not None:
        texts = raw_texts(recipe.data, recipe.vocabulary.texts)
        trimmed = trim_vocabulary(tokenizer, texts, **recipe.vocabulary.limits)
        print(trimmed, flush=True)
        tokenizer = trimmed.tokenizer
    text = read_text(recipe.data, tokenizer, seed=SEED)
    record = Record(
        stage="prepare",
        data=(text.facts,),
        arguments=settings,
        seconds=time.perf_counter() - started,
        tokens=text.facts.tokens,
        **process_facts(),
    )
    save_text(text, tokenizer, recipe.output_dir, record)
    if text.facts.counts:
        print(table(text.facts.counts))
    size = sum(file.stat().st_size for file in Path(recipe.output_dir).rglob("*") if file.is_file())
    print(
        f"{text.facts.examples:,} rows, {text.facts.tokens:,} tokens"
        f"{'' if text.validation is None else f', {len(text.validation):,} rows of validation'}; "
        f"{size / 1e6:,.1f} MB on disk; {time.perf_counter() - started:,.1f} seconds\n"
        f"The rows, their tokenizer and the record: {recipe.output_dir}"
    )


def settings_of(recipe: PrepareRecipe) -> dict[str, Any]:
    """What decides the rows, as a record holds it: the recipe's own values, and the files with their sizes."""
    data = {f.name: getattr(recipe.data, f.name) for f in fields(TextData) if f.name not in _NO_SETTINGS}
    for name, patterns in (("files", recipe.data.files), ("validation", recipe.data.validation)):
        if patterns:
            data[name] = sizes = Counter[str]()  # files of the same name in several folders count together
            for file in find_files(patterns):
                sizes[Path(file).name] += Path(file).stat().st_size
    known = {"tokenizer": recipe.tokenizer, "tokenizer_revision": recipe.tokenizer_revision, **data}
    if recipe.vocabulary is not None:
        known["vocabulary"] = asdict(recipe.vocabulary)
    given = {name: value for name, value in known.items() if value not in (None, ())}
    return Record(stage="prepare", arguments=given).arguments


def is_prepared(folder: str, settings: Mapping[str, Any]) -> bool:
    """Whether the folder holds just this. Raises DataError when it holds something else."""
    record = prepared_record(folder)
    if record is None:
        check_new(folder)
        return False
    theirs = record.arguments
    other = [name for name in sorted({*theirs, *settings}) if theirs.get(name) != settings.get(name)]
    if other:
        changes = ", ".join(f"{name} ({theirs.get(name)}, now {settings.get(name)})" for name in other)
        raise DataError(
            f"expected a new folder, or this text in it, but {folder} holds text prepared with another {changes}; "
            "delete the folder, or choose another output_dir"
        )
    return True


def table(counts: Mapping[str, Any]) -> str:
    """What was kept of a corpus by year and genre, and what was left out."""
    names = ("texts", "sentences", "tokens")
    lines: list[Sequence[Any]] = [("", *(f"{name} of the corpus" if name == "tokens" else name for name in names))]
    lines += [(group, *(amount[name] for name in names)) for group, amount in counts["kept"].items()]
    for title, groups in (("together", counts["kept"]), ("left out", counts["left_out"])):
        lines.append((title, *(_sum(groups.values(), name) for name in names)))
    cells = [[cell if isinstance(cell, str) else f"{cell:,}" for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in cells]
    broken = counts["broken"]
    if broken["places"]:
        rows.append(f"{broken['places']:,} broken places in {broken['files']:,} files")
    return "\n".join(map(printable, rows))  # genres are text of the corpus


def _sum(amounts: Iterable[Mapping[str, int]], name: str) -> int:
    return sum(amount[name] for amount in amounts)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
