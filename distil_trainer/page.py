"""A model's page: README.md, its pictures and its records, written into the model's folder."""

import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from distil_trainer.blocks import STACKS
from distil_trainer.card import render_card
from distil_trainer.errors import CardError
from distil_trainer.files import write_atomically
from distil_trainer.kept import kept_sections
from distil_trainer.metadata import check_metadata
from distil_trainer.plots import LayerMap, plot_layer_maps, plot_loss_curves
from distil_trainer.record import ModelFacts, Record

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
    maps = layer_maps(first) if first else []
    if (picture or maps) and find_spec("matplotlib") is None:
        logger.warning("The page has no pictures: matplotlib is not installed.")
        picture, maps = None, []
    text = render_card(
        *records,
        picture=picture,
        layer_map=LAYER_MAP if maps else None,
        kept=_kept(page) if page.exists() else None,
    )
    check_metadata(text)
    assert first is not None  # render_card refuses to go without
    if maps:
        plot_layer_maps(maps, folder / LAYER_MAP)
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


def layer_maps(record: Record) -> list[LayerMap]:
    """What the student learned from each teacher, and in each of its stacks; empty where a depth is not known."""
    student, provenance = record.student, record.provenance
    if student is None or not record.alignments:
        return []
    last = "decoder" if student.decoder_layers else None  # which the logits come from
    if last is None and any(a.stack for a in record.alignments):
        return []
    teachers, maps = (record.teacher, *record.other_teachers), []
    for number, teacher in enumerate(teachers, start=1):
        for stack in (None,) if last is None else STACKS:
            ours, theirs = _depth(student, stack), _depth(teacher, stack)
            if not ours or not theirs:
                return []
            heard = [a for a in record.alignments if a.teacher in (None, number) and (a.stack or last) == stack]
            copied: tuple[int, ...] = ()
            if provenance is not None and number == 1:  # the student began as a part of the first teacher
                copied = provenance.copied_decoder_blocks if stack == "decoder" else provenance.copied_blocks
            if heard or copied:
                where = "" if stack is None else f", {stack}"
                maps.append(
                    LayerMap(
                        alignments=heard,
                        student_layers=ours,
                        teacher_layers=theirs,
                        copied_blocks=copied,
                        student=f"Student{where}",
                        teacher=f"Teacher{f' {number}' if len(teachers) > 1 else ''}{where}",
                    )
                )
    return maps


def _depth(model: ModelFacts | None, stack: str | None) -> int | None:
    if model is None:
        return None
    return model.decoder_layers if stack == "decoder" else model.layers


def _file_names(records: Sequence[Record]) -> list[str]:
    names = [RECORD]
    for record in records[1:]:
        number = 1 + sum(earlier.stage == record.stage for earlier in records[1 : len(names)])
        names.append(f"{record.stage}.json" if number == 1 else f"{record.stage}-{number}.json")
    return names
