"""The hidden-state losses against their formulas, and at zero vectors."""

import math

import pytest
import torch

from distil_trainer.losses import hidden

MASK = torch.tensor([[1, 1, 1], [1, 0, 0]], dtype=torch.bool)


def states(seed):
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def length(a):
    return math.sqrt(dot(a, a))


def mse(s, t):
    return sum((x - y) ** 2 for x, y in zip(s, t, strict=True)) / len(s)


def cosine(s, t):
    return 1 - dot(s, t) / (length(s) * length(t))


def normalized_mse(s, t):
    return sum((x / length(s) - y / length(t)) ** 2 for x, y in zip(s, t, strict=True))


@pytest.mark.parametrize("reference", [mse, cosine, normalized_mse], ids=lambda reference: reference.__name__)
def test_value(reference):
    student, teacher = states(1), states(2)
    total, count = getattr(hidden, reference.__name__)(student, teacher, MASK)
    expected = sum(reference(s.tolist(), t.tolist()) for s, t in zip(student[MASK], teacher[MASK], strict=True))
    assert total.item() == pytest.approx(expected)
    assert count == 4


@pytest.mark.parametrize(("loss", "expected"), [(hidden.cosine, 1.0), (hidden.normalized_mse, 1.0)])
@pytest.mark.parametrize("zero", ["student", "teacher"])
def test_one_zero_vector(loss, expected, zero):
    pair = {"student": torch.tensor([[[3.0, 4.0]]]), "teacher": torch.tensor([[[3.0, 4.0]]])}
    pair[zero] = torch.zeros(1, 1, 2)
    student = pair["student"].requires_grad_()
    total, _ = loss(student, pair["teacher"], torch.ones(1, 1, dtype=torch.bool))
    total.backward()
    assert total.item() == pytest.approx(expected)
    assert student.grad.abs().max() <= 2  # finite, and not 1 / epsilon


@pytest.mark.parametrize(("loss", "expected"), [(hidden.cosine, 1.0), (hidden.normalized_mse, 0.0)])
def test_two_zero_vectors(loss, expected):
    student = torch.zeros(1, 1, 2, requires_grad=True)
    total, _ = loss(student, torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.bool))
    total.backward()
    assert total == expected
    assert not student.grad.any()


@pytest.mark.parametrize("loss", [hidden.mse, hidden.cosine, hidden.normalized_mse])
def test_different_widths_name_the_projection(loss):
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and \(2, 3, 2\).*projection"):
        loss(states(1), states(2)[..., :2], MASK)


@pytest.mark.parametrize("loss", [hidden.mse, hidden.cosine, hidden.normalized_mse])
def test_a_gpu_never_waits_for_the_mask(loss):
    student = torch.empty(2, 3, 4, device="meta", requires_grad=True)  # has no values to wait for
    total, _ = loss(student, torch.empty(2, 3, 4, device="meta"), torch.empty(2, 3, dtype=torch.bool, device="meta"))
    total.backward()
    assert student.grad.shape == student.shape


@pytest.mark.parametrize("loss", [hidden.mse, hidden.cosine, hidden.normalized_mse])
def test_the_graph_may_be_walked_twice(loss):
    student = states(1).requires_grad_()
    total, _ = loss(student, states(2), MASK)
    first, second = (torch.autograd.grad(total, student, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
