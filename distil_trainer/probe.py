"""Trying a model out on one example, without a trace."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def first_example(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The first row of every tensor of a batch; whatever else is in it as it is."""
    return {key: value[:1] if isinstance(value, Tensor) else value for key, value in inputs.items()}


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Inside this context the model is in evaluation mode: no dropout, no layer drop."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever is drawn inside, the random numbers after it are those that would have come without it."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
