"""The areas of change between two maps, as a table and as plain values."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.evaluation.change.sample import ChangeEstimates
from refnet_cli.types import Float64

WHOLE = ""
"""Name of the full map among the zones of a table."""


@dataclass(frozen=True)
class Transitions:
    """Areas of the transitions on the full map or in a zone, in hectares on the ellipsoid."""

    hectares: Float64
    """Shape (classes, classes), old classes by row and new ones by column."""
    no_data: float
    """Area without a class in one of the maps."""

    @property
    def compared(self) -> float:
        """Area with a class in both maps."""
        return math.fsum(self.hectares.ravel().tolist())

    @property
    def changed(self) -> float:
        """Area whose class differs."""
        return math.fsum(self.hectares[~np.eye(len(self.hectares), dtype=bool)].tolist())

    @property
    def changed_share(self) -> float | None:
        """Share of the compared area whose class differs; None if nothing is compared."""
        return self.changed / self.compared if self.compared else None

    def to_dict(self) -> dict[str, Any]:
        """Return the areas as a plain dict, ready for JSON."""
        return {
            "hectares": self.hectares.tolist(),
            "compared_hectares": self.compared,
            "changed_hectares": self.changed,
            "changed_share": self.changed_share,
            "no_data_hectares": self.no_data,
        }


@dataclass(frozen=True)
class Comparison:
    """What `compare` found."""

    old: str
    new: str
    """Paths of the maps."""
    scheme: ClassScheme
    """Scheme in which the maps are compared."""
    whole: Transitions
    zones: dict[str, Transitions]
    """By the zones' names."""
    translations: dict[str, Any]
    """Crosswalks of "old" and "new", None for a map that is not translated."""
    resampled: bool
    """Whether the new map was resampled to the grid of the old one."""
    estimates: ChangeEstimates | None = None
    warnings: list[str] = field(default_factory=list)

    def by_class(self) -> Iterator[dict[str, Any]]:
        """Yield code, name and areas of each class that occurs: before, after, lost, gained and their difference."""
        hectares = self.whole.hectares
        for place, (code, name) in enumerate(self.scheme.by_code.items()):
            old, new, stable = hectares[place].sum(), hectares[:, place].sum(), hectares[place, place]
            if old or new:
                yield {
                    "code": code, "name": name, "old_hectares": float(old), "new_hectares": float(new),
                    "lost_hectares": float(old - stable), "gained_hectares": float(new - stable),
                    "net_hectares": float(new - old),
                }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as a plain dict, ready for JSON; the classes are the rows and columns of areas."""
        return {
            "old": self.old,
            "new": self.new,
            "scheme": self.scheme.to_dict(),
            "translations": self.translations,
            "resampled": self.resampled,
            **self.whole.to_dict(),
            "by_class": list(self.by_class()),
            "zones": [{"zone": zone} | part.to_dict() for zone, part in self.zones.items()],
            "sample": self.estimates.to_dict() if self.estimates else None,
            "warnings": self.warnings,
        }

    def table(self) -> str:
        """Return a table of the transitions that occur, as CSV (RFC 4180).

        Columns are ``old_code``, ``old_name``, ``new_code``, ``new_name``, ``hectares`` and ``share``, the share of the
        area with a class in both maps. With zones, ``zone`` is the first column, empty for the full map. Lines with the
        codes 0 have the area without a class in one of the maps, and no share.
        """
        parts = {WHOLE: self.whole, **self.zones}
        lines = [{"zone": zone} | line for zone, part in parts.items() for line in self._lines(part)]
        columns = list(lines[0])
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns if self.zones else columns[1:], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
        return text.getvalue()

    def _lines(self, part: Transitions) -> Iterator[dict[str, Any]]:
        classes = list(self.scheme.by_code.items())
        for old, new in zip(*(places.tolist() for places in np.nonzero(part.hectares)), strict=True):
            area = float(part.hectares[old, new])
            yield _line(classes[old], classes[new], area, area / part.compared)
        yield _line((0, "no data"), (0, "no data"), part.no_data, None)


def _line(old: tuple[int, str], new: tuple[int, str], hectares: float, share: float | None) -> dict[str, Any]:
    return {
        "old_code": old[0], "old_name": old[1], "new_code": new[0], "new_name": new[1],
        "hectares": hectares, "share": share,
    }  # fmt: skip
