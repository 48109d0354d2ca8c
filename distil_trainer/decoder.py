"""What the decoder of an encoder-decoder reads while it is trained: the labels, one position later."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from distil_trainer.blocks import has_two_stacks
from distil_trainer.errors import DataError


def with_decoder_ids(model: Any, inputs: Mapping[str, Any], *, is_read: bool) -> dict[str, Any]:
    """The batch, with `decoder_input_ids` made from `labels` [B, T] where a decoder needs them and they are missing.

    Both models are then given the same, and neither needs labels for it.

    Args:
        model: the student, from whose config (or its own method) the first token comes.
        inputs: the batch.
        is_read: whether something is compared that the decoder computes.

    Raises:
        DataError: the decoder is read, and the batch has nothing for it.
    """
    labels = inputs.get("labels")
    given = any(inputs.get(key) is not None for key in ("decoder_input_ids", "decoder_inputs_embeds"))
    if not has_two_stacks(model) or given or (labels is not None and labels.ndim != 2):
        return dict(inputs)
    if labels is None:
        if is_read:
            raise DataError(
                f"a batch for a decoder should have `labels` or `decoder_input_ids`; got {', '.join(inputs)}. Check "
                "the collator (DataCollatorForSeq2Seq makes both) and the columns, or align the encoder alone."
            )
        return dict(inputs)
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        shifted = model.prepare_decoder_input_ids_from_labels(labels=labels)
    else:
        shifted = nn.functional.pad(labels[:, :-1], (1, 0), value=model.config.decoder_start_token_id)
        shifted = shifted.masked_fill(shifted == -100, model.config.pad_token_id)
    return {**inputs, "decoder_input_ids": shifted}
