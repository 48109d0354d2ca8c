"""Losses between logits: one distribution over the vocabulary per position.

A logit of -inf in the teacher is a token it forbids: it has probability 0, and 0 * log 0 = 0.

Either model's logits come whole, or as `LogitRows`: then they are formed a chunk of positions at a time, together with
the gradient, and (positions x vocabulary) exists neither in the forward pass nor in the backward pass. Several teachers
give theirs together, as a `LogitMean`.

Of the teacher, `kl` and `soft_cross_entropy` also take the k largest logits of each position (`TopLogits`). They then
compare k + 1 events: each of the k tokens, and any other. That is the least divergence which a teacher with these k
logits and this rest could have: at most that of the whole distributions, and 0 for a student that gives the k tokens
and all others together the teacher's probabilities. How to share out the rest among the others it does not tell.
"""

import math

import torch
from torch import Tensor

from distil_trainer.losses._common import SumCount
from distil_trainer.losses._rows import Logits, TopLogits, sum_over_rows


def kl(student: Logits, teacher: Logits | TopLogits, mask: Tensor, temperature: float = 1.0) -> SumCount:
    """Kullback-Leibler divergence of the predictions, KL(teacher || student).

    Sums T^2 * KL(softmax(teacher / T) || softmax(student / T)) over the counted positions, with T the temperature:
    the T^2 keeps the size of the gradient the same for every temperature.

    Shapes: `student`, `teacher` [..., V] or `LogitRows`, `teacher` also `TopLogits` of this temperature; `mask` bool
    [...], True where counted. V vocabulary.
    Unit: positions.

    Raises:
        ValueError: the shapes do not agree, `mask` is not boolean, or `temperature` is not positive.

    Source: Distilling the Knowledge in a Neural Network (arXiv 1503.02531) section 2.
    """
    _check_temperature(temperature)
    return sum_over_rows(_kl, student, teacher, mask, temperature, takes_top=True)


def reverse_kl(student: Logits, teacher: Logits, mask: Tensor, temperature: float = 1.0) -> SumCount:
    """Reverse Kullback-Leibler divergence of the predictions, KL(student || teacher).

    Sums T^2 * KL(softmax(student / T) || softmax(teacher / T)) over the counted positions, with T the temperature.
    Tokens that the teacher forbids are left out of the student's distribution too: else the divergence is infinite.

    Shapes: `student`, `teacher` [..., V] or `LogitRows`; `mask` bool [...], True where counted. V vocabulary.
    Unit: positions.

    Raises:
        ValueError: the shapes do not agree, `mask` is not boolean, or `temperature` is not positive.

    Source: MiniLLM (arXiv 2306.08543) section 2.1, here per position and on given text.
    """
    _check_temperature(temperature)
    return sum_over_rows(_reverse_kl, student, teacher, mask, temperature)


def js(student: Logits, teacher: Logits, mask: Tensor, temperature: float = 1.0) -> SumCount:
    """Jensen-Shannon divergence of the predictions: symmetric, and at most log 2 per position at temperature 1.

    Sums T^2 * (KL(t || m) / 2 + KL(s || m) / 2) over the counted positions, with T the temperature,
    s = softmax(student / T), t = softmax(teacher / T) and m = (s + t) / 2.

    Shapes: `student`, `teacher` [..., V] or `LogitRows`; `mask` bool [...], True where counted. V vocabulary.
    Unit: positions.

    Raises:
        ValueError: the shapes do not agree, `mask` is not boolean, or `temperature` is not positive.

    Source: Generalized Knowledge Distillation (arXiv 2306.13649) section 2, with beta = 1/2.
    """
    _check_temperature(temperature)
    return sum_over_rows(_js, student, teacher, mask, temperature)


def mse(student: Logits, teacher: Logits, mask: Tensor, temperature: float = 1.0) -> SumCount:
    """Mean squared error of the logits.

    Sums over the counted positions the mean over V of (student - teacher)^2. Tokens that the teacher forbids add 0.

    Shapes: `student`, `teacher` [..., V] or `LogitRows`; `mask` bool [...], True where counted. V vocabulary.
    Unit: positions.

    Raises:
        ValueError: the shapes do not agree, `mask` is not boolean, or `temperature` is not 1.

    Source: Distilling the Knowledge in a Neural Network (arXiv 1503.02531) section 2.1, matching logits.
    """
    if temperature != 1.0:
        raise ValueError(
            f"Expected temperature 1.0 for the MSE of logits, got {temperature}: it only rescales this loss, "
            "so change its weight instead."
        )
    return sum_over_rows(_mse, student, teacher, mask, temperature, of_probs=False)


