"""A language model's head, run on no more rows than something reads.

At a vocabulary of 120,000 the head costs more than the blocks below it. Two hooks keep it small: one narrows what the
base model hands to the head to the rows that are read, the other takes the rows that are compared away just before
the output embedding, so that their logits can be formed in chunks where the loss is (`losses.LogitRows`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distil_trainer.losses import LogitRows
from distil_trainer.probe import first_example, in_eval_mode


@dataclass(frozen=True)
class HeadRows:
    """The positions of a batch [B, T], flattened to B * T, whose logits something reads.

    Attributes:
        aligned: int64 [N], the positions that a logits alignment counts.
        task: int64 [M], the positions that the model's own loss reads.
        labels: int64 [M], what the model's own loss compares the task's rows with; None when it is not read.
    """

    aligned: Tensor
    task: Tensor
    labels: Tensor | None = None

    @staticmethod
    def read_by(*, aligned: Tensor | None, labels: Tensor | None, shifts_labels: bool) -> "HeadRows":
        """The rows of a batch that are read.

        Args:
            aligned: bool [B, T], the positions that a logits alignment counts; None when there is none.
            labels: int64 [B, T], the labels of the model's own loss, -100 where it reads nothing; None without one.
            shifts_labels: the model's own loss compares position t with label t + 1 (causal models).
        """
        given = aligned if aligned is not None else labels
        assert given is not None
        none = given.new_zeros(0, dtype=torch.long)
        rows = none if aligned is None else aligned.flatten().nonzero().squeeze(1)
        if labels is None:
            return HeadRows(rows, none)
        if not shifts_labels:
            task = (labels != -100).flatten().nonzero().squeeze(1)
            return HeadRows(rows, task, labels.flatten()[task])
        following = nn.functional.pad(labels[:, 1:], (0, 1), value=-100).flatten()
        task = (following != -100).nonzero().squeeze(1)
        # The loss will shift again: a label in front that belongs to no row, and a row at the end that has no label.
        in_front = following.new_full((1,), -100)
        return HeadRows(rows, torch.cat([task, task.new_zeros(1)]), torch.cat([in_front, following[task]]))

    @staticmethod
    def none(inputs: Mapping[str, Any]) -> "HeadRows":
        """No row of a batch."""
        rows = torch.zeros(0, dtype=torch.long, device=next(iter(inputs.values())).device)
        return HeadRows(rows, rows)

    @property
    def all(self) -> Tensor:
        """int64 [N + M], in the order in which the head sees them."""
        return torch.cat([self.aligned, self.task])

    def labels_for(self, *, plain: bool) -> Tensor:
        """int64 [1, rows of logits]: the labels of the rows that the head turns into logits."""
        assert self.labels is not None
        before = self.labels.new_full((0 if plain else len(self.aligned),), -100)
        return torch.cat([before, self.labels]).unsqueeze(0)


class LanguageModelHead:
    """The part of a model that turns hidden states into logits, position by position.

    Args:
        model: a model for which `LanguageModelHead.is_in(model)` holds.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._inner = without_adapters(model)
        self._embedding = self._inner.get_output_embeddings()
        self._is_plain: bool | None = None
        self._taken: LogitRows | None = None

    @property
    def reads_rows_alone(self) -> bool:
        """Whether the model's own loss is a mean over labelled positions, each read by itself."""
        return getattr(self._inner, "loss_type", None) in ("ForMaskedLM", "ForCausalLM")

    @staticmethod
    def is_in(model: Any) -> bool:
        """Whether the model is a base model and an output embedding on top of it."""
        model = without_adapters(model)
        has_head = hasattr(model, "get_output_embeddings") and model.get_output_embeddings() is not None
        return has_head and getattr(model, "base_model", model) is not model

    def is_plain(self, inputs: Mapping[str, Any]) -> bool:
        """Whether the logits are the output embedding's product as it is: no soft capping, scaling or adapter on it.

        It is found out once, by running the first example of `inputs`.
        """
        if self._is_plain is None:
            self._is_plain = type(self._embedding) is nn.Linear and self._gives_its_own_product(inputs)
        return self._is_plain

    @torch.no_grad()
    def _gives_its_own_product(self, inputs: Mapping[str, Any]) -> bool:
        products: list[Tensor] = []
        hook = self._embedding.register_forward_hook(lambda module, args, output: products.append(output))
        with hook, in_eval_mode(self.model):
            logits = logits_of(self.model(**first_example(inputs)))
        return logits is not None and len(products) == 1 and torch.equal(logits.float(), products[0].float())

    @contextmanager
    def on(self, rows: HeadRows, *, plain: bool) -> Iterator[None]:
        """Inside this context the head of one forward runs on `rows` only: logits [1, rows, V].

        With `plain` the aligned rows never become logits; what is left for the head are the task's.
        """
        self._rows, self._taken = rows, None
        hooks = [self._inner.base_model.register_forward_hook(self._narrow)]
        if plain:
            hooks.append(self._embedding.register_forward_pre_hook(self._take))
        try:
            yield
        finally:
            self._taken = None  # what was read of the batch is its reader's to keep
            for hook in hooks:
                hook.remove()

    @contextmanager
    def on_labels(self) -> Iterator[None]:
        """Inside this context a forward of a masked-language model that is given `labels` has logits [1, rows, V] of
        the labelled rows only. The model's own loss is the same.
        """

        def choose(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            self._rows = HeadRows.read_by(aligned=None, labels=kwargs["labels"], shifts_labels=False)
            return args, {**kwargs, "labels": self._rows.labels_for(plain=True)}

        hooks = [
            self.model.register_forward_pre_hook(choose, with_kwargs=True),
            self._inner.base_model.register_forward_hook(self._narrow),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _narrow(self, base_model: nn.Module, args: Any, output: Any) -> Any:
        output["last_hidden_state"] = output["last_hidden_state"].flatten(0, 1)[self._rows.all].unsqueeze(0)
        return output

    def _take(self, embedding: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        aligned = len(self._rows.aligned)
        self._taken = self.rows_of(args[0][:, :aligned])
        return (args[0][:, aligned:],)

    def rows_of(self, hidden: Tensor) -> LogitRows:
        """The logits that a plain head forms from what its output embedding is given, [..., D]."""
        return LogitRows(hidden, self._embedding.weight, self._embedding.bias)

    def aligned(self, outputs: Any) -> LogitRows | Tensor | None:
        """The logits [1, N, V] of the aligned rows of the forward that gave `outputs`, or what they are formed from."""
        logits = logits_of(outputs)
        if self._taken is not None or logits is None:
            return self._taken
        return logits[:, : len(self._rows.aligned)]


def without_adapters(model: Any) -> Any:
    """The transformers model inside a PEFT model; any other model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def logits_of(outputs: Any) -> Tensor | None:
    """The logits in a model's outputs: `logits`, or `prediction_logits` for models with two heads; None if neither."""
    for key in ("logits", "prediction_logits"):
        if isinstance(outputs, dict) and outputs.get(key) is not None:
            return outputs[key]
    return None
