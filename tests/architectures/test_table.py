"""Every architecture that docs/architectures.md speaks of does what the page says."""

import gc
from pathlib import Path

import pytest
from cells import COLUMNS, cells
from rows import ROWS

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"


@pytest.fixture(scope="module", autouse=True)
def short_collections():
    """Trainer collects garbage after every run: not of all that was imported."""
    gc.freeze()
    yield
    gc.unfreeze()


def written(*values):
    return f"| {' | '.join(values)} |"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_row_of_the_table_is_what_happens(row, make_args):
    assert written(row.name, *cells(row, make_args), row.note) in PAGE.read_text().splitlines()


def test_the_table_has_these_rows_and_no_others():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    assert lines[0] == written("", *COLUMNS, "note")
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == [row.name for row in ROWS]
