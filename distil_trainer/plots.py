"""The pictures of the model card: which layer learned from which, and the loss curves.

Both are PNGs with a transparent background, in colours that can be read on white and on the Hub's dark background. The
same facts give the same bytes.
"""

import io
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distil_trainer.errors import DistilTrainerError, RecordError
from distil_trainer.files import write_atomically
from distil_trainer.record import AlignmentFacts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_GREY, _BLUE, _ORANGE = "#7d8590", "#3b82f6", "#d97706"
_STYLES: dict[str, dict[str, Any]] = {  # by feature; the dashes are for those who cannot tell the colours apart
    "hidden_states": {"color": _BLUE, "linestyle": "-"},
    "attention_probs": {"color": _ORANGE, "linestyle": (0, (5, 1.5))},
    "attention_scores": {"color": "#16a34a", "linestyle": (0, (2, 1))},
    "query_relation": {"color": "#0891b2", "linestyle": (0, (7, 1.5))},
    "key_relation": {"color": "#ca8a04", "linestyle": (0, (3, 1.5))},
    "value_relation": {"color": "#dc2626", "linestyle": (0, (7, 1.5, 2, 1.5))},
    "logits": {"color": "#db2777", "linestyle": (0, (5, 1.5, 1, 1.5))},
}
_OTHER: dict[str, Any] = {"color": "#9333ea", "linestyle": (0, (1, 1))}
_ARROW: dict[str, Any] = {"linewidth": 1.7, "marker": ">", "markersize": 5, "markevery": [-1]}
_COPIED: dict[str, Any] = {"color": _GREY, "linestyle": ":", "linewidth": 1.1}
_WIDTH, _BOX, _MARGIN = 6.6, 1.7, 0.3  # of a layer map, in inches
_MOST_LAYERS = 1000


@dataclass(frozen=True, kw_only=True)
class LayerMap:
    """What a student learns from one teacher, or one stack of it from that of the teacher: a panel of the picture.

    Attributes:
        alignments: the terms of the loss; the layer None is the output.
        student_layers: blocks of the student.
        teacher_layers: blocks of the teacher.
        copied_blocks: the teacher's blocks, one-based, that the student's first, second, ... were copied from.
        student: what is written above the student's blocks.
        teacher: the same of the teacher.

    Raises:
        RecordError: there is nothing to draw, or a model has no such layer.
    """

    alignments: Sequence[AlignmentFacts]
    student_layers: int
    teacher_layers: int
    copied_blocks: Sequence[int] = ()
    student: str = "Student"
    teacher: str = "Teacher"

    def __post_init__(self) -> None:
        if not self.pairs and not self.copies:
            raise RecordError("The layer map is empty; expected at least one alignment or one copied block.")
        for role, layers, place in (("teacher", self.teacher_layers, 0), ("student", self.student_layers, 1)):
            if not 1 <= layers <= _MOST_LAYERS:
                raise RecordError(f"The {role} of a layer map should have 1 to {_MOST_LAYERS} blocks; got {layers}.")
            for layer in (pair[place] for pair in [*self.pairs, *self.copies]):
                if layer is not None and not 0 <= layer <= layers:
                    raise RecordError(
                        f"The {role} has {layers} blocks; expected a layer from 0 to {layers}, got {layer}."
                    )

    @property
    def pairs(self) -> list[tuple[int | None, int | None]]:
        """The layers of teacher and student of each alignment."""
        return [(alignment.teacher_layer, alignment.student_layer) for alignment in self.alignments]

    @property
    def copies(self) -> list[tuple[int, int]]:
        """The blocks of teacher and student that were the same at first."""
        return [(source, block) for block, source in enumerate(self.copied_blocks, start=1)]


def plot_layer_maps(maps: Sequence[LayerMap], path: str | os.PathLike[str]) -> None:
    """Draws both models of each map as columns of blocks, and a line for each alignment from the teacher's layer to the
    student's; the maps are below each other in one PNG.

    Raises:
        DistilTrainerError: matplotlib is not installed.
    """
    panels = [_Panel(layer_map) for layer_map in maps]
    whole = sum(panel.height for panel in panels)
    figure, bottom = _figure(_WIDTH, whole), whole
    for panel in panels:
        bottom -= panel.height
        panel.draw(figure.add_axes((0, bottom / whole, 1, panel.height / whole)))
    _write(figure, path)


