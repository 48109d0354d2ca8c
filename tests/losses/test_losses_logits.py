"""The logits losses against written-out loops, at several temperatures and with forbidden tokens, and in chunks."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distil_trainer.losses import LogitRows, TopLogits, _rows, logits, top_logits

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


# What follows: logits formed chunk by chunk, against the same losses of whole logits, differentiated by autograd.

VOCABULARY = 40
WIDE = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < 0.7


def mean_of(values, log_p):
    return (log_p.exp() * values).sum()


def whole_kl(s, t):
    return mean_of(t - s, t)


def whole_js(s, t):
    m = ((s.exp() + t.exp()) / 2).log()
    return (mean_of(t - m, t) + mean_of(s - m, s)) / 2


WHOLE = {
    "kl": whole_kl,
    "reverse_kl": lambda s, t: whole_kl(t, s),
    "js": whole_js,
    "mse": lambda s, t: (s - t).square().mean(-1).sum(),
    "soft_cross_entropy": lambda s, t: -mean_of(s, t),
}
every_loss = pytest.mark.parametrize("name", WHOLE)


def rows(seed, width, *, bias=True, dtype=torch.float32):
    """Leaves of their own, with hidden states for all of WIDE."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(*WIDE.shape, width), (VOCABULARY, width), (VOCABULARY,)][: 3 if bias else 2]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return LogitRows(*(tensor.requires_grad_() for tensor in tensors))


def whole(given):
    return torch.nn.functional.linear(*given) if isinstance(given, LogitRows) else given


def leaves(given):
    return [tensor for tensor in (given if isinstance(given, LogitRows) else [given]) if tensor is not None]


def compare(name, student, teacher, tolerance, autocast=False):
    """Value and gradients equal those of the whole logits, up to `tolerance` times their largest element."""
    temperature = 1.0 if name == "mse" else 2.0
    inputs = leaves(student)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        s, t = (whole(given)[WIDE] for given in (student, teacher))
        s, t = (x if x.dtype == torch.float64 else x.float() for x in (s, t))
        if name != "mse":
            s, t = ((x / temperature).log_softmax(-1) for x in (s, t))
        reference = temperature**2 * WHOLE[name](s, t.detach())
        total, count = getattr(logits, name)(student, teacher, WIDE, temperature)
    assert count == WIDE.sum()
    gradients = torch.autograd.grad(0.1 * total, inputs), torch.autograd.grad(0.1 * reference, inputs)
    for value, right in [(total, reference), *zip(*gradients, strict=True)]:
        assert value.dtype == right.dtype
        torch.testing.assert_close(value, right, rtol=0, atol=tolerance * right.abs().max().item())
    assert all(tensor.grad is None for tensor in leaves(teacher))


@pytest.fixture(params=[1, 3, 8, 1000], ids=lambda rows: f"chunks of {rows}")
def chunks(request, monkeypatch):
    monkeypatch.setattr(_rows, "_CHUNK", request.param * VOCABULARY)


@every_loss
@pytest.mark.parametrize("bias", [True, False])
def test_rows_equal_whole_logits(name, bias, chunks):
    compare(name, rows(1, 6, bias=bias), rows(2, 9, bias=bias), 1e-5)


@every_loss
def test_rows_against_whole_logits(name, chunks):
    student, teacher = rows(1, 6), rows(2, 9)
    compare(name, student, whole(teacher).detach(), 1e-5)
    compare(name, whole(student).detach().requires_grad_(), teacher, 1e-5)
    compare(name, whole(student).detach().requires_grad_(), whole(teacher).detach(), 1e-5)


@every_loss
def test_rows_under_autocast(name, chunks):
    compare(name, rows(1, 6), rows(2, 9), 1e-2, autocast=True)


@every_loss
def test_rows_of_a_16_bit_model(name, chunks):
    compare(name, rows(1, 6, dtype=torch.bfloat16), rows(2, 9), 1e-2)


@every_loss
def test_rows_in_float64(name, chunks):
    compare(name, rows(1, 6, dtype=torch.float64), rows(2, 9, dtype=torch.float64), 1e-12)


