"""Losses between logits: one distribution over the vocabulary per position.

A logit of -inf in the teacher is a token it forbids: it has probability 0, and 0 * log 0 = 0.
"""

import math

import torch
from torch import Tensor

from distil_trainer.losses._common import SumCount, counted_rows, expectation, kl_divergence

_ADVICE = "compare the same positions of models that share one vocabulary (resize or cut the logits before)."


def kl(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> SumCount:
    """Kullback-Leibler divergence of the predictions, KL(teacher || student).

    Sums T^2 * KL(softmax(teacher / T) || softmax(student / T)) over the counted positions, with T the temperature:
    the T^2 keeps the size of the gradient the same for every temperature.

    Shapes: `student`, `teacher` [..., V]; `mask` bool [...], True where counted. V vocabulary. Unit: positions.

    Raises:
        ValueError: the shapes do not agree, `mask` is not boolean, or `temperature` is not positive.

    Source: Distilling the Knowledge in a Neural Network (arXiv 1503.02531) section 2.
    """
    log_s, log_t, count = _log_probs(student, teacher, mask, temperature)
    return temperature**2 * kl_divergence(log_t, log_s).sum(), count


def reverse_kl(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> SumCount:
    """Reverse Kullback-Leibler divergence of the predictions, KL(student || teacher).

    Sums T^2 * KL(softmax(student / T) || softmax(teacher / T)) over the counted positions, with T the temperature.
    Tokens that the teacher forbids are left out of the student's distribution too: else the divergence is infinite.

    Shapes: `student`, `teacher` [..., V]; `mask` bool [...], True where counted. V vocabulary. Unit: positions.

    Raises:
        ValueError: the shapes do not agree, `mask` is not boolean, or `temperature` is not positive.

    Source: MiniLLM (arXiv 2306.08543) section 2.1, here per position and on given text.
    """
    log_s, log_t, count = _log_probs(student, teacher, mask, temperature, forbid_alike=True)
    return temperature**2 * kl_divergence(log_s, log_t).sum(), count


def js(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> SumCount:
    """Jensen-Shannon divergence of the predictions: symmetric, and at most log 2 per position at temperature 1.

    Sums T^2 * (KL(t || m) / 2 + KL(s || m) / 2) over the counted positions, with T the temperature,
    s = softmax(student / T), t = softmax(teacher / T) and m = (s + t) / 2.

    Shapes: `student`, `teacher` [..., V]; `mask` bool [...], True where counted. V vocabulary. Unit: positions.

    Raises:
        ValueError: the shapes do not agree, `mask` is not boolean, or `temperature` is not positive.

    Source: Generalized Knowledge Distillation (arXiv 2306.13649) section 2, with beta = 1/2.
    """
    log_s, log_t, count = _log_probs(student, teacher, mask, temperature)
    # finite: the gradient of logaddexp(-inf, -inf) is NaN
    log_m = torch.logaddexp(log_s.clamp_min(torch.finfo(log_s.dtype).min), log_t) - math.log(2)
    return temperature**2 * (kl_divergence(log_t, log_m) + kl_divergence(log_s, log_m)).sum() / 2, count


def mse(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> SumCount:
    """Mean squared error of the logits.

    Sums over the counted positions the mean over V of (student - teacher)^2. Tokens that the teacher forbids add 0.

    Shapes: `student`, `teacher` [..., V]; `mask` bool [...], True where counted. V vocabulary. Unit: positions.

    Raises:
        ValueError: the shapes do not agree, `mask` is not boolean, or `temperature` is not 1.

    Source: Distilling the Knowledge in a Neural Network (arXiv 1503.02531) section 2.1, matching logits.
    """
    if temperature != 1.0:
        raise ValueError(
            f"Expected temperature 1.0 for the MSE of logits, got {temperature}: it only rescales this loss, "
            "so change its weight instead."
        )
    student, teacher, count = counted_rows(student, teacher, mask, _ADVICE)
    difference = torch.where(teacher == -torch.inf, 0.0, student - teacher)
    return difference.square().mean(-1).sum(), count


def soft_cross_entropy(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> SumCount:
    """Cross entropy of the student's predictions under the teacher's.

    Sums T^2 * -sum over V of softmax(teacher / T) * log_softmax(student / T) over the counted positions, with T the
    temperature. It is `kl` plus the teacher's entropy, so the same gradient, and not 0 for equal predictions.

    Shapes: `student`, `teacher` [..., V]; `mask` bool [...], True where counted. V vocabulary. Unit: positions.

    Raises:
        ValueError: the shapes do not agree, `mask` is not boolean, or `temperature` is not positive.

    Source: TinyBERT (arXiv 1909.10351) section 3, prediction-layer distillation, at T = 1; the factor T^2 is ours.
    """
    log_s, log_t, count = _log_probs(student, teacher, mask, temperature)
    return -(temperature**2) * expectation(log_t, log_s).sum(), count


def _log_probs(
    student: Tensor, teacher: Tensor, mask: Tensor, temperature: float, forbid_alike: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """log_softmax(logits / temperature) of the counted positions, and their number.

    With `forbid_alike` the tokens that the teacher forbids are forbidden to the student too.

    Shapes: `student`, `teacher` [..., V]; `mask` bool [...] -> [N, V], [N, V], scalar N.
    """
    if not temperature > 0:
        raise ValueError(
            f"Expected a temperature greater than 0, got {temperature}: 1.0 leaves the logits as they are."
        )
    student, teacher, count = counted_rows(student, teacher, mask, _ADVICE)
    if forbid_alike:
        student = student.masked_fill(teacher == -torch.inf, -torch.inf)
    return (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1), count
