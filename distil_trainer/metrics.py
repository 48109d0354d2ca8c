"""Metrics in the shape of `evaluate`'s modules that need no network, and the functions that Trainer wants of them.

`evaluate.load("seqeval")` downloads a script; `SeqEval()` is the same measure as a class, used in the same way:

    metric = SeqEval()
    metric.add_batch(predictions=[["O", "B-PER"]], references=[["O", "B-PER"]])
    metric.compute()["overall_f1"]
"""

import tempfile
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, cast

import datasets
import evaluate
import numpy as np
from seqeval.metrics import accuracy_score, classification_report

from distil_trainer.data import IGNORED_LABEL, check_tags
from distil_trainer.errors import DataError


class _Metric(evaluate.Metric):
    """What is added is held in memory. With `cache_dir=...` it goes through files there, as evaluate's own modules do.

    That is needed for evaluate's `num_process`; Trainer gathers predictions itself and needs neither.
    """

    _about: str
    _item: Any  # the type of one prediction, and of one reference
    _urls: Sequence[str] = ()

    def __init__(self, *, cache_dir: str | None = None, **kwargs: Any) -> None:
        """Take the options of `evaluate.EvaluationModule`; none is needed."""
        if cache_dir:
            super().__init__(cache_dir=cache_dir, **kwargs)
            return
        # evaluate makes a folder even when it keeps everything in memory
        with tempfile.TemporaryDirectory() as scratch:
            super().__init__(cache_dir=scratch, keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self._about,
            citation="",
            features=datasets.Features({"predictions": self._item, "references": self._item}),
            reference_urls=list(self._urls),
        )


class SeqEval(_Metric):
    """Precision, recall and F1 of whole entities, by seqeval.

    An entity counts as found when type, first and last token agree. `compute` takes `predictions` and `references`,
    lists of lists of BIO tags of equal length, and returns `overall_precision`, `overall_recall`, `overall_f1`,
    `overall_accuracy` (of single tags) and, for each entity type, a dict of precision, recall, f1 and number (of
    true entities). A type that is never predicted, or never present, scores 0.
    """

    _about = "Precision, recall and F1 of the entities in sequences of BIO tags, by seqeval."
    _item = datasets.List(datasets.Value("string"))
    _urls = ("https://github.com/chakki-works/seqeval",)

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, Any]:
        for number, (predicted, true) in enumerate(zip(predictions, references, strict=True)):
            if len(predicted) != len(true):
                raise DataError(
                    f"expected as many predicted as true tags, got {len(predicted)} and {len(true)} in sequence "
                    f"{number}; leave ignored positions out of both"
                )
        tags = set(chain.from_iterable(chain(predictions, references)))
        check_tags(tags)
        if tags <= {"O"}:  # seqeval would average over no type at all
            report = {"micro avg": {"precision": 0.0, "recall": 0.0, "f1-score": 0.0}}
        else:
            report = classification_report(references, predictions, output_dict=True, zero_division=0)
        overall = report.pop("micro avg")
        scores: dict[str, Any] = {
            name: {
                "precision": float(row["precision"]),
                "recall": float(row["recall"]),
                "f1": float(row["f1-score"]),
                "number": int(row["support"]),
            }
            for name, row in report.items()
            if name not in ("macro avg", "weighted avg")
        }
        return scores | {
            "overall_precision": float(overall["precision"]),
            "overall_recall": float(overall["recall"]),
            "overall_f1": float(overall["f1-score"]),
            "overall_accuracy": float(accuracy_score(references, predictions)),
        }


class Classes(_Metric):
    """Accuracy, and the mean over all classes of their F1 (macro F1).

    `compute` takes `predictions` and `references`, lists of class numbers of equal length, and returns `accuracy` and
    `macro_f1`. A class counts for macro F1 when it is predicted or present; when it is only one of both its F1 is 0.
    """

    _about = "Accuracy and macro F1 of classes."
    _item = datasets.Value("int64")

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        predicted, true = np.asarray(predictions), np.asarray(references)
        f1 = [
            2 * ((predicted == name) & (true == name)).sum() / ((predicted == name).sum() + (true == name).sum())
            for name in np.union1d(predicted, true)
        ]
        return {"accuracy": float((predicted == true).mean()), "macro_f1": float(np.mean(f1))}


class Spearman(_Metric):
    """Spearman's rank correlation: Pearson's of the ranks, where equal numbers share the mean of theirs.

    `compute` takes `predictions` and `references`, lists of numbers of equal length, and returns `spearmanr`: 0 when
    one of them is the same number throughout.
    """

    _about = "Spearman's rank correlation."
    _item = datasets.Value("float64")

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        if not (np.isfinite(predictions).all() and np.isfinite(references).all()):
            raise DataError("expected finite numbers, got NaN or infinity; a model that gives them did not learn")
        predicted, true = _ranks(predictions), _ranks(references)
        if not (predicted.any() and true.any()):
            return {"spearmanr": 0.0}
        return {"spearmanr": float(predicted @ true / np.sqrt((predicted @ predicted) * (true @ true)))}


def _ranks(numbers: Sequence[float]) -> Any:
    """The rank of each number less the mean rank; equal numbers have the mean of theirs."""
    _, places, counts = np.unique(np.asarray(numbers), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places] - (len(numbers) + 1) / 2


def text_classification_metrics(prediction: Any) -> dict[str, float]:
    """A `compute_metrics` for Trainer: the largest of the logits (B, C) against labels (B,), scored by `Classes`."""
    logits, labels = prediction
    best = np.asarray(logits[0] if isinstance(logits, tuple) else logits).argmax(axis=-1)
    return cast(dict[str, float], Classes().compute(predictions=best, references=labels))


def similarity_metrics(prediction: Any) -> dict[str, float]:
    """A `compute_metrics` for Trainer: numbers (B, 1) against numbers (B,), scored by `Spearman`."""
    scores, labels = prediction
    numbers = np.asarray(scores[0] if isinstance(scores, tuple) else scores).reshape(-1)
    return cast(dict[str, float], Spearman().compute(predictions=numbers, references=labels))


def token_classification_metrics(label_list: Sequence[str]) -> Callable[[Any], dict[str, float]]:
    """A `compute_metrics` for Trainer: the largest logit of each labelled position, scored by `SeqEval`.

    `label_list[i]` is the tag of class i. The function takes an `EvalPrediction` (or a pair of logits (B, T, C) and
    labels (B, T); positions labelled -100 are left out) and returns precision, recall, f1 and accuracy over all types.
    """
    names = list(label_list)
    if not names:
        raise DataError("expected a list of tags, got an empty one; take it from `label_list(dataset)`")

    def compute_metrics(prediction: Any) -> dict[str, float]:
        logits, labels = prediction
        best = np.asarray(logits[0] if isinstance(logits, tuple) else logits).argmax(axis=-1)
        labels = np.asarray(labels)
        rows = list(zip(best, labels, labels != IGNORED_LABEL, strict=True))
        scores = SeqEval().compute(
            predictions=[[names[i] for i in row[kept]] for row, _, kept in rows],
            references=[[names[i] for i in row[kept]] for _, row, kept in rows],
        )
        return {name: scores[f"overall_{name}"] for name in ("precision", "recall", "f1", "accuracy")}

    return compute_metrics