@every_loss
def test_gradcheck_of_rows(name, chunks):
    (hidden, weight, bias), teacher = rows(1, 6, dtype=torch.float64), rows(2, 9, dtype=torch.float64)
    loss = getattr(logits, name)

    def total(hidden, bias):  # without the weight, to which gradcheck would walk twice
        return loss(LogitRows(hidden, weight.detach(), bias), teacher, WIDE)[0]

    assert torch.autograd.gradcheck(total, [hidden, bias], fast_mode=True)


@pytest.mark.parametrize("trained", [0, 1, 2], ids=["hidden", "weight", "bias"])
def test_only_what_is_trained_gets_a_gradient(trained):
    student, teacher = rows(1, 6), rows(2, 9)
    for i, tensor in enumerate(student):
        tensor.requires_grad_(i == trained)
    logits.kl(student, teacher, WIDE)[0].backward()
    assert [tensor.grad is not None for tensor in student] == [i == trained for i in range(3)]


def test_nothing_trained_is_a_plain_value():
    student = LogitRows(*(tensor.detach() for tensor in rows(1, 6)))
    assert not logits.kl(student, rows(2, 9), WIDE)[0].requires_grad
    with torch.no_grad():
        assert not logits.kl(rows(1, 6), rows(2, 9), WIDE)[0].requires_grad


def test_the_graph_may_be_walked_twice_but_to_the_weight():
    student, teacher = rows(1, 6), rows(2, 9)
    total, _ = logits.kl(student, teacher, WIDE)
    first = torch.autograd.grad(2 * total, [student.hidden, student.bias], retain_graph=True)
    total.backward(retain_graph=True)
    torch.testing.assert_close(list(first), [2 * student.hidden.grad, 2 * student.bias.grad])
    again = torch.autograd.grad(2 * total, [student.hidden, student.bias], retain_graph=True)
    torch.testing.assert_close(first, again)
    with pytest.raises(RuntimeError, match=r"Expected one backward pass .* got a second .* compute the loss again"):
        total.backward()


@every_loss
def test_rows_that_are_not_counted_contribute_nothing(name):
    clean, dirty, teacher = rows(1, 6), rows(1, 6), rows(2, 9)
    with torch.no_grad():
        dirty.hidden[~WIDE] = torch.nan
    for student in (clean, dirty):
        getattr(logits, name)(student, teacher, WIDE)[0].backward()
    for one, other in zip(clean, dirty, strict=True):
        assert torch.equal(one.grad, other.grad)


@every_loss
def test_no_row_counted(name):
    student = rows(1, 6)
    total, count = getattr(logits, name)(student, rows(2, 9), torch.zeros_like(WIDE))
    total.backward()
    assert total == count == 0
    assert not any(tensor.grad.any() for tensor in student)


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that is created."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


@every_loss
@pytest.mark.parametrize("autocast", [False, True])
def test_the_logits_never_exist_whole(name, autocast, monkeypatch):
    monkeypatch.setattr(_rows, "_CHUNK", 2 * VOCABULARY)
    with Largest() as largest, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        getattr(logits, name)(rows(1, 6), rows(2, 9), torch.ones_like(WIDE))[0].backward()
    assert largest.elements == 9 * VOCABULARY < WIDE.numel() * VOCABULARY  # the teacher's weight


def test_rows_of_different_vocabularies_are_refused():
    student, teacher = rows(1, 6), rows(2, 9)
    with pytest.raises(ValueError, match=r"\(5, 7, 40\) and \(5, 7, 30\).*vocabulary"):
        logits.kl(student, LogitRows(teacher.hidden, teacher.weight[:30]), WIDE)
    with pytest.raises(ValueError, match=r"mask of shape \(5, 7\).*got \(7,\)"):
        logits.kl(student, teacher, WIDE[0])


# What follows: a teacher of which the k largest logits are known, and what stands for all others.


