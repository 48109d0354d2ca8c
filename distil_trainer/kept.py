"""What people wrote into a generated page by hand, between markers, is kept when the page is written anew."""

import re
from collections.abc import Mapping

from distil_trainer.errors import CardError

_MARKER = re.compile(r"^[ \t]*<!--[ \t]*(/?)[ \t]*keep:[ \t]*([\w-]+)[ \t]*-->[ \t]*$", re.MULTILINE)
_METADATA = re.compile(r"\A---\n.*?\n---[ \t]*\n", re.DOTALL)
_LOOKS_LIKE_ONE = re.compile(r"<!--\W*keep\b.*", re.IGNORECASE)


def kept_sections(page: str) -> dict[str, str]:
    """The Markdown between `<!-- keep: NAME -->` and `<!-- /keep: NAME -->`, each on a line of its own, by name.

    Sections without text are left out.

    Raises:
        CardError: a marker without its partner, or two sections of one name; what is between them could get lost.
    """
    sections: dict[str, str] = {}
    start: re.Match[str] | None = None
    page = _METADATA.sub("", page.replace("\r\n", "\n"))  # a name there may look like a marker
    if strange := _LOOKS_LIKE_ONE.search(_MARKER.sub("", page)):
        raise CardError(
            f"README.md: {strange[0]} looks like a marker of text by hand but is none. Expected <!-- keep: NAME --> or "
            "<!-- /keep: NAME --> on a line of its own. Mend it, so that no text is lost."
        )
    for marker in _MARKER.finditer(page):
        closes, name = bool(marker[1]), marker[2]
        if closes != (start is not None) or (start is not None and start[2] != name) or name in sections:
            raise CardError(
                f"README.md: the marker {marker[0]} has no partner, or there are two sections of that name. Expected "
                f"<!-- keep: {name} --> and then <!-- /keep: {name} -->, once each. Mend it, so that no text is lost."
            )
        if start is None:
            start = marker
            continue
        sections[name] = marker.string[start.end() : marker.start()].strip("\n")
        start = None
    if start is not None:
        raise CardError(f"README.md: {start[0]} is not closed. Expected <!-- /keep: {start[2]} --> on a line below it.")
    return {name: text for name, text in sections.items() if text.strip()}


def insert_kept(page: str, sections: Mapping[str, str]) -> str:
    """`page` with each text between the markers of its name. What has no place there comes, marked, at the end."""
    for name, text in sections.items():
        opening, closing = f"<!-- keep: {name} -->\n", f"<!-- /keep: {name} -->\n"
        if opening in page:
            page = page.replace(opening, f"{opening}{text}\n", 1)
        else:
            page += f"\n{opening}{text}\n{closing}"
    return page
