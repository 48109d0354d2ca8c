import random

import numpy as np
import torch
from torch import nn

from distil_trainer.probe import random_state_kept
from distil_trainer.reach import unreached_parameters


def test_parameters_that_no_gradient_arrives_at():
    model = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("used", "unused", "frozen", "tied")})
    model["tied"].weight = model["used"].weight
    model["frozen"].requires_grad_(False)
    loss = model["frozen"](model["used"](torch.ones(2, 3))).sum()
    assert set(unreached_parameters(loss, model)) == {"unused.weight", "unused.bias", "tied.bias"}


def test_a_loss_without_a_graph_reaches_nothing():
    assert set(unreached_parameters(torch.zeros(()), nn.Linear(2, 2))) == {"weight", "bias"}


def test_random_numbers_drawn_inside_are_forgotten():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    expected = draw()
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    with random_state_kept():
        draw()
    assert draw() == expected
