"""Masks for masked-language modelling that a run which is gone on with draws again."""

import zlib
from array import array
from itertools import chain
from typing import Any

import torch
from transformers import DataCollatorForLanguageModeling, TrainerCallback


class MaskingCollator(DataCollatorForLanguageModeling, TrainerCallback):
    """`DataCollatorForLanguageModeling` whose masks follow from `seed`, the epoch and the tokens of the batch alone.

    Those of the base class also follow from all that was drawn before, which a run that goes on from a checkpoint has
    not drawn. It is a callback of the trainer, too: that tells it the epoch.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # with workers that outlive an epoch

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Notes the epoch: an example has other masks in each, also when it is a batch by itself."""
        self._epoch.fill_(int(state.epoch or 0))

    def torch_call(self, examples: list[Any]) -> dict[str, Any]:
        """The batch, as the base class makes it."""
        tokens = chain.from_iterable(example["input_ids"] for example in examples)
        numbers = array("q", [self.seed or 0, int(self._epoch), *tokens])
        self.generator = torch.Generator().manual_seed(zlib.crc32(numbers))
        batch: dict[str, Any] = super().torch_call(examples)
        return batch
