"""The same distillation step here, in its peers, and as bare matrix products: one table.

    python benchmarks/peers.py --size small --out peers.json        (needs the extra `benchmarks`)

Every round runs every contender once, each in a process of its own, on the same models, batches and seeds. A contender
whose package is missing is left out, and said so.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import measure
from contenders import BOUND, CONTENDERS, PUBLISHED
from job import SIZES, Plan, needed_flops
from saving import save

ROUNDS_AND_STEPS = {"tiny": (1, 1), "small": (3, 8), "reference": (2, 3)}
HEAD = (
    "contender",
    "precision",
    "s/step",
    "tokens/s",
    "times as fast",
    "peak memory",
    "x products",
    "1x8 / 8x1",
    "difference",
    "never updated",
)


def take_turns(names: Sequence[str], plan: Plan, rounds: int, threads: int | None) -> dict[str, dict[str, Any]]:
    """What was measured, by contender; one that failed has only its `error`."""
    warmup = 3 if plan.device == "cuda" else 1  # a GPU's first steps also choose kernels and fill the allocator's pool
    found: dict[str, dict[str, Any]] = {name: {"seconds": [], "peak_bytes": []} for name in names}
    for turn in range(rounds):
        for name in names:
            row = found[name]
            if "error" in row:
                continue
            try:
                once = measure.launch(measure.seconds_and_peak, name, plan, warmup, threads=threads)
                row["seconds"].append(once["seconds"])
                row["peak_bytes"].append(once["peak_bytes"])
                row["threads"] = once["threads"]
                if turn == 0 and name != BOUND:
                    row |= measure.launch(measure.update_facts, name, plan, threads=threads)
                    row |= measure.launch(measure.split_facts, name, measure.split_plan(plan.device), threads=threads)
            except Exception as error:  # one contender's failure should not cost the others' hours
                row["error"] = f"{type(error).__name__}: {error}"
                print(f"{name} failed: {row['error']}", flush=True)
            else:
                print(f"round {turn + 1} {name:20s} {statistics.median(once['seconds']):.4f} s/step", flush=True)
    return found


def ratios(found: dict[str, dict[str, Any]], over: str, under: str) -> list[float]:
    """Seconds a step of one contender over another's, round by round; empty if one of them did not run."""
    if any(name not in found or "error" in found[name] for name in (over, under)):
        return []
    rounds = ([statistics.median(once) for once in found[name]["seconds"]] for name in (over, under))
    return [a / b for a, b in zip(*rounds, strict=True)]


def cells(name: str, found: dict[str, dict[str, Any]], plan: Plan) -> list[str]:
    """One row of the table."""
    row, contender = found[name], CONTENDERS[name]
    seconds = statistics.median(statistics.median(once) for once in row["seconds"])
    faster, products = ratios(found, PUBLISHED, name), ratios(found, name, BOUND)
    unit = 2**30 if plan.job.width >= 512 else 2**20
    never = f"{row['never_updated']} of {row['tensors']}" if "tensors" in row else ""
    return [
        contender.title,
        "bf16" if contender.bf16 or plan.device == "cuda" else "float32",
        f"{seconds:.3g}",
        f"{plan.job.tokens / seconds:,.0f}",
        f"{statistics.median(faster):.2f}" if faster else "",
        f"{max(row['peak_bytes']) / unit:.1f} {'GiB' if unit == 2**30 else 'MiB'}",
        f"{statistics.median(products):.2f}" if products else "",
        f"{row['norm_ratio']:.3f}" if "norm_ratio" in row else "",
        f"{row['difference']:.1e}" if "difference" in row else "",
        f"{never} ({row['never_updated'] / row['tensors']:.0%})" if never else "",
    ]


def table(found: dict[str, dict[str, Any]], plan: Plan) -> str:
    """The Markdown table of those that ran."""
    rows = [list(HEAD), ["---"] * len(HEAD)]
    rows += [cells(name, found, plan) for name, row in found.items() if "error" not in row]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def choose(names: Sequence[str] | None, device: str) -> list[str]:
    """The contenders that can run here, in the order of the table; what is left out is printed."""
    chosen = []
    for name, contender in CONTENDERS.items():
        if name not in names if names else contender.on_request:
            continue
        if device == "cuda" and contender.same_as is not None:
            print(f"{name}: left out, because on a GPU it is the same as {contender.same_as}")
        elif not contender.available:
            print(f"{name}: left out, because {contender.needs} is not installed")
        else:
            chosen.append(name)
    return chosen


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the contenders in turns, prints the table and saves what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, metavar="NAME", help=", ".join(CONTENDERS))
    parser.add_argument("--rounds", type=int, help="default: by the size")
    parser.add_argument("--steps", type=int, help="timed steps a round, after one that is not; default: by the size")
    parser.add_argument("--threads", type=int, help="default: torch's, which is all cores")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="the GPU's; default: H200, bf16, dense")
    options = parser.parse_args(arguments)

    rounds, steps = ROUNDS_AND_STEPS[options.size]
    if options.device == "cuda":
        steps = 10
    rounds, steps = options.rounds or rounds, options.steps or steps
    names = choose(options.only, options.device)
    plan = Plan(job=SIZES[options.size], steps=steps, device=options.device)
    if options.device == "cuda" and PUBLISHED in names:
        plan = measure.largest_batch(PUBLISHED, plan, options.threads)
        print(f"{plan.job.rows} rows: the largest power of two at which {PUBLISHED} fits")
    flops = needed_flops(plan.job)
    print(f"{options.size}: {plan.job.rows} x {plan.job.length} tokens, {flops / 1e12:.3g} TFLOP a step", flush=True)

    found = take_turns(names, plan, rounds, options.threads)
    print(table(found, plan))
    for name, row in found.items():
        if "error" not in row:
            row["tflops"] = flops / statistics.median(statistics.median(once) for once in row["seconds"]) / 1e12
            share = f", {row['tflops'] / options.peak_tflops:.1%} of peak" if options.device == "cuda" else ""
            print(f"{name:20s} {row['tflops']:.3g} TFLOP/s of what is needed{share}")
    saved = {
        "size": options.size,
        "rounds": rounds,
        "flops": flops,
        "plan": asdict(plan),
        "titles": {name: CONTENDERS[name].title for name in found},
        "contenders": found,
        "times_as_fast_as_published": {name: ratios(found, PUBLISHED, name) for name in found},
        "times_the_matrix_products": {name: ratios(found, name, BOUND) for name in found},
    }
    save(options.out, saved, device=options.device)


if __name__ == "__main__":
    main()
