"""Bands from any number of files, brought onto one grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from refnet_cli.errors import InputError
from refnet_cli.raster.georeference import halves
from refnet_cli.raster.raster import Raster
from refnet_cli.raster.warp import Alignment
from refnet_cli.scene.inputs import Layer, file_numbers
from refnet_cli.scene.source import Source
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.decisions import Decision
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float32

_LEAST_SHARE = 0.499  # of an averaged pixel that must have been measured, so that holes keep their size
_SMALLEST = 64  # pixels along an axis of what is given up together
_PIECE = 1 << 24  # source pixels warped at once
Convert = Callable[[Float32, int, Window], Float32]
"""From values as read, of a file's number and a window of it, to what may be resampled."""


class Part(NamedTuple):
    """The bands of one file, and which layers of the result they feed."""

    file: int
    bands: tuple[int, ...]
    targets: tuple[int, ...]
    alignment: Alignment
    method: Resampling


def make_parts(source: Source, layers: Sequence[Layer], grid: GeoBox) -> list[Part]:
    """Tell what feeds each layer on a grid.

    Parameters
    ----------
    source : Source
    layers : sequence of Layer
    grid : GeoBox

    Raises
    ------
    InputError
        If a file does not overlap the grid; of a product's granules one that does is enough.
    """
    parts: list[Part] = []
    missing: dict[int, InputError] = {}
    for file in file_numbers(layers):
        own = [(n, band) for n, layer in enumerate(layers) for number, band in layer.pieces if number == file]
        try:
            alignment = Alignment(source.rasters[file], grid)
        except InputError as error:
            missing |= {target: error for target, _ in own}
            continue
        method = Resampling.bilinear if alignment.ratio < 1.5 else Resampling.average
        targets, bands = zip(*own, strict=True)
        parts.append(Part(file, bands, targets, alignment, method))
    fed = {target for part in parts for target in part.targets}
    for target, apart in missing.items():
        if target not in fed:
            raise apart
    return parts


def describe_resampling(modality: str, parts: Sequence[Part]) -> list[Decision]:
    """Tell how files come onto the grid, once for all that do alike."""
    decisions = {}
    for part in parts:
        if part.alignment.same_pixels:
            value, how = "none", "values: the file's pixels are the grid's."
        else:
            ratio = part.alignment.ratio
            value, how = part.method.name, f"values: a grid pixel spans {ratio:.3g} {SENSORS[modality].name} pixels."
        decisions[value, how] = Decision(f"{modality}.resampling", value, how)
    return list(decisions.values())


def read_layers(
    parts: Sequence[Part],
    rasters: Mapping[int, Raster],
    window: Window,
    convert: Convert,
    counts: Counter[str],
    broken: NDArray[np.bool_] | None = None,
) -> Float32:
    """Read layers on a window of the grid.

    Parameters
    ----------
    parts : sequence of Part
    rasters : mapping of int to Raster
        The calling thread's own, by their numbers.
    window : Window
        Inside the grid.
    convert : callable
        See `Convert`.
    counts : Counter
        Counts NaN and infinite values that were not declared nodata, and pixels that cannot be read:
        ``optical_non_finite``, ``optical_unreadable``, and the same of ``sar``.
    broken : bool array, shape (H, W), optional
        If given, what cannot be read is no measurement, and no error, and is marked here.

    Returns
    -------
    float32 array, shape (B, H, W)
        NaN where there is no measurement. Where several files feed a layer, the first that has one counts.
    """
    count = 1 + max(target for part in parts for target in part.targets)
    out = np.full((count, window.height, window.width), np.nan, np.float32)
    for part in parts:
        layers = np.full((len(part.bands), window.height, window.width), np.nan, np.float32)
        if broken is None:
            _read_part(part, rasters[part.file], window, layers, convert, counts)
        else:
            _read_what_can_be(part, rasters[part.file], window, layers, convert, counts, broken)
        for target, layer in zip(part.targets, layers, strict=True):
            np.copyto(out[target], layer, where=np.isnan(out[target]))
    return out


def _read_what_can_be(
    part: Part,
    raster: Raster,
    window: Window,
    out: Float32,
    convert: Convert,
    counts: Counter[str],
    broken: NDArray[np.bool_],
) -> None:
    """Read a part in ever smaller pieces where it is damaged, and count and mark those that remain."""
    aside: Counter[str] = Counter()
    try:
        _read_part(part, raster, window, out, convert, aside)
    except InputError:
        out[:] = np.nan
        if window.height * window.width <= _SMALLEST**2:
            counts[f"{raster.what.lower()}_unreadable"] += window.height * window.width
            broken[:] = True
            return
        for half in halves(window):
            top, left = half.row - window.row, half.column - window.column
            place = np.s_[top : top + half.height, left : left + half.width]
            _read_what_can_be(part, raster, half, out[:, *place], convert, counts, broken[place])
    else:
        counts.update(aside)


def _read_part(
    part: Part, raster: Raster, window: Window, out: Float32, convert: Convert, counts: Counter[str]
) -> None:
    source = part.alignment.source_window(window)
    if not source.height * source.width:
        return
    if source.height * source.width > _PIECE and window.height * window.width > 1:
        for half in halves(window):
            top, left = half.row - window.row, half.column - window.column
            target = out[:, top : top + half.height, left : left + half.width]
            _read_part(part, raster, half, target, convert, counts)
        return
    values, wrong = raster.read_measured(part.bands, source)
    counts[f"{raster.what.lower()}_non_finite"] += wrong
    values = convert(values, part.file, source)
    with raster.naming(f"cannot be warped to {window} of the grid", window):
        part.alignment.warp(window, source, values, out, part.method)
        if part.method is Resampling.average:
            known = np.isfinite(values)
            if not known.all():
                share = np.zeros_like(out)
                part.alignment.warp(window, source, known.astype(np.float32), share, part.method)
                out[share < _LEAST_SHARE] = np.nan
