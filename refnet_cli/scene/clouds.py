"""Masks of clouds that come with optical files, on the grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import rasterio.features
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from rasterio.enums import Resampling
from rasterio.transform import Affine

from refnet_cli.errors import OptionsError
from refnet_cli.raster.georeference import apply
from refnet_cli.raster.raster import Raster
from refnet_cli.scene.inputs import Layer
from refnet_cli.scene.resample import Part, make_parts
from refnet_cli.scene.source import Source
from refnet_cli.sensors.decisions import Decision
from refnet_cli.sensors.quality import CLOUD_MASKS
from refnet_cli.sensors.safe import read_outlines
from refnet_cli.tiles.window import Window
from refnet_cli.types import UInt8


class Clouds(Protocol):
    """Tells where clouds are."""

    @property
    def files(self) -> set[int]:
        """Numbers of the optical files that `read` needs."""

    def read(self, rasters: Mapping[int, Raster], window: Window) -> UInt8:
        """Read what is cloudy in a window of the grid, with the calling thread's files: 1 there, shape (H, W)."""


def choose_clouds(source: Source, grid: GeoBox) -> tuple[Clouds, Decision]:
    """Find what tells where clouds are: of several masks the one that `CLOUD_MASKS` lists first.

    Raises
    ------
    OptionsError
        If there is none.
    InputError
        If it cannot be used.
    """
    for name in CLOUD_MASKS:
        layers = [layer for layer in source.masks if layer.name == name]
        if layers:
            said = ", ".join(str(layer.said) for layer in layers if layer.said)
            how = f"description: masked by {said}." if said else "name: the product's own file."
            return RasterClouds.make(source, layers, grid), Decision("optical.clouds", name, how)
    if source.files.outlines:
        clouds = OutlinedClouds.make(source.files.outlines, grid)
        return clouds, Decision("optical.clouds", "MSK_CLOUDS", "name: the product's own outlines.")
    raise OptionsError(
        f"--mask-clouds needs a mask, but {source.label} has none: give one of {', '.join(CLOUD_MASKS)} as a band or a "
        "further file, or leave the option out."
    )


class RasterClouds(NamedTuple):
    """A raster that tells where clouds are, on the grid."""

    name: str
    """A key of `CLOUD_MASKS`."""
    parts: tuple[Part, ...]

    @classmethod
    def make(cls, source: Source, layers: Sequence[Layer], grid: GeoBox) -> RasterClouds:
        """Align masks of one kind; see `make_parts` for the errors."""
        parts = []
        for part in make_parts(source, layers, grid):
            # A pixel is as cloudy as what is cloudiest in it.
            method = Resampling.max if part.method is Resampling.average else Resampling.nearest
            bands = part.bands
            if source.files.product and layers[0].name == "MSK_CLASSI":
                # Opaque clouds and cirrus have a band each; the third is snow.
                bands = tuple(range(1, min(source.rasters[part.file].dataset.count, 2) + 1))
            parts.append(part._replace(method=method, bands=bands))
        return cls(str(layers[0].name), tuple(parts))

    @property
    def files(self) -> set[int]:
        """See `Clouds.files`."""
        return {part.file for part in self.parts}

    def read(self, rasters: Mapping[int, Raster], window: Window) -> UInt8:
        """See `Clouds.read`; where no mask reaches, nobody knows, which is taken for cloudy."""
        known = np.zeros((1, window.height, window.width), np.uint8)  # 1 where it is clear, 2 where cloudy
        for part in self.parts:
            raster = rasters[part.file]
            source = part.alignment.source_window(window)
            if not source.height * source.width:
                continue
            stored = raster.read(part.bands, source)
            flagged = np.asarray(CLOUD_MASKS[self.name](stored).any(axis=0, keepdims=True), np.uint8)
            here = np.zeros_like(known)
            with raster.naming(f"cannot be warped to {window} of the grid", window):
                part.alignment.warp(window, source, flagged + np.uint8(1), here, part.method)
            np.maximum(known, here, out=known)
        return np.asarray(known[0] != 1, np.uint8)


class OutlinedClouds(NamedTuple):
    """Outlines of clouds, in pixels of the grid: x to the right, y down."""

    shapes: NDArray[np.object_]

    @classmethod
    def make(cls, outlines: Sequence[tuple[str, str]], grid: GeoBox) -> OutlinedClouds:
        """Read outlines, given their reference systems and files; see `read_outlines` for the errors."""
        shapes = []
        for zone, location in outlines:
            to_grid = Transformer.from_crs(zone, CRS.from_user_input(grid.crs).to_2d(), always_xy=True)
            for rings in read_outlines(location):
                moved = [np.stack(apply(~grid.transform, *to_grid.transform(*ring.T)), axis=1) for ring in rings]
                shapes.append(shapely.Polygon(moved[0], moved[1:]))
        return cls(np.array(shapes, object))

    @property
    def files(self) -> set[int]:
        """See `Clouds.files`."""
        return set()

    def read(self, rasters: Mapping[int, Raster], window: Window) -> UInt8:
        """See `Clouds.read`: pixels whose centre lies in an outline."""
        box = shapely.box(window.column, window.row, window.column + window.width, window.row + window.height)
        near = [shape for shape in self.shapes if shape.intersects(box)]
        out = np.zeros((window.height, window.width), np.uint8)
        if near:
            rasterio.features.rasterize(near, out=out, transform=Affine.translation(window.column, window.row))
        return out
