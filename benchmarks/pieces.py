"""How few pieces of a vocabulary a language needs, and what leaving out the others changes.

    python benchmarks/pieces.py --tokenizer FOLDER --text sv_train.txt.gz --held-out sv_valid.txt.gz --out pieces.json

FOLDER holds the tokenizer of a cased BERT, such as bert-base-multilingual-cased. The vocabulary is trimmed by what
occurs in `--text` (a sentence a line, plain or gzip), and held-out sentences are cut with both tokenizers. Parameters
are those of a BertModel of 6 blocks, 768 wide, and bytes 4 for each.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from saving import save
from sts import read_lines
from transformers import BertConfig, BertModel, BertTokenizer

from distil_trainer.vocabulary import trim_vocabulary


def cut(tokenizer: Any, sentences: Sequence[str]) -> list[list[int]]:
    """The ids of each sentence."""
    return [
        ids
        for start in range(0, len(sentences), 1000)
        for ids in tokenizer(list(sentences[start : start + 1000]), add_special_tokens=False)["input_ids"]
    ]


def parameters(pieces: int) -> int:
    """Of a BertModel of 6 blocks with so many pieces."""
    with torch.device("meta"):
        return sum(p.numel() for p in BertModel(BertConfig(vocab_size=pieces, num_hidden_layers=6)).parameters())


def main() -> None:
    """Prints the table and saves it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--coverage", type=float, nargs="+", default=[0.99, 0.999, 0.9999, 1.0])
    arguments = parser.parse_args()

    tokenizer = BertTokenizer.from_pretrained(arguments.tokenizer, do_lower_case=False)
    text, held_out = read_lines(arguments.text), read_lines(arguments.held_out)
    before = cut(tokenizer, held_out)
    tokens, whole = sum(map(len, before)), parameters(len(tokenizer))
    print(f"{len(tokenizer):,} pieces; held out: {len(held_out):,} sentences, {tokens:,} tokens; {whole:,} parameters")
    print("| coverage | pieces | sentences that differ | though all pieces are kept | dropped tokens | unknown more | "
          "parameters | MB | seconds |\n|---|---|---|---|---|---|---|---|---|", flush=True)  # fmt: skip
    rows = []
    for coverage in arguments.coverage:
        start = time.perf_counter()
        trimmed = trim_vocabulary(tokenizer, text, coverage=coverage)
        seconds = time.perf_counter() - start
        kept = set(trimmed.kept_ids)
        after = [[trimmed.kept_ids[i] for i in ids] for ids in cut(trimmed.tokenizer, held_out)]
        differ = [ids for ids, other in zip(before, after, strict=True) if ids != other]
        unknown = [sum(ids.count(tokenizer.unk_token_id) for ids in side) for side in (before, after)]
        row = {
            "coverage": coverage,
            "pieces": len(kept),
            "differ": len(differ),
            "though_kept": sum(kept.issuperset(ids) for ids in differ),
            "dropped": sum(i not in kept for ids in before for i in ids) / tokens,
            "unknown_more": unknown[1] - unknown[0],
            "parameters": parameters(len(kept)),
            "seconds": seconds,
        }
        rows.append(row)
        print(
            f"| {coverage} | {row['pieces']:,} | {len(differ):,} ({len(differ) / len(held_out):.1%}) | "
            f"{row['though_kept']} | {row['dropped']:.3%} | {row['unknown_more']} | {row['parameters']:,} "
            f"({row['parameters'] / whole:.1%}) | {4 * row['parameters'] / 1e6:.1f} | {seconds:.0f} |",
            flush=True,
        )
    save(arguments.out, {"pieces": len(tokenizer), "rows": rows})


if __name__ == "__main__":
    main()
