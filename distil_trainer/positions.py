"""Which positions of a batch count, and how many there are.

A loss is a sum over counted positions divided by their number in the whole optimizer step, over all micro-batches and
processes. The numbers follow from the inputs alone, so they are known before the first forward of the step.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distil_trainer.errors import DataError

DECODER_UNITS = {"tokens": "decoder_tokens", "pairs": "decoder_pairs", "rows": "decoder_rows"}
UNITS = ("tokens", "pairs", "rows", "labels", "task", *DECODER_UNITS.values())
"""tokens: attended tokens. pairs: pairs of attended tokens of one row. rows: examples with an attended token.
labels: labelled positions. task: what the model's own loss averages over: labelled positions, or examples where no
column is called `labels`. The others: the same of the decoder's tokens, in a model that has an encoder as well."""

_DENSE = ("pixel_values", "input_features", "input_values")


def is_dense(inputs: Mapping[str, Any]) -> bool:
    """Whether the batch is of images or sounds: every position counts, and how many there are only the model knows."""
    has_tokens = any(inputs.get(key) is not None for key in ("input_ids", "inputs_embeds"))
    return not has_tokens and any(inputs.get(key) is not None for key in _DENSE)


def token_mask(inputs: Mapping[str, Any]) -> Tensor:
    """Bool [B, T]: the attended tokens, all of them where the batch has no `attention_mask`."""
    if inputs.get("attention_mask") is not None:
        return inputs["attention_mask"].bool()
    for key in ("input_ids", "inputs_embeds"):
        if inputs.get(key) is not None:
            return torch.ones(inputs[key].shape[:2], dtype=torch.bool, device=inputs[key].device)
    raise DataError(
        f"a batch should have `input_ids` or `inputs_embeds`; got {', '.join(inputs)}. Check the collator and columns."
    )


def row_mask(inputs: Mapping[str, Any]) -> Tensor:
    """Bool [B]: the examples with an attended token; all of them, of images or sounds."""
    if is_dense(inputs):
        given = next(inputs[key] for key in _DENSE if inputs.get(key) is not None)
        return torch.ones(len(given), dtype=torch.bool, device=given.device)
    return token_mask(inputs).flatten(1).any(-1)


def counting_rows(inputs: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The batch of which the first `number` rows are counted: of the others no token is attended and none labelled.

    Rows of images and sounds, and labels that are no classes, stay as they are.
    """
    counted = dict(inputs)
    if not is_dense(inputs):
        counted["attention_mask"] = token_mask(inputs).long()
    for key, empty in (("attention_mask", 0), ("decoder_attention_mask", 0), ("labels", -100)):
        value = counted.get(key)
        if isinstance(value, Tensor) and not value.is_floating_point():
            counted[key] = torch.cat([value[:number], torch.full_like(value[number:], empty)])
    return counted


def first_mask(inputs: Mapping[str, Any]) -> Tensor:
    """Bool [B, T]: the first attended token of each row, wherever the padding is."""
    return first_of(token_mask(inputs))


def first_of(mask: Tensor) -> Tensor:
    """Bool [B, T]: the first position of each row of `mask`, bool [B, T]."""
    return mask & (mask.cumsum(-1) == 1)


def decoder_mask(inputs: Mapping[str, Any]) -> Tensor:
    """Bool [B, T]: the tokens of a decoder that count: its attended tokens, else its labelled ones, else all.

    Raises:
        DataError: the batch has nothing for a decoder.
    """
    if inputs.get("decoder_attention_mask") is not None:
        return inputs["decoder_attention_mask"].bool()
    if inputs.get("labels") is not None and inputs["labels"].ndim == 2:
        return label_mask(inputs)
    if inputs.get("decoder_input_ids") is not None:
        return torch.ones_like(inputs["decoder_input_ids"], dtype=torch.bool)
    raise DataError(
        f"a batch for a decoder should have `labels` or `decoder_input_ids`; got {', '.join(inputs)}. Check the "
        "collator (DataCollatorForSeq2Seq makes both) and the columns."
    )


def label_mask(inputs: Mapping[str, Any]) -> Tensor:
    """bool, the shape of `labels` ([B, T] or [B]): True where a label is not -100.

    Raises:
        DataError: the batch has no `labels`.
    """
    if inputs.get("labels") is None:
        raise DataError(
            f"positions='labels' counts labelled positions, but the batch has no `labels`; it has {', '.join(inputs)}."
        )
    return inputs["labels"] != -100


def count_positions(batches: Sequence[Mapping[str, Any]], *, shifts_labels: bool) -> Tensor:
    """How many positions the given micro-batches hold: int64 [len(UNITS)] on their device, in the order of `UNITS`.

    Args:
        batches: the micro-batches of one optimizer step, on this process; at least one.
        shifts_labels: the model's own loss compares position t with label t + 1 (causal models).
    """
    return torch.stack([_count_batch(batch, shifts_labels) for batch in batches]).sum(0)


def _count_batch(batch: Mapping[str, Any], shifts_labels: bool) -> Tensor:
    rows = row_mask(batch)
    lengths = torch.zeros_like(rows, dtype=torch.long) if is_dense(batch) else token_mask(batch).sum(-1)
    labelled, task = lengths.new_zeros(1), torch.ones_like(lengths)
    if batch.get("labels") is not None:
        labelled = label_mask(batch)
        task = labelled[..., 1:] if shifts_labels else labelled
    decoded = lengths.new_zeros(1)
    if any(batch.get(key) is not None for key in ("decoder_attention_mask", "decoder_input_ids")) or labelled.ndim == 2:
        decoded = decoder_mask(batch).sum(-1)
    counted = (lengths, lengths**2, rows, labelled, task, decoded, decoded**2, decoded > 0)
    return torch.stack([x.sum() for x in counted])
