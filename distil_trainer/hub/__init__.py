"""A folder on the Hub: what arrives is what is here, once, or one error of ours says why not and what to do."""

from distil_trainer.hub.publish import Published, prepare_repository, publish

__all__ = ["Published", "prepare_repository", "publish"]
