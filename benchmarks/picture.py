"""Draws what `peers.py` and `memory.py` saved.

python benchmarks/picture.py --peers peers.json --memory memory.json --out benchmarks.png
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

OURS, THEIRS, BARE = "#1b6e53", "#b9b4a7", "#3d3d3d"


def draw_seconds(axes: Any, peers: dict[str, Any]) -> None:
    """A bar a contender; the mark spans its rounds; the line is what the matrix products alone take."""
    rows = {name: row for name, row in peers["contenders"].items() if "error" not in row}
    for place, (name, row) in enumerate(rows.items()):
        rounds = [statistics.median(once) for once in row["seconds"]]
        middle = statistics.median(rounds)
        color = BARE if name == "matrix-products" else OURS if name.startswith("ours") else THEIRS
        axes.barh(place, middle, color=color)
        axes.plot([min(rounds), max(rounds)], [place, place], color="black", linewidth=1)
        axes.annotate(f"{middle:.3g}", (max(rounds), place), xytext=(4, 0), textcoords="offset points", va="center")
    titles = [peers["titles"][name] + (", bf16" if name == "ours-bf16" else "") for name in rows]
    axes.set_yticks(range(len(rows)), titles)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("seconds a step")
    job = peers["plan"]["job"]
    axes.set_title(
        f"{job['teacher_layers']} -> {job['student_layers']} blocks, width {job['width']}, "
        f"{job['rows']} x {job['length']} tokens, {peers['plan']['device']}",
        fontsize=10,
    )


def draw_memory(axes: Any, memory: dict[str, Any]) -> None:
    """Extra memory of a step against the length, both logarithmic."""
    styles = iter(("-", "--"))
    for title, points in memory["curves"].items():
        taken = [(point["length"], point["bytes"] / 2**20) for point in points if point.get("bytes", 0) > 0]
        ours = title.startswith("ours")
        axes.plot(
            *zip(*taken, strict=True),
            marker="o",
            markersize=3,
            color=OURS if ours else BARE,
            linestyle=next(styles) if ours else "-",
            label=title,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yscale("log")
    axes.set_xlabel("tokens in the row")
    axes.set_ylabel("extra peak memory of a step, MiB")
    axes.set_title("1 row, width 128, 4 -> 2 blocks", fontsize=10)
    axes.legend(fontsize=8, frameon=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the picture, with one half of it or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="as saved by peers.py")
    parser.add_argument("--memory", type=Path, help="as saved by memory.py")
    parser.add_argument("--out", type=Path, required=True, help="a PNG file")
    options = parser.parse_args(arguments)
    halves = [
        (draw, json.loads(path.read_text()))
        for draw, path in ((draw_seconds, options.peers), (draw_memory, options.memory))
        if path is not None
    ]
    if not halves:
        parser.error("nothing to draw: give --peers, --memory or both")
    figure = Figure(figsize=(6.5 * len(halves), 4), layout="constrained")
    for axes, (draw, saved) in zip(figure.subplots(1, len(halves), squeeze=False)[0], halves, strict=True):
        draw(axes, saved)
        axes.spines[["top", "right"]].set_visible(False)
    when = halves[0][1]
    figure.text(0.995, 0.005, f"{when['date'][:10]}, {when.get('gpu', when['cpu'])}", ha="right", fontsize=6)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=150)


if __name__ == "__main__":
    main()
