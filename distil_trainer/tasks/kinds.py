"""The tasks that models are fine-tuned on: what is read, how it becomes a model's input, and how it is scored."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from datasets import ClassLabel, Dataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from distil_trainer.data import label_list, tokenize_and_label
from distil_trainer.errors import DataError, DistilTrainerError, RecipeError
from distil_trainer.loading import check_files, loading
from distil_trainer.metrics import similarity_metrics, text_classification_metrics, token_classification_metrics

Metrics = Callable[[Any], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of task.

    Attributes:
        model_class: the Auto class of its models.
        labels: (training split, label column) -> the names of the labels; none where the label is a number.
        encode: (split, tokenizer, names, columns, most tokens) -> inputs and `labels`. `columns` are those that are
            read, the label's the last.
        collator: makes batches; takes the tokenizer.
        metrics: names -> `compute_metrics` for Trainer.
        scores: what of `compute_metrics` is reported: its key -> type and name of the metric on the Hub. The first one
            is the main one.
    """

    model_class: Any
    labels: Callable[[Dataset, str], list[str]]
    encode: Callable[[Dataset, PreTrainedTokenizerBase, Sequence[str], Sequence[str], int], Dataset]
    collator: Callable[[PreTrainedTokenizerBase], Any]
    metrics: Callable[[Sequence[str]], Metrics]
    scores: dict[str, tuple[str, str]]

    def head(self, names: Sequence[str]) -> dict[str, Any]:
        """What a model's config says of a head for these labels."""
        if not names:
            return {"num_labels": 1, "problem_type": "regression"}
        return {
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
            "problem_type": None,  # of a head that was there
        }


def class_list(dataset: Dataset, column: str) -> list[str]:
    """The names of the classes of a training split, in order; numbers without names are named by themselves.

    Raises DataError when a row has none, or when all have the same.
    """
    feature = dataset.features[column]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    found = set(dataset[column])
    if None in found or not (all(isinstance(x, int) for x in found) or all(isinstance(x, str) for x in found)):
        raise DataError(f"expected a class, text or a whole number, under {column!r} in each row, got {feature}")
    if len(found) < 2:
        raise DataError(f"expected two classes or more under {column!r}, got {sorted(found)}; check the column")
    return [str(name) for name in sorted(found)]


def _encode_words(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    columns: Sequence[str],
    max_length: int,
) -> Dataset:
    tokens, tags = columns
    return tokenize_and_label(dataset, tokenizer, names, max_length, tokens_column=tokens, tags_column=tags)


def _encode_texts(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    columns: Sequence[str],
    max_length: int,
) -> Dataset:
    """One text or two, the longer one cut first, with the number of their class, or with a number as it is."""
    ids = {name: number for number, name in enumerate(names)}
    feature = dataset.features[columns[-1]]
    own = feature.names if isinstance(feature, ClassLabel) else None

    def number(label: Any, row: int) -> int | float:
        if not names:
            if isinstance(label, bool) or not isinstance(label, int | float) or not math.isfinite(label):
                raise DataError(f"expected a number under {columns[-1]!r}, got {label!r} in row {row}; convert it")
            return float(label)
        name = own[label] if own and label is not None and label >= 0 else str(label)
        if name not in ids:
            raise DataError(f"expected one of the classes {list(names)}, got {label!r} in row {row}; leave it out")
        return ids[name]

    def encode(*batch: list[Any]) -> dict[str, list[Any]]:
        *texts, labels, rows = batch
        for column, values in zip(columns, texts, strict=False):
            for row, text in zip(rows, values, strict=True):
                if not isinstance(text, str):
                    raise DataError(f"expected text under {column!r}, got {text!r} in row {row}; leave it out")
        encoded = tokenizer(*texts, truncation=True, max_length=max_length)
        inputs = {name: encoded[name] for name in tokenizer.model_input_names if name in encoded}
        return inputs | {"labels": [number(label, row) for label, row in zip(labels, rows, strict=True)]}

    return dataset.map(
        encode,
        batched=True,
        with_indices=True,
        input_columns=list(columns),
        remove_columns=dataset.column_names,
        desc="Tokenizing texts",
    )


TASKS = {
    "token-classification": Task(
        model_class=AutoModelForTokenClassification,
        labels=lambda dataset, column: label_list(dataset, column=column),
        encode=_encode_words,
        collator=DataCollatorForTokenClassification,
        metrics=token_classification_metrics,
        scores={"f1": ("f1", "F1 (seqeval)")},
    ),
    "text-classification": Task(
        model_class=AutoModelForSequenceClassification,
        labels=class_list,
        encode=_encode_texts,
        collator=DataCollatorWithPadding,
        metrics=lambda names: text_classification_metrics,
        scores={"accuracy": ("accuracy", "Accuracy"), "macro_f1": ("f1", "F1 (macro)")},
    ),
    "sentence-similarity": Task(
        model_class=AutoModelForSequenceClassification,
        labels=lambda dataset, column: [],
        encode=_encode_texts,
        collator=DataCollatorWithPadding,
        metrics=lambda names: similarity_metrics,
        scores={"spearmanr": ("spearmanr", "Spearman's correlation")},
    ),
}


def load_for_task(
    path: str, task: Task, names: Sequence[str], attn_implementation: str | None = None
) -> tuple[PreTrainedModel, list[str]]:
    """The model at `path` (a folder or Hub id) in float32 with a head for the labels, and which parameters are new.

    A head that is there is kept if it is one for this task and these labels; any other is left out, and the new one is
    random: call `set_seed` before. Raises DistilTrainerError when it cannot be loaded, or
    weights below the head are missing.
    """
    with loading(path, RecipeError):
        check_files(path)
        own = AutoConfig.from_pretrained(path, trust_remote_code=False)
    with _quiet(), loading(path, RecipeError):  # transformers reports a new head in a table; we say it in a line
        model, info = task.model_class.from_pretrained(
            path,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=attn_implementation,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **task.head(names),
        )
    body = f"{model.base_model_prefix}."
    new = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    lost = sorted(name for name in new if name.startswith(body) and "pooler" not in name)
    if lost:
        raise DistilTrainerError(
            f"expected the weights of a {type(model).__name__} without its head in {path}, but {len(lost)} of them are "
            f"missing or of another size, such as {lost[0]}; check the folder"
        )
    head = {name for name, _ in model.named_parameters() if not name.startswith(body)}
    is_same_task = (own.architectures or [None])[0] == type(model).__name__
    is_same_task &= (own.num_labels, names and own.id2label) == (model.num_labels, names and model.config.id2label)
    if not head & new and not is_same_task:
        with_new_head = task.model_class.from_config(model.config)
        with_new_head.base_model.load_state_dict(model.base_model.state_dict())
        model, new = with_new_head, new | head
    return model, sorted(new)


@contextmanager
def _quiet() -> Iterator[None]:
    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()
