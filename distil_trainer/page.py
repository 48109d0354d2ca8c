"""A model's page: README.md, its pictures and its records, written into the model's folder."""

import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from distil_trainer.card import render_card
from distil_trainer.errors import CardError
from distil_trainer.files import write_atomically
from distil_trainer.kept import kept_sections
from distil_trainer.metadata import check_metadata
from distil_trainer.plots import plot_layer_map, plot_loss_curves
from distil_trainer.record import Record

logger = logging.getLogger(__name__)

PAGE = "README.md"
PICTURE = "loss_curves.png"
LAYER_MAP = "layer_map.png"
RECORD = "distillation.json"


def write_page(folder: str | os.PathLike[str], records: Sequence[Record]) -> Path:
    """Writes the page of the student of the first record, and returns the path of its README.md.

    Files: `README.md`; `loss_curves.png` and `layer_map.png` if the first record has a loss curve and alignments, and
    matplotlib is installed; `distillation.json`, the first record; `STAGE.json`, `STAGE-2.json`, ..., the further ones.
    What was written by hand between the markers of an earlier README.md is kept.

    Raises:
        RecordError, CardError: the records cannot be shown together, the Hub would refuse the metadata, or a marker of
            the earlier README.md is broken; nothing was written.
    """
    folder = Path(folder)
    page = folder / PAGE
    first = records[0] if records else None
    picture = PICTURE if first and first.loss_curve else None
    depths = _depths(first) if first else None
    if (picture or depths) and find_spec("matplotlib") is None:
        logger.warning("The page has no pictures: matplotlib is not installed.")
        picture = depths = None
    text = render_card(
        *records,
        picture=picture,
        layer_map=LAYER_MAP if depths else None,
        kept=_kept(page) if page.exists() else None,
    )
    check_metadata(text)
    assert first is not None  # render_card refuses to go without
    if depths:
        copied = first.provenance.copied_blocks if first.provenance else ()
        student_layers, teacher_layers = depths
        plot_layer_map(
            first.alignments,
            folder / LAYER_MAP,
            student_layers=student_layers,
            teacher_layers=teacher_layers,
            copied_blocks=copied,
        )
    if picture:
        plot_loss_curves(first.loss_curve, folder / picture)
    for name, record in zip(_file_names(records), records, strict=True):
        record.save(folder / name)
    write_atomically(page, text.encode())
    return page


def _kept(page: Path) -> dict[str, str]:
    try:
        return kept_sections(page.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise CardError(f"{page} is not UTF-8 ({error}). Save it as UTF-8, so that no text by hand is lost.") from error


def _depths(record: Record) -> tuple[int, int] | None:
    """The number of blocks of student and teacher, where the picture, which has room for these two, can be drawn."""
    if not record.alignments or record.other_teachers or any(alignment.stack for alignment in record.alignments):
        return None
    student = record.student.layers if record.student else None
    teacher = record.teacher.layers if record.teacher else None
    return (student, teacher) if student and teacher else None


def _file_names(records: Sequence[Record]) -> list[str]:
    names = [RECORD]
    for record in records[1:]:
        number = 1 + sum(earlier.stage == record.stage for earlier in records[1 : len(names)])
        names.append(f"{record.stage}.json" if number == 1 else f"{record.stage}-{number}.json")
    return names
