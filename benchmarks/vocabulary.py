"""What a logits loss takes over a large vocabulary, in memory and seconds: in chunks, and with whole logits.

    python benchmarks/vocabulary.py --out vocabulary.json

Hidden states of student and teacher [N, 768] and output embeddings [119,547, 768] in float32, kl and js, forward and
backward. Memory is the peak beyond the inputs and their gradients, as a share of one full tensor of logits (N x V).
Each figure comes from a process of its own (Linux, CPU).
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import torch
from saving import save

from distil_trainer.losses import LOSSES, LogitRows

VOCABULARY, WIDTH = 119_547, 768


def take(loss: str, rows: int, whole: bool, trains_weight: bool) -> dict[str, float]:
    """Bytes and seconds of one forward and backward pass."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    weight, teacher_weight = draw(VOCABULARY, WIDTH) * 0.05, draw(VOCABULARY, WIDTH) * 0.05
    hidden, teacher_hidden = draw(rows, WIDTH).requires_grad_(), draw(rows, WIDTH)
    weight.requires_grad_(trains_weight)
    mask = torch.ones(rows, dtype=torch.bool)
    student, teacher = LogitRows(hidden, weight), LogitRows(teacher_hidden, teacher_weight)
    function: Any = LOSSES["logits"][loss].function
    small = torch.ones(2, 3, requires_grad=True)
    function(small, small.detach(), mask[:2])[0].backward()  # loads what is loaded once
    before = measure.memory("cpu", peak=False)
    measure.reset_peak("cpu")
    start = time.perf_counter()
    if whole:
        logits = [torch.nn.functional.linear(side.hidden, side.weight) for side in (student, teacher)]
        log_s, log_t = (x.log_softmax(-1) for x in logits)
        if loss == "kl":
            total = (log_t.exp() * (log_t - log_s)).sum()
        else:
            log_m = torch.logaddexp(log_s, log_t) - math.log(2)
            total = (log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)).sum() / 2
    else:
        total = function(student, teacher, mask)[0]
    total.backward()
    seconds = time.perf_counter() - start
    gradients = sum(x.grad.nbytes for x in (hidden, weight) if x.grad is not None)
    extra = measure.memory("cpu", peak=True) - before - gradients
    return {"seconds": seconds, "bytes": extra, "share_of_full_logits": extra / (rows * VOCABULARY * 4)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table and saves it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--losses", nargs="+", default=["kl"], choices=["kl", "js"])
    options = parser.parse_args(arguments)
    results = []
    print(
        "| loss | output embedding | | seconds | extra MiB | of one full tensor of logits |\n|---|---|---|---|---|---|"
    )
    for loss in options.losses:
        for trains_weight in (False, True):
            for whole in (False, True):
                found = measure.launch(take, loss, options.rows, whole, trains_weight)
                results.append({"loss": loss, "trains_weight": trains_weight, "whole": whole, **found})
                row = [loss, "trained" if trains_weight else "frozen", "whole logits" if whole else "in chunks"]
                row += [f"{found['seconds']:.1f}", f"{found['bytes'] / 2**20:,.0f}"]
                print("| " + " | ".join([*row, f"{found['share_of_full_logits']:.1%}"]) + " |", flush=True)
    save(options.out, {"rows": results, "N": options.rows})


if __name__ == "__main__":
    main()
