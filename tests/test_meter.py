import torch

from distil_trainer.meter import Meter


def test_averages_are_weighted_by_count_and_taken_once():
    meter = Meter()
    meter.add("a", torch.tensor(6.0), torch.tensor(3))
    meter.add("a", torch.tensor(4.0), torch.tensor(1))
    meter.add("b", torch.tensor(0.0), torch.tensor(0))
    assert meter.take() == {"a": 2.5, "b": 0.0}
    assert meter.take() == {}


def test_sums_of_all_processes_are_reduced_together():
    meter = Meter()
    meter.add("a", torch.tensor(1.0), torch.tensor(2))
    shapes = []

    def two_processes(sums):
        shapes.append(tuple(sums.shape))
        return sums + torch.tensor([[5.0, 1.0]])

    assert meter.take(two_processes) == {"a": 2.0}
    assert shapes == [(1, 2)]


def test_sums_are_taken_up_by_another_meter():
    one, other = Meter(), Meter()
    one.add("a", torch.tensor(0.1), torch.tensor(3))
    other.load(one.sums(), device=torch.device("cpu"))
    for meter in (one, other):
        meter.add("a", torch.tensor(0.2), torch.tensor(4))
    assert one.take() == other.take()
    assert other.sums() == {}


def test_a_copy_goes_on_by_itself():
    meter = Meter()
    meter.add("a", torch.tensor(1.0), torch.tensor(1))
    copy = meter.copy()
    meter.add("a", torch.tensor(torch.nan), torch.tensor(1))
    assert copy.take() == {"a": 1.0}
