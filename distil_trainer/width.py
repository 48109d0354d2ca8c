"""Which units of a teacher matter: channels of its residual stream, attention heads, neurons of its feed-forward."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PretrainedConfig, PreTrainedModel

from distil_trainer.blocks import blocks
from distil_trainer.channels import BlockChannels, block_channels, columns_of, is_linear
from distil_trainer.errors import DataError, StudentError
from distil_trainer.importance import base_inputs
from distil_trainer.positions import token_mask
from distil_trainer.probe import in_eval_mode


@dataclass(frozen=True, kw_only=True)
class Units:
    """What a narrower student keeps of its teacher. Units are counted from zero, ascending.

    Attributes:
        hidden: channels of the residual stream: the same in every block, as every block reads and writes it.
        heads: of each block of the teacher the query heads; key/value heads are kept with the heads that read them.
        neurons: of each block of the teacher the neurons of the feed-forward network.
        chosen_by: how they were chosen, for the record and the card.

    Raises:
        StudentError: a list is empty, not ascending, or there is not one of each for every block.
    """

    hidden: tuple[int, ...]
    heads: tuple[tuple[int, ...], ...]
    neurons: tuple[tuple[int, ...], ...]
    chosen_by: str = "hand"

    def __post_init__(self) -> None:
        for kept in (self.hidden, *self.heads, *self.neurons):
            if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0:
                raise StudentError(
                    f"kept units should be different numbers from 0 on, ascending; got {len(kept)}: {kept[:3]} to "
                    f"{kept[-3:]}. Take those of distil_trainer.width.important_units."
                )
        if len(self.heads) != len(self.neurons):
            raise StudentError(
                f"heads and neurons should be there for every block of the teacher; got {len(self.heads)} and "
                f"{len(self.neurons)} blocks."
            )


@dataclass(frozen=True, kw_only=True)
class Widths:
    """How many units a model has: channels of the residual stream and, in every block, heads and neurons."""

    hidden: int
    heads: int
    groups: int
    neurons: int


def important_units(teacher: PreTrainedModel, batches: Iterable[Mapping[str, Any]], config: PretrainedConfig) -> Units:
    """The units to keep for a student of this config: pass them to `build_student(units=...)`.

    A unit counts as much as what comes through it: the mean square of its activation over the attended tokens of all
    batches, times the squared norm of the weights that read it. For a neuron and for the channels of a head the reader
    is the linear layer that writes to the residual stream. A channel of the residual stream has many readers, all
    linear layers of the blocks and whoever reads the last hidden states: it counts by its mean share in them. Of
    equals the lower number is kept. It takes one pass over the batches; nothing is drawn at random.

    With grouped queries whole groups are chosen by their best heads, and of each group its best heads, as many as the
    student has.

    Args:
        teacher: any transformers model with one stack of blocks; it is left as it was.
        batches: what the model reads, as a collator gives it; `labels` and whatever else its base model does not take
            are passed over. A few hundred sentences are enough.
        config: the student's, as from `student_config`: its width, heads and intermediate size say how many to keep.

    Raises:
        StudentError: the config asks for more than the teacher has or for another head width, or the teacher's heads
            and neurons cannot be found (see `channels.block_channels`).
        DataError: there is no batch, or no attended token in them.

    Source: magnitude of activation times norm of weight is Wanda's measure (arXiv 2306.11695), here of whole units, as
    Minitron (arXiv 2407.14679) prunes them.
    """
    found = block_channels(teacher)
    has, wanted = widths(teacher, config, found)
    inputs = base_inputs(teacher, batches)
    readers = {name: module for name, module in _named(teacher) if is_linear(module)}
    squares, last = _mean_squares(teacher, inputs, readers)
    through = {name: squares[name] * columns_of(readers[name]).square().sum(0) for name in readers}

    own = {name for block in found for name in (*block.head_columns, *block.neuron_columns)}
    streams = [
        score
        for name, score in through.items()
        if name not in own and len(score) == has.hidden and score.sum() > 0  # a layer may be there and never run
    ]
    hidden = torch.stack([score / score.sum() for score in (*streams, last)]).sum(0)
    heads, neurons = [], []
    for block in found:
        by_head = torch.zeros(block.heads, dtype=torch.float64)
        for name, numbers in block.head_columns.items():
            by_head.index_add_(0, numbers, through[name])
        heads.append(_best_heads(by_head, has, wanted))
        by_neuron = torch.zeros(block.neurons, dtype=torch.float64)
        for name, numbers in block.neuron_columns.items():
            by_neuron.index_add_(0, numbers, through[name])
        neurons.append(_best(by_neuron, wanted.neurons))
    tokens = sum(int(token_mask(batch).sum()) for batch in inputs)
    return Units(
        hidden=_best(hidden, wanted.hidden),
        heads=tuple(heads),
        neurons=tuple(neurons),
        chosen_by=f"importance on {tokens:,} tokens",
    )


def widths(teacher: PreTrainedModel, config: PretrainedConfig, found: Sequence[BlockChannels]) -> tuple[Widths, Widths]:
    """The widths of the teacher, and of a student of this config.

    Raises:
        StudentError: the student cannot be cut out of the teacher.
    """
    with torch.device("meta"):
        student = type(teacher)(copy.deepcopy(config))  # a model writes to its config
    block = found[0]
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    if block.groups == 1:
        groups = 1  # Falcon's multi-query attention
    reader, neurons = (
        max(columns_of(student.get_submodule(name)).size(1) for name in names)
        for names in (block.head_columns, block.neuron_columns)
    )
    has = Widths(hidden=teacher.config.hidden_size, heads=block.heads, groups=block.groups, neurons=block.neurons)
    wanted = Widths(hidden=config.hidden_size, heads=heads, groups=groups, neurons=neurons)
    if reader != heads * block.head_width:
        raise StudentError(
            f"heads are kept whole: a student with {heads} of them needs {heads * block.head_width} channels of "
            f"attention, {block.head_width} each as in the teacher; got {reader}. Change hidden_size and "
            "num_attention_heads in proportion, or num_attention_heads alone where the config has a head_dim."
        )
    more = [name for name in vars(has) if getattr(wanted, name) > getattr(has, name)]
    if more or any((x.heads, x.neurons) != (block.heads, block.neurons) for x in found):
        raise StudentError(
            f"a student is cut out of its teacher: at most {has}, the same in every block; got {wanted}. "
            "For more use init='random'."
        )
    if heads % groups or heads // groups > block.heads // block.groups:
        raise StudentError(
            f"of grouped queries whole key/value heads are kept, each with at most the {block.heads // block.groups} "
            f"heads that read it in the teacher; got {heads} heads of {groups} groups. Give num_key_value_heads, too: "
            f"student_config(..., num_key_value_heads={max(1, heads * block.groups // block.heads)})."
        )
    return has, wanted


def _mean_squares(
    teacher: PreTrainedModel, inputs: Sequence[Mapping[str, Tensor]], readers: Mapping[str, nn.Module]
) -> tuple[dict[str, Tensor], Tensor]:
    """Mean square over the attended tokens: of each input of each reader, and of each last hidden state."""
    sums: dict[str, Any] = dict.fromkeys(readers, 0.0)
    last: Any = 0.0
    mask = torch.ones(0)

    def hook_of(name: str) -> Any:
        def add(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if args[0].size(-1) * mask.numel() != args[0].numel():
                raise DataError(f"{name} should read {tuple(mask.shape)} tokens; got {tuple(args[0].shape)}.")
            sums[name] = sums[name] + _squares(args[0], mask)

        return add

    with in_eval_mode(teacher), torch.no_grad(), ExitStack() as stack:
        for name, module in readers.items():
            stack.callback(module.register_forward_pre_hook(hook_of(name)).remove)
        for batch in tqdm(inputs, desc="Weighing units"):
            mask = token_mask(batch)
            last = last + _squares(teacher.base_model(**batch)[0], mask)
    tokens = sum(int(token_mask(batch).sum()) for batch in inputs)
    return {name: total / tokens for name, total in sums.items()}, last / tokens


def _squares(values: Tensor, mask: Tensor) -> Tensor:
    """[N] float64: of values [B, T, N] or [B * T, N] the sum of squares over the attended tokens."""
    return values.reshape(mask.numel(), -1)[mask.flatten()].double().square().sum(0).cpu()


def _named(teacher: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    inside = {module for block in blocks(teacher) for module in block.modules()}
    return [(name, module) for name, module in teacher.named_modules() if module in inside]


def _best(scores: Tensor, count: int) -> tuple[int, ...]:
    order = torch.argsort(scores, descending=True, stable=True)
    return tuple(sorted(order[:count].tolist()))


def _best_heads(scores: Tensor, has: Widths, wanted: Widths) -> tuple[int, ...]:
    size, kept = has.heads // has.groups, wanted.heads // wanted.groups
    groups = [tuple(g * size + h for h in _best(scores[g * size : (g + 1) * size], kept)) for g in range(has.groups)]
    totals = torch.stack([scores[list(heads)].sum() for heads in groups])
    return tuple(head for g in _best(totals, wanted.groups) for head in groups[g])
