"""The frozen teacher: loaded, put to eval, and run without a graph as far as the alignments need it."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from distil_trainer.alignment import RELATIONS, Alignment, Place
from distil_trainer.errors import CaptureError, TrainingSetupError
from distil_trainer.features import FeatureReader, Features
from distil_trainer.head import HeadRows, without_adapters
from distil_trainer.loading import check_files, loading
from distil_trainer.projection import Projections
from distil_trainer.word_tables import trim_embeddings
from distil_trainer.zero import loaded_whole


def load_teacher(name: str, *, like: nn.Module, alignments: Sequence[Alignment]) -> PreTrainedModel:
    """Loads a teacher by Hub id or path, in the dtype it is stored in: with the student's class where logits are
    aligned, else without a head.

    Args:
        name: Hub id or path of a folder. Only safetensors are read; no code of the repository is run.
        like: the student.
        alignments: what will be compared.

    Raises:
        TrainingSetupError: it cannot be loaded, or logits are aligned and the student is not a transformers model.
    """
    if not reads_logits(alignments):
        with loading(name, TrainingSetupError), loaded_whole():
            check_files(name)
            return AutoModel.from_pretrained(name, use_safetensors=True, dtype="auto", trust_remote_code=False)
    if not isinstance(like, PreTrainedModel):
        raise TrainingSetupError(
            f"cannot tell which head the teacher {name!r} needs, because the student is a {type(like).__name__}. "
            "Load the teacher yourself and pass the model."
        )
    with loading(name, TrainingSetupError), loaded_whole():
        check_files(name)
        return type(like).from_pretrained(name, use_safetensors=True, dtype="auto")


def reader_for(
    model: Any,
    alignments: Sequence[Alignment],
    *,
    role: str,
    also: Sequence[int] = (),
    projections: Projections | None = None,
) -> FeatureReader:
    """A reader of what the alignments want from `role` ("student" or "teacher"), and `also` of these hidden states."""

    def layers(*features: str) -> list[Place]:
        return [alignment.place(role) for alignment in alignments if alignment.feature in features]

    heads = layers("attention_scores", *RELATIONS)
    reader = FeatureReader(
        model,
        hidden_layers=[*layers("hidden_states"), *also],
        attention_layers=[*layers("attention_probs"), *heads],
        logits=reads_logits(alignments),
        projections=projections,
        only_probs=not heads,
    )
    if reader.asks_for_probs and role == "student":
        _refuse_dropout(model)
    return reader


def _refuse_dropout(student: nn.Module) -> None:
    dropouts = {name: m.p for name, m in student.named_modules() if isinstance(m, nn.Dropout) and m.p > 0}
    if dropouts:
        name, p = next(iter(dropouts.items()))
        raise CaptureError(
            f"{type(student).__name__} gives its attention probabilities only after dropout, so the student should "
            f"have none; {name} has {p}. Build the student with build_student, whose dropout is 0 by default."
        )


def forward_columns(model: Any) -> list[str]:
    """The named arguments of the model's forward (of the model inside, for a PEFT model)."""
    return list(inspect.signature(without_adapters(model).forward).parameters)


def is_placed(model: Any) -> bool:
    """Whether the weights of a model are to stay as and where they are: accelerate spread them over devices
    (`device_map`), or they are quantised.
    """
    return getattr(model, "hf_device_map", None) is not None or bool(getattr(model, "is_quantized", False))


class Teacher:
    """A frozen model that answers a batch with its features, and computes no more than those.

    The model is put to `eval()` and its parameters stop requiring gradients; it is never saved and never wrapped, and
    its weights are not copied. Where no alignment reads logits its head is left out, and the forward ends inside the
    last block that is needed.

    A model that was loaded with a `device_map`, or quantised, stays as and where it is; what it computed moves to the
    device of the batch.

    Args:
        model: the teacher.
        alignments: what will be compared.
        dtype: cast the model to this (in place); None leaves it as it is.
        compile_options: run it through `torch.compile` with these; None leaves it as it is.
        kept_ids: batches hold the ids of a student that has these of the model's pieces only; None for the same ids.

    Attributes:
        model: the model as it was given, with all its pieces.
        stored_dtype: of its weights as they came.
        reads_logits: whether an alignment compares its logits.

    Raises:
        StudentError: `kept_ids` are not ids of pieces of the model, or it cannot be cut to them.
        TrainingSetupError: a model that is to stay as it is, and a dtype or `kept_ids`.
    """

    def __init__(
        self,
        model: Any,
        alignments: Sequence[Alignment],
        *,
        dtype: torch.dtype | None = None,
        compile_options: Mapping[str, Any] | None = None,
        kept_ids: Sequence[int] | None = None,
    ) -> None:
        self._is_placed = is_placed(model)
        if self._is_placed and (dtype is not None or kept_ids is not None):
            raise TrainingSetupError(
                f"the {type(model).__name__} was loaded with a device_map or quantised, and stays as it is; got "
                f"{'teacher_dtype' if dtype is not None else 'kept_ids'}. Leave that out (from_pretrained takes a "
                "dtype), or load the teacher without."
            )
        self.model = model.eval().requires_grad_(False)
        self.stored_dtype: torch.dtype = model.dtype
        if dtype is not None:
            self.model.to(dtype)
        if kept_ids is not None:
            model = trim_embeddings(model, kept_ids)
        self.reads_logits = reads_logits(alignments)
        headless = isinstance(model, PreTrainedModel) and not self.reads_logits
        self._network = model.base_model if headless else model
        self.reader = reader_for(self._network, alignments, role="teacher")
        self.columns = forward_columns(self._network)
        self._forward = self._network if compile_options is None else torch.compile(self._network, **compile_options)

    @torch.no_grad()  # not inference_mode: its tensors cannot be saved for the student's backward
    def __call__(self, inputs: Mapping[str, Any], rows: HeadRows | None = None) -> Features:
        """The features of one batch, without a graph. `labels` are not passed on.

        Args:
            inputs: the batch.
            rows: the positions whose logits are compared; None for all of them.
        """
        inputs = {k: v for k, v in inputs.items() if k in self.columns and k != "labels"}
        if rows is not None:
            rows = HeadRows(aligned=rows.aligned, task=rows.aligned[:0])
        # The weight of a head that accelerate keeps elsewhere is there during its own forward only.
        plain = rows is not None and not self._is_placed and self.reader.leaves_logits(inputs)
        with self.reader.reading(ends_early=not self.reads_logits, rows=rows, plain=plain) as features:
            self._forward(**inputs)
        return features.moved_to(next(iter(inputs.values())).device) if self._is_placed else features


def reads_logits(alignments: Sequence[Alignment]) -> bool:
    """Whether any alignment compares logits."""
    return any(alignment.feature == "logits" for alignment in alignments)


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively, else float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if native else torch.float32
