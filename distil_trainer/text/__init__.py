"""Text to train on: from files, the Hub or a prepared folder to tokenised rows."""

from distil_trainer.text.prepared import Text
from distil_trainer.text.reading import raw_texts, read_text

__all__ = ["Text", "raw_texts", "read_text"]
