"""The logits of several teachers as those of one: the mean of their probabilities, or of the logits themselves."""

import pytest
import torch

from distil_trainer.losses import LOSSES, LogitMean, LogitRows, logits

WEIGHTS = (0.75, 0.25)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kl_of_two_positions_by_hand():
    """Teachers say (1/2, 1/2) and (1/4, 3/4): three times the first and once the second are (7/16, 9/16)."""
    one, two = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log() + 3
    student = torch.tensor([[0.5, 0.5]]).log()
    total, count = logits.kl(student, LogitMean((one, two), WEIGHTS), torch.tensor([True]))
    expected = 7 / 16 * torch.tensor(7 / 8).log() + 9 / 16 * torch.tensor(9 / 8).log()
    torch.testing.assert_close(total, expected)
    assert count == 1


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", [name for name in LOSSES["logits"] if name != "mse"])
def test_predictions_are_compared_with_the_mean_of_the_probabilities(name, temperature):
    student, one, two = (normal(3, 4, 11, seed=seed) for seed in range(3))
    student.requires_grad_()
    mask = torch.rand(3, 4, generator=torch.Generator().manual_seed(5)) > 0.3
    probs = sum(w * (z / temperature).softmax(-1) for w, z in zip(WEIGHTS, (one, two), strict=True))
    loss = LOSSES["logits"][name].function
    expected, found = (
        loss(student, teacher, mask, temperature)
        for teacher in (temperature * probs.log(), LogitMean((one, two), WEIGHTS))
    )
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(total, student)[0] for total, _ in (expected, found)]
    torch.testing.assert_close(*gradients)


def test_mse_compares_with_the_mean_of_the_logits():
    student, one, two = (normal(5, 7, seed=seed) for seed in range(3))
    mask = torch.ones(5, dtype=torch.bool)
    expected = logits.mse(student, 0.75 * one + 0.25 * two, mask)
    torch.testing.assert_close(logits.mse(student, LogitMean((one, two), WEIGHTS), mask), expected)


@pytest.mark.parametrize("name", ["kl", "mse"])
def test_logits_that_are_not_formed_yet(name):
    """Teachers of other widths, one with a bias; many chunks, in float32."""
    hidden, weight = normal(1, 40, 6, seed=1).float(), normal(13, 6, seed=2).float()
    other, other_weight, bias = normal(1, 40, 9, seed=3).float(), normal(13, 9, seed=4).float(), normal(13).float()
    student = normal(1, 40, 13, seed=6).float()
    mask = torch.ones(1, 40, dtype=torch.bool)
    rows = LogitMean((LogitRows(hidden, weight), LogitRows(other, other_weight, bias)), WEIGHTS)
    whole = LogitMean((hidden @ weight.T, other @ other_weight.T + bias), WEIGHTS)
    loss = LOSSES["logits"][name].function
    torch.testing.assert_close(loss(student, rows, mask), loss(student, whole, mask))


def test_what_all_teachers_forbid_has_no_probability():
    one, two = (torch.tensor([[0.0, value, -torch.inf]]) for value in (-torch.inf, 1.0))
    mean = LogitMean((one, two), WEIGHTS)
    total, _ = logits.kl(torch.zeros(1, 3), mean, torch.tensor([True]))
    p = 0.25 * torch.tensor(1.0).exp() / (1 + torch.tensor(1.0).exp())
    expected = p * (3 * p).log() + (1 - p) * (3 * (1 - p)).log()
    torch.testing.assert_close(total, expected)


def test_what_does_not_fit_is_refused():
    one, mask = torch.zeros(2, 3), torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match="one shape, and a weight for each, got \\(2, 3\\), \\(2, 4\\) and 2 weights"):
        logits.kl(one, LogitMean((one, torch.zeros(2, 4)), WEIGHTS), mask)
    with pytest.raises(ValueError, match="got \\(2, 3\\), \\(2, 3\\) and 1 weights"):
        logits.kl(one, LogitMean((one, one), (1.0,)), mask)
    with pytest.raises(ValueError, match="only teachers may be several"):
        logits.kl(LogitMean((one, one), WEIGHTS), one, mask)
