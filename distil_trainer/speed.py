"""How long a forward pass takes. Models that are to be compared are measured in turns."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from distil_trainer.errors import DistilTrainerError
from distil_trainer.facts import cpu_name
from distil_trainer.record import SpeedFacts

Name = TypeVar("Name", bound=str)


def measure_speed(
    model: PreTrainedModel,
    *,
    batch_sizes: Sequence[int] = (1, 8),
    length: int = 128,
    repeats: int = 10,
    warmup: int = 2,
) -> tuple[SpeedFacts, ...]:
    """Median time of one forward pass over a batch of random tokens without padding. See `measure_speeds`."""
    return measure_speeds({"model": model}, batch_sizes=batch_sizes, length=length, repeats=repeats, warmup=warmup)[
        "model"
    ]


def measure_speeds(
    models: Mapping[Name, PreTrainedModel],
    *,
    batch_sizes: Sequence[int] = (1, 8),
    length: int = 128,
    repeats: int = 10,
    warmup: int = 2,
) -> dict[Name, tuple[SpeedFacts, ...]]:
    """Median time of one forward pass for each model, in evaluation mode and without gradients.

    A batch of one row tells the latency of a request, a larger one the throughput.

    In each of the `repeats` rounds every model runs once, so that a disturbance of the machine hits all alike.
    Afterwards each module is in the mode that it was in.

    Args:
        models: any names, for example "teacher" and "student"; they key the result.
        batch_sizes, length: rows of each batch, and tokens per row.
        repeats, warmup: counted rounds, and rounds before them that are not.

    Raises:
        DistilTrainerError: a number is not positive, or `length` is more than a model can take.
    """
    if not batch_sizes or min(*batch_sizes, length, repeats) < 1 or warmup < 0:
        raise DistilTrainerError(
            f"batch_sizes, length and repeats must be at least 1 and warmup at least 0; "
            f"came {list(batch_sizes)}, {length}, {repeats} and {warmup}."
        )
    for name, model in models.items():
        longest = getattr(model.config, "max_position_embeddings", None)
        if longest is not None and length > longest:
            raise DistilTrainerError(
                f"{name} takes at most {longest} tokens; came length={length}. Choose a shorter one."
            )
    modes = [(module, module.training) for model in models.values() for module in model.modules()]
    times: dict[tuple[Name, int], list[float]] = {(name, size): [] for name in models for size in batch_sizes}
    try:
        for model in models.values():
            model.eval()
        for round_number in range(warmup + repeats):
            for (name, size), seconds in times.items():
                taken = _forward(models[name], size, length)
                if round_number >= warmup:
                    seconds.append(taken)
    finally:
        for module, training in modes:
            module.training = training
    return {
        name: tuple(
            SpeedFacts(
                ms_per_batch=round(1000 * statistics.median(times[name, size]), 3),
                batch_size=size,
                length=length,
                threads=torch.get_num_threads(),
                dtype=str(model.dtype).removeprefix("torch."),
                hardware=_device_name(model),
            )
            for size in batch_sizes
        )
        for name, model in models.items()
    }


@torch.no_grad()
def _forward(model: PreTrainedModel, batch_size: int, length: int) -> float:
    generator = torch.Generator().manual_seed(0)  # the same tokens in every round; the global generator is left alone
    tokens = torch.randint(model.config.vocab_size, (batch_size, length), generator=generator).to(model.device)
    mask = torch.ones_like(tokens)
    _synchronize(model)
    start = time.perf_counter()
    model(input_ids=tokens, attention_mask=mask)
    _synchronize(model)
    return time.perf_counter() - start


def _synchronize(model: PreTrainedModel) -> None:
    if model.device.type == "cuda":  # kernels run on after the call returned
        torch.cuda.synchronize(model.device)


def _device_name(model: PreTrainedModel) -> str:
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return (cpu_name() if model.device.type == "cpu" else None) or model.device.type
