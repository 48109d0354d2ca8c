"""Which texts of a corpus are read: those of some years and some genres."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distil_trainer.errors import DataError

GENRES = ("fiction", "government", "news", "science", "socialmedia")
"""The genres of the Gigaword Corpus (its README.dataset). Other exports of Språkbanken may name others, or none."""

# "year" is what Gigaword adds to every text; "date" and "datefrom" (20120503, 2012-05-03) are those of Korp and Sparv
_YEAR_ATTRIBUTES = ("year", "date", "datefrom")
_YEAR = re.compile(r"\s*([1-9][0-9]{3})")


@dataclass(frozen=True, kw_only=True)
class GigawordFilter:
    """The texts that are kept: all by default.

    Attributes:
        years: first and last year, both included. A text without a year is kept only when this is None.
        genres: names of genres, as they stand in the file; becomes a tuple. A text without a genre is kept only when
            there are none.
    """

    years: tuple[int, int] | None = None
    genres: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.years is not None:
            years = tuple(self.years) if isinstance(self.years, list | tuple) else ()
            if len(years) != 2 or not all(type(year) is int and 1000 <= year <= 9999 for year in years):
                raise DataError(f"expected years=(first, last), two years of four digits, got {self.years!r}")
            if years[0] > years[1]:
                raise DataError(f"expected the first of years=(first, last) not to be after the last, got {years}")
            object.__setattr__(self, "years", years)
        if isinstance(self.genres, str) or not all(isinstance(genre, str) and genre for genre in self.genres):
            raise DataError(f"expected a sequence of names of genres, as in genres=['news'], got {self.genres!r}")
        object.__setattr__(self, "genres", tuple(self.genres))

    def keeps(self, year: int | None, genre: str | None) -> bool:
        """Whether a text of this year and genre is kept."""
        in_years = self.years is None or (year is not None and self.years[0] <= year <= self.years[1])
        return in_years and (not self.genres or genre in self.genres)


def year_of(attributes: Mapping[str, str]) -> int | None:
    """The year of a text by its attributes: the four digits that `year`, else `date` or `datefrom`, begins with."""
    for name in _YEAR_ATTRIBUTES:
        if match := _YEAR.match(attributes.get(name, "")):
            return int(match[1])
    return None
