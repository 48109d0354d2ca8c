"""Where a model keeps its Transformer blocks."""

from torch import nn

from distil_trainer.errors import CaptureError


def blocks(model: nn.Module) -> nn.ModuleList:
    """The Transformer blocks of `model`, in order: block k (one-based) is `blocks(model)[k - 1]`.

    They are found by structure, not by architecture: the one `nn.ModuleList` with `config.num_hidden_layers` members.

    Raises:
        CaptureError: the model has no `config.num_hidden_layers`, or no such list, or more than one.
    """
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    if depth is None:
        raise CaptureError(
            f"{type(model).__name__} has no `config.num_hidden_layers`, so its blocks cannot be counted. "
            "Intermediate layers can be aligned in transformers models only."
        )
    lists: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        # A list inside a block (experts, say) may happen to have as many members; parents are visited first.
        inside = any(name.startswith(f"{found}.") for found in lists)
        if isinstance(module, nn.ModuleList) and len(module) == depth and not inside:
            lists[name] = module
    if len(lists) != 1:
        found = ", ".join(lists) or "none"
        raise CaptureError(
            f"{type(model).__name__} should have exactly one nn.ModuleList of {depth} blocks "
            f"(config.num_hidden_layers); found: {found}. Models with shared or several stacks are not supported."
        )
    return next(iter(lists.values()))
