"""The attention losses against written-out loops, with every kind of visibility."""

import math

import pytest
import torch

from distil_trainer.losses import Heads
from distil_trainer.losses.attention import probs_kl, probs_mse, probs_row_mse, scores_mse

B, H, T = 2, 2, 4
MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0]], dtype=torch.bool)

CAUSAL = torch.ones(T, T, dtype=torch.bool).tril()
NO_KEY = CAUSAL.clone()
NO_KEY[2] = False  # query 2 sees nothing
PER_HEAD = torch.stack([CAUSAL, CAUSAL.T])
KEY_PADDING = MASK[:, None, None, :]
VISIBLE = {
    "everything": None,
    "causal": CAUSAL,
    "a query without keys": NO_KEY,
    "per head": PER_HEAD,
    "key padding": KEY_PADDING,
    "per row of the batch": torch.stack([CAUSAL, NO_KEY])[:, None],
}


def make(seed, width, scaling, visible=None, head_count=H):
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, B, head_count, T, width, generator=generator, dtype=torch.float64)
    return Heads(query, key, scaling, visible)


def visible_at(heads, b, h, i, j):
    return heads.visible is None or bool(heads.visible.expand(B, H, T, T)[b, h, i, j])


def score(heads, b, h, i, j):
    return heads.scaling * sum((heads.query[b, h, i] * heads.key[b, h, j]).tolist())


def row(heads, b, h, i):
    """{key: probability} of one query, None where it sees no key."""
    keys = [j for j in range(T) if MASK[b, j] and visible_at(heads, b, h, i, j)]
    weights = {j: math.exp(score(heads, b, h, i, j)) for j in keys}
    return {j: weight / sum(weights.values()) for j, weight in weights.items()} or None


def reference_probs_mse(b, h, i, student, teacher):
    s, t = row(student, b, h, i), row(teacher, b, h, i)
    if s is None or t is None:
        return 0.0
    return sum((s.get(j, 0.0) - t.get(j, 0.0)) ** 2 for j in range(T))


def reference_probs_kl(b, h, i, student, teacher):
    s, t = row(student, b, h, i), row(teacher, b, h, i)
    if s is None or t is None:
        return 0.0
    return sum(p * math.log(p / s[j]) if j in s else math.inf for j, p in t.items())


def reference_scores_mse(b, h, i, student, teacher):
    return sum(
        (score(student, b, h, i, j) - score(teacher, b, h, i, j)) ** 2
        for j in range(T)
        if MASK[b, j] and visible_at(student, b, h, i, j) and visible_at(teacher, b, h, i, j)
    )


CASES = [
    (probs_mse, reference_probs_mse),
    (probs_row_mse, reference_probs_mse),
    (probs_kl, reference_probs_kl),
    (scores_mse, reference_scores_mse),
]
every_loss = pytest.mark.parametrize(("loss", "reference"), CASES, ids=[loss.__name__ for loss, _ in CASES])


@every_loss
@pytest.mark.parametrize("teacher_visible", VISIBLE)
@pytest.mark.parametrize("student_visible", VISIBLE)
def test_value(loss, reference, student_visible, teacher_visible):
    student = make(1, 3, 0.6, VISIBLE[student_visible])
    teacher = make(2, 5, 0.4, VISIBLE[teacher_visible])  # head widths may differ
    student.query.requires_grad_()
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
        total, count = loss(student, teacher, MASK)
        total.backward()
    assert student.query.grad.isfinite().all()
    expected = sum(
        reference(b, h, i, student, teacher) / H for b in range(B) for h in range(H) for i in range(T) if MASK[b, i]
    )
    assert total.item() == pytest.approx(expected)
    assert count == (6 if loss in (probs_kl, probs_row_mse) else 16 + 4)


@every_loss
def test_gradcheck_with_a_query_without_keys(loss, reference):
    teacher = make(2, 5, 0.4, CAUSAL)
    inputs = [tensor.requires_grad_() for tensor in make(1, 3, 0.6)[:2]]
    assert torch.autograd.gradcheck(
        lambda q, k: loss(Heads(q, k, 0.6, NO_KEY), teacher, MASK)[0], inputs, fast_mode=True
    )


@every_loss
def test_visible_and_attended_only(loss, reference):
    """Padding hidden by the mask of positions and padding hidden by `visible` as well is the same."""
    student, teacher = make(1, 3, 0.6), make(2, 3, 0.6)
    expected = loss(student, teacher, MASK)
    actual = loss(student._replace(visible=KEY_PADDING), teacher._replace(visible=KEY_PADDING), MASK)
    torch.testing.assert_close(actual, expected)


@every_loss
@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (make(1, 3, 1.0), make(2, 3, 1.0, head_count=4), "equal head counts, got 2 for the student and 4"),
        (make(1, 3, 1.0)._replace(key=make(1, 4, 1.0).key), make(2, 3, 1.0), r"student's query.*\(2, 2, 4, 4\)"),
        (
            make(1, 3, 1.0),
            make(2, 3, 1.0)._replace(key=make(1, 3, 1.0, head_count=3).key),
            r"teacher's query.*H a multiple of Hk, got \(2, 2, 4, 3\) and \(2, 3, 4, 3\)",
        ),
        (make(1, 3, 1.0, CAUSAL[:3]), make(2, 3, 1.0), r"student's `visible`.*\(2, 2, 4, 4\).*\(3, 4\)"),
        (make(1, 3, 1.0), make(2, 3, 1.0, CAUSAL.float()), r"teacher's `visible` as torch\.bool.*torch\.float32"),
        (make(1, 3, 1.0), make(2, 3, 1.0, CAUSAL[None, None, None]), r"teacher's `visible`.*\(1, 1, 1, 4, 4\)"),
    ],
)
def test_heads_that_do_not_fit_are_refused(loss, reference, student, teacher, message):
    with pytest.raises(ValueError, match=message):
        loss(student, teacher, MASK)
