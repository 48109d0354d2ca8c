"""Which blocks of a teacher matter: those without which its output would be another."""

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from distil_trainer.blocks import blocks
from distil_trainer.errors import DataError, StudentError
from distil_trainer.losses.hidden import cosine
from distil_trainer.positions import token_mask
from distil_trainer.probe import in_eval_mode


def important_blocks(teacher: PreTrainedModel, batches: Iterable[Mapping[str, Any]], count: int) -> tuple[int, ...]:
    """The blocks to keep, counted from 1: pass them to `build_student(layers=...)`.

    The others are left out one after another, each time the one without which the last hidden states of the base model
    change least: 1 - cosine to those of the whole teacher, mean over the attended tokens of all batches; of equals the
    lower block. Nothing is drawn at random, so the same batches give the same blocks. From L blocks down to n it takes
    (L (L + 1) - n (n + 1)) / 2 passes over the batches, and holds the last hidden states of one pass.

    Args:
        teacher: any transformers model with one stack of blocks; it is left as it was.
        batches: what the model reads, as a collator gives it; `labels` and whatever else its base model does not take
            are passed over. A few hundred sentences tell the blocks apart.
        count: how many to keep, from 1 to the teacher's.

    Raises:
        StudentError: `count` is out of range.
        DataError: there is no batch, or no attended token in them.
        CaptureError: the teacher's blocks cannot be found.

    Source: the measure is that of ShortGPT (arXiv 2403.03853), its "block influence", taken at the output of the model
    instead of at the block, and anew after each block that is left out.
    """
    stack = blocks(teacher)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(stack):
        raise StudentError(f"count should be a whole number from 1 to the teacher's {len(stack)}; got {count!r}.")
    if len(set(stack)) < len(stack):
        raise StudentError(f"{type(teacher).__name__} passes one block several times, so none can be left out.")
    inputs = base_inputs(teacher, batches)
    kept = list(range(1, len(stack) + 1))
    tries = (len(stack) * (len(stack) + 1) - count * (count + 1)) // 2
    with in_eval_mode(teacher), torch.no_grad(), tqdm(total=tries, desc="Leaving out blocks") as progress:
        whole = [teacher.base_model(**batch)[0] for batch in inputs]
        while len(kept) > count:
            changes = {}
            for block in kept:
                with _without(stack, set(range(1, len(stack) + 1)) - set(kept) | {block}):
                    changes[block] = _change(teacher, inputs, whole)
                progress.update()
            kept.remove(min(kept, key=changes.__getitem__))
    return tuple(kept)


def base_inputs(teacher: PreTrainedModel, batches: Iterable[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
    """What of the batches the teacher's base model reads, on its device: without `labels`.

    Raises:
        DataError: there is no batch, or no attended token in them.
    """
    taken = set(inspect.signature(teacher.base_model.forward).parameters) - {"labels"}
    inputs = [
        {name: value.to(teacher.device) for name, value in batch.items() if name in taken and isinstance(value, Tensor)}
        for batch in batches
    ]
    if not sum(int(token_mask(batch).sum()) for batch in inputs):
        raise DataError(f"expected at least one attended token, got {len(inputs)} batches without; check the texts.")
    return inputs


def _change(teacher: PreTrainedModel, inputs: Sequence[Mapping[str, Tensor]], whole: Sequence[Tensor]) -> float:
    """Mean of 1 - cosine between the last hidden states now and those of the whole teacher."""
    parts = [
        cosine(teacher.base_model(**batch)[0], wanted, token_mask(batch))
        for batch, wanted in zip(inputs, whole, strict=True)
    ]
    return float(sum(total.item() for total, _ in parts) / sum(count.item() for _, count in parts))


@contextmanager
def _without(stack: nn.ModuleList, left_out: Collection[int]) -> Iterator[None]:
    """Inside this context these blocks hand on what they are given."""

    def hand_on(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        return (given, *output[1:]) if isinstance(output, tuple) else given

    hooks = [stack[block - 1].register_forward_hook(hand_on, with_kwargs=True) for block in left_out]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
