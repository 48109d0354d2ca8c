"""A multilingual encoder with the words of one language: a head for masked words, and no piece that the text needs not.

    python recipes/swedish_e5/trim.py MODEL FOLDER TEXT... [--coverage 0.999] [--multiple-of 64]

MODEL is a folder or an id on the Hub; TEXT are .txt or .txt.gz, a sentence a line. The head is new if there is none:
`recipes/adapt.py` trains it.
"""

import argparse

from transformers import set_seed
from transformers.utils import logging

from distil_trainer.recipe import TeacherSource, TextData, load_model, load_tokenizer
from distil_trainer.text import raw_texts
from distil_trainer.vocabulary import trim_vocabulary
from distil_trainer.word_tables import trim_embeddings

SEED = 100


def main() -> None:
    """The folder with model and tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("text", nargs="+")
    parser.add_argument("--coverage", type=float, default=0.999, help="the share of the text's tokens to keep")
    parser.add_argument("--multiple-of", type=int, default=64, help="what the number of pieces is to be")
    options = parser.parse_args()
    texts = raw_texts(TextData(files=tuple(options.text), name="text"))
    tokenizer, limits = (
        load_tokenizer(options.model),
        {"coverage": options.coverage, "multiple_of": options.multiple_of},
    )
    trimmed = trim_vocabulary(tokenizer, texts, **limits)
    print(trimmed)
    set_seed(SEED)  # of the head
    logging.set_verbosity_error()  # that it is new is meant
    whole = load_model(TeacherSource(name=options.model, model_class="AutoModelForMaskedLM"))
    model = trim_embeddings(whole, trimmed.kept_ids)
    model.save_pretrained(options.folder)
    trimmed.tokenizer.save_pretrained(options.folder)
    print(f"{options.folder}: {len(trimmed.tokenizer):,} pieces, {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
