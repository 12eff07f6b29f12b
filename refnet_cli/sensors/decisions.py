"""What is decided about files, and the evidence.

The evidence is a sentence that begins with its kind: ``tag``, ``stac``, ``description``, ``name``, ``type``, ``count``,
``values`` or ``option``. What cannot be decided is refused, never guessed in silence.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from refnet_cli.errors import OptionsError

_SETTLED_BY_OPTIONS = ("bands", "scale", "offset")
_SETTLED_BY_FILES = ("fill", "clipped")


class Decision(NamedTuple):
    """One thing found out about the files: what, the value, and the evidence in a sentence."""

    what: str
    value: Any
    how: str

    @property
    def is_guess(self) -> bool:
        """Whether pixel values rest on it and nothing but their number or look speaks for it."""
        kind = self.what.partition(".")[2]
        return kind in _SETTLED_BY_OPTIONS + _SETTLED_BY_FILES and self.how.startswith(("values:", "count:"))


def refuse_guesses(decisions: Iterable[Decision]) -> None:
    """Refuse everything that was guessed.

    Raises
    ------
    OptionsError
        Naming the guesses and the options that would settle them.
    """
    guesses = [decision for decision in decisions if decision.is_guess]
    if guesses:
        listed = "; ".join(f"{what} {value} ({how.rstrip('.')})" for what, value, how in guesses)
        settled = [guess.what for guess in guesses if guess.what.endswith(_SETTLED_BY_OPTIONS)]
        options = " ".join(f"--{what.replace('.', '-')}" for what in dict.fromkeys(settled))
        advice = f" Say what they are with {options}." if options else ""
        if any(guess.what.endswith(".fill") for guess in guesses):
            advice += (
                " Declare fills as nodata, for instance with gdal_edit.py -a_nodata, or, where pixels around them are "
                "blended with them, resample the files again from their sources with gdalwarp -srcnodata."
            )
        if any(guess.what.endswith(".clipped") for guess in guesses):
            advice += (
                " If the repeated number is a fill, declare it as nodata, for instance with gdal_edit.py "
                "-a_nodata; if it is ground, leave --strict out."
            )
        raise OptionsError(f"--strict allows no guess, but there would be: {listed}.{advice}")
