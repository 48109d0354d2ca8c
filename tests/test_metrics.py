import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score
from transformers import EvalPrediction

from distil_trainer.errors import DataError
from distil_trainer.metrics import (
    Classes,
    SeqEval,
    Spearman,
    similarity_metrics,
    text_classification_metrics,
    token_classification_metrics,
)

TRUE = [["O", "B-PER", "I-PER", "O"], ["B-ORG", "O"]]
PREDICTED = [["O", "B-PER", "O", "O"], ["B-ORG", "O"]]  # the person is cut short


def test_whole_entities_count():
    scores = SeqEval().compute(predictions=PREDICTED, references=TRUE)
    assert scores["overall_precision"] == scores["overall_recall"] == scores["overall_f1"] == 0.5
    assert scores["overall_accuracy"] == pytest.approx(5 / 6)
    assert scores["PER"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "number": 1}
    assert scores["ORG"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "number": 1}
    assert set(scores) == {"PER", "ORG"} | {f"overall_{n}" for n in ("precision", "recall", "f1", "accuracy")}


def test_batches_add_up_and_the_metric_can_be_used_again():
    metric = SeqEval()
    expected = metric.compute(predictions=PREDICTED, references=TRUE)
    for predicted, true in zip(PREDICTED, TRUE, strict=True):
        metric.add_batch(predictions=[predicted], references=[true])
    assert metric.compute() == expected
    for predicted, true in zip(PREDICTED, TRUE, strict=True):
        metric.add(predictions=predicted, references=true)
    assert metric.compute() == expected


def test_no_entity_anywhere_scores_zero_without_a_warning():
    scores = SeqEval().compute(predictions=[["O", "O"]], references=[["O", "O"]])
    assert scores["overall_f1"] == 0.0
    assert scores["overall_accuracy"] == 1.0


def test_a_type_that_is_only_predicted():
    scores = SeqEval().compute(predictions=[["B-LOC", "B-PER"]], references=[["O", "B-PER"]])
    assert scores["LOC"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "number": 0}
    assert scores["overall_precision"] == 0.5
    assert scores["overall_recall"] == 1.0


@pytest.mark.parametrize(
    ("predicted", "true", "words"),
    [([["O"]], [["O", "O"]], "got 1 and 2 in sequence 0"), ([["PER"]], [["O"]], "expected BIO tags")],
)
def test_sequences_that_cannot_be_scored(predicted, true, words):
    with pytest.raises(DataError, match=words):
        SeqEval().compute(predictions=predicted, references=true)


def test_files_only_where_it_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "unused"))
    metric = SeqEval()
    metric.compute(predictions=PREDICTED, references=TRUE)
    assert list(tmp_path.iterdir()) == []
    in_files = SeqEval(cache_dir=str(tmp_path / "here"))
    assert in_files.compute(predictions=PREDICTED, references=TRUE)["overall_f1"] == 0.5
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_compute_metrics_leaves_ignored_positions_out():
    labels = ["O", "B-PER", "I-PER", "B-ORG"]
    truth = np.array([[-100, 0, 1, 2, -100], [3, 0, -100, -100, -100]])
    logits = np.eye(4)[np.where(truth < 0, 3, truth)]  # a wrong guess where nothing is asked
    compute = token_classification_metrics(labels)
    assert compute(EvalPrediction(logits, truth)) == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "accuracy": 1.0}
    logits[0, 3] = np.eye(4)[0]
    assert compute((logits, truth)) == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "accuracy": 0.8}
    assert compute(((logits, "hidden states"), truth))["f1"] == 0.5


def test_compute_metrics_needs_labels():
    with pytest.raises(DataError, match="empty"):
        token_classification_metrics([])


@pytest.mark.parametrize("classes", [2, 5, 40])
def test_classes_are_scored_as_by_scikit_learn(classes):
    draw = np.random.default_rng(classes)
    true, predicted = draw.integers(classes, size=50), draw.integers(classes, size=50)
    scores = Classes().compute(predictions=predicted, references=true)
    assert scores["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert scores["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"))
    assert all(type(score) is float for score in scores.values())


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 1000], 1.0),
        ([4, 3, 2, 1], [1, 2, 3, 4], -1.0),
        ([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 0.8207826816681233),  # the example of scipy.stats.spearmanr
        (
            [106, 100, 86, 101, 99, 103, 97, 113, 112, 110],
            [7, 27, 2, 50, 28, 29, 20, 12, 6, 17],
            -29 / 165,
        ),  # Wikipedia
        ([1, 1, 1], [1, 2, 3], 0.0),
    ],
)
def test_spearman(predicted, true, expected):
    assert Spearman().compute(predictions=predicted, references=true)["spearmanr"] == pytest.approx(expected)
    assert Spearman().compute(predictions=true, references=predicted)["spearmanr"] == pytest.approx(expected)


def test_a_model_that_diverged_has_no_rank():
    with pytest.raises(DataError, match="NaN"):
        Spearman().compute(predictions=[1.0, float("nan")], references=[1.0, 2.0])


def test_compute_metrics_of_texts():
    logits = np.eye(3)[[0, 1, 2, 2]]
    scores = text_classification_metrics(EvalPrediction(logits, np.array([0, 1, 2, 1])))
    assert scores == {"accuracy": 0.75, "macro_f1": pytest.approx((1 + 2 / 3 + 2 / 3) / 3)}
    assert text_classification_metrics(((logits, "hidden states"), np.array([0, 1, 2, 2])))["accuracy"] == 1.0
    assert similarity_metrics((np.array([[0.1], [0.3], [0.2]]), np.array([1.0, 3.0, 2.0]))) == {"spearmanr": 1.0}
