"""Cloud masks on the grid: masks of the optical files, a given raster, a model, and what is near to clouds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import rasterio.features
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from rasterio.enums import Resampling
from rasterio.transform import Affine
from scipy import ndimage

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.raster.georeference import apply, pixel_metres
from refnet_cli.raster.raster import Raster
from refnet_cli.scene.cloud_model import ModelClouds
from refnet_cli.scene.inputs import CLOUD_MASK, Layer
from refnet_cli.scene.options import SceneOptions, split_codes
from refnet_cli.scene.resample import BandGroup, align_bands
from refnet_cli.scene.source import Source
from refnet_cli.sensors.decisions import Decision
from refnet_cli.sensors.quality import (
    CLEAR,
    CLOUD_MASKS,
    CLOUDY,
    UNCOVERED,
    UNKNOWN,
    UNKNOWN_CODES,
    canonical_mask,
    parse_scl_classes,
)
from refnet_cli.sensors.safe.optical import read_cloud_polygons
from refnet_cli.tiles.window import Window
from refnet_cli.types import UInt8

_SAME = 0.005  # UTM is within 0.1 % of true lengths
Rule = Callable[[NDArray[Any]], UInt8]
"""From stored values (B, H, W) to `CLEAR`, `UNKNOWN` or `CLOUDY`, shape (1, H, W)."""


class Clouds(Protocol):
    """A cloud mask on the grid."""

    @property
    def files(self) -> set[int]:
        """Numbers of the optical files that `read` needs."""

    def read(self, rasters: Mapping[int, Raster], window: Window) -> UInt8:
        """Read a window of the grid, which may reach beyond it, with the calling thread's files.

        `CLOUDY`, `CLEAR`, or `UNKNOWN` where there is no cloud mask or no measurement, shape (H, W). A pixel has the
        same value in every window.
        """


def choose_clouds(source: Source, grid: GeoBox, options: SceneOptions) -> tuple[Clouds, list[Decision]]:
    """Return the cloud masks that the options ask for, as one: a pixel is cloudy if any of them says so.

    Raises
    ------
    OptionsError
        If there is no such mask, or an option does not fit it.
    InputMissingError, InputError
        If a mask is missing or unusable.
    UnavailableError
        If the model is not there.
    """
    if not options.masks_clouds:
        extra = {"--cloud-classes": options.cloud_classes, "--cloud-buffer": options.cloud_buffer}
        names = [name for name, value in extra.items() if value]
        needs = "needs" if len(names) == 1 else "need"
        raise OptionsError(f"{' and '.join(names)} {needs} --mask-clouds or --cloud-mask. Add one of them.")
    masks: list[Clouds] = []
    decisions: list[Decision] = []
    scl = None if options.cloud_classes is None else parse_scl_classes(options.cloud_classes)
    if options.mask_clouds:
        found, decision = _of_product(source, grid, scl)
        masks, decisions = [found], [decision]
    if isinstance(options.cloud_mask, Path):
        found, decision = _of_file(source, grid, options.cloud_mask, scl)
        masks.append(found)
        decisions.append(decision)
    elif options.cloud_mask:
        model = ModelClouds.make(source, grid)
        masks.append(model)
        decisions.append(Decision("optical.cloud_mask", model.name, "option: --cloud-mask, clouds and shadows."))
    if scl is not None and not any(isinstance(mask, RasterClouds) and mask.name == "SCL" for mask in masks):
        raise OptionsError("--cloud-classes names classes of SCL, but the cloud mask is another one. Omit the option.")
    clouds: Clouds = masks[0] if len(masks) == 1 else AnyClouds(tuple(masks))
    if options.cloud_buffer:
        clouds = NearClouds.make(clouds, grid, options.cloud_buffer)
        how = "option: --cloud-buffer, in metres around clouds and shadows."
        decisions.append(Decision("optical.cloud_buffer", options.cloud_buffer, how))
    return clouds, decisions


def _of_product(source: Source, grid: GeoBox, scl: Sequence[int] | None) -> tuple[Clouds, Decision]:
    """Return the mask among the optical files; if there are several, the first one in `CLOUD_MASKS`."""
    for name in CLOUD_MASKS:
        layers = [layer for layer in source.masks if layer.name == name]
        if layers:
            masks = ", ".join(str(layer.description) for layer in layers if layer.description)
            how = f"description: masked by {masks}." if masks else "name: the mask file of the product."
            rule = _rule_of(name, scl)
            return RasterClouds.make(source, layers, grid, name, rule), Decision("optical.clouds", name, how)
    if source.files.cloud_vectors:
        clouds = VectorClouds.make(source.files.cloud_vectors, grid)
        return clouds, Decision("optical.clouds", "MSK_CLOUDS", "name: the cloud polygons of the product.")
    raise OptionsError(
        f"--mask-clouds needs a cloud mask, but {source.label} has none. Pass one of {', '.join(CLOUD_MASKS)} as a "
        "band or as a further file, or a raster of clouds with --cloud-mask, or omit the option."
    )


def _of_file(source: Source, grid: GeoBox, given: Path, scl: Sequence[int] | None) -> tuple[Clouds, Decision]:
    """Return the mask of ``--cloud-mask FILE[:CODES]``."""
    path, codes = split_codes(given)
    dataset = source.rasters[CLOUD_MASK].dataset
    kind = canonical_mask(dataset.descriptions[0]) or canonical_mask(path.stem) or ""
    if dataset.count > 1 and kind != "MSK_CLASSI":
        raise InputError(
            f"The cloud mask {path} has {dataset.count} bands; it must have one. Extract it, for instance with "
            f"gdal_translate -b 1 {path} mask.tif."
        )
    if codes is not None:
        rule, how = _rule_of_codes(codes, kind, dataset.nodatavals[0]), f"option: its codes {', '.join(codes)}."
    elif kind:
        rule, how = _rule_of(kind, scl), f"option: read as {kind}, by its name."
    else:
        rule, how = _rule_of_codes(None, kind, dataset.nodatavals[0]), "option: all values but 0 are clouds."
    layers = [Layer(kind or None, None, tuple((CLOUD_MASK, band + 1) for band in range(dataset.count)), True)]
    clouds = RasterClouds.make(source, layers, grid, kind, rule)
    return clouds, Decision("optical.cloud_mask", path.name, how)


def _rule_of(name: str, scl: Sequence[int] | None) -> Rule:
    """Return the rule of a mask in `CLOUD_MASKS`; ``scl`` are the classes of SCL to mask instead of the usual ones."""
    unknown = UNKNOWN_CODES.get(name, ())
    masked = CLOUD_MASKS[name]
    if name == "SCL" and scl is not None:
        masked = partial(np.isin, test_elements=(0, *scl))
        unknown = tuple(code for code in unknown if code in (0, *scl))
    return partial(_apply, masked=masked, unknown=unknown)


def _rule_of_codes(codes: Sequence[str] | None, kind: str, nodata: float | None) -> Rule:
    """Return the rule of a mask with these codes for clouds, all values but 0 if None."""
    if codes is None:
        unknown = _nodata(nodata, ())
        return partial(_apply, masked=lambda stored: stored != 0, unknown=unknown)
    if any(not re.fullmatch(r"-?\d+", code) for code in codes):
        if kind != "SCL":
            raise OptionsError(
                f"--cloud-mask has the codes {','.join(codes)}, but only a file named SCL has classes with names. Pass "
                "numbers, such as mask.tif:1,3."
            )
        numbers = parse_scl_classes(codes)
    else:
        numbers = tuple(map(int, codes))
    unknown = _nodata(nodata, numbers)
    return partial(_apply, masked=lambda stored: np.isin(stored, (*numbers, *unknown)), unknown=unknown)


def _nodata(declared: float | None, codes: Sequence[int]) -> tuple[float, ...]:
    """Return what a mask does not know. 0 is clear, also where it is declared as nodata."""
    return () if declared is None or declared in (0, *codes) else (declared,)


def _apply(stored: NDArray[Any], masked: Callable[[NDArray[Any]], NDArray[np.bool_]], unknown: Sequence[Any]) -> UInt8:
    nowhere = np.isin(stored, unknown)
    if stored.dtype.kind == "f":
        nowhere |= np.isnan(stored)
        if not np.array_equal(fractions := stored[~nowhere], np.rint(fractions)):
            raise InputError(
                f"A cloud mask has the value {fractions[fractions != np.rint(fractions)][0]:g}, but codes are whole "
                "numbers. Turn it into a mask of 0 and 1 first."
            )
    flagged = masked(stored)
    found = np.full((1, *stored.shape[1:]), CLEAR, np.uint8)
    found[0, (flagged | nowhere).any(axis=0)] = UNKNOWN
    found[0, (flagged & ~nowhere).any(axis=0)] = CLOUDY
    return found


class RasterClouds(NamedTuple):
    """A raster cloud mask on the grid."""

    name: str
    """A key of `CLOUD_MASKS`, or "" for a mask with codes of its own."""
    groups: tuple[BandGroup, ...]
    rule: Rule

    @classmethod
    def make(
        cls, source: Source, layers: Sequence[Layer], grid: GeoBox, name: str, rule: Rule
    ) -> RasterClouds:
        """Align masks of one kind; see `align_bands` for the errors."""
        groups = []
        for group in align_bands(source, layers, grid):
            # A grid pixel is cloudy if any of its mask pixels is.
            method = Resampling.max if group.method is Resampling.average else Resampling.nearest
            bands = group.bands
            if (source.files.product or group.file == CLOUD_MASK) and name == "MSK_CLASSI":
                # Bands 1 and 2 are opaque clouds and cirrus, band 3 is snow.
                bands = tuple(range(1, min(source.rasters[group.file].dataset.count, 2) + 1))
            groups.append(group._replace(method=method, bands=bands))
        return cls(name, tuple(groups), rule)

    @property
    def files(self) -> set[int]:
        """See `Clouds.files`."""
        return {group.file for group in self.groups}

    def read(self, rasters: Mapping[int, Raster], window: Window) -> UInt8:
        """See `Clouds.read`."""
        known = np.full((1, window.height, window.width), UNCOVERED, np.uint8)
        for group in self.groups:
            raster = rasters[group.file]
            source = group.alignment.source_window(window)
            if not source.height * source.width:
                continue
            found = self.rule(raster.read(group.bands, source))
            here = np.full_like(known, UNCOVERED)
            with raster.error_context(f"cannot be warped to {window} of the grid", window):
                group.alignment.warp(window, source, found, here, group.method)
            np.maximum(known, here, out=known)
        known[known == UNCOVERED] = UNKNOWN
        return np.asarray(known[0])


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
        out = np.full((window.height, window.width), CLEAR, np.uint8)
        if near:
            transform = Affine.translation(window.column, window.row)
            rasterio.features.rasterize(near, out=out, transform=transform, default_value=CLOUDY)
        return out


class AnyClouds(NamedTuple):
    """Several cloud masks; a pixel is as cloudy as the cloudiest of them says."""

    masks: tuple[Clouds, ...]

    @property
    def files(self) -> set[int]:
        """See `Clouds.files`."""
        return set().union(*(mask.files for mask in self.masks))

    def read(self, rasters: Mapping[int, Raster], window: Window) -> UInt8:
        """See `Clouds.read`."""
        return np.asarray(np.maximum.reduce([mask.read(rasters, window) for mask in self.masks]))


@dataclass(frozen=True)
class NearClouds:
    """A cloud mask grown by a distance in metres.

    Pixels are as large as the grid says, or as at its centre where that differs by more than `_SAME`: in degrees, or in
    projections that change lengths.

    Each window is read with a margin of that distance, beyond the edge of the grid too, so that a pixel is the same in
    any window, and in a part of the map that is mapped alone. Pixels of which nothing is known do not grow.
    """

    clouds: Clouds
    metres: float
    pixel: tuple[float, float]
    """Height and width of a pixel in metres."""

    @classmethod
    def make(cls, clouds: Clouds, grid: GeoBox, metres: float) -> NearClouds:
        """Grow a mask on a grid."""
        width, height = pixel_metres(grid)
        if not math.isfinite(width * height):
            raise OptionsError("--cloud-buffer needs pixels with a size in metres, but the map's CRS has none.")
        named = abs(grid.transform.e), abs(grid.transform.a)
        true = height, width
        same = all(abs(one / other - 1) < _SAME for one, other in zip(named, true, strict=True))
        return cls(clouds, metres, named if same else true)

    @property
    def files(self) -> set[int]:
        """See `Clouds.files`."""
        return self.clouds.files

    def read(self, rasters: Mapping[int, Raster], window: Window) -> UInt8:
        """See `Clouds.read`."""
        down, across = (math.floor(self.metres / side * (1 + 1e-9)) for side in self.pixel)
        around = Window(
            window.row - down, window.column - across, window.height + 2 * down, window.width + 2 * across
        )
        found = self.clouds.read(rasters, around)
        inside = np.s_[down : down + window.height, across : across + window.width]
        cloudy = found == CLOUDY
        if not cloudy.any():
            return found[inside]
        # The last bits of equal distances may differ with the window.
        near = ndimage.distance_transform_edt(~cloudy, sampling=self.pixel) <= self.metres * (1 + 1e-9)
        return np.where(near, np.uint8(CLOUDY), found)[inside]
