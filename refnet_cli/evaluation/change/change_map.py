"""The change map: a code for each transition, with names and colours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import OptionsError
from refnet_cli.evaluation.change.transitions import UInt16
from refnet_cli.outputs.cog import ClassMap
from refnet_cli.outputs.rows import Rows
from refnet_cli.version import __version__

MOST_CLASSES = 15
"""Most classes whose transitions fit into a map of bytes."""
_NEW, _PALE = 0.7, 0.75  # shares of the new class's colour in that of a change, and of white in that of no change


def name_transition(old: str, new: str) -> str:
    """Return the name of a transition.

    Examples
    --------
    >>> name_transition("Trees", "Crops"), name_transition("Trees", "Trees")
    ('Trees -> Crops', 'stable Trees')
    """
    return f"stable {old}" if old == new else f"{old} -> {new}"


def transition_scheme(scheme: ClassScheme) -> ClassScheme:
    """Return the class scheme of a change map.

    The code of a transition is that of `number_transitions`, so that it is the same in all change maps of a scheme. A
    change has the colour of the new class mixed with some of the old one; what is stable has a pale colour.

    Raises
    ------
    OptionsError
        If there are more transitions than codes.

    Examples
    --------
    >>> two = ClassScheme("two", (5, 7), ("Water", "Land"), ((0, 0, 200), (0, 200, 0)))
    >>> transition_scheme(two).by_code
    {1: 'stable Water', 2: 'Water -> Land', 3: 'Land -> Water', 4: 'stable Land'}
    """
    count = len(scheme.codes)
    if count > MOST_CLASSES:
        raise OptionsError(
            f"Class scheme {scheme.name!r} has {count} classes, whose {count**2:,} transitions do not fit into a "
            f"change map of 255 codes (limit {MOST_CLASSES} classes). Compare in a scheme of fewer classes (--scheme), "
            "or leave out -o: the tables take any number."
        )
    pairs = [(old, new) for old in range(count) for new in range(count)]
    names = tuple(name_transition(scheme.names[old], scheme.names[new]) for old, new in pairs)
    colours = tuple(_mix(scheme.colours[old], scheme.colours[new], old == new) for old, new in pairs)
    return ClassScheme(f"change in {scheme.name}", tuple(range(1, count**2 + 1)), names, colours)


def _mix(old: tuple[int, int, int], new: tuple[int, int, int], stable: bool) -> tuple[int, int, int]:
    other, share = ((255, 255, 255), 1 - _PALE) if stable else (old, _NEW)
    red, green, blue = (round(share * one + (1 - share) * two) for one, two in zip(new, other, strict=True))
    return red, green, blue


class ChangeMap:
    """A Cloud Optimized GeoTIFF of transitions, written row by row; see `ClassMap`, whose errors it raises.

    The tag ``REFNET_TRANSITIONS`` holds the old and the new class code of each code, as JSON.

    Parameters
    ----------
    path : Path
        An existing file is replaced at the end.
    grid : GeoBox
    scheme : ClassScheme
        Scheme of the compared classes.
    tags : mapping of str to str
        Further tags of the file.
    """

    def __init__(self, path: Path, grid: GeoBox, scheme: ClassScheme, tags: Mapping[str, str]) -> None:
        self._scheme = transition_scheme(scheme)
        pairs = [(old, new) for old in scheme.codes for new in scheme.codes]
        described = {
            "REFNET_VERSION": __version__,
            "REFNET_TRANSITIONS": json.dumps(dict(zip(self._scheme.codes, pairs, strict=True))),
            **tags,
        }
        self.output = ClassMap(path, grid, self._scheme, described)
        self._row = 0

    def add(self, numbers: UInt16) -> None:
        """Write the next rows of transitions, shape (rows, width)."""
        codes = numbers.astype(np.uint8)
        self.output.write(Rows(self._row, None, codes > 0, self._scheme, found={"codes": codes}))
        self._row += len(codes)
