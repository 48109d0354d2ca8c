"""What a step takes in one process and in two that share its rows (DDP, gloo), on the cores of one machine.

    python processes.py --out processes.json [--size small] [--rows 16] [--rounds 8] [--steps 6]

Every round runs every row of the table once, each time in processes of its own. A step of two processes is half of its
arithmetic in each, and then the gradients' way from one to the other: both are measured by themselves as well, and
their sum stands beside what was measured. CPU seconds are those of all processes together; other work on the machine
prolongs the seconds of the clock.
"""

import argparse
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from job import SIZES, Plan, alignments, collate, examples, models
from measure import _PROCESSES, _start
from saving import save
from scale import table
from transformers import TrainerCallback, TrainingArguments

from distil_trainer import DistillationTrainer


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to make a step: so many processes of so many threads, and the share of the rows that they take."""

    processes: int
    threads: int
    share: float = 1.0


ROWS = {
    "1 process, 1 thread": Row(processes=1, threads=1),
    "1 process, 2 threads": Row(processes=1, threads=2),
    "2 processes of 1 thread": Row(processes=2, threads=1),
    "1 process, 1 thread, half of the rows": Row(processes=1, threads=1, share=0.5),
}
ALONE, _, TOGETHER, HALF = ROWS
WIRE = "gradients from process to process"
ROWS_OF_TABLE = [*ROWS, WIRE]


class _Marks(TrainerCallback):
    """Notes when each step ends: seconds of the clock and of this process's CPU."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Notes one."""
        self.ends.append((time.perf_counter(), time.process_time()))


def train(plan: Plan, processes: int) -> list[tuple[float, float]]:
    """Seconds of each step after the first, of the clock and of the CPU; `plan.job.rows` are those of all processes."""
    teacher, student = models(plan, dropout=0.0, attention="sdpa")
    marks = _Marks()
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            max_steps=plan.steps + 1,
            per_device_train_batch_size=plan.job.rows // processes,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        DistillationTrainer(
            model=student,
            args=args,
            teacher_model=teacher,
            alignments=alignments(plan),
            train_dataset=examples(replace(plan, steps=plan.steps + 1)),
            data_collator=collate,
            callbacks=[marks],
        ).train()
    before, after = marks.ends[:-1], marks.ends[1:]
    return [(b[0] - a[0], b[1] - a[1]) for a, b in zip(before, after, strict=True)]


def send(plan: Plan) -> list[tuple[float, float]]:
    """Seconds of adding up as many float32 numbers as the student has, over all processes, once a step."""
    _, student = models(plan, dropout=0.0, attention="sdpa")
    values, found = torch.zeros(sum(p.numel() for p in student.parameters())), []
    torch.distributed.init_process_group("gloo")
    for _ in range(plan.steps + 1):
        torch.distributed.barrier()
        wall, cpu = time.perf_counter(), time.process_time()
        torch.distributed.all_reduce(values)
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return found[1:]


def _work(name: str, plan: Plan, rank: int, port: int, results: Any) -> None:
    row = ROWS.get(name, Row(processes=2, threads=1))
    _start(row.threads)
    if row.processes > 1:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": row.processes, "LOCAL_WORLD_SIZE": row.processes}
        os.environ |= {key: str(value) for key, value in places.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": str(row.threads)}
    results.put(send(plan) if name == WIRE else train(plan, row.processes))
    results.close()
    results.join_thread()
    os._exit(0)  # taking gloo processes down in the usual way now and then aborts one of them


def measure(name: str, plan: Plan) -> list[tuple[float, float]]:
    """One row: of each step the seconds of the clock (of the slower process), and of the CPU (of all processes)."""
    row = ROWS.get(name, Row(processes=2, threads=1))
    plan = replace(plan, job=replace(plan.job, rows=int(plan.job.rows * row.share)))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    results = _PROCESSES.Queue()
    workers = [
        _PROCESSES.Process(target=_work, args=(name, plan, rank, port, results)) for rank in range(row.processes)
    ]
    for worker in workers:
        worker.start()
    steps = [results.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    return [(max(wall for wall, _ in step), sum(cpu for _, cpu in step)) for step in zip(*steps, strict=True)]


def told(found: dict[str, list[tuple[float, float]]]) -> str:
    """The table."""
    least = {name: min(wall for wall, _ in steps) for name, steps in found.items()}
    lines = []
    for name in ROWS_OF_TABLE:
        walls, cpus = zip(*found[name], strict=True)
        low, middle, high = statistics.quantiles(walls, n=4)
        lines.append(
            [
                name,
                *(f"{1e3 * value:.0f}" for value in (least[name], middle)),
                f"{1e3 * low:.0f} to {1e3 * high:.0f}",
                f"{1e3 * statistics.median(cpus):.0f}",
                f"{least[ALONE] / least[name]:.2f}",
            ]
        )
    columns = ["", "least, ms", "median, ms", "middle half, ms", "CPU, ms", "times as fast (least)"]
    expected = least[HALF] + least[WIRE]
    return (
        f"{table(columns, lines)}\n\nHalf of the rows and the gradients' way together: {1e3 * expected:.0f} ms; "
        f"two processes took {1e3 * least[TOGETHER]:.0f} ms ({least[TOGETHER] / expected:.2f} times)."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table and saves the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--rows", type=int, default=16, help="of a step, even")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="of each row in a round, after one that is not counted")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    plan = Plan(job=replace(SIZES[options.size], rows=options.rows), steps=options.steps)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ROWS_OF_TABLE}
    for _ in range(options.rounds):
        for name in ROWS_OF_TABLE:
            found[name] += measure(name, plan)
    print(told(found))
    if options.out is not None:
        save(options.out, {"size": options.size, "rows": options.rows, "steps": found})


if __name__ == "__main__":
    main()
