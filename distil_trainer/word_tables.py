"""Models whose weights are those of another model, with all rows of its word tables or with some of them."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from distil_trainer.errors import StudentError

Model = TypeVar("Model", bound=PreTrainedModel)


def trim_embeddings(model: Model, kept_ids: Sequence[int]) -> Model:
    """The model in a smaller vocabulary. For a teacher: it needs no memory but that of the rows.

    Hidden states of a text are the same, given the new ids of the same pieces; logits are `logits[..., kept_ids]` of
    `model`, so probabilities are those of `model` among the kept pieces.

    Args:
        model: stays as it is. What is not as long as the vocabulary is shared with it, not copied.
        kept_ids: ids of the pieces to keep, ascending; `kept_ids[i]` becomes i.

    Raises:
        StudentError: the ids are not those of such pieces, or the model cannot be cut so.
    """
    if not isinstance(model, PreTrainedModel):
        raise StudentError(f"Pieces of a transformers model can be chosen; got {type(model).__name__}.")
    config = config_of_kept(model.config, kept_ids)
    with torch.device("meta"):
        trimmed = type(model)(config)
    check_positions(trimmed, model)
    sources, seen = tensors(model), dict[int, Tensor]()
    for name, target in tensors(trimmed).items():
        source = sources.get(name)
        cut = source is not None and fits(source, target, model.config.vocab_size, kept_ids)
        if source is None or not cut or seen.setdefault(id(target), source) is not source:
            raise StudentError(
                f"{name} of {type(model).__name__} cannot be cut to {len(kept_ids)} pieces. Pass a model as "
                "from_pretrained loads it, without adapters or quantization, or keep all pieces."
            )
    fill(trimmed, sources, kept_ids, shares=True)
    for name, parameter in trimmed.named_parameters():
        parameter.requires_grad_(sources[name].requires_grad)
    return trimmed.train(model.training)


def config_of_kept(config: PretrainedConfig, kept_ids: Sequence[int]) -> Any:
    """A copy of the config for a model with these pieces: another `vocab_size`, other ids of special tokens.

    Raises:
        StudentError: `kept_ids` is not ascending, not in the vocabulary, or lacks a special token.
    """
    size = getattr(config, "vocab_size", None)
    if not isinstance(size, int) or config.get_text_config() is not config:
        raise StudentError(f"{type(config).__name__} has no vocab_size of its own, so its pieces cannot be chosen.")
    kept = list(kept_ids)
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in kept)
    if not kept or not whole or kept != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < size:
        raise StudentError(
            f"kept_ids should be different ids of the teacher, ascending, from 0 to {size - 1}; got {len(kept)}, "
            f"{kept[:3]} to {kept[-3:]}. Take those of distil_trainer.vocabulary.trim_vocabulary."
        )
    config = copy.deepcopy(config)
    new = {old: number for number, old in enumerate(kept)}
    for name, value in list(vars(config).items()):
        if not name.endswith("_token_id") or value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if lost := [number for number in ids if number < size and number not in new]:
            raise StudentError(
                f"config.{name} is {lost[0]}, a piece that is not kept. Keep it: trim_vocabulary(..., always=[...]). "
                f"Or correct the config, if it is no special token: config.{name} = None."
            )
        found = [new.get(number, number) for number in ids]  # what was outside stays outside
        setattr(config, name, found if isinstance(value, list) else found[0])
    config.vocab_size = len(kept)
    return config


def check_positions(trimmed: PreTrainedModel, model: PreTrainedModel) -> None:
    """Refuses another padding id where positions are counted from it, as in RoBERTa.

    Raises:
        StudentError: the ids of pieces before the padding are not all kept.
    """
    for name, module in trimmed.named_modules():
        if not isinstance(module, nn.Embedding):
            continue
        twin: Any = model.get_submodule(name)
        if module.num_embeddings == twin.num_embeddings and module.padding_idx != twin.padding_idx:
            raise StudentError(
                f"{type(model).__name__} counts positions from pad_token_id, {twin.padding_idx}, which would become "
                f"{module.padding_idx}. Keep the pieces before it, too."
            )


def fits(source: Tensor, target: Tensor, pieces: int, kept_ids: Sequence[int] | None) -> bool:
    """Whether the source has the target's shape, or a row for each of `pieces` where the target has those kept."""
    if source.shape == target.shape:
        return True
    return kept_ids is not None and source.shape[:1] == (pieces,) and target.shape == (len(kept_ids), *source.shape[1:])


def fill(
    model: nn.Module, sources: Mapping[str, Tensor], kept_ids: Sequence[int] | None = None, *, shares: bool = False
) -> None:
    """Gives every parameter and buffer the values of the source of its name, or the rows `kept_ids` of it.

    Names that shared a tensor share the new one: a copy, or with `shares` the source itself if that fits as it is.
    """
    made: dict[int, Tensor] = {}
    for name, target in tensors(model).items():
        if id(target) not in made:
            source = sources[name]
            made[id(target)] = source if shares and source.shape == target.shape else _copied(source, target, kept_ids)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, made[id(target)])


def _copied(source: Tensor, target: Tensor, kept_ids: Sequence[int] | None) -> Tensor:
    values = source.detach()
    values = values.clone() if source.shape == target.shape else values[torch.tensor(kept_ids, device=values.device)]
    return nn.Parameter(values, requires_grad=target.requires_grad) if isinstance(target, nn.Parameter) else values


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name; a tied weight is there under each of its names."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
