"""What the trainer itself costs: a step of DistillationTrainer, of Trainer, and of a loop of one's own.

    python benchmarks/overhead.py --out overhead.json

All three run the same models, batches and optimizer, and take the loss from the library's own captures and terms: what
differs is the trainer around it. They take turns step by step, so that a noisy machine is so for all of them alike.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from contenders import Mark, Marks, arguments
from job import SIZES, Job, Plan, alignments, collate, examples, loader, models
from saving import save
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.utils import logging

from distil_trainer import DistillationTrainer
from distil_trainer.positions import UNITS, count_positions
from distil_trainer.teacher import Teacher, reader_for
from distil_trainer.terms import compute_term

MIDDLE = Job(
    teacher_layers=6, student_layers=3, width=384, intermediate=1536, heads=6, vocabulary=8192, rows=8, length=128
)
CLIP = 1.0


def loss_of(plan: Plan, teacher: Any, student: Any) -> Callable[[Any, Any], Tensor]:
    """(the student to call, batch) -> the mean over the batch, with no more than the captures and the terms."""
    compared = alignments(plan)
    answer, reader = Teacher(teacher, compared), reader_for(student, compared, role="student")

    def loss(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        inputs = {key: value for key, value in inputs.items() if key != "labels"}
        expected = answer(inputs)
        with reader.reading(ends_early=True) as features:
            model(**inputs)
        counts = count_positions([inputs], shifts_labels=False)
        terms = [compute_term(alignment, features, expected, inputs, 0.0) for alignment in compared]
        return torch.stack([term.total / counts[UNITS.index(term.unit)] for term in terms]).sum()

    return loss


def loop(plan: Plan, mark: Mark) -> None:
    """A loop of one's own."""
    teacher, student = models(plan, dropout=0.0, attention="sdpa")
    loss = loss_of(plan, teacher, student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=plan.learning_rate, weight_decay=0.0, fused=True)
    for batch in loader(plan):
        loss(student, batch).backward()
        nn.utils.clip_grad_norm_(student.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        mark()


def trainer(plan: Plan, mark: Mark) -> None:
    """`Trainer` with that loss as its `compute_loss`."""
    teacher, student = models(plan, dropout=0.0, attention="sdpa")
    loss = loss_of(plan, teacher, student)

    class WithThatLoss(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return loss(model, inputs)

    _train(WithThatLoss, plan, mark, model=student)


def ours(plan: Plan, mark: Mark) -> None:
    """`DistillationTrainer`."""
    teacher, student = models(plan, dropout=0.0, attention="sdpa")
    _train(DistillationTrainer, plan, mark, model=student, teacher_model=teacher, alignments=alignments(plan))


def _train(trainer_class: Any, plan: Plan, mark: Mark, **kwargs: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainer_class(
            args=TrainingArguments(folder, **{**arguments(plan), "max_grad_norm": CLIP}, log_level="error"),
            train_dataset=examples(plan),
            data_collator=collate,
            callbacks=[Marks(mark)],
            **kwargs,
        ).train()


WAYS = {"a loop of one's own": loop, "Trainer": trainer, "DistillationTrainer": ours}
LOOP = next(iter(WAYS))
Turn = dict[str, dict[str, float]]  # clock or cpu -> way -> seconds of one step


class Steps:
    """One way of training, which takes a step when it is told to and waits for the next, in a thread of its own."""

    def __init__(self, way: Callable[[Plan, Mark], None], plan: Plan) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(way, plan))
        self._thread.start()

    def _run(self, way: Callable[[Plan, Mark], None], plan: Plan) -> None:
        self._go.acquire()
        try:
            way(plan, self._stop)
        finally:
            self._done.release()

    def _stop(self) -> None:
        self._done.release()
        self._go.acquire()

    def take(self) -> tuple[float, float]:
        """Seconds of a step: by the clock, and of CPU time, in which other processes take no part."""
        before = time.perf_counter(), time.process_time()
        self._go.release()
        self._done.acquire()
        return time.perf_counter() - before[0], time.process_time() - before[1]

    def end(self) -> None:
        """Lets the training come to its end."""
        self._go.release()
        self._thread.join()


def take_turns(plan: Plan) -> list[Turn]:
    """The seconds of a step of each way, turn by turn, after one that is not timed; the order changes by turns."""
    ways = {name: Steps(way, replace(plan, steps=plan.steps + 1)) for name, way in WAYS.items()}
    names, turns = list(ways), []
    for number in range(plan.steps + 1):
        turn: Turn = {"clock": {}, "cpu": {}}
        for name in names[number % 3 :] + names[: number % 3]:
            turn["clock"][name], turn["cpu"][name] = ways[name].take()
        turns.append(turn)
    for way in ways.values():
        way.end()
    return turns[1:]


def over_the_loop(turns: list[Turn], name: str, kind: str) -> list[float]:
    """Quartiles of the turns' ratios, less 1."""
    ratios = [turn[kind][name] / turn[kind][LOOP] for turn in turns]
    return [quartile - 1 for quartile in statistics.quantiles(ratios, n=4)]


def table(turns: list[Turn]) -> str:
    """The Markdown table: medians of the steps, and of the turns' ratios with their quartiles."""
    rows = ["| | s/step, clock | s/step, CPU | over the loop, clock | over the loop, CPU |", "|---|---|---|---|---|"]
    for name in WAYS:
        cells = [f"{statistics.median(turn[kind][name] for turn in turns):.4f}" for kind in ("clock", "cpu")]
        for low, middle, high in (over_the_loop(turns, name, kind) for kind in ("clock", "cpu")):
            cells.append(f"{middle:+.1%} ({low:+.1%} to {high:+.1%})" if name != LOOP else "")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs all in turns, prints the table and saves what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    parser.add_argument("--size", choices=("tiny", "middle"), default="middle")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    plan = Plan(job={**SIZES, "middle": MIDDLE}[options.size], steps=options.steps)
    turns = take_turns(plan)
    print(table(turns))
    over = {name: {kind: over_the_loop(turns, name, kind) for kind in ("clock", "cpu")} for name in WAYS}
    save(options.out, {"turns": turns, "over the loop": over})


if __name__ == "__main__":
    main()