def plot_loss_curves(curve: Mapping[str, Sequence[Sequence[float]]], path: str | os.PathLike[str]) -> None:
    """Draws one panel per term of `Record.loss_curve`, with what was measured in training and in evaluation.

    The total ("loss", "eval_loss") comes first. The y axis is logarithmic where all values are positive.

    Raises:
        RecordError: there is nothing to draw.
        DistilTrainerError: matplotlib is not installed.
    """
    names = {name.removeprefix("eval_") for name in curve if curve[name]}
    if not names:
        raise RecordError("The loss curve has no points; expected at least one [step, value] for one term.")

    columns = min(len(names), 2)
    rows = math.ceil(len(names) / columns)
    figure = _figure(5.2 * columns, 2.9 * rows, layout="constrained")
    from matplotlib import ticker

    for number, name in enumerate(sorted(names, key=lambda name: (name != "loss", name)), start=1):
        axes = figure.add_subplot(rows, columns, number)
        values: list[float] = []
        for key, label, color, dashes in (
            (name, "training", _BLUE, "-"),
            (f"eval_{name}", "evaluation", _ORANGE, "--"),
        ):
            if curve.get(key):
                steps, heights = zip(*curve[key], strict=True)
                marker = "o" if len(steps) < 3 else ""
                axes.plot(steps, heights, color=color, linestyle=dashes, linewidth=1.8, marker=marker, label=label)
                values += heights
        if curve.get(f"eval_{name}"):
            axes.legend(frameon=False, labelcolor=_GREY, fontsize=9)
        if min(values) > 0:
            axes.set_yscale("log")
            wide = max(values) >= 5 * min(values)
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)) if wide else ticker.MaxNLocator(4))
            axes.yaxis.set_minor_locator(ticker.NullLocator())
            axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        title = "total loss" if name == "loss" else _line(name.removeprefix("loss/"))
        axes.set_title(title, color=_GREY, parse_math=False)
        axes.set_xlabel("optimizer step", color=_GREY)
        axes.set_ylabel("loss", color=_GREY)
        axes.tick_params(which="both", colors=_GREY)
        axes.grid(which="major", color=_GREY, alpha=0.25, linewidth=0.7)
        axes.set_facecolor("none")
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(_GREY)
    _write(figure, path)


