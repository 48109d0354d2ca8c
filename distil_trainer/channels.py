"""Which rows and columns of a block's weights belong to which attention head, and to which neuron of its feed-forward.

Nothing is known of architectures or names. One forward of three tokens is cut at every linear layer and at every
attention: what each puts out is replaced by numbers of our own, and gradients tell what they go into. A row of a linear
layer that goes into query head 3 alone belongs to head 3; one that goes into column 7 alone of the next linear layer
belongs to neuron 7. So fused weights (GPT-2's and ModernBERT's queries, keys and values, ModernBERT's gate and up) are
read like separate ones, in whatever order they hold their parts.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from distil_trainer.attention_calls import attention_replaced
from distil_trainer.blocks import blocks
from distil_trainer.errors import CaptureError, StudentError
from distil_trainer.probe import in_eval_mode

_TOKENS = 3


@dataclass(frozen=True, kw_only=True)
class BlockChannels:
    """The units of one block, and where they are. Linear layers go by their names in the model.

    Attributes:
        heads: query heads.
        groups: key/value heads; query head h reads group h // (heads // groups).
        head_width: channels of a head.
        neurons: of the feed-forward network.
        head_rows: linear layer -> of each of its outputs the number h of the query head, or `heads` + g for group g.
        head_columns: linear layer -> of each of its inputs the number of the query head.
        neuron_rows: linear layer -> of each of its outputs the number of the neuron.
        neuron_columns: linear layer -> of each of its inputs the number of the neuron.
    """

    heads: int
    groups: int
    head_width: int
    neurons: int
    head_rows: Mapping[str, Tensor]
    head_columns: Mapping[str, Tensor]
    neuron_rows: Mapping[str, Tensor]
    neuron_columns: Mapping[str, Tensor]


def block_channels(model: PreTrainedModel) -> tuple[BlockChannels, ...]:
    """The units of every block of the model, which is left as it was.

    A model in less than float32 is copied for a moment.

    Raises:
        StudentError: the heads or neurons of a block cannot be told apart: its attention does not go through
            transformers' `AttentionInterface` (DeBERTa), a norm runs across heads (OLMo 2), experts have weights in
            one tensor, or attention and feed-forward share a linear layer.
        CaptureError: the blocks cannot be found.
    """
    if model.main_input_name != "input_ids":
        raise StudentError(
            f"heads and neurons can be found in models that read input_ids; {type(model).__name__} reads "
            f"{model.main_input_name}. Leave the widths as in the teacher."
        )
    probed = model if model.dtype in (torch.float32, torch.float64) else copy.deepcopy(model).float()
    cuts = [_Cut(probed, block) for block in blocks(probed)]
    with in_eval_mode(probed), torch.enable_grad(), ExitStack() as stack:
        for cut in cuts:
            stack.enter_context(cut.hooked())
        stack.enter_context(_attention_cut(probed, cuts))
        ids = torch.arange(_TOKENS, device=probed.device)[None]
        probed.base_model(input_ids=ids, attention_mask=torch.ones_like(ids))
        return tuple(cut.read(number) for number, cut in enumerate(cuts, start=1))


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer: torch's, or the transposed one of GPT-2."""
    return isinstance(module, nn.Linear | Conv1D)


def output_dimension(module: nn.Module) -> int:
    """Which dimension of a linear layer's weight its outputs are: 0, or 1 where it is stored transposed."""
    return 1 if isinstance(module, Conv1D) else 0


def columns_of(module: nn.Module) -> Tensor:
    """The weight of a linear layer as [outputs, inputs], float64 on the CPU (on meta: as it is)."""
    weight: Any = module.weight
    weight = weight.detach().T if output_dimension(module) else weight.detach()
    return weight if weight.is_meta else weight.double().cpu()