def test_the_largest_logits_by_hand():
    teacher = torch.tensor([[1.0, 4.0, 2.0, 3.0]], dtype=torch.float64)
    top = top_logits(teacher, 2, temperature=2.0)
    assert top.tokens.tolist() == [[1, 3]]
    assert top.values.tolist() == [[0.0, -1.0]]  # less the largest
    assert top.rest.item() == pytest.approx(2 * math.log(math.exp((1 - 4) / 2) + math.exp((2 - 4) / 2)))


def test_k_events_and_any_other_by_hand():
    p = [0.5, 0.25, 0.15, 0.1]  # the teacher's: two tokens, and 0.25 for the others together
    q = [0.2, 0.4, 0.1, 0.3]  # the student's
    student = torch.tensor([q], dtype=torch.float64).log().requires_grad_()
    teacher = top_logits(torch.tensor([p], dtype=torch.float64).log(), 2, temperature=1.0)
    total, count = logits.kl(student, teacher, torch.tensor([True]))
    assert count == 1
    by_hand = 0.5 * math.log(0.5 / 0.2) + 0.25 * math.log(0.25 / 0.4) + 0.25 * math.log(0.25 / 0.4)
    assert total.item() == pytest.approx(by_hand)
    assert by_hand < divergence(p, q)
    total.backward()
    # the student's probability, less the teacher's; the rest is shared out as the student does it
    assert student.grad[0].tolist() == pytest.approx([0.2 - 0.5, 0.4 - 0.25, 0.1 - 0.25 / 4, 0.3 - 0.25 * 3 / 4])
    entropy = logits.soft_cross_entropy(student, teacher, torch.tensor([True]))[0] - total
    assert entropy.item() == pytest.approx(-0.5 * math.log(0.5) - 2 * 0.25 * math.log(0.25))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("loss", [logits.kl, logits.soft_cross_entropy])
def test_gradcheck_with_the_largest_logits(loss, temperature):
    teacher = top_logits(make(2), 3, temperature)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, MASK, temperature)[0], [make(1).requires_grad_()])


def test_all_logits_but_one_say_everything():
    student, teacher = make(1), make(2)
    expected = logits.kl(student, teacher, MASK, 2.0)
    torch.testing.assert_close(logits.kl(student, top_logits(teacher, 4, 2.0), MASK, 2.0), expected)


def test_a_student_that_agrees_on_the_events_has_no_loss():
    student = make(1).requires_grad_()
    total, _ = logits.kl(student, top_logits(student.detach(), 2, 2.0), MASK, 2.0)
    assert total.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(total, student)[0].abs().max() < 1e-12


def test_the_largest_logits_are_formed_in_chunks(monkeypatch):
    monkeypatch.setattr(_rows, "_CHUNK", 3 * VOCABULARY)
    student, teacher = rows(1, 8), rows(2, 6)
    with torch.no_grad():
        top, expected = top_logits(teacher, 5, 2.0), top_logits(whole(teacher), 5, 2.0)
    torch.testing.assert_close(top, expected)
    in_chunks = logits.kl(student, top, WIDE, 2.0)
    gradients = torch.autograd.grad(in_chunks[0], leaves(student))
    by_whole = logits.kl(whole(student), expected, WIDE, 2.0)
    torch.testing.assert_close(in_chunks, by_whole)
    torch.testing.assert_close(gradients, torch.autograd.grad(by_whole[0], leaves(student)))


def test_the_largest_logits_are_not_enough_for_other_losses():
    top = top_logits(make(2), 2, 1.0)
    for loss in (logits.reverse_kl, logits.js, logits.mse):
        with pytest.raises(ValueError, match="got the largest of each position: only kl and soft_cross_entropy"):
            loss(make(1), top, MASK)
    with pytest.raises(ValueError, match=r"\(2, 3, 5\) and \(3, 5\)"):
        logits.kl(make(1), TopLogits(*(tensor[0] for tensor in top)), MASK)
    with pytest.raises(ValueError, match="k from 1 to below 5"):
        top_logits(make(2), 5, 1.0)
