"""The relation losses against numbers worked out by hand, and against the formula with whole maps."""

import math

import pytest
import torch
from test_tiles import Watch

from distil_trainer.losses import attention as tiles
from distil_trainer.losses import relation

B, T = 2, 5
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 1, 0]], dtype=torch.bool)


def vectors(seed, heads=2, width=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, heads, T, width, generator=generator, dtype=torch.float64).to(dtype)


def formula(student, teacher, mask, heads=None):
    """The sum with whole maps, one sequence without its padding at a time."""
    total = 0.0
    for s, t, attended in zip(student, teacher, mask, strict=True):
        log_maps = []
        for x in (s[:, attended], t[:, attended]):
            if heads is not None:
                x = torch.cat(tuple(x), -1)  # [T, H * d]
                x = torch.stack(x.chunk(heads, -1))
            log_maps.append((x @ x.mT / math.sqrt(x.size(-1))).log_softmax(-1))
        log_s, log_t = log_maps
        total = total + (log_t.exp() * (log_t - log_s)).sum() / log_s.size(0)
    return total


def test_by_hand():
    """One head of width 4 and two tokens: the student's are orthogonal, of length 2; the teacher's all of length 0."""
    student = torch.tensor([[[[2.0, 0, 0, 0], [0, 2.0, 0, 0]]]])
    teacher = torch.zeros(1, 1, 2, 4)
    total, count = relation.kl(student, teacher, torch.ones(1, 2, dtype=torch.bool))
    # Scores 4 / sqrt(4) = 2 and 0: probabilities e^2 / (1 + e^2) and 1 / (1 + e^2), and of the teacher 1/2 and 1/2.
    high, low = math.e**2 / (1 + math.e**2), 1 / (1 + math.e**2)
    assert total.item() == pytest.approx(2 * (0.5 * math.log(0.5 / high) + 0.5 * math.log(0.5 / low)))
    assert count == 2


def test_heads_split_anew_by_hand():
    """Two heads of width 2 become one of width 4, which is the case above."""
    student = torch.tensor([[[[2.0, 0], [0, 2.0]], [[0.0, 0], [0, 0]]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    one = torch.tensor([[[[2.0, 0, 0, 0], [0, 2.0, 0, 0]]]])
    expected = relation.kl(one, torch.zeros(1, 1, 2, 4), mask)
    assert relation.kl(student, torch.zeros(1, 3, 2, 2), mask, 1) == expected


SPLITS = {
    "own heads": ((2, 3), (2, 5), None),
    "more heads than both have": ((2, 6), (3, 8), 12),
    "one head": ((2, 3), (4, 5), 1),
}
every_split = pytest.mark.parametrize(("student", "teacher", "heads"), SPLITS.values(), ids=SPLITS)


@every_split
def test_value_and_gradient_are_those_of_the_formula(student, teacher, heads, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 40)  # a row or two at a time
    student, teacher = vectors(1, *student).requires_grad_(), vectors(2, *teacher)
    total, count = relation.kl(student, teacher, MASK, heads)
    (gradient,) = torch.autograd.grad(total, student)
    expected = formula(student, teacher, MASK, heads)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    assert count == 7
    assert not gradient.transpose(1, 2)[~MASK].any()


@every_split
def test_gradcheck(student, teacher, heads):
    student, teacher = vectors(1, *student).requires_grad_(), vectors(2, *teacher)
    assert torch.autograd.gradcheck(lambda x: relation.kl(x, teacher, MASK, heads)[0], student, fast_mode=True)


@pytest.mark.parametrize("heads", [None, 3])
def test_a_copy_has_loss_and_gradient_zero(heads):
    student = vectors(1, dtype=torch.float32).requires_grad_()
    total, _ = relation.kl(student, student.detach().clone(), MASK, heads)
    total.backward()
    assert total == 0
    assert not student.grad.any()


@pytest.mark.parametrize("garbage", [0.0, torch.nan, torch.inf])
def test_padding_changes_nothing(garbage):
    whole = [vectors(seed, *shape) for seed, shape in ((1, (2, 3)), (2, (3, 4)))]
    padded = [x.masked_fill(~MASK[:, None, :, None], garbage) for x in whole]
    torch.testing.assert_close(relation.kl(*padded, MASK, 6), relation.kl(*whole, MASK, 6), rtol=0, atol=0)


def test_no_map_is_held(monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 2 * 64 * 8)  # eight rows of the two heads
    mask = torch.ones(1, 64, dtype=torch.bool)
    student, teacher = (torch.randn(1, 2, 64, 3).requires_grad_(grad) for grad in (True, False))
    with Watch() as watch:
        total, _ = relation.kl(student, teacher, mask)
        total.backward()
    assert watch.largest == 2 * 64 * 8


@pytest.mark.parametrize(
    ("student", "teacher", "heads", "message"),
    [
        (vectors(1, 2), vectors(2, 4), None, "equal head counts, got 2 for the student and 4.*give `heads`"),
        (vectors(1), vectors(2), 4, r"divides the student's width 6 \(2 heads of 3\), got 4"),
        (vectors(1), vectors(2, 2, 4), 6, r"divides the teacher's width 8 \(2 heads of 4\), got 6"),
        (vectors(1), vectors(2), 0, "got 0: choose a divisor"),
        (vectors(1), vectors(2)[:, :, :4], None, r"same batch and tokens, got \(2, 5\).*\(2, 4\)"),
        (vectors(1)[0], vectors(2), None, r"\[batch, heads, tokens, head width\], got \(2, 5, 3\)"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(student, teacher, heads, message):
    with pytest.raises(ValueError, match=message):
        relation.kl(student, teacher, MASK, heads)
