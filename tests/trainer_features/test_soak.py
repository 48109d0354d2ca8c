"""A long run holds no more at its end than near its beginning: memory, file handles, threads, tensors."""

import threading
from pathlib import Path

import psutil
import pytest
from distilling import TERMS, distilling, tensors_in_memory
from transformers import TrainerCallback

from distil_trainer import Alignment

MAPPED = Alignment(feature="hidden_states", student_layer=1, teacher_layer=2, projection=True)


class Watch(TrainerCallback):
    """What the process holds, every so many steps.

    Attributes:
        rows: (step, resident bytes, open file handles, threads, live tensors, those of them that are in a graph and
            were not before).
    """

    def __init__(self, every):
        self.every, self.rows = every, []
        self.before = tensors_in_memory()[1]

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0:
            tensors, in_graph = tensors_in_memory()
            handles = len(list(Path("/proc/self/fd").iterdir()))
            resident = psutil.Process().memory_info().rss
            count = (len(tensors), in_graph - self.before)
            self.rows.append((state.global_step, resident, handles, threading.active_count(), *count))


def run(make_args, steps, every):
    """Hidden states, attention, logits, a projection and labels, with logs, evaluations and checkpoints."""
    args = {
        "max_steps": steps,
        "logging_steps": every // 5,
        "eval_strategy": "steps",
        "eval_steps": every // 2,
        "save_strategy": "steps",
        "save_steps": every // 2,
        "save_total_limit": 2,
        "per_device_train_batch_size": 4,
    }
    watch = Watch(every)
    trainer = distilling(make_args, args=args, alignments=(*TERMS, MAPPED), balance_terms=True, callbacks=[watch])
    trainer.train()
    for step, resident, handles, threads, tensors, in_graph in watch.rows:
        print(f"step {step}: {resident / 2**20:.1f} MiB, {handles=}, {threads=}, {tensors=}, {in_graph=}")
    assert len(watch.rows) == steps // every
    return watch.rows


def assert_flat(rows):
    first, last = rows[0], rows[-1]
    assert last[1] < 1.02 * first[1]
    assert last[2:4] == first[2:4]
    assert last[4] <= first[4] + 5  # a log or an evaluation may hold some at this moment
    assert not any(row[5] for row in rows)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts handles where Linux lists them")
def test_80_steps_leave_nothing_behind(make_args):
    assert_flat(run(make_args, 80, 20)[1:])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts handles where Linux lists them")
def test_5000_steps_leave_nothing_behind(make_args):
    assert_flat(run(make_args, 5000, 500))