class _Panel:
    """Where everything of a `LayerMap` goes, in inches; the height 0 is that of the embeddings."""

    def __init__(self, layer_map: LayerMap) -> None:
        self.map = layer_map
        deepest = max(layer_map.student_layers, layer_map.teacher_layers)
        step = min(
            0.42, max(0.2, 8 / deepest)
        )  # from block to block of the deeper model; the other's lie farther apart
        output = {None: (deepest + 1) * step} if any(None in pair for pair in layer_map.pairs) else {}
        self.teacher, self.student = (
            {**{layer: layer * deepest * step / layers for layer in range(layers + 1)}, **output}
            for layers in (layer_map.teacher_layers, layer_map.student_layers)
        )
        names = {a.feature for a in layer_map.alignments}
        self.features = sorted(names, key=lambda name: ([*_STYLES, name].index(name), name))
        self.labels: dict[str | None, str] = {name: _legend_label(name, layer_map.alignments) for name in self.features}
        if layer_map.copies:
            self.labels[None] = "copied before training"
        self.columns = 2 if max(map(len, self.labels.values())) < 40 else 1
        self.box = 0.72 * step
        self.below = self.box / 2 + 0.3 + 0.19 * math.ceil(len(self.labels) / self.columns)
        self.above = self.box / 2 + 0.5 + max(self.teacher.values())

    @property
    def height(self) -> float:
        """Of the whole panel."""
        return self.below + self.above

    def draw(self, axes: "Axes") -> None:
        """Both models, what was copied and what is compared."""
        pairs, box = self.map.pairs, self.box
        axes.set(xlim=(0, _WIDTH), ylim=(-self.below, self.above))
        axes.set_axis_off()
        _draw_model(axes, self.map.teacher, _MARGIN, self.teacher, box, {layer for layer, _ in pairs})
        right = _WIDTH - _MARGIN - _BOX
        _draw_model(axes, self.map.student, right, self.student, box, {layer for _, layer in pairs})
        lines: dict[str | None, Line2D] = {}
        for source, block in self.map.copies:
            start, end = self.teacher[source] - 0.4 * box, self.student[block] - 0.4 * box
            lines[None] = _connect(axes, start, end, **_COPIED)
        for pair in dict.fromkeys(pairs):
            learned = {a.feature for a, other in zip(self.map.alignments, pairs, strict=True) if other == pair}
            gap = min(0.1, box / (len(learned) + 1))
            for number, feature in enumerate(sorted(learned, key=self.features.index)):
                shift = ((len(learned) - 1) / 2 - number) * gap
                start, end = self.teacher[pair[0]] + shift, self.student[pair[1]] + shift
                lines[feature] = _connect(axes, start, end, **_ARROW, **_STYLES.get(feature, _OTHER))
        legend = axes.legend(
            [lines[key] for key in self.labels],
            list(self.labels.values()),
            loc="lower center",
            ncols=self.columns,
            frameon=False,
            labelcolor=_GREY,
            fontsize=9,
            handlelength=3.5,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


def _draw_model(
    axes: "Axes",
    title: str,
    left: float,
    heights: Mapping[int | None, float],
    box: float,
    learned: Collection[int | None],
) -> None:
    """A column of boxes; those that are compared have an edge."""
    from matplotlib.patches import FancyBboxPatch

    words: dict[str, Any] = {"color": _GREY, "ha": "center"}
    axes.text(left + _BOX / 2, max(heights.values()) + box / 2 + 0.2, title, size=12, weight="bold", **words)
    for layer, height in heights.items():
        edge = _GREY if layer in learned else "none"
        style = f"round,pad=0,rounding_size={box / 4}"
        axes.add_patch(
            FancyBboxPatch((left, height - box / 2), _BOX, box, boxstyle=style, facecolor=(_GREY, 0.12), edgecolor=edge)
        )
        name = "logits" if layer is None else "embeddings" if layer == 0 else f"block {layer}"
        axes.text(left + _BOX / 2, height, name, size=min(10, 38 * box + 2), va="center_baseline", **words)


def _connect(axes: "Axes", start: float, end: float, **style: Any) -> "Line2D":
    """A line from a box of the teacher to one of the student, level at both ends."""
    left, right = _MARGIN + _BOX + 0.06, _WIDTH - _MARGIN - _BOX - 0.08
    way = [number / 40 for number in range(41)]
    heights = [start + (end - start) * (3 - 2 * part) * part * part for part in way]
    return axes.plot([left + (right - left) * part for part in way], heights, **style)[0]


def _legend_label(feature: str, alignments: Sequence[AlignmentFacts]) -> str:
    words = "attention probabilities" if feature == "attention_probs" else feature.replace("_", " ")
    return _line(f"{words} ({', '.join(sorted({a.loss for a in alignments if a.feature == feature}))})")


def _line(name: str) -> str:
    """A name from a record, on one line that is not longer than a panel."""
    name = " ".join(name.split())
    return name if len(name) <= 48 else name[:47] + "…"


def _figure(width: float, height: float, **options: Any) -> "Figure":
    try:
        from matplotlib import figure  # heavy, and only needed here
    except ModuleNotFoundError as error:
        raise DistilTrainerError("Pictures are drawn with matplotlib: `pip install matplotlib`.") from error
    return figure.Figure(figsize=(width, height), dpi=144, **options)


def _write(figure: "Figure", path: str | os.PathLike[str]) -> None:
    picture = io.BytesIO()
    # No "Software" entry: a new matplotlib must not make a new file of the same facts.
    figure.savefig(picture, format="png", transparent=True, metadata={"Software": None})
    write_atomically(path, picture.getvalue())
