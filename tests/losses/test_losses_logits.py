"""The logits losses against written-out loops, at several temperatures and with forbidden tokens."""

import math

import pytest
import torch

from distil_trainer.losses import logits

MASK = torch.tensor([[1, 1, 1], [1, 0, 0]], dtype=torch.bool)


def make(seed):
    return 2 * torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row, temperature):
    weights = [math.exp(x / temperature) for x in row]
    return [weight / sum(weights) for weight in weights]


def divergence(p, q):
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)


def kl(s, t, temperature):
    return temperature**2 * divergence(softmax(t, temperature), softmax(s, temperature))


def reverse_kl(s, t, temperature):
    s = [x if y > -math.inf else -math.inf for x, y in zip(s, t, strict=True)]
    return temperature**2 * divergence(softmax(s, temperature), softmax(t, temperature))


def js(s, t, temperature):
    p, q = softmax(s, temperature), softmax(t, temperature)
    m = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    return temperature**2 * (divergence(p, m) + divergence(q, m)) / 2


def mse(s, t, temperature):
    return sum((x - y) ** 2 for x, y in zip(s, t, strict=True) if y > -math.inf) / len(s)


def soft_cross_entropy(s, t, temperature):
    p, q = softmax(t, temperature), softmax(s, temperature)
    return -(temperature**2) * sum(x * math.log(y) for x, y in zip(p, q, strict=True) if x > 0)


SOFT = [kl, reverse_kl, js, soft_cross_entropy]
CASES = [(reference, temperature) for reference in SOFT for temperature in (0.5, 1.0, 4.0)] + [(mse, 1.0)]
every_case = pytest.mark.parametrize(
    ("reference", "temperature"), CASES, ids=[f"{reference.__name__}-{temperature}" for reference, temperature in CASES]
)


def check(reference, temperature, student, teacher):
    student.requires_grad_()
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
        total, count = getattr(logits, reference.__name__)(student, teacher, MASK, temperature)
        total.backward()
    assert student.grad.isfinite().all()
    rows = zip(student[MASK].tolist(), teacher[MASK].tolist(), strict=True)
    assert total.item() == pytest.approx(sum(reference(s, t, temperature) for s, t in rows))
    assert count == 4


@every_case
def test_value(reference, temperature):
    check(reference, temperature, make(1), make(2))


@every_case
def test_tokens_that_the_teacher_forbids(reference, temperature):
    teacher = make(2)
    teacher[0, :, 3] = -torch.inf
    teacher[0, 1, 0] = -torch.inf
    check(reference, temperature, make(1), teacher)


@every_case
def test_tokens_that_both_forbid(reference, temperature):
    student, teacher = make(1), make(2)
    student[..., 3] = teacher[..., 3] = -torch.inf
    if reference is soft_cross_entropy:  # the reference would take log 0
        student[..., 3] = -1e4
    check(reference, temperature, student, teacher)


@pytest.mark.parametrize("reference", [*SOFT, mse], ids=lambda reference: reference.__name__)
def test_gradcheck_with_forbidden_tokens(reference):
    student, teacher = make(1).requires_grad_(), make(2)
    teacher[0, :, 3] = -torch.inf
    loss = getattr(logits, reference.__name__)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, MASK)[0], [student], fast_mode=True)


@pytest.mark.parametrize("reference", [*SOFT, mse], ids=lambda reference: reference.__name__)
def test_extreme_logits_stay_finite(reference):
    student = (1e4 * make(1).float()).requires_grad_()
    total, _ = getattr(logits, reference.__name__)(student, 1e4 * make(2).float(), MASK)
    total.backward()
    assert total.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("reference", [*SOFT, mse], ids=lambda reference: reference.__name__)
def test_any_leading_shape(reference):
    loss = getattr(logits, reference.__name__)
    flat = loss(make(1).flatten(0, 1), make(2).flatten(0, 1), MASK.flatten())
    torch.testing.assert_close(flat, loss(make(1), make(2), MASK))


def test_soft_cross_entropy_has_the_gradient_of_kl():
    gradients = []
    for loss in (logits.kl, logits.soft_cross_entropy):
        student = make(1).requires_grad_()
        loss(student, make(2), MASK, 2.0)[0].backward()
        gradients.append(student.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("reference", SOFT, ids=lambda reference: reference.__name__)
def test_temperature_must_be_positive(reference, temperature):
    with pytest.raises(ValueError, match="temperature greater than 0"):
        getattr(logits, reference.__name__)(make(1), make(2), MASK, temperature)


def test_mse_has_no_temperature():
    with pytest.raises(ValueError, match=r"temperature 1\.0 .* got 2\.0: .* weight"):
        logits.mse(make(1), make(2), MASK, 2.0)


@pytest.mark.parametrize("reference", [*SOFT, mse], ids=lambda reference: reference.__name__)
def test_different_vocabularies_are_refused(reference):
    with pytest.raises(ValueError, match=r"\(2, 3, 5\) and \(2, 3, 4\).*vocabulary"):
        getattr(logits, reference.__name__)(make(1), make(2)[..., :4], MASK)
