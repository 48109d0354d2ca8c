import pytest

from distil_trainer.errors import CardError
from distil_trainer.kept import insert_kept, kept_sections

PAGE = "# S\n\n<!-- keep: notes -->\n<!-- /keep: notes -->\n\n## End\n"


def test_what_stands_between_the_markers_is_kept():
    notes = "<!-- keep: notes -->\n\nOne.\n\n\n\n- two\n<!-- /keep: notes -->\n"
    page = f"a\n{notes}b\n<!-- keep: own -->\n<!-- /keep: own -->\n"
    assert kept_sections(page) == {"notes": "One.\n\n\n\n- two"}
    assert kept_sections(page.replace("\n", "\r\n")) == {"notes": "One.\n\n\n\n- two"}
    assert kept_sections("no markers") == {}
    assert kept_sections("  <!--keep: notes-->  \nmine\n<!-- /keep:notes -->\t\n") == {"notes": "mine"}


@pytest.mark.parametrize(
    "line", ["<!-- keep: a b -->", "<!-- keep notes -->", "text <!-- keep: notes -->", "<!-- KEEP: x -->"]
)
def test_what_only_looks_like_a_marker_is_told(line):
    with pytest.raises(CardError, match="looks like a marker"):
        kept_sections(f"{line}\nlost?\n")


def test_it_comes_back_unchanged():
    sections = {"notes": "One.\n\n\n\n`<b>` \\1 $x$", "mine": "Elsewhere."}
    page = insert_kept(PAGE, sections)
    assert page.startswith("# S\n\n<!-- keep: notes -->\nOne.\n\n\n\n`<b>` \\1 $x$\n<!-- /keep: notes -->\n\n## End\n")
    assert kept_sections(page) == sections
    assert insert_kept(PAGE, kept_sections(page)) == page


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("<!-- keep: notes -->\nlost?", "notes"),
        ("text\n<!-- /keep: notes -->\n", "notes"),
        ("<!-- keep: a -->\n<!-- keep: b -->\n<!-- /keep: b -->\n", "b"),
        ("<!-- keep: a -->\n<!-- /keep: b -->\n", "b"),
        ("<!-- keep: a -->\n1\n<!-- /keep: a -->\n<!-- keep: a -->\n2\n<!-- /keep: a -->\n", "a"),
    ],
)
def test_a_broken_marker_is_told_before_text_gets_lost(page, name):
    with pytest.raises(CardError, match=rf"keep: {name} -->.*Expected"):
        kept_sections(page)
