"""What a model computed: hidden states and attention heads of chosen layers, and logits, read during its own forward.

Nothing is asked of the model that it would not do anyway: hidden states come from hooks on the wanted blocks, queries
and keys from the function through which transformers dispatches attention. The attention backend in use (sdpa, flash,
eager) stays in use, with its own masks and special cases; queries and keys are seen before softmax and dropout. When
the forward is over everything is taken off again, so the recomputation of gradient checkpointing reads nothing twice.
"""

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from distil_trainer.blocks import blocks
from distil_trainer.errors import CaptureError
from distil_trainer.losses import Heads


@dataclass
class Features:
    """What one forward computed. Layers are one-based blocks; hidden states of layer 0 are the embedding output.

    Attributes:
        hidden_states: layer -> [B, T, D].
        heads: layer -> queries, keys, scaling and visible pairs of its self-attention.
        logits: [B, T, V], or [B, C] for a classifier; None when the model has no head.
    """

    hidden_states: dict[int, Tensor] = field(default_factory=dict)
    heads: dict[int, Heads] = field(default_factory=dict)
    logits: Tensor | None = None


class FeatureReader:
    """Reads the wanted layers of one model during a forward.

    Args:
        model: the model, not the wrapper that accelerate put around it.
        hidden_layers: layers whose hidden states are wanted (0 = embedding output).
        attention_layers: layers whose queries and keys are wanted.

    Raises:
        CaptureError: the model's blocks cannot be found, or its attention cannot be read.
    """

    def __init__(self, model: Any, *, hidden_layers: Collection[int], attention_layers: Collection[int]) -> None:
        self.model = model
        self._hidden_layers = sorted(set(hidden_layers))
        self._attention_layers = sorted(set(attention_layers))
        self._blocks = blocks(model) if self._hidden_layers or self._attention_layers else nn.ModuleList()
        self._layer_of_module = {
            module: layer for layer in self._attention_layers for module in self._blocks[layer - 1].modules()
        }
        if self._attention_layers and not _dispatches_attention(model):
            raise CaptureError(
                f"{type(model).__name__} does not dispatch its attention through transformers' AttentionInterface, so "
                "its queries and keys cannot be read. Align hidden states or logits of this model instead."
            )

    @contextmanager
    def reading(self) -> Iterator[Features]:
        """Inside this context one forward of the model fills the `Features` that it yields.

        Raises:
            CaptureError: the forward did not pass through a wanted layer, or passed through it without a graph.
        """
        features = Features()
        with ExitStack() as stack:
            for layer in self._hidden_layers:
                stack.enter_context(self._hidden_states_hook(layer, features))
            if self._attention_layers:
                stack.enter_context(self._attention_hook(features))
            yield features
        self._check(features)

    def _hidden_states_hook(self, layer: int, features: Features) -> Any:
        def keep_input(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            features.hidden_states[0] = args[0] if args else kwargs["hidden_states"]

        def keep_output(block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            features.hidden_states[layer] = output[0] if isinstance(output, tuple) else output

        if layer == 0:
            return self._blocks[0].register_forward_pre_hook(keep_input, with_kwargs=True)
        return self._blocks[layer - 1].register_forward_hook(keep_output)

    @contextmanager
    def _attention_hook(self, features: Features) -> Iterator[None]:
        """Puts a recording function in the place of the backend's, under the backend's own name, for one forward."""
        backend = self.model.config._attn_implementation
        own = ALL_ATTENTION_FUNCTIONS.get(backend)  # None for eager, which each modelling file defines itself
        locally_set = backend in ALL_ATTENTION_FUNCTIONS._local_mapping

        def record(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
            layer = self._layer_of_module.get(module)
            if layer is not None and layer not in features.heads:
                scaling = kwargs.get("scaling")
                scaling = query.size(-1) ** -0.5 if scaling is None else scaling
                visible = _visible_pairs(module, query, mask, backend, kwargs.get("is_causal"))
                features.heads[layer] = Heads(query, key, scaling, visible)
            forward = own if own is not None else _eager_function(module)
            return forward(module, query, key, value, mask, **kwargs)

        ALL_ATTENTION_FUNCTIONS[backend] = record
        try:
            yield
        finally:
            if locally_set:
                ALL_ATTENTION_FUNCTIONS[backend] = own
            else:
                del ALL_ATTENTION_FUNCTIONS[backend]

    def _check(self, features: Features) -> None:
        name = type(self.model).__name__
        for what, wanted, got in (
            ("hidden states", self._hidden_layers, features.hidden_states),
            ("attention", self._attention_layers, features.heads),
        ):
            missing = [layer for layer in wanted if layer not in got]
            if missing:
                raise CaptureError(f"the forward of {name} never computed the {what} of layer(s) {missing}.")
        if not torch.is_grad_enabled():
            return
        found = {layer: heads.query for layer, heads in features.heads.items()} | features.hidden_states
        for layer, tensor in found.items():
            learns = layer > 0 and any(p.requires_grad for p in self._blocks[layer - 1].parameters())
            if learns and not tensor.requires_grad:
                raise CaptureError(
                    f"block {layer} of {name} ran without a graph, so no gradient can reach it. Re-entrant gradient "
                    "checkpointing does this: set gradient_checkpointing_kwargs={'use_reentrant': False}."
                )


def logits_of(outputs: Any) -> Tensor | None:
    """The logits in a model's outputs: `logits`, or `prediction_logits` for models with two heads; None if neither."""
    for key in ("logits", "prediction_logits"):
        if isinstance(outputs, dict) and outputs.get(key) is not None:
            return outputs[key]
    return None


def _dispatches_attention(model: nn.Module) -> bool:
    """Whether any model inside `model` (a PEFT model wraps one) reads its attention function from the interface."""
    return any(getattr(type(m), "_can_set_attn_implementation", lambda: False)() for m in model.modules())


def _eager_function(module: nn.Module) -> Callable[..., Any]:
    source = sys.modules[type(module).__module__]
    if not hasattr(source, "eager_attention_forward"):
        raise CaptureError(
            f"{type(module).__name__} defines no eager_attention_forward; use attn_implementation='sdpa' to align it."
        )
    return source.eager_attention_forward


def _visible_pairs(module: nn.Module, query: Tensor, mask: Any, backend: str, is_causal: bool | None) -> Tensor | None:
    """The backend's mask as bool, broadcastable to [B, H, T, T] (True = query may look at key); None = everything."""
    if mask is None:
        causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
        if backend == "eager" or not causal or query.size(2) == 1:
            return None
        return torch.ones(query.size(2), query.size(2), dtype=torch.bool, device=query.device).tril()
    if isinstance(mask, Tensor) and mask.ndim == 4:
        return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    raise CaptureError(f"cannot read the attention mask of backend {backend!r}; use attn_implementation='sdpa'.")
