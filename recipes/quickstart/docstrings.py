"""Text and a token-classification task from the docstrings of the Python packages that are installed.

    python recipes/quickstart/docstrings.py OUT_DIR [--paragraphs N --ner-train N --ner-eval N --seed S]

Nothing is downloaded and nothing is imported: source files are parsed with `ast`. Written into OUT_DIR:

- text_train.jsonl, text_validation.jsonl: {"text"}; paragraphs of English prose, mark-up removed, each once.
- ner_train.jsonl, ner_validation.jsonl, ner_test.jsonl: {"id", "tokens", "ner_tags"}; the rules are in `entities.py`.
- facts.json: the packages with versions and licences, and what was counted.

A module belongs to one split, by a hash of its name, for text and task alike: neither the distilled text nor the
training part of the task holds a paragraph of a validation or test module, nor one that only differs from such a
paragraph by the names and numbers in it. Equal versions of the packages and an equal seed give equal files.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from entities import Module, Names, label, read_module
from tqdm.auto import tqdm

# Import name -> distribution: what the library and its recipes install, as far as it has prose worth reading.
PACKAGES = {
    "accelerate": "accelerate",
    "aiohttp": "aiohttp",
    "datasets": "datasets",
    "evaluate": "evaluate",
    "fsspec": "fsspec",
    "huggingface_hub": "huggingface_hub",
    "networkx": "networkx",
    "numpy": "numpy",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "sympy": "sympy",
    "torch": "torch",
    "transformers": "transformers",
}
SPLITS = ("train", "validation", "test")
EMPTY_SHARE = 0.2  # of the task's paragraphs may be without any entity
# transformers.models is left out below too: a third of all source, and hundreds of models that say the same.
_NOT_PROSE = (
    "tests",
    "test",
    "testing",
    "_vendor",
    "externals",
    "_inductor",
    "benchmarks",
    "testing_utils",
    "conftest",
)


class Row(NamedTuple):
    """One paragraph: where it stands, its text, and tokens and tags where the task can use it."""

    module: str
    split: str
    text: str
    labelled: tuple[list[str], list[str]] | None


def split_of(module: str) -> str:
    """The split of a module: a tenth of them test, a tenth validation, the others train."""
    bucket = hashlib.sha256(module.encode()).digest()[0] % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def source_files(package: str) -> list[tuple[str, Path]]:
    """(module name, file) of a package, sorted; [] when it is not installed. Tests and vendored code are left out."""
    spec = find_spec(package)
    found = []
    for root in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(root).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            if not set(parts) & set(_NOT_PROSE) and (package, *parts[:1]) != ("transformers", "models"):
                found.append((".".join([package, *parts]).removesuffix(".__init__"), path))
    return sorted(found)


def _read(named_file: tuple[str, Path]) -> Module | None:
    name, path = named_file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        try:
            return read_module(name, path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):  # templates with a .py name
            return None


def read_packages(packages: Iterable[str], processes: int = 2) -> list[Row]:
    """Every prose paragraph of the packages, in a fixed order."""
    files = [item for package in packages for item in source_files(package)]
    bar = {"total": len(files), "desc": "Reading docstrings", "unit": " files"}
    if processes > 1:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            modules = [m for m in tqdm(pool.map(_read, files, chunksize=16), **bar) if m]
    else:
        modules = [m for m in tqdm(map(_read, files), **bar) if m]
    names: dict[str, Names] = {}
    for module in modules:
        names.setdefault(module.name.split(".")[0], Names()).add(module.names)
    rows = []
    for module in tqdm(modules, desc="Labelling mentions", unit=" modules"):
        split = split_of(module.name)
        for p in module.paragraphs:
            rows.append(Row(module.name, split, p.text, label(p, module, names[module.name.split(".")[0]])))
    return rows


def _shape(row: Row) -> str:
    """The text with names and numbers masked: paragraphs of equal shape count as the same paragraph."""
    text = row.text
    if row.labelled:
        text = " ".join(token if tag == "O" else tag for token, tag in zip(*row.labelled, strict=True))
    text = re.sub(r"\b\w*(?:[A-Z]\w*[A-Z]|_|\d)\w*\b", "#", text)
    return re.sub(r"\W+", " ", text).lower().strip()


def unique(rows: Iterable[Row]) -> list[Row]:
    """The first row of each text and of each shape; what train holds is taken out of validation and test."""
    seen: set[str] = set()
    kept = []
    for row in sorted(rows, key=lambda row: SPLITS.index(row.split)):
        keys = {row.text, _shape(row)}
        if not keys & seen:
            kept.append(row)
        seen |= keys
    return kept


def sample(rows: Iterable[Row], number: int, seed: int) -> list[Row]:
    """`number` rows, or all, in an order that depends on the seed and on the text of each row only."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{seed}\0{row.text}".encode()).digest())[:number]


