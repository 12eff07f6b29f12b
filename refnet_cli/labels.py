"""Reference labels from a raster file, on a grid and in a class scheme."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from refnet_cli.errors import InputError, OptionsError, RefnetError
from refnet_cli.products import ClassScheme
from refnet_cli.scene import BLOCK, Alignment, Raster, north_up_grid
from refnet_cli.tiling import Window

UInt8 = NDArray[np.uint8]


class Labels:
    """A label file served on a grid as the network's class indexes.

    Use ``Labels.open`` and, best, a ``with`` statement. A grid pixel takes the label at its centre, or the most
    frequent one inside it where the labels' pixels are finer than half the grid's.
    """

    def __init__(self, raster: Raster, grid: GeoBox, scheme: ClassScheme, mapping: Mapping[int, int]) -> None:
        self._raster, self._grid = raster, grid
        dataset = raster.dataset
        if dataset.count != 1:
            raise InputError(f"The label file {raster.path} has {dataset.count} bands: give one band of class codes.")
        strange = sorted(set(mapping.values()) - {0, *scheme.codes})
        if strange:
            raise OptionsError(f"The label mapping leads to {strange}, which scheme {scheme.name!r} does not have.")
        indexes = {0: 0, **{code: index for index, code in enumerate(scheme.codes, 1)}}
        self._indexes = {value: indexes[code] for value, code in mapping.items()}
        if dataset.nodata is not None and np.isfinite(dataset.nodata):
            self._indexes[int(dataset.nodata)] = 0
        self._scheme = scheme
        self._alignment = Alignment(raster, grid)
        self._method = Resampling.mode if self._alignment.ratio > 2 else Resampling.nearest
        self._check_codes()

    @classmethod
    def open(
        cls, path: str | Path, grid: GeoBox, scheme: ClassScheme, mapping: Mapping[int, int] | None = None
    ) -> Self:
        """Open a label file and check its codes.

        Parameters
        ----------
        path : str or Path
            A local GeoTIFF of any reference system and pixel size with one band of codes.
        grid : GeoBox
            Grid to bring the labels onto.
        scheme : ClassScheme
            What the codes mean.
        mapping : mapping of int to int, optional
            From the file's values to the scheme's codes, 0 for "no data"; by default every code means itself.

        Raises
        ------
        InputMissingError
            If the file is missing or may not be read.
        InputError
            If it cannot be used, does not overlap the grid, or holds unknown codes.
        OptionsError
            If the mapping does not fit the scheme.
        """
        raster = Raster(path, "label")
        try:
            with raster.naming("cannot be understood"):
                return cls(raster, grid, scheme, mapping or {code: code for code in (0, *scheme.codes)})
        except RefnetError:
            raster.dataset.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def on_grid(self) -> bool:
        """Whether the file's pixels are the grid's."""
        return self._alignment.same_pixels

    def close(self) -> None:
        """Close the file."""
        self._raster.dataset.close()

    def _check_codes(self) -> None:
        region = self._alignment.source_window(Window(0, 0, *self._grid.shape))
        found: set[float] = set()
        for row in range(region.row, region.row + region.height, 4 * BLOCK):
            for column in range(region.column, region.column + region.width, 4 * BLOCK):
                part = Window(row, column, 4 * BLOCK, 4 * BLOCK).clip(
                    region.row + region.height, region.column + region.width
                )
                found.update(np.unique(self._stored(part)).tolist())
        unknown = sorted(value for value in found if value not in self._indexes and not np.isnan(value))
        if unknown:
            listed = ", ".join(f"{value:g}" for value in unknown[:20]) + ", ..." * (len(unknown) > 20)
            raise InputError(
                f"The label file holds the codes {listed}, which mean nothing in class scheme {self._scheme.name!r} "
                f"(codes {', '.join(map(str, self._indexes))}): choose another scheme or give a mapping."
            )

    def _stored(self, source: Window) -> NDArray[np.generic]:
        with self._raster.naming("is damaged"):
            return np.asarray(self._raster.read([1], source)[0])

    def read(self, window: Window) -> UInt8:
        """Read a window of the grid.

        Parameters
        ----------
        window : Window
            Any rectangle inside the grid.

        Returns
        -------
        uint8 array, shape (H, W)
            The network's class indexes; 0 where there is no label.

        Raises
        ------
        ValueError
            If the window is empty or leaves the grid.
        """
        height, width = self._grid.shape
        if window != window.clip(height, width) or window.height < 1 or window.width < 1:
            raise ValueError(f"{window} is not inside the grid of {height} x {width} pixels.")
        out = np.zeros((window.height, window.width), np.uint8)
        for row in range(0, window.height, BLOCK):
            for column in range(0, window.width, BLOCK):
                part = Window(row, column, BLOCK, BLOCK).clip(window.height, window.width)
                target = out[row : row + part.height, column : column + part.width]
                self._read_part(part._replace(row=row + window.row, column=column + window.column), target)
        return out

    def _read_part(self, window: Window, out: UInt8) -> None:
        source = self._alignment.source_window(window)
        if not source.height * source.width:
            return
        stored = self._stored(source)
        indexes = np.zeros(stored.shape, np.uint8)
        for value, index in self._indexes.items():
            indexes[stored == value] = index
        with self._raster.naming(f"cannot be warped to {window} of the grid"):
            self._alignment.warp(window, source, indexes[None], out[None], self._method)


def describe_map(path: str | Path) -> tuple[GeoBox, str]:
    """Read the grid of a class map and the name of the class scheme in its tags, empty where there is none.

    Raises
    ------
    InputMissingError, InputError
        If the file cannot be read or used.
    """
    raster = Raster(path, "map")
    with raster.dataset as dataset:
        return north_up_grid(raster), str(dataset.tags(1).get("CLASS_SCHEME", ""))
