"""A model's page: README.md, the picture of its loss curves and its records, written into the model's folder."""

import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from distil_trainer.card import render_card
from distil_trainer.files import write_atomically
from distil_trainer.plots import plot_loss_curves
from distil_trainer.record import Record

logger = logging.getLogger(__name__)

PICTURE = "loss_curves.png"
RECORD = "distillation.json"


def write_page(folder: str | os.PathLike[str], records: Sequence[Record]) -> Path:
    """Writes the page of the student of the first record, and returns the path of its README.md.

    Files: `README.md`; `loss_curves.png` if the first record has a loss curve and matplotlib is installed;
    `distillation.json`, the first record.

    Raises:
        RecordError: the records cannot be shown together; nothing was written.
    """
    folder = Path(folder)
    picture = PICTURE if records and records[0].loss_curve else None
    if picture and find_spec("matplotlib") is None:
        logger.warning("The page has no picture of the loss curves: matplotlib is not installed.")
        picture = None
    text = render_card(*records, picture=picture)
    if picture:
        plot_loss_curves(records[0].loss_curve, folder / picture)
    records[0].save(folder / RECORD)
    write_atomically(folder / "README.md", text.encode())
    return folder / "README.md"
