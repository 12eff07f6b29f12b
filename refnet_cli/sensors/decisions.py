"""Decisions about the input files, with their evidence.

The evidence is a sentence that begins with its kind: ``tag``, ``stac``, ``description``, ``name``, ``type``, ``count``,
``values`` or ``option``. If the evidence is insufficient, the input is refused. A guess is always marked as one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from refnet_cli.errors import OptionsError

_SETTLED_BY_OPTIONS = ("bands", "scale", "offset")
_SETTLED_BY_FILES = ("fill", "clipped")
_SOURCES = {
    "tag": "tags", "stac": "STAC item", "metadata": "metadata", "description": "band names", "name": "file name",
    "type": "data type", "count": "number of bands", "values": "pixel values", "option": "option",
}  # fmt: skip
"""Where a decision comes from, by the first word of its evidence."""


class Decision(NamedTuple):
    """A decision about the files: its subject, its value, and the evidence in one sentence."""

    what: str
    value: Any
    how: str

    @property
    def is_guess(self) -> bool:
        """Whether the decision affects pixel values and rests only on the values or on the number of bands."""
        kind = self.what.partition(".")[2]
        return kind in _SETTLED_BY_OPTIONS + _SETTLED_BY_FILES and self.how.startswith(("values:", "count:"))


def name_source(how: str) -> str:
    """Say in brackets where a decision comes from, by its evidence; nothing if the evidence names no kind.

    Examples
    --------
    >>> name_source("values: 99% are at most 0.5.")
    ' (from pixel values)'
    """
    kind = how.partition(":")[0]
    return f" (from {_SOURCES[kind]})" if kind in _SOURCES else ""


def refuse_guesses(decisions: Iterable[Decision]) -> None:
    """Refuse all guesses.

    Raises
    ------
    OptionsError
        Names the guesses and the options that settle them.
    """
    guesses = [decision for decision in decisions if decision.is_guess]
    if guesses:
        listed = "; ".join(f"{what} {value} ({how.rstrip('.')})" for what, value, how in guesses)
        settled = [guess.what for guess in guesses if guess.what.endswith(_SETTLED_BY_OPTIONS)]
        options = " ".join(f"--{what.replace('.', '-')}" for what in dict.fromkeys(settled))
        advice = f" Specify them with {options}." if options else ""
        if any(guess.what.endswith(".fill") for guess in guesses):
            advice += (
                " Declare fill values as nodata, for instance with gdal_edit.py -a_nodata. If resampling has blended "
                "them with neighbouring pixels, resample the original files again with gdalwarp -srcnodata."
            )
        if any(guess.what.endswith(".clipped") for guess in guesses):
            advice += (
                " If the repeated number is a fill value, declare it as nodata, for instance with gdal_edit.py "
                "-a_nodata. If it is ground, omit --strict."
            )
        raise OptionsError(f"--strict forbids guesses, but these are needed: {listed}.{advice}")
