"""How many tokens a second come from a corpus in XML: prepared once, taken from what was prepared, and streamed.

    python benchmarks/pipeline.py --out pipeline.json

Makes .xml.bz2 files in Gigaword's layout (see corpus.py), and a WordPiece vocabulary from their text. Seconds are those
of the clock, the best of --rounds, each in a process of its own: reading, tokenising and grouping with one process and
with two; then batches of masked tokens (DataCollatorForLanguageModeling) from the rows on disk and from the stream,
with no worker and with two. A training step takes its batches from one of these.
"""

import argparse
import bz2
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import measure
from corpus import xml
from datasets import concatenate_datasets, load_from_disk
from saving import save
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from distil_trainer.corpora import load_gigaword, read_gigaword
from distil_trainer.data import group_tokens, tokenize_text
from distil_trainer.recipe import TextData
from distil_trainer.text import read_text

SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}  # as BERT has them
VOCABULARY = 20_000


def make(folder: Path, files: int, megabytes: int) -> None:
    """The files, the tokenizer, and an empty place for what is prepared."""
    packed = bz2.compress(b"".join(xml(megabytes * 10**6)))
    for number in range(files):
        (folder / f"{number}.xml.bz2").write_bytes(packed)
    backend = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=[*SPECIAL.values()], show_progress=False)
    backend.train_from_iterator((row["text"] for row in read_gigaword(folder / "0.xml.bz2")), trainer)
    ends = [(token, backend.token_to_id(token)) for token in (SPECIAL["cls_token"], SPECIAL["sep_token"])]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL).save_pretrained(folder / "tokenizer")


def prepare(folder: str, length: int, processes: int) -> list[dict[str, Any]]:
    """Reads, tokenises and groups, and leaves the rows in the folder."""
    tokenizer = AutoTokenizer.from_pretrained(Path(folder, "tokenizer"))
    num_proc = processes if processes > 1 else None
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        texts, reading = timed(lambda: load_gigaword(files_of(folder), num_proc=num_proc, cache_dir=cache)[0])
        tokens, tokenising = timed(lambda: tokenize_text(texts, tokenizer, None, num_proc=num_proc))
        rows, grouping = timed(lambda: group_tokens(tokens, length))
        if not Path(folder, "rows").exists():
            rows.save_to_disk(Path(folder, "rows"))
    parts = {"reading": reading, "tokenising": tokenising, "grouping": grouping}
    parts["prepared, together"] = sum(parts.values())
    found = {"workers": processes, "tokens": len(rows) * length}
    return [{"what": what, **found, "seconds": seconds} for what, seconds in parts.items()]


def take_rows(folder: str, length: int, batch: int, workers: int) -> list[dict[str, Any]]:
    """Batches from the rows on disk, ten times over: once is too short."""
    rows = concatenate_datasets([load_from_disk(Path(folder, "rows"))] * 10)
    tokens, seconds = timed(lambda: count(folder, rows, batch, workers))
    return [{"what": "batches of prepared rows", "workers": workers, "tokens": tokens, "seconds": seconds}]


def take_stream(folder: str, length: int, batch: int, workers: int) -> list[dict[str, Any]]:
    """Batches from the stream."""
    data = TextData(files=tuple(files_of(folder)), stream=True, group=True, max_length=length)
    tokenizer = AutoTokenizer.from_pretrained(Path(folder, "tokenizer"))
    rows = read_text(data, tokenizer, seed=0).train
    tokens, seconds = timed(lambda: count(folder, rows, batch, workers))
    return [{"what": "batches of the stream", "workers": workers, "tokens": tokens, "seconds": seconds}]


def count(folder: str, rows: Any, batch: int, workers: int) -> int:
    """Tokens of all batches."""
    collator = DataCollatorForLanguageModeling(AutoTokenizer.from_pretrained(Path(folder, "tokenizer")))
    loader: Iterable[Any] = DataLoader(rows, batch_size=batch, collate_fn=collator, num_workers=workers)
    return sum(taken["input_ids"].numel() for taken in loader)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and its seconds."""
    start = time.perf_counter()
    return run(), time.perf_counter() - start


def files_of(folder: str) -> list[str]:
    """The made-up files."""
    return sorted(str(path) for path in Path(folder).glob("*.xml.bz2"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table and saves it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--megabytes", type=int, default=40, help="MB of XML of each file")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--batch", type=int, default=8, help="rows of a batch")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    results: list[dict[str, Any]] = []
    print("| | processes or workers | tokens | seconds | tokens/s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.files, options.megabytes)
        runs = [(prepare, folder, options.length, max(workers, 1)) for workers in options.workers]
        for take in (take_rows, take_stream):
            runs += [(take, folder, options.length, options.batch, workers) for workers in options.workers]
        for run in runs:
            rounds = [measure.launch(*run) for _ in range(options.rounds)]
            for parts in zip(*rounds, strict=True):
                best = min(parts, key=lambda part: part["seconds"])
                figures = f"{best['tokens']:,} | {best['seconds']:.1f} | {best['tokens'] / best['seconds']:,.0f}"
                print(f"| {best['what']} | {best['workers']} | {figures} |", flush=True)
                results.append(best)
    save(options.out, {"pipeline": results, "files": options.files, "megabytes": options.megabytes})


if __name__ == "__main__":
    main()
