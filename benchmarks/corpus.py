"""How fast the reader of the Gigaword Corpus is, and that its memory does not grow with the file.

    python benchmarks/corpus.py --out corpus.json

Reads made-up files in Gigaword's layout, .xml.bz2, of two sizes. The words are random, their annotation has the form of
Gigaword's. MB are 10^6 bytes of XML, seconds are of one core (CPU time): decompression alone, the reader on XML that is
not compressed, and the reader on the compressed file; the best of --rounds. Memory is the peak beyond what the process
had before. Each size has a process of its own (Linux).
"""

import argparse
import bz2
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import measure
from saving import save

from distil_trainer.corpora import GigawordCounts, read_gigaword
from distil_trainer.corpora.streams import read_blocks

SYLLABLES = (
    "ka", "ro", "li", "sta", "be", "fö", "rä", "me", "då", "nin", "gar", "tel", "hus", "en", "ar", "skri", "väg",
)  # fmt: skip
TAGS = {
    "NN": "NN.UTR.SIN.DEF.NOM",
    "VB": "VB.PRT.AKT",
    "PP": "PP",
    "JJ": "JJ.POS.UTR+NEU.PLU.IND+DEF.NOM",
    "AB": "AB",
    "PN": "PN.UTR.SIN.DEF.SUB",
}
RELATIONS = ("SS", "OO", "AA", "DT", "PA", "ET", "ROOT")
GENRES = ("news", "socialmedia", "science")


def vocabulary(draw: random.Random, size: int = 20_000) -> list[tuple[str, str]]:
    """Words, each with the attributes that do not depend on the sentence."""
    words = []
    for _ in range(size):
        parts = draw.choices(SYLLABLES, k=draw.randint(1, 6))
        word, pos = "".join(parts), draw.choice(list(TAGS))
        lemmas = [word, *("".join(parts[: i + 1]) for i in range(draw.randint(0, len(parts))))]
        attributes = {
            "pos": pos,
            "msd": TAGS[pos],
            "lemma": "|".join(["", *lemmas, ""]),
            "lex": "|".join(["", *(f"{lemma}..{pos.lower()}.1" for lemma in lemmas), ""]),
            "saldo": "|".join(["", *(f"{lemma}..{n}" for lemma in lemmas for n in (1, 2)), ""]),
            "prefix": f"|{parts[0]}..nn.1|" if len(parts) > 2 else "|",
            "suffix": f"|{''.join(parts[1:])}..nn.1|" if len(parts) > 2 else "|",
        }
        words.append((word, " ".join(f'{name}="{value}"' for name, value in attributes.items())))
    return words


def xml(size: int) -> Iterator[bytes]:
    """A file of about `size` bytes, the same each time, in pieces."""
    draw = random.Random(0)
    words = vocabulary(draw)
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(len(words))))
    stop = '<w pos="MAD" msd="MAD" lemma="|" lex="|" saldo="|" prefix="|" suffix="|" ref="99" dephead="01" deprel="IP">'
    yield b"<?xml version='1.0' encoding='UTF-8'?>\n<corpus id=\"gigaword\">\n"
    written = 0
    while written < size:
        year = draw.randint(2010, 2015)
        lines = [f'<text year="{year}" genre="{draw.choice(GENRES)}" date="{year}-05-03">\n']
        for _ in range(20):
            lines.append(f'<sentence id="{draw.getrandbits(24):x}-{draw.getrandbits(24):x}">\n')
            chosen = draw.choices(words, cum_weights=weights, k=draw.randint(4, 28))
            for ref, (word, attributes) in enumerate(chosen, 1):
                head, relation = draw.randint(1, len(chosen)), draw.choice(RELATIONS)
                lines.append(f'<w {attributes} ref="{ref:02d}" dephead="{head:02d}" deprel="{relation}">{word}</w>\n')
            lines.append(f"{stop}.</w>\n</sentence>\n")
        lines.append("</text>\n")
        piece = "".join(lines).encode()
        written += len(piece)
        yield piece
    yield b"</corpus>\n"


def write(folder: Path, megabytes: int) -> int:
    """The file, plain and compressed. Gives the bytes of its XML."""
    size = 0
    with (folder / "plain.xml").open("wb") as plain, bz2.open(folder / "packed.xml.bz2", "wb") as packed:
        for piece in xml(megabytes * 10**6):
            size += plain.write(piece)
            packed.write(piece)
    return size


def seconds(run: Callable[[], object], rounds: int) -> float:
    """CPU seconds that it takes, at best."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return min(taken)


def take(folder: str, rounds: int) -> dict[str, float]:
    """Seconds, counts and memory for the files of the folder."""
    plain, packed = Path(folder, "plain.xml"), Path(folder, "packed.xml.bz2")
    counts = GigawordCounts()
    next(read_gigaword(plain))  # loads what is loaded once
    before = measure.memory("cpu", peak=False)
    measure.reset_peak("cpu")
    sum(1 for _ in read_gigaword(packed, counts=counts))
    extra = measure.memory("cpu", peak=True) - before
    return {
        "decompression": seconds(lambda: sum(map(len, read_blocks(packed))), rounds),
        "xml": seconds(lambda: sum(1 for _ in read_gigaword(plain)), rounds),
        "both": seconds(lambda: sum(1 for _ in read_gigaword(packed)), rounds),
        "extra_bytes": extra,
        "sentences": counts.sentences,
        "tokens": counts.tokens,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table and saves it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    parser.add_argument("--sizes", type=int, nargs="+", default=[40, 160], help="MB of XML")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    results: list[dict[str, Any]] = []
    heads = ("XML, MB", ".bz2, MB", "bytes a token", "decompression, MB/s", "XML, MB/s", "both, MB/s")
    print("| " + " | ".join([*heads, "sentences/s", "extra MiB"]) + " |")
    print("|---" * 8 + "|")
    for megabytes in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            size = write(Path(folder), megabytes)
            packed = Path(folder, "packed.xml.bz2").stat().st_size
            taken = measure.launch(take, folder, options.rounds)
        rates = " | ".join(f"{size / 1e6 / taken[name]:.1f}" for name in ("decompression", "xml", "both"))
        print(
            f"| {size / 1e6:.0f} | {packed / 1e6:.1f} | {size / taken['tokens']:.0f} | {rates} | "
            f"{taken['sentences'] / taken['both']:,.0f} | {taken['extra_bytes'] / 2**20:.1f} |",
            flush=True,
        )
        results.append({"xml_bytes": size, "packed_bytes": packed, **taken})
    save(options.out, {"corpus": results})


if __name__ == "__main__":
    main()
