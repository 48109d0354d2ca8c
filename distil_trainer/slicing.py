"""A teacher's weights, cut to the units that a student keeps."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from distil_trainer.channels import block_channels, output_dimension
from distil_trainer.errors import StudentError
from distil_trainer.width import Units, Widths, widths

Cut = Callable[[str, Tensor, tuple[int, ...]], Tensor]


def slicer(teacher: PreTrainedModel, config: PretrainedConfig, units: Units) -> tuple[Cut, Widths, Widths]:
    """A function that cuts the teacher's tensors, and the widths of teacher and student.

    The function takes the name of a tensor of the teacher, the tensor, and the shape that the student has there. Rows
    and columns of heads and neurons are those of `channels.block_channels`. Any other dimension that is as long as the
    teacher's residual stream, where the student's is as long as its own, holds channels of the residual stream: of
    the embeddings, norms, the pooler and the heads. (The inner channels of a pooler or of a language model's head are
    cut like the stream, which keeps what is tied to the word table in its order.) A tensor that is tied is cut once.

    The scales of norms over the stream are multiplied by sqrt(D / d), with D channels in the teacher and d in the
    student. An RMSNorm over a stream whose other channels are zero has then the teacher's output. A LayerNorm, which
    takes the mean over the channels too, has not, but is closer to it than without.

    Raises:
        StudentError: the units are not those that the config asks for, or not units of this teacher.
    """
    found = block_channels(teacher)
    has, wanted = widths(teacher, config, found)
    _check(units, has, wanted, len(found))
    indices: dict[str, dict[int, Tensor]] = {}  # parameter -> dimension -> what is kept of it
    for block, heads, neurons in zip(found, units.heads, units.neurons, strict=True):
        size = has.heads // has.groups
        kept_heads = torch.tensor([*heads, *{has.heads + head // size for head in heads}])
        kept_neurons = torch.tensor(neurons)
        for rows, kept in ((block.head_rows, kept_heads), (block.neuron_rows, kept_neurons)):
            for name, numbers in rows.items():
                dimension = output_dimension(teacher.get_submodule(name))
                index = torch.isin(numbers, kept).nonzero()[:, 0]
                indices.setdefault(f"{name}.weight", {})[dimension] = index
                indices[f"{name}.bias"] = {0: index}
        for columns, kept in ((block.head_columns, kept_heads), (block.neuron_columns, kept_neurons)):
            for name, numbers in columns.items():
                dimension = 1 - output_dimension(teacher.get_submodule(name))
                indices.setdefault(f"{name}.weight", {})[dimension] = torch.isin(numbers, kept).nonzero()[:, 0]
    hidden, factor = torch.tensor(units.hidden), (has.hidden / wanted.hidden) ** 0.5
    offsets = _norm_offsets(teacher, has.hidden)
    made: dict[int, Tensor] = {}

    def cut(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        if id(tensor) not in made:
            result = tensor.detach()
            for dimension, (old, new) in enumerate(zip(tensor.shape, shape, strict=False)):
                index = indices.get(name, {}).get(dimension)
                if index is None and old != new and (old, new) == (has.hidden, wanted.hidden):
                    index = hidden
                if index is not None:
                    result = result.index_select(dimension, index.to(result.device))
                if index is hidden and name in offsets:
                    result = (result + offsets[name]) * factor - offsets[name]
            made[id(tensor)] = result
        return made[id(tensor)]

    return cut, has, wanted


def _norm_offsets(model: nn.Module, size: int) -> dict[str, float]:
    """Norms over `size` channels, by the name of their weight w: what is added to it, as in Gemma's x * (1 + w).

    A norm is what has such a weight and puts out the same for twice the input.
    """
    offsets = {}
    for name, module in model.named_modules():
        own = dict(module.named_parameters())
        if not own.keys() <= {"weight", "bias"} or own.get("weight", torch.empty(0)).shape != (size,):
            continue
        norm: Any = copy.deepcopy(module).cpu().double()
        x = torch.linspace(-10, 20, size, dtype=torch.float64)[None]
        with torch.no_grad():
            for parameter in norm.parameters():
                parameter.zero_()
            zero = norm(x)
            norm.weight.fill_(1)
            one, twice = norm(x), norm(2 * x)
            if torch.allclose(one, twice, rtol=1e-3):
                offsets[f"{name}.weight"] = float((zero / (one - zero)).median().round())
    return offsets


def _check(units: Units, has: Widths, wanted: Widths, depth: int) -> None:
    if len(units.heads) != depth:
        raise StudentError(f"units should be those of the teacher's {depth} blocks; got {len(units.heads)} blocks.")
    size, kept = has.heads // has.groups, wanted.heads // wanted.groups
    for what, lists, of, count in (
        ("hidden", (units.hidden,), has.hidden, wanted.hidden),
        ("heads", units.heads, has.heads, wanted.heads),
        ("neurons", units.neurons, has.neurons, wanted.neurons),
    ):
        for numbers in lists:
            if len(numbers) != count or numbers[-1] >= of:
                raise StudentError(
                    f"units.{what} should be {count} of the teacher's {of}, as the config says; got {len(numbers)}, up "
                    f"to {numbers[-1]}. Choose them for this config: important_units(teacher, batches, config)."
                )
    for numbers in units.heads:
        members = [head // size for head in numbers]
        if any(members.count(group) != kept for group in set(members)):
            raise StudentError(
                f"units.heads should hold {kept} heads of each group that is kept ({size} heads read one key/value "
                f"head); got {numbers}."
            )
