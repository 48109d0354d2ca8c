"""Corpora in the forms in which they are published, read as a stream: a file may be of any size."""

from distil_trainer.corpora.counts import Amount, GigawordCounts
from distil_trainer.corpora.gigaword import Skipped, read_gigaword
from distil_trainer.corpora.markup import Sentence
from distil_trainer.corpora.selection import GENRES, GigawordFilter
from distil_trainer.corpora.swedish import detokenize_swedish
from distil_trainer.corpora.table import load_gigaword, stream_gigaword

__all__ = [
    "GENRES",
    "Amount",
    "GigawordCounts",
    "GigawordFilter",
    "Sentence",
    "Skipped",
    "detokenize_swedish",
    "load_gigaword",
    "read_gigaword",
    "stream_gigaword",
]
