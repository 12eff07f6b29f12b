"""SAR: one pass of one relative orbit, nearest to the optical date; passes of other orbits are never mixed in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from refnet_cli.errors import InputError
from refnet_cli.fetching.area import Area
from refnet_cli.fetching.catalogues import SarCollection
from refnet_cli.fetching.items import SceneItem
from refnet_cli.fetching.optical import PASS
from refnet_cli.fetching.reading import GridFile, Reader, blame
from refnet_cli.tiles.window import Window

_ENOUGH = 0.01  # share of the area by which the coverage of passes may differ without one being preferred


@dataclass(frozen=True)
class SarPass:
    """The scenes of one pass."""

    items: tuple[SceneItem, ...]
    coverage: float
    """Share of the area inside their footprints."""

    @property
    def orbit(self) -> int | None:
        """Relative orbit."""
        return self.items[0].orbit

    @property
    def direction(self) -> str:
        """Direction of the pass."""
        return self.items[0].direction

    def __str__(self) -> str:
        return f"{self.items[0].acquired[:16].replace('T', ' ')} orbit {self.orbit} {self.direction}"


def group_by_pass(items: Iterable[SceneItem], area: Area) -> list[SarPass]:
    """Group scenes by relative orbit, direction and time.

    Returns
    -------
    list of SarPass
        By time.
    """
    groups: list[list[SceneItem]] = []
    for item in sorted(items, key=lambda item: (item.orbit or 0, item.direction, item.acquired, item.id)):
        last = groups[-1][-1] if groups else None
        if last and (last.orbit, last.direction) == (item.orbit, item.direction) and item.when - last.when <= PASS:
            groups[-1].append(item)
        else:
            groups.append([item])
    found = [SarPass(tuple(group), _coverage(group, area)) for group in groups]
    return sorted(found, key=lambda one: (one.items[0].acquired, one.items[0].id))


def _coverage(items: Sequence[SceneItem], area: Area) -> float:
    shapes = [shape for item in items if (shape := item.shape) is not None]
    if len(shapes) < len(items):
        return 1.0
    return float(shapely.intersection(shapely.union_all(shapes), area.shape).area / area.shape.area)


def choose_pass(passes: Sequence[SarPass], orbit: str, near: datetime) -> SarPass | None:
    """Choose the pass that covers most of the area; of several, the one nearest in time.

    Parameters
    ----------
    passes : sequence of SarPass
    orbit : str
        "auto", "ascending", "descending", or the number of a relative orbit.
    near : datetime

    Returns
    -------
    SarPass or None
        None if no pass fits.
    """
    fitting = [one for one in passes if orbit in ("auto", one.direction, str(one.orbit))]
    if not fitting:
        return None
    most = max(one.coverage for one in fitting)
    best = [one for one in fitting if one.coverage >= most - _ENOUGH]
    return min(best, key=lambda one: (abs((one.items[0].when - near).total_seconds()), one.items[0].acquired))


class SarMosaic:
    """Linear power of a pass on a grid; earlier scenes come first where scenes overlap.

    Parameters
    ----------
    items : sequence of SceneItem
    bands : sequence of str
    about : SarCollection
    grid : GeoBox
    reader : Reader
    """

    def __init__(
        self, items: Sequence[SceneItem], bands: Sequence[str], about: SarCollection, grid: GeoBox, reader: Reader
    ) -> None:
        self._items, self._bands, self._about = items, bands, about
        self._grid, self._reader = grid, reader
        self._rows: list[list[GridFile]] | None = None

    def read(self, window: Window, after: Window | None) -> dict[str, NDArray[Any]]:
        """Read a window; ``sar``: float32, shape (B, H, W), `SarCollection.nodata` where any band has no data."""
        if self._rows is None:
            pairs = [(item, band) for item in self._items for band in self._bands]
            files = self._reader.open(pairs, self._grid, "SAR")
            rows = [[file for file in files if file.item.id == item.id] for item in self._items]
            self._rows = [row for row in rows if len(row) == len(self._bands)]
        out = np.full((len(self._bands), window.height, window.width), np.nan, np.float32)
        for row in self._rows:
            parts = []
            for part in window.pieces(1024):
                if (empty := np.isnan(out[0][part.slices_in(window)])).any():
                    parts.append((part, [file.cells(part, empty) for file in row]))
            self._reader.fetch((file, [cell for _, cells in parts for cell in cells[n]]) for n, file in enumerate(row))
            for part, cells in parts:
                values = np.stack(list(self._reader.pool.map(partial(self._power, part), row, cells)))
                target = out[:, *part.slices_in(window)]
                np.copyto(target, values, where=np.isnan(target) & np.isfinite(values).all(axis=0))
        self._reader.keep([file for row in self._rows for file in row], after)
        return {"sar": np.where(np.isnan(out), np.float32(self._about.nodata), out)}

    def _power(self, part: Window, file: GridFile, cells: Sequence[Window]) -> NDArray[np.float32]:
        """Read linear power; NaN where it is not above 0."""
        dtype = file.raster.dataset.dtypes[0]
        with blame(file.item):
            if dtype != "float32":
                raise InputError(f"The SAR file {file.raster.path} is {dtype}; it must be float32. Use another source.")
            stored = file.read_as_stored(part, cells, self._about.nodata)
            if stored is None:
                stored = file.read_resampled(part, cells, self._about.nodata)
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(stored) & (stored > 0), stored, np.float32(np.nan)).astype(np.float32)
