"""The metadata of a model card, checked before anything is uploaded: what passes here, the Hub does not refuse."""

from distil_trainer.metadata.check import check_metadata
from distil_trainer.metadata.lists import LICENSES, is_language, language_name

__all__ = ["LICENSES", "check_metadata", "is_language", "language_name"]
