"""What one training step takes in memory, against the length of the sequence.

    python benchmarks/memory.py --out memory.json

One row, a small width and no dropout: here with attention mse and kl, and TextBrewer. The figure is the peak during a
step beyond what stays from step to step. Every point has a process of its own; one that would pass the budget, going by
four times the point at half its length, is left out, and said so.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
from contenders import CONTENDERS
from job import Job, Plan
from saving import save

LENGTHS = (128, 256, 512, 1024, 2048, 4096)
CURVES = {
    "ours, attention mse": ("ours", "mse"),
    "ours, attention kl": ("ours", "kl"),
    "TextBrewer as published": ("textbrewer", "mse"),
}


def plan_of(length: int, attention_loss: str, device: str) -> Plan:
    """One row of this length, through models so small that attention is what counts."""
    job = Job(
        teacher_layers=4,
        student_layers=2,
        width=128,
        intermediate=512,
        heads=4,
        vocabulary=1000,
        rows=1,
        length=length,
    )
    return Plan(job=job, steps=1, device=device, dropout=0.0, attention_loss=attention_loss)


def curve(
    name: str, attention_loss: str, lengths: Sequence[int], budget: int, device: str, threads: int | None
) -> list[dict[str, Any]]:
    """The points of one curve: `length`, and `bytes` or why there are none."""
    points: list[dict[str, Any]] = []
    expected = 0
    for length in lengths:
        if expected > budget:
            points.append({"length": length, "left_out": f"expected {expected / 2**20:,.0f} MiB"})
            expected *= 4
            continue
        plan = plan_of(length, attention_loss, device)
        taken = measure.launch(measure.step_memory, name, plan, threads=threads)
        points.append({"length": length, "bytes": taken})
        expected = 4 * taken
    return points


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table and saves it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--budget-mib", type=int, default=6 * 1024)
    parser.add_argument("--threads", type=int, help="default: torch's, which is all cores")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args(arguments)

    curves = {}
    print("| extra peak memory of a step, MiB | " + " | ".join(map(str, options.lengths)) + " |")
    print("|---" * (len(options.lengths) + 1) + "|")
    for title, (name, loss) in CURVES.items():
        if not CONTENDERS[name].available:
            print(f"{title}: left out, because {CONTENDERS[name].needs} is not installed")
            continue
        budget = options.budget_mib * 2**20
        points = curve(name, loss, options.lengths, budget, options.device, options.threads)
        shown = (f"{p['bytes'] / 2**20:,.0f}" if "bytes" in p else f"left out: {p['left_out']}" for p in points)
        print(f"| {title} | " + " | ".join(shown) + " |", flush=True)
        curves[title] = points
    save(options.out, {"curves": curves}, device=options.device)


if __name__ == "__main__":
    main()