def _task(rows: list[Row], number: int, seed: int) -> list[dict[str, Any]]:
    usable = [row for row in rows if row.labelled]
    full = sample((row for row in usable if _mentions(row)), round(number * (1 - EMPTY_SHARE)), seed)
    empty = sample((r for r in usable if not _mentions(r)), round(len(full) * EMPTY_SHARE / (1 - EMPTY_SHARE)), seed)
    chosen = sample(full + empty, number, seed + 1)
    return [
        {"id": f"{row.module}-{hashlib.sha256(row.text.encode()).hexdigest()[:8]}", "tokens": tokens, "ner_tags": tags}
        for row in chosen
        if row.labelled
        for tokens, tags in [row.labelled]
    ]


def _mentions(row: Row) -> int:
    return sum(tag != "O" for tag in row.labelled[1]) if row.labelled else 0


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a reader never sees half a file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _about(distribution: str) -> dict[str, str]:
    about = metadata.metadata(distribution)
    one_line = [about[key].split("\n")[0] for key in ("License-Expression", "License") if key in about]
    classified = [c.split(" :: ")[-1] for c in about.get_all("Classifier") or [] if c.startswith("License ::")]
    told = [*one_line, *classified] if "License-Expression" in about else [*classified, *one_line]
    licence = next((text for text in told if text), None)
    return {"version": about["Version"]} | ({"licence": licence} if licence else {})


def write(
    out_dir: Path,
    *,
    paragraphs: int = 40_000,
    ner_train: int = 6_000,
    ner_eval: int = 1_000,
    seed: int = 0,
    packages: Mapping[str, str] = PACKAGES,
    processes: int = 2,
) -> dict[str, Any]:
    """Write the files named above into `out_dir` (at most so many rows each) and return the facts."""
    installed = {name: about for name, about in packages.items() if find_spec(name)}
    rows = unique(read_packages(installed, processes))
    by_split = {split: [row for row in rows if row.split == split] for split in SPLITS}
    out_dir.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"seed": seed, "packages": {name: _about(d) for name, d in installed.items()}, "files": {}}
    for split, number in (("train", paragraphs), ("validation", max(1, paragraphs // 20))):
        texts = [row.text for row in sample(by_split[split], number, seed)]
        _write_lines(out_dir / f"text_{split}.jsonl", [{"text": text} for text in texts])
        words = sum(len(text.split()) for text in texts)
        facts["files"][f"text_{split}"] = {"paragraphs": len(texts), "words": words, "available": len(by_split[split])}
    for split in SPLITS:
        examples = _task(by_split[split], ner_train if split == "train" else ner_eval, seed)
        _write_lines(out_dir / f"ner_{split}.jsonl", examples)
        counts = Counter(tag.removeprefix("B-") for example in examples for tag in example["ner_tags"] if tag != "O")
        facts["files"][f"ner_{split}"] = {
            "paragraphs": len(examples),
            "tokens": sum(len(example["tokens"]) for example in examples),
            "entities": dict(sorted(counts.items())),
            "available": sum(row.labelled is not None for row in by_split[split]),
            "modules": len({example["id"].rpartition("-")[0] for example in examples}),
        }
    _write(out_dir / "facts.json", json.dumps(facts, indent=2) + "\n")
    return facts


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    parser.add_argument(
        "--paragraphs", type=int, default=40_000, help="of text for distillation (default: %(default)s)"
    )
    parser.add_argument(
        "--ner-train", type=int, default=6_000, help="paragraphs to fine-tune on (default: %(default)s)"
    )
    parser.add_argument(
        "--ner-eval", type=int, default=1_000, help="each for validation and test (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: %(default)s)")
    args = parser.parse_args(argv)
    facts = write(
        args.out_dir, paragraphs=args.paragraphs, ner_train=args.ner_train, ner_eval=args.ner_eval, seed=args.seed
    )
    print(json.dumps(facts["files"], indent=2))


if __name__ == "__main__":
    main()
