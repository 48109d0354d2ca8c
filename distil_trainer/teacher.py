"""The frozen teacher: loaded, put to eval, and run without a graph as far as the alignments need it."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from distil_trainer.alignment import Alignment
from distil_trainer.errors import TrainingSetupError
from distil_trainer.features import FeatureReader, Features, logits_of


def load_teacher(name: str, *, like: nn.Module, alignments: Sequence[Alignment]) -> PreTrainedModel:
    """Loads a teacher by Hub id or path: with the student's class where logits are aligned, else without a head.

    Args:
        name: Hub id or path of a folder. Only safetensors are read; no code of the repository is run.
        like: the student.
        alignments: what will be compared.

    Raises:
        TrainingSetupError: logits are aligned and the student is not a transformers model.
    """
    if not _reads_logits(alignments):
        return AutoModel.from_pretrained(name, use_safetensors=True)
    if not isinstance(like, PreTrainedModel):
        raise TrainingSetupError(
            f"cannot tell which head the teacher {name!r} needs, because the student is a {type(like).__name__}. "
            "Load the teacher yourself and pass the model."
        )
    return type(like).from_pretrained(name, use_safetensors=True)


def reader_for(model: Any, alignments: Sequence[Alignment], *, role: str) -> FeatureReader:
    """A reader of the layers that the alignments want from `role` ("student" or "teacher")."""

    def layers(*features: str) -> list[int]:
        return [getattr(a, f"{role}_layer") for a in alignments if a.feature in features]

    return FeatureReader(
        model,
        hidden_layers=layers("hidden_states"),
        attention_layers=layers("attention_probs", "attention_scores"),
    )


def forward_columns(model: Any) -> list[str]:
    """The named arguments of the model's forward (of the model inside, for a PEFT model)."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return list(inspect.signature(inner.forward).parameters)


class Teacher:
    """A frozen model that answers a batch with its features.

    The model is put to `eval()` and its parameters stop requiring gradients; it is never saved and never wrapped. Its
    head is left out when no alignment reads logits.
    """

    def __init__(self, model: Any, alignments: Sequence[Alignment]) -> None:
        self.model = model.eval().requires_grad_(False)
        self._gives_logits = _reads_logits(alignments)
        headless = isinstance(model, PreTrainedModel) and not self._gives_logits
        self._network = model.base_model if headless else model
        self._reader = reader_for(self._network, alignments, role="teacher")
        self.columns = forward_columns(self._network)

    @torch.no_grad()  # not inference_mode: its tensors cannot be saved for the student's backward
    def __call__(self, inputs: Mapping[str, Any]) -> Features:
        """The features of one batch, without a graph. `labels` are not passed on."""
        inputs = {k: v for k, v in inputs.items() if k in self.columns and k != "labels"}
        with self._reader.reading() as features:
            outputs = self._network(**inputs)
        if self._gives_logits:
            features.logits = logits_of(outputs)
        return features


def _reads_logits(alignments: Sequence[Alignment]) -> bool:
    return any(alignment.feature == "logits" for alignment in alignments)