def soft_cross_entropy(
    student: Logits, teacher: Logits | TopLogits, mask: Tensor, temperature: float = 1.0
) -> SumCount:
    """Cross entropy of the student's predictions under the teacher's.

    Sums T^2 * -sum over V of softmax(teacher / T) * log_softmax(student / T) over the counted positions, with T the
    temperature. It is `kl` plus the teacher's entropy, so the same gradient, and not 0 for equal predictions.

    Shapes: `student`, `teacher` [..., V] or `LogitRows`, `teacher` also `TopLogits` of this temperature; `mask` bool
    [...], True where counted. V vocabulary.
    Unit: positions.

    Raises:
        ValueError: the shapes do not agree, `mask` is not boolean, or `temperature` is not positive.

    Source: TinyBERT (arXiv 1909.10351) section 3, prediction-layer distillation, at T = 1; the factor T^2 is ours.
    """
    _check_temperature(temperature)
    return sum_over_rows(_soft_cross_entropy, student, teacher, mask, temperature, takes_top=True)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(
            f"Expected a temperature greater than 0, got {temperature}: 1.0 leaves the logits as they are."
        )


# Each is one loss on a few rows of logits: `s` of the student, `t` of the teacher, both [n, V] -> the sum over the rows
# and, if it is wanted, its gradient with respect to `s` [n, V]. In place where it can be, for the rows are long.


def _kl(s: Tensor, t: Tensor, temperature: float, wanted: bool) -> tuple[Tensor, Tensor | None]:
    log_s, log_t = _log_probs(s, temperature), _log_probs(t, temperature)
    p_t = log_t.exp()
    total = temperature**2 * _expectation(p_t, log_t.sub_(log_s)).sum()
    return total, log_s.exp_().sub_(p_t).mul_(temperature) if wanted else None


def _soft_cross_entropy(s: Tensor, t: Tensor, temperature: float, wanted: bool) -> tuple[Tensor, Tensor | None]:
    log_s, p_t = _log_probs(s, temperature), _log_probs(t, temperature).exp_()
    total = -(temperature**2) * _expectation(p_t, log_s.clone()).sum()
    return total, log_s.exp_().sub_(p_t).mul_(temperature) if wanted else None


def _reverse_kl(s: Tensor, t: Tensor, temperature: float, wanted: bool) -> tuple[Tensor, Tensor | None]:
    log_s, log_t = _log_probs(s.masked_fill_(t == -torch.inf, -torch.inf), temperature), _log_probs(t, temperature)
    p_s = log_s.exp()
    mean = _expectation(p_s, ratio := log_s.sub_(log_t))
    return temperature**2 * mean.sum(), ratio.sub_(mean).mul_(p_s).mul_(temperature) if wanted else None


def _js(s: Tensor, t: Tensor, temperature: float, wanted: bool) -> tuple[Tensor, Tensor | None]:
    log_s, log_t = _log_probs(s, temperature), _log_probs(t, temperature)
    log_m = torch.logaddexp(log_s, log_t).sub_(math.log(2))
    p_s = log_s.exp()
    mean = _expectation(p_s, ratio := log_s.sub_(log_m))
    total = temperature**2 / 2 * (mean + _expectation(log_t.exp(), log_t - log_m)).sum()
    return total, ratio.sub_(mean).mul_(p_s).mul_(temperature / 2) if wanted else None


def _mse(s: Tensor, t: Tensor, temperature: float, wanted: bool) -> tuple[Tensor, Tensor | None]:
    difference = s.sub_(t).masked_fill_(t == -torch.inf, 0.0)
    return difference.square().mean(-1).sum(), difference.mul_(2 / s.shape[-1]) if wanted else None


def _log_probs(logits: Tensor, temperature: float) -> Tensor:
    return (logits / temperature).log_softmax(-1)


def _expectation(p: Tensor, values: Tensor) -> Tensor:
    """The mean of `values` under the distribution `p`; where p is 0 a value becomes 0 (in place), even inf or NaN.

    Shapes: `p`, `values` [n, V] -> [n, 1].
    """
    return (p * values.masked_fill_(p == 0, 0.0)).sum(-1, keepdim=True)
