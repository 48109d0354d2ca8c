"""Where a model keeps its Transformer blocks."""

from typing import Any

from torch import nn

from distil_trainer.errors import CaptureError


def blocks(model: nn.Module) -> nn.ModuleList:
    """The Transformer blocks of `model`, in order: block k (one-based) is `blocks(model)[k - 1]`.

    They are found by structure, not by architecture: the one `nn.ModuleList` with `config.num_hidden_layers` members.
    Where one block is passed that many times (ALBERT: one `config.num_hidden_groups`), the list holds it that many
    times: a layer is a pass.

    Raises:
        CaptureError: the model has no `config.num_hidden_layers`, or no such list, or more than one.
    """
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    if depth is None:
        raise CaptureError(
            f"{type(model).__name__} has no `config.num_hidden_layers`, so its blocks cannot be counted. "
            "Intermediate layers can be aligned in transformers models only."
        )
    groups = getattr(model.config, "num_hidden_groups", None)
    if groups is not None:
        return nn.ModuleList([_shared_block(model, groups)] * depth)
    lists = _outer_lists(model, depth)
    if len(lists) != 1:
        found = ", ".join(lists) or "none"
        raise CaptureError(
            f"{type(model).__name__} should have exactly one nn.ModuleList of {depth} blocks "
            f"(config.num_hidden_layers); found: {found}. Models with several stacks are not supported."
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
