"""Totals of a map: pixels with data, and class areas."""

from __future__ import annotations

import numpy as np
from odc.geo.geobox import GeoBox

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.outputs.areas.areas import AreaCounter
from refnet_cli.outputs.rows import LOW, PROBABILITY_NODATA, STEPS, Rows
from refnet_cli.sensors.quality import CLOUD, UNREADABLE


class MapTotals:
    """Count the pixels and class areas of a map, row by row.

    Parameters
    ----------
    grid : GeoBox
    scheme : ClassScheme
        The map's class scheme.
    """

    def __init__(self, grid: GeoBox, scheme: ClassScheme) -> None:
        self._areas = AreaCounter(grid, scheme)
        self._pixels = int(grid.shape[0] * grid.shape[1])
        self._valid = 0
        self._probabilities = np.zeros(256, np.int64)
        self.seen = 0
        """Pixels with sensor data."""
        self.unreadable = 0
        """Pixels without data because a file is damaged there."""
        self.cloudy = 0
        """Pixels whose optical data are masked as cloud or shadow."""

    def add(self, rows: Rows) -> None:
        """Count the next rows."""
        self._areas.add(rows.row, rows.codes)
        self.seen += int(np.count_nonzero(rows.valid))
        self._valid += int(np.count_nonzero(rows.codes))
        self._probabilities += np.bincount(rows.layer("max_probability").ravel(), minlength=256)
        quality = rows.layer("quality")
        self.unreadable += int(np.count_nonzero(quality & UNREADABLE))
        self.cloudy += int(np.count_nonzero(quality & CLOUD))

    @property
    def valid_share(self) -> float:
        """Share of the pixels that have a class; a threshold reduces it."""
        return self._valid / self._pixels

    @property
    def low_confidence(self) -> float:
        """Share of low-confidence pixels among the pixels with sensor data."""
        return int(self._probabilities[: int(LOW * STEPS)].sum()) / max(self.seen, 1)

    @property
    def median_probability(self) -> float | None:
        """Median of the probability of the most probable class, rounded down to 1/`STEPS`; None without a pixel."""
        known = self._probabilities[:PROBABILITY_NODATA].cumsum()
        return int(np.searchsorted(known, (known[-1] + 1) // 2)) / STEPS if known[-1] else None

    @property
    def areas_hectares(self) -> dict[str, float]:
        """Area of each class by its name; needs all rows."""
        return self._areas.hectares()
