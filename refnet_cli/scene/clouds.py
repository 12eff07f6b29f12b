"""Cloud masks of optical files, on the grid."""

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
from refnet_cli.scene.resample import BandGroup, align_bands
from refnet_cli.scene.source import Source
from refnet_cli.sensors.decisions import Decision
from refnet_cli.sensors.quality import CLOUD_MASKS
from refnet_cli.sensors.safe import read_cloud_polygons
from refnet_cli.tiles.window import Window
from refnet_cli.types import UInt8


class Clouds(Protocol):
    """A cloud mask on the grid."""

    @property
    def files(self) -> set[int]:
        """Numbers of the optical files that `read` needs."""

    def read(self, rasters: Mapping[int, Raster], window: Window) -> UInt8:
        """Read a window of the grid with the calling thread's files: 1 where it is cloudy, shape (H, W)."""


def choose_clouds(source: Source, grid: GeoBox) -> tuple[Clouds, Decision]:
    """Return the cloud mask of a source: if there are several, the first one in `CLOUD_MASKS`.

    Raises
    ------
    OptionsError
        If there is no mask.
    InputError
        If the mask is unusable.
    """
    for name in CLOUD_MASKS:
        layers = [layer for layer in source.masks if layer.name == name]
        if layers:
            masks = ", ".join(str(layer.description) for layer in layers if layer.description)
            how = f"description: masked by {masks}." if masks else "name: the mask file of the product."
            return RasterClouds.make(source, layers, grid), Decision("optical.clouds", name, how)
    if source.files.cloud_vectors:
        clouds = VectorClouds.make(source.files.cloud_vectors, grid)
        return clouds, Decision("optical.clouds", "MSK_CLOUDS", "name: the cloud polygons of the product.")
    raise OptionsError(
        f"--mask-clouds needs a cloud mask, but {source.label} has none. Pass one of {', '.join(CLOUD_MASKS)} as a "
        "band or as a further file, or omit the option."
    )


class RasterClouds(NamedTuple):
    """A raster cloud mask on the grid."""

    name: str
    """A key of `CLOUD_MASKS`."""
    groups: tuple[BandGroup, ...]

    @classmethod
    def make(cls, source: Source, layers: Sequence[Layer], grid: GeoBox) -> RasterClouds:
        """Align masks of one kind; see `align_bands` for the errors."""
        groups = []
        for group in align_bands(source, layers, grid):
            # A grid pixel is cloudy if any of its mask pixels is.
            method = Resampling.max if group.method is Resampling.average else Resampling.nearest
            bands = group.bands
            if source.files.product and layers[0].name == "MSK_CLASSI":
                # Bands 1 and 2 are opaque clouds and cirrus, band 3 is snow.
                bands = tuple(range(1, min(source.rasters[group.file].dataset.count, 2) + 1))
            groups.append(group._replace(method=method, bands=bands))
        return cls(str(layers[0].name), tuple(groups))

    @property
    def files(self) -> set[int]:
        """See `Clouds.files`."""
        return {group.file for group in self.groups}

    def read(self, rasters: Mapping[int, Raster], window: Window) -> UInt8:
        """See `Clouds.read`. Pixels that no mask covers count as cloudy."""
        known = np.zeros((1, window.height, window.width), np.uint8)  # 1 clear, 2 cloudy, 0 not covered
        for group in self.groups:
            raster = rasters[group.file]
            source = group.alignment.source_window(window)
            if not source.height * source.width:
                continue
            stored = raster.read(group.bands, source)
            flagged = np.asarray(CLOUD_MASKS[self.name](stored).any(axis=0, keepdims=True), np.uint8)
            here = np.zeros_like(known)
            with raster.error_context(f"cannot be warped to {window} of the grid", window):
                group.alignment.warp(window, source, flagged + np.uint8(1), here, group.method)
            np.maximum(known, here, out=known)
        return np.asarray(known[0] != 1, np.uint8)


class VectorClouds(NamedTuple):
    """Cloud polygons in pixel coordinates of the grid: x to the right, y down."""

    shapes: NDArray[np.object_]

    @classmethod
    def make(cls, polygons: Sequence[tuple[str, str]], grid: GeoBox) -> VectorClouds:
        """Read cloud polygons, given their CRS and files; see `read_cloud_polygons` for the errors."""
        shapes = []
        for zone, location in polygons:
            to_grid = Transformer.from_crs(zone, CRS.from_user_input(grid.crs).to_2d(), always_xy=True)
            for rings in read_cloud_polygons(location):
                moved = [np.stack(apply(~grid.transform, *to_grid.transform(*ring.T)), axis=1) for ring in rings]
                shapes.append(shapely.Polygon(moved[0], moved[1:]))
        return cls(np.array(shapes, object))

    @property
    def files(self) -> set[int]:
        """See `Clouds.files`."""
        return set()

    def read(self, rasters: Mapping[int, Raster], window: Window) -> UInt8:
        """See `Clouds.read`: pixels whose centre is inside a polygon."""
        box = shapely.box(window.column, window.row, window.column + window.width, window.row + window.height)
        near = [shape for shape in self.shapes if shape.intersects(box)]
        out = np.zeros((window.height, window.width), np.uint8)
        if near:
            rasterio.features.rasterize(near, out=out, transform=Affine.translation(window.column, window.row))
        return out
