import struct
import sys

import pytest

from distil_trainer.errors import DistilTrainerError, RecordError
from distil_trainer.plots import LayerMap, plot_layer_maps, plot_loss_curves
from distil_trainer.record import AlignmentFacts

CURVE = {
    "loss/logits": [[1, 0.4], [2, 0.3]],
    "loss": [[1, 1.0], [2, 0.01], [3, 0.02]],
    "loss/none": [],
    "loss/negative": [[2, -0.5], [3, 0.0]],
    "eval_loss": [[2, 0.5], [3, 0.0]],
}


def chunks(png):
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    position, names = 8, []
    while position < len(png):
        (size,) = struct.unpack(">I", png[position : position + 4])
        names.append(png[position + 4 : position + 8])
        position += 12 + size
    return names


def size(path):
    return struct.unpack(">II", path.read_bytes()[16:24])


def term(feature, student_layer=None, teacher_layer=None, loss="mse"):
    layers = {"student_layer": student_layer, "teacher_layer": teacher_layer}
    return AlignmentFacts(name=feature, feature=feature, loss=loss, **layers)


MAP = [
    *(term("hidden_states", k, 2 * k) for k in range(7)),
    *(term("attention_scores", k, 2 * k) for k in range(1, 7)),
    *(term(f"{name}_relation", 6, 12, loss="kl") for name in ("query", "key", "value")),
    term("logits", loss="soft_cross_entropy"),
]
DEPTHS = {"student_layers": 6, "teacher_layers": 12}


def test_one_curve_always_gives_the_same_png_without_metadata(tmp_path):
    plot_loss_curves(CURVE, tmp_path / "a" / "one.png")
    plot_loss_curves(dict(reversed(CURVE.items())), tmp_path / "two.png")
    png = (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "a" / "one.png").read_bytes() == png
    assert set(chunks(png)) <= {b"IHDR", b"pHYs", b"IDAT", b"IEND"}
    width, height, depth, colour = struct.unpack(">IIBB", png[16:26])
    assert (width > 1000, height > 500, depth, colour) == (True, True, 8, 6)  # 6: with transparency
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "two.png"]


def test_one_point_and_odd_names_can_be_drawn(tmp_path):
    plot_loss_curves({"loss/$x_{": [[1, 0.5]], "loss/a\n\nb": [[1, 0.5]]}, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000


@pytest.mark.parametrize("curve", [{}, {"loss": []}])
def test_nothing_to_draw(tmp_path, curve):
    with pytest.raises(RecordError, match="no points"):
        plot_loss_curves(curve, tmp_path / "p.png")


def test_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DistilTrainerError, match="pip install matplotlib"):
        plot_loss_curves(CURVE, tmp_path / "p.png")
    with pytest.raises(DistilTrainerError, match="pip install matplotlib"):
        plot_layer_maps([LayerMap(alignments=MAP, **DEPTHS)], tmp_path / "p.png")


def test_evaluation_is_drawn_into_the_panel_of_its_term(tmp_path):
    training = {name: [[1, 0.4], [2, 0.3], [3, 0.2]] for name in ("loss", "loss/logits", "loss/x")}
    evaluation = {f"eval_{name}": [[2, 0.5]] for name in training}
    for name, curve in (("a", training), ("b", training | evaluation), ("c", {**evaluation, "loss/y": [[1, 0.1]]})):
        plot_loss_curves(curve, tmp_path / name)
    assert size(tmp_path / "a") == size(tmp_path / "b") == size(tmp_path / "c")  # four places: two by two
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_one_layer_map_always_gives_the_same_png(tmp_path):
    for name in ("a", "b"):
        plot_layer_maps([LayerMap(alignments=MAP, **DEPTHS, copied_blocks=(1, 3, 5, 7, 9, 11))], tmp_path / name)
    plot_layer_maps([LayerMap(alignments=MAP, **DEPTHS)], tmp_path / "other")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "other").read_bytes()
    assert set(chunks((tmp_path / "a").read_bytes())) <= {b"IHDR", b"pHYs", b"IDAT", b"IEND"}


@pytest.mark.parametrize(("student", "teacher"), [(1, 1), (2, 1), (6, 12), (24, 48)])
def test_the_map_grows_with_the_deeper_model(tmp_path, student, teacher):
    depths = {"student_layers": student, "teacher_layers": teacher}
    plot_layer_maps([LayerMap(alignments=[term("hidden_states", 0, teacher)], **depths)], tmp_path / "p")
    width, height = size(tmp_path / "p")
    assert width == 950
    assert 30 * max(student, teacher) < height < 300 + 61 * max(student, teacher)


def test_odd_names_do_not_break_the_map(tmp_path):
    odd = [term(name, 1, 2, loss="_$x^{") for name in ("$\\frac", "_a\n\nb", "", "long " * 50, "copies")]
    plot_layer_maps([LayerMap(alignments=odd, student="$\\frac", **DEPTHS)], tmp_path / "p")
    assert size(tmp_path / "p") > (900, 900)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alignments": []}, "empty"),
        ({"student_layers": 5}, "student has 5 blocks.* got 6"),
        ({"teacher_layers": 0}, "1 to 1000 blocks; got 0"),
        ({"teacher_layers": 10**9}, "1 to 1000 blocks"),
        ({"copied_blocks": [13]}, "teacher has 12 blocks.* got 13"),
        ({"copied_blocks": range(1, 8)}, "student has 6 blocks.* got 7"),
    ],
)
def test_maps_that_cannot_be_drawn(changes, message):
    with pytest.raises(RecordError, match=message):
        LayerMap(**{"alignments": MAP, **DEPTHS, **changes})


def test_maps_are_below_each_other(tmp_path):
    small = LayerMap(alignments=[term("hidden_states", 2, 4)], student_layers=2, teacher_layers=4, teacher="Teacher 2")
    large = LayerMap(alignments=MAP, **DEPTHS)
    for name, maps in {"small": [small], "large": [large], "both": [large, small], "other": [small, large]}.items():
        plot_layer_maps(maps, tmp_path / name)
    heights = {name: size(tmp_path / name)[1] for name in ("small", "large", "both", "other")}
    assert abs(heights["both"] - heights["small"] - heights["large"]) <= 2  # pixels are whole
    assert heights["both"] == heights["other"]
    assert (tmp_path / "both").read_bytes() != (tmp_path / "other").read_bytes()
