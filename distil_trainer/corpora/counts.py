"""What was read and what was left out, so that a record can state the filter by its effect."""

from dataclasses import asdict, dataclass, field
from typing import Any

Group = tuple[int | None, str | None]
"""Year and genre of a text; None is unknown."""


@dataclass
class Amount:
    """So many texts, sentences that hold a token, and tokens."""

    texts: int = 0
    sentences: int = 0
    tokens: int = 0


@dataclass
class GigawordCounts:
    """Counts of a reading, complete when its last sentence was taken. Pass the same object again to go on counting.

    Attributes:
        files: files read to their end, or to where they are broken.
        characters: characters of the sentences kept.
        empty: sentences without a token, which are never given out.
        kept: amounts by (year, genre) of what was given out. Texts are counted where they begin.
        left_out: the same of what the filter left out.
    """

    files: int = 0
    characters: int = 0
    empty: int = 0
    kept: dict[Group, Amount] = field(default_factory=dict)
    left_out: dict[Group, Amount] = field(default_factory=dict)

    @property
    def sentences(self) -> int:
        """Sentences kept."""
        return sum(amount.sentences for amount in self.kept.values())

    @property
    def tokens(self) -> int:
        """Tokens of the sentences kept."""
        return sum(amount.tokens for amount in self.kept.values())

    def amount(self, group: Group, keep: bool) -> Amount:
        """Where texts of this year and genre are counted."""
        return (self.kept if keep else self.left_out).setdefault(group, Amount())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON. Groups are under "2012 news"; a part that is unknown is called "unknown"."""
        groups = {
            name: {
                f"{'unknown' if year is None else year} {genre or 'unknown'}": asdict(amount)
                for (year, genre), amount in sorted(
                    amounts.items(), key=lambda item: (item[0][0] or 0, item[0][1] or "")
                )
            }
            for name, amounts in (("kept", self.kept), ("left_out", self.left_out))
        }
        totals = {"sentences": self.sentences, "tokens": self.tokens, "characters": self.characters}
        return {"files": self.files, **totals, "empty": self.empty, **groups}
