"""The picture of the loss curves that the model card shows."""

import io
import math
import os
from collections.abc import Mapping, Sequence

from distil_trainer.errors import DistilTrainerError, RecordError
from distil_trainer.files import write_atomically

_GREY = "#7d8590"  # text and lines that can be read on white and on the Hub's dark background
_BLUE = "#3b82f6"


def plot_loss_curves(curve: Mapping[str, Sequence[Sequence[float]]], path: str | os.PathLike[str]) -> None:
    """Draws one panel per term of `Record.loss_curve`, and writes a PNG with a transparent background.

    The total ("loss") comes first. The y axis is logarithmic where all values are positive. The same curve gives the
    same bytes.

    Raises:
        RecordError: there is nothing to draw.
        DistilTrainerError: matplotlib is not installed.
    """
    try:
        from matplotlib import ticker  # heavy, and only needed here
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise DistilTrainerError("Loss curves are drawn with matplotlib: `pip install matplotlib`.") from error
    names = sorted((name for name in curve if curve[name]), key=lambda name: (name != "loss", name))
    if not names:
        raise RecordError("The loss curve has no points; expected at least one [step, value] for one term.")

    columns = min(len(names), 2)
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(5.2 * columns, 2.9 * rows), dpi=144, layout="constrained")
    for number, name in enumerate(names, start=1):
        axes = figure.add_subplot(rows, columns, number)
        steps, values = zip(*curve[name], strict=True)
        axes.plot(steps, values, color=_BLUE, linewidth=1.8, marker="o" if len(steps) < 3 else "")
        if min(values) > 0:
            axes.set_yscale("log")
            wide = max(values) >= 5 * min(values)
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)) if wide else ticker.MaxNLocator(4))
            axes.yaxis.set_minor_locator(ticker.NullLocator())
            axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        axes.set_title("total loss" if name == "loss" else name.removeprefix("loss/"), color=_GREY, parse_math=False)
        axes.set_xlabel("optimizer step", color=_GREY)
        axes.set_ylabel("loss", color=_GREY)
        axes.tick_params(which="both", colors=_GREY)
        axes.grid(which="major", color=_GREY, alpha=0.25, linewidth=0.7)
        axes.set_facecolor("none")
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(_GREY)
    picture = io.BytesIO()
    # No "Software" entry: a new matplotlib must not make a new file of the same curve.
    figure.savefig(picture, format="png", transparent=True, metadata={"Software": None})
    write_atomically(path, picture.getvalue())