class _Cut:
    """One block in the forward that is cut: what went into its linear layers, and what came out instead."""

    def __init__(self, model: nn.Module, block: nn.Module) -> None:
        names = {module: name for name, module in model.named_modules()}
        self.modules = set(block.modules())
        self.linears = {names[module]: module for module in block.modules() if is_linear(module)}
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.attention: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self.random = torch.Generator().manual_seed(0)  # the caller's random state is left alone

    @contextmanager
    def hooked(self) -> Iterator[None]:
        def hook_of(name: str) -> Any:
            def cut(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
                self.inputs[name] = args[0]
                # All channels alike, and positive: an activation function has one slope, which is not zero.
                self.outputs[name] = torch.ones_like(output).detach().requires_grad_()
                return self.outputs[name].clone()  # Falcon adds to it in place

            return cut

        with ExitStack() as stack:
            for name, module in self.linears.items():
                stack.callback(module.register_forward_hook(hook_of(name)).remove)
            yield

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        shape = (query.size(0), query.size(2), query.size(1), value.size(3))  # [B, T, H, d]
        output = query.new_ones(shape).requires_grad_()
        self.attention = (query, key, value, output)
        return output

    def read(self, number: int) -> BlockChannels:
        if self.attention is None:
            raise StudentError(
                f"the attention of block {number} does not go through transformers' AttentionInterface, so its heads "
                "cannot be found. Leave hidden size, heads and intermediate size as in the teacher."
            )
        query, key, value, attended = self.attention
        heads, groups = query.size(1), key.size(1)
        offsets = ((query, 0), (key, heads), (value, heads + groups))
        asked = [(x, torch.arange(x.size(1))[:, None, None] + first) for x, first in offsets]
        rows = {name: found for name, y in self.outputs.items() if (found := self._labels(asked, y)) is not None}
        seen = set(torch.cat(list(rows.values())).tolist()) if rows else set()
        if seen != set(range(heads + 2 * groups)):
            raise StudentError(
                f"the heads of block {number} cannot be told apart in its linear layers: something between them and "
                "the attention mixes the heads. Leave hidden size and heads as in the teacher."
            )
        head_rows = {n: torch.where(found < heads + groups, found, found - groups) for n, found in rows.items()}
        head_columns, neuron_rows, neuron_columns = {}, {}, {}
        for reader, x in self.inputs.items():
            columns = [(x, torch.arange(x.size(-1)))]
            if (found := self._labels(columns, attended)) is not None:
                head_columns[reader] = torch.empty_like(found).index_put(
                    (found,), torch.arange(heads).repeat_interleave(attended.size(3))
                )
            for name, y in self.outputs.items():
                if name not in rows and (found := self._labels(columns, y)) is not None:
                    neuron_rows[name] = found
                    neuron_columns[reader] = torch.arange(x.size(-1))
        sizes = {columns.numel() for columns in neuron_columns.values()}
        if not head_columns or len(sizes) != 1:
            raise StudentError(
                f"in block {number} found {len(head_columns)} linear layers that read the heads and "
                f"{len(neuron_columns)} that read neurons; one of each was expected. Leave hidden size, heads and "
                "intermediate size as in the teacher."
            )
        return BlockChannels(
            heads=heads,
            groups=groups,
            head_width=query.size(3),
            neurons=sizes.pop(),
            head_rows=head_rows,
            head_columns=head_columns,
            neuron_rows=neuron_rows,
            neuron_columns=neuron_columns,
        )

    def _labels(self, asked: Sequence[tuple[Tensor, Tensor]], leaf: Tensor) -> Tensor | None:
        """For each channel of `leaf` the label of the one thing that it goes into; None if that is not one thing.

        The gradient of a weighted sum is the label times the gradient of the plain sum, unless things were mixed.
        """
        plain: Any = 0
        labelled: Any = 0
        for x, labels in asked:
            weighted = x * (torch.rand(x.shape, generator=self.random) + 0.5).to(x)
            plain, labelled = plain + weighted.sum(), labelled + (weighted * (labels.to(x) + 1)).sum()
        if not plain.requires_grad:
            return None
        gradients: list[Any] = [
            torch.autograd.grad(total, leaf, retain_graph=True, allow_unused=True)[0] for total in (plain, labelled)
        ]
        if gradients[0] is None:
            return None
        one, many = (gradient.reshape(_TOKENS, -1)[-1] for gradient in gradients)  # of the last token
        ratio = (many / one).cpu()
        whole = ratio.round()
        if not torch.isfinite(ratio).all() or (ratio - whole).abs().max() > 0.1 or whole.min() < 1:
            return None
        return whole.long() - 1


@contextmanager
def _attention_cut(model: PreTrainedModel, cuts: Sequence[_Cut]) -> Iterator[None]:
    """Inside this context attention of the blocks hands what it gets to their cuts."""

    def cut(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        for block in cuts:
            if module in block.modules:
                return block.attend(query, key, value), None
        raise CaptureError(f"{type(module).__name__} attends outside of the blocks.")

    with attention_replaced(model, cut):
        yield
