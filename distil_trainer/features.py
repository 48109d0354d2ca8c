"""What a model computed: hidden states and attention heads of chosen layers, and logits, read during its own forward.

Nothing is asked of the model that it would not do anyway: hidden states come from hooks on the wanted blocks, queries,
keys and values from the function through which transformers dispatches attention. The attention backend in use (sdpa,
flash, eager) stays in use, with its own masks and special cases; all three are seen before softmax and dropout, queries
and keys as they are multiplied, so after any rotation by position. When the forward is over everything is taken off
again, so the recomputation of gradient checkpointing reads nothing twice.

Nor is more computed than is read: where nothing needs the outputs the forward ends with the last thing that is wanted
(with FSDP2, which counts on every block to end, with the block that it is in), and a language model's head runs on the
wanted rows only (`head.py`).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from distil_trainer.alignment import Place
from distil_trainer.attention_calls import (
    ScoreChange,
    attention_replaced,
    dispatches_attention,
    eager_function,
    heads_of_probs,
    is_causal,
    score_change,
    visible_pairs,
)
from distil_trainer.blocks import blocks, has_two_stacks
from distil_trainer.errors import CaptureError
from distil_trainer.head import HeadRows, LanguageModelHead, logits_of
from distil_trainer.losses import Heads, LogitMean, LogitRows, TopLogits
from distil_trainer.projection import Projections
from distil_trainer.sharding import is_sharded


class _EverythingRead(Exception):  # noqa: N818  # not an error: it ends a forward
    """Raised inside a forward when all that is wanted was read."""


@dataclass
class Features:
    """What one forward computed. Layers are one-based blocks; hidden states of layer 0 are the embedding output. Layers
    of a model with two stacks go by the stack's name and their number: `("decoder", 2)`.

    Attributes:
        hidden_states: layer -> [B, T, D].
        projected: name of an alignment -> its projected hidden states, [B, T, width of the teacher].
        heads: layer -> queries, keys, values, scaling and visible pairs of its self-attention.
        changes: layer -> what the model does to the scores besides, where it does anything.
        logits: [B, T, V], or [B, C] for a classifier; [1, N, V] where the head ran on N aligned rows only, or what
            they are formed from, or the largest of them; None when nothing reads logits or the model has no head. Of
            several teachers together the mean.
        is_narrow: whether `logits` holds the aligned rows only.
        has_decoder: whether the logits are those of a decoder behind an encoder.
    """

    hidden_states: dict[Place, Tensor] = field(default_factory=dict)
    projected: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[Place, Heads] = field(default_factory=dict)
    changes: dict[Place, ScoreChange] = field(default_factory=dict)
    logits: Tensor | LogitRows | LogitMean | TopLogits | None = None
    is_narrow: bool = False
    has_decoder: bool = False

    def attention(self, layer: Place) -> Heads:
        """What the attention map of a layer is the softmax of: its heads, with what the model does to their scores."""
        heads, change = self.heads[layer], self.changes.get(layer)
        return heads if change is None else change.applied(heads)

    def moved_to(self, device: torch.device) -> "Features":
        """The same on one device, of a model that is spread over several."""
        return Features(**{each.name: _moved(getattr(self, each.name), device) for each in fields(self)})

    def tensors(self) -> Iterator[Tensor]:
        """Everything that a loss may take a gradient of, parameters as views."""
        yield from self.hidden_states.values()
        yield from self.projected.values()
        for heads in self.heads.values():
            yield from (t for t in (heads.query, heads.key, heads.value) if t is not None)
        yield from (change.bias for change in self.changes.values() if change.bias is not None)
        if isinstance(self.logits, LogitRows):
            yield from (t.view_as(t) for t in self.logits if t is not None)


class FeatureReader:
    """Reads the wanted layers of one model during a forward.

    The hooks are the same functions at every forward, and what changes from one to the next are attributes: so
    `torch.compile` traces them once.

    Args:
        model: the model, not the wrapper that accelerate put around it.
        hidden_layers: layers whose hidden states are wanted (0 = embedding output).
        attention_layers: layers whose queries, keys and values are wanted.
        logits: whether logits are wanted.
        projections: maps of wanted hidden states, applied at the end of the forward; None without any.
        only_probs: of the attention nothing but its probabilities is wanted. A model whose queries and keys cannot be
            read is then asked for its own (`output_attentions`), after dropout; its forward does not end early.

    Attributes:
        head: the part that can be run on some rows only; None for a model without such a part.
        asks_for_probs: whether the model is asked for its attention probabilities.

    Raises:
        CaptureError: the model's blocks cannot be found, or its attention cannot be read.
    """

    def __init__(
        self,
        model: Any,
        *,
        hidden_layers: Collection[Place],
        attention_layers: Collection[Place],
        logits: bool = False,
        projections: Projections | None = None,
        only_probs: bool = False,
    ) -> None:
        self.model = model
        self._projections = projections
        self._has_decoder = has_two_stacks(model)
        narrows = not self._has_decoder and LanguageModelHead.is_in(model)
        self.head = LanguageModelHead(model) if narrows else None
        self._reads_logits = logits
        self._hidden_layers = sorted(set(hidden_layers), key=_stack_and_number)
        self._attention_layers = sorted(set(attention_layers), key=_stack_and_number)
        stacks = {_stack_and_number(layer)[0] for layer in (*self._hidden_layers, *self._attention_layers)}
        self._blocks = {stack: blocks(model, stack or None) for stack in stacks}
        self._layer_of_module = {
            module: layer for layer in self._attention_layers for module in self._block(layer).modules()
        }
        # one block, passed several times
        self._is_shared = any(len(set(stack)) < len(stack) for stack in self._blocks.values())
        self._calls: Counter[Any] = Counter()  # in this forward, by what is called and who counts
        self.asks_for_probs = bool(self._attention_layers) and not dispatches_attention(model)
        if self.asks_for_probs and not only_probs:
            raise CaptureError(
                f"{type(model).__name__} does not dispatch its attention through transformers' AttentionInterface, so "
                "its queries, keys and values cannot be read. Align attention_probs, hidden states or logits of this "
                "model instead."
            )
        self._keep_hidden_states = {layer: self._hook_for(layer) for layer in self._hidden_layers}
        self._features = Features()
        self._ends_early = False

    def _block(self, layer: Place) -> nn.Module:
        """The block of a layer; of layer 0, the one that is given the embeddings."""
        stack, number = _stack_and_number(layer)
        return self._blocks[stack][max(number - 1, 0)]

    def leaves_logits(self, inputs: Mapping[str, Any]) -> bool:
        """Whether the wanted logits may be left as `LogitRows`: what `reading` calls `plain`."""
        return self._reads_logits and self.head is not None and self.head.is_plain(inputs)

    @contextmanager
    def reading(
        self, *, ends_early: bool = False, rows: HeadRows | None = None, plain: bool = False, hands_out: bool = False
    ) -> Iterator[Features]:
        """Inside this context one forward of the model fills the `Features` that it yields.

        Args:
            ends_early: nobody needs the model's outputs: the forward ends as soon as the last wanted layer was read,
                and returns an empty output.
            rows: run the head on these rows only (needs `head`).
            plain: whether the logits of the aligned rows may be left as `LogitRows`.
            hands_out: the model also returns everything that was read, in `hidden_states`. DDP finds the parameters
                that get no gradient by walking back from what the forward returned, and FSDP2 waits for the gradient of
                that: features that were only taken out on the side would be missed.

        Raises:
            CaptureError: the forward did not pass through a wanted layer, or passed through it without a graph.
        """
        self._features = features = Features(has_decoder=self._has_decoder)
        self._calls = Counter()
        self._ends_early = ends_early
        self._ends_in_block = not is_sharded(self.model)
        with ExitStack() as stack:
            stack.callback(self._forget)
            if ends_early:
                stack.enter_context(self._ending_early())
            for layer, hook in self._keep_hidden_states.items():
                if _stack_and_number(layer)[1] == 0:
                    stack.enter_context(self._block(layer).register_forward_pre_hook(hook, with_kwargs=True))
                else:
                    stack.enter_context(self._block(layer).register_forward_hook(hook))
            if self.asks_for_probs:
                stack.enter_context(self.model.register_forward_pre_hook(_ask_for_probs, with_kwargs=True))
            elif self._attention_layers:
                stack.enter_context(self._recording_attention())
            if rows is not None and self.head is not None:
                stack.enter_context(self.head.on(rows, plain=plain))
                features.is_narrow = True
            if not self._ends_in_block:
                for layer in self._layers_read_in_blocks():
                    block: Any = self._block(layer)
                    block.set_reshard_after_forward(False)  # it gets a gradient that does not come by its output
                    stack.enter_context(block.register_forward_hook(self._end_after_block))
            # The last to be registered is the first to run: all of them before the hooks that FSDP2 has on the model.
            if hands_out:
                stack.enter_context(self.model.register_forward_hook(self._hand_out, prepend=True))
            if self._projections is not None:
                stack.enter_context(self.model.register_forward_hook(self._project, prepend=True))
            if self._reads_logits:
                stack.enter_context(self.model.register_forward_hook(self._keep_logits, prepend=True))
            if self.asks_for_probs:
                stack.enter_context(self.model.register_forward_hook(self._keep_probs, prepend=True))
            yield features
        self._check(features)

    def _forget(self) -> None:
        """Lets go of what was read, also of a forward that failed; a later one without a reader must not fill it."""
        self._features = Features()

    @contextmanager
    def _ending_early(self) -> Iterator[None]:
        """Inside this context `_EverythingRead` ends the model's forward. It is caught inside the model's own call, so
        wrappers of the model (DDP) see an ordinary return.
        """
        replaced = vars(self.model).get("forward")  # accelerate puts one here for mixed precision
        self._whole_forward = self.model.forward
        self.model.forward = self._forward_until_read
        try:
            yield
        finally:
            if replaced is None:
                del self.model.forward
            else:
                self.model.forward = replaced

    def _forward_until_read(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._whole_forward(*args, **kwargs)
        except _EverythingRead:
            return BaseModelOutput()

    def _layers_read_in_blocks(self) -> list[Place]:
        return [*self._attention_layers, *(p for p in self._hidden_layers if _stack_and_number(p)[1] == 0)]

    def _end_after_block(self, block: nn.Module, args: Any, output: Any) -> None:
        self._end_if_everything_was_read()

    def _end_if_everything_was_read(self, *, in_block: bool = False) -> None:
        if in_block and not self._ends_in_block:
            return
        read = len(self._features.hidden_states) + len(self._features.heads)
        if self._ends_early and read == len(self._hidden_layers) + len(self._attention_layers):
            raise _EverythingRead

    def _hook_for(self, layer: Place) -> Callable[..., None]:
        def keep_input(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if layer in self._features.hidden_states:  # a later pass through a shared block
                return
            self._features.hidden_states[layer] = args[0] if args else kwargs["hidden_states"]
            self._end_if_everything_was_read(in_block=True)

        def keep_output(block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self._is_shared and self._count_call(block, layer) != layer:
                return
            self._features.hidden_states[layer] = output[0] if isinstance(output, tuple) else output
            self._end_if_everything_was_read()

        return keep_input if _stack_and_number(layer)[1] == 0 else keep_output

    def _count_call(self, *who: Any) -> int:
        self._calls[who] += 1
        return self._calls[who]

    def _keep_probs(self, model: nn.Module, args: Any, output: Any) -> None:
        probs = output.get("attentions") or ()
        for layer in self._attention_layers:
            _, number = _stack_and_number(layer)
            if number <= len(probs):
                self._features.heads[layer] = heads_of_probs(probs[number - 1])

    def _keep_logits(self, model: nn.Module, args: Any, output: Any) -> None:
        features = self._features
        features.logits = (
            self.head.aligned(output) if self.head is not None and features.is_narrow else logits_of(output)
        )

    def _project(self, model: nn.Module, args: Any, output: Any) -> None:
        # Not where the hidden states are read: inside a block, gradient checkpointing would have to do it again.
        assert self._projections is not None
        self._features.projected = self._projections(self._features.hidden_states)

    def _hand_out(self, model: nn.Module, args: Any, output: Any) -> Any:
        # In a field that every transformers output has: DDP rebuilds outputs by their type.
        output["decoder_hidden_states" if self._has_decoder else "hidden_states"] = tuple(self._features.tensors())
        return output

    @contextmanager
    def _recording_attention(self) -> Iterator[None]:
        """Puts `_record` in the place of the backend's function for one forward."""
        self._backend = self.model.config._attn_implementation
        with attention_replaced(self.model, self._record) as self._attention:
            yield

    def _record(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        layer = self._layer_of_module.get(module)
        if layer is not None and self._is_shared:
            call = self._count_call(module)
            layer = call if call in self._attention_layers else None
        if layer is not None and layer not in self._features.heads:
            scaling = kwargs.get("scaling")
            scaling = query.size(-1) ** -0.5 if scaling is None else scaling
            causal = is_causal(module, query, mask, self._backend, kwargs.get("is_causal"))
            visible = visible_pairs(mask, self._backend)
            change = score_change(module, kwargs)
            if change is not None:
                self._features.changes[layer] = change
            self._features.heads[layer] = Heads(query, key, scaling, visible, causal, value)
            self._end_if_everything_was_read(in_block=True)
        forward = self._attention if self._attention is not None else eager_function(module)
        return forward(module, query, key, value, mask, **kwargs)

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
            _, number = _stack_and_number(layer)
            learns = number > 0 and any(p.requires_grad for p in self._block(layer).parameters())
            if learns and not tensor.requires_grad:
                raise CaptureError(
                    f"block {layer} of {name} ran without a graph, so no gradient can reach it. Re-entrant gradient "
                    "checkpointing does this: set gradient_checkpointing_kwargs={'use_reentrant': False}."
                )


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(part, device) for key, part in value.items()}
    if isinstance(value, Heads | LogitRows):
        return type(value)(*(_moved(part, device) for part in value))
    if isinstance(value, ScoreChange):
        return ScoreChange(value.softcap, _moved(value.bias, device))
    return value


def _stack_and_number(layer: Place) -> tuple[str, int]:
    return layer if isinstance(layer, tuple) else ("", layer)


def _ask_for_probs(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    return args, {**kwargs, "output_attentions": True}
