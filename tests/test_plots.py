import struct
import sys

import pytest

from distil_trainer.errors import DistilTrainerError, RecordError
from distil_trainer.plots import plot_loss_curves

CURVE = {
    "loss/logits": [[1, 0.4], [2, 0.3]],
    "loss": [[1, 1.0], [2, 0.01], [3, 0.02]],
    "loss/none": [],
    "eval_loss": [[2, -0.5], [3, 0.0]],
}


def chunks(png):
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    position, names = 8, []
    while position < len(png):
        (size,) = struct.unpack(">I", png[position : position + 4])
        names.append(png[position + 4 : position + 8])
        position += 12 + size
    return names


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
    plot_loss_curves({"loss/$x_{": [[1, 0.5]]}, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000


@pytest.mark.parametrize("curve", [{}, {"loss": []}])
def test_nothing_to_draw(tmp_path, curve):
    with pytest.raises(RecordError, match="no points"):
        plot_loss_curves(curve, tmp_path / "p.png")


def test_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DistilTrainerError, match="pip install matplotlib"):
        plot_loss_curves(CURVE, tmp_path / "p.png")
