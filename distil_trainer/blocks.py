"""Where a model keeps its Transformer blocks."""

from typing import Any

from torch import nn

from distil_trainer.errors import CaptureError

STACKS = ("encoder", "decoder")


def has_two_stacks(model: nn.Module) -> bool:
    """Whether the model is an encoder and a decoder."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def depth(config: Any, stack: str | None = None) -> int | None:
    """How many blocks a config says that a model has, or one of its two stacks."""
    names = ("decoder_layers", "num_decoder_layers") if stack == "decoder" else ("num_hidden_layers",)
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)


def blocks(model: Any, stack: str | None = None) -> nn.ModuleList:
    """The Transformer blocks of `model`, in order: block k (one-based) is `blocks(model)[k - 1]`.

    They are found by structure, not by architecture: the one `nn.ModuleList` with `config.num_hidden_layers` members.
    Where one block is passed that many times (ALBERT: one `config.num_hidden_groups`), the list holds it that many
    times: a layer is a pass.

    Args:
        model: a transformers model.
        stack: which of a model with two: `"encoder"` or `"decoder"`; None for a model with one.

    Raises:
        CaptureError: the model has no `config.num_hidden_layers`, or no such list, or more than one, or `stack` does
            not fit it.
    """
    if has_two_stacks(model) != (stack is not None):
        wanted = "an encoder and a decoder: say which, stack='encoder' or 'decoder'" if stack is None else "one stack"
        raise CaptureError(f"{type(model).__name__} has {wanted}; got stack={stack!r}.")
    length = depth(getattr(model, "config", None), stack)
    if length is None:
        raise CaptureError(
            f"{type(model).__name__} has no `config.num_hidden_layers`, so its blocks cannot be counted. "
            "Intermediate layers can be aligned in transformers models only."
        )
    groups = getattr(model.config, "num_hidden_groups", None)
    if groups is not None:
        return nn.ModuleList([_shared_block(model, groups)] * length)
    part = model if stack is None else model.get_encoder() if stack == "encoder" else model.get_decoder()
    lists = _outer_lists(part, length)
    if len(lists) != 1:
        found = ", ".join(lists) or "none"
        raise CaptureError(
            f"{type(model).__name__} should have exactly one nn.ModuleList of {length} blocks "
            f"({'config.num_hidden_layers' if stack is None else f'in its {stack}'}); found: {found}. Other models are "
            "not supported."
        )
    return next(iter(lists.values()))


def _outer_lists(model: nn.Module, length: int) -> dict[str, nn.ModuleList]:
    """The lists of so many members, by name, that are inside no other of them."""
    lists: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        # A list inside a block (experts, say) may happen to have as many members; parents are visited first.
        inside = any(name.startswith(f"{found}.") for found in lists)
        if isinstance(module, nn.ModuleList) and len(module) == length and not inside:
            lists[name] = module
    return lists


def _shared_block(model: nn.Module, groups: int) -> nn.Module:
    lists = _outer_lists(model, groups)
    inner: Any = getattr(model.config, "inner_group_num", 1)
    if groups != 1 or inner != 1 or len(lists) != 1:
        raise CaptureError(
            f"{type(model).__name__} should pass one block again and again (num_hidden_groups=1, inner_group_num=1); "
            f"it has {groups} groups of {inner}, in: {', '.join(lists) or 'no list'}. One shared block alone is read."
        )
    return next(iter(lists.values()))[0]
