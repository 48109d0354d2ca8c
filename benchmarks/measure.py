"""What is measured of a contender, each time in a process of its own: seconds, memory, what an update consists of."""

import ctypes
import gc
import io
import logging
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from contenders import CONTENDERS
from job import SIZES, Plan

# The server imports the heavy packages once and forks: a process of one's own, without seconds of imports each time.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["transformers.models.bert.modeling_bert", "transformers.trainer", "distil_trainer"])


def launch(function: Callable[..., Any], *args: Any, threads: int | None = None) -> Any:
    """`function(*args)` of this module in a new process.

    Raises:
        what the function raised; `BrokenProcessPool` if the process was killed, for want of memory for example.
    """
    with ProcessPoolExecutor(1, mp_context=_PROCESSES, initializer=_start, initargs=(threads,)) as pool:
        return pool.submit(function, *args).result()


def _start(threads: int | None) -> None:
    sys.stdout = io.StringIO()  # Trainer prints its logs
    logging.disable(logging.WARNING)  # the same in every round
    if threads is not None:
        torch.set_num_threads(threads)


def seconds_and_peak(name: str, plan: Plan, warmup: int = 1) -> dict[str, Any]:
    """Seconds of each step after the warm-up, and the peak memory: of the process, or of tensors on the GPU."""
    if warmup < 1:
        raise ValueError(f"warmup should be at least 1, because a step is timed from the end of another; got {warmup}.")
    plan = replace(plan, steps=plan.steps + warmup)
    _, train = CONTENDERS[name].build(plan)
    marks: list[float] = []

    def mark() -> None:
        if plan.device == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    train(mark)
    seconds = [after - before for before, after in pairwise(marks)][warmup - 1 :]
    if plan.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": seconds, "peak_bytes": peak, "threads": torch.get_num_threads()}


def step_memory(name: str, plan: Plan) -> int:
    """Bytes that a step takes at its peak beyond what stays: weights and the optimizer's state (on Linux or a GPU)."""
    if plan.device == "cpu":
        # Freed memory goes back at once, else what an earlier step left in the heap hides what this one takes.
        ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD
    _, train = CONTENDERS[name].build(replace(plan, steps=2))  # the first step makes the optimizer's state
    before: list[int] = []
    extra: list[int] = []

    def mark() -> None:
        if before:
            extra.append(memory(plan.device, peak=True) - before[0])
        else:
            gc.collect()
            reset_peak(plan.device)
            before.append(memory(plan.device, peak=False))

    train(mark)
    return extra[0]


def update_facts(name: str, plan: Plan) -> dict[str, Any]:
    """Which parameter tensors one AdamW step leaves as they were, at the size of the job."""
    student, train = CONTENDERS[name].build(replace(plan, steps=1))
    named = list(student.named_parameters())  # the objects stay, whatever a contender wraps around them
    before = [parameter.detach().cpu().clone() for _, parameter in named]
    train(lambda: None)
    still = [n for (n, p), old in zip(named, before, strict=True) if torch.equal(p.detach().cpu(), old)]
    numbers = {n: p.numel() for n, p in named}
    return {
        "tensors": len(named),
        "never_updated": len(still),
        "never_updated_parameters": sum(numbers[n] for n in still) / sum(numbers.values()),
    }


def split_facts(name: str, plan: Plan) -> dict[str, float]:
    """Updates of one SGD step on the same 8 ragged rows, as 8 x 1 row against 1 x 8 rows.

    `norm_ratio` of the two updates, and the norm of their difference relative to the one of 1 x 8.
    """
    job = replace(plan.job, rows=8)
    plan = replace(plan, job=job, steps=1, dropout=0.0, optimizer="sgd", learning_rate=1.0, ragged=True)
    whole, split = (_update(name, replace(plan, accumulation=parts)) for parts in (1, job.rows))
    return {
        "norm_ratio": float(split.norm() / whole.norm()),
        "difference": float((split - whole).norm() / whole.norm()),
    }


def _update(name: str, plan: Plan) -> torch.Tensor:
    student, train = CONTENDERS[name].build(plan)
    parameters = list(student.parameters())
    before = torch.cat([p.detach().cpu().flatten() for p in parameters])
    train(lambda: None)
    return torch.cat([p.detach().cpu().flatten() for p in parameters]) - before


def fits(name: str, plan: Plan) -> bool:
    """Whether a step of this size fits into the GPU's memory."""
    try:
        seconds_and_peak(name, replace(plan, steps=1))
    except torch.OutOfMemoryError:
        return False
    return True


def largest_batch(name: str, plan: Plan, threads: int | None) -> Plan:
    """The plan with the rows doubled as long as a step of the contender fits into the GPU's memory."""
    while True:
        larger = replace(plan, job=replace(plan.job, rows=2 * plan.job.rows))
        if not launch(fits, name, larger, threads=threads):
            return plan
        plan = larger


def split_plan(device: str) -> Plan:
    """The plan of `split_facts`: small whatever is timed, because the answer does not depend on the size."""
    return Plan(job=SIZES["small"], steps=1, device=device)


def reset_peak(device: str) -> None:
    """From now on `memory(peak=True)` starts anew."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak (VmHWM) to what is resident now


def memory(device: str, *, peak: bool) -> int:
    """Bytes held now, or at most since `reset_peak`."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    field = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
