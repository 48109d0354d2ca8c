"""Which parameters a loss can reach: the others would only cost time, memory and communication."""

from torch import Tensor, nn


def unreached_parameters(loss: Tensor, model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters of `model`, by name, that no gradient of `loss` (a scalar) would arrive at."""
    reached: set[int] = set()
    seen: set[object] = set()
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # the node that accumulates a leaf's gradient
            reached.add(id(node.variable))
        waiting += [parent for parent, _ in node.next_functions]
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in reached
    }
