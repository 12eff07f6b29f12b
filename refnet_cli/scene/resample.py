"""Alignment and resampling of bands from any number of files to one grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from refnet_cli.errors import InputError
from refnet_cli.raster.georeference import split_window
from refnet_cli.raster.raster import Raster
from refnet_cli.raster.warp import Alignment
from refnet_cli.scene.inputs import Layer, file_numbers
from refnet_cli.scene.source import Source
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.decisions import Decision
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float32

_MIN_SHARE = 0.499  # of an averaged pixel that must be valid, so that nodata areas keep their size
_SMALLEST = 64  # side in pixels of the smallest window that is tried where a file is damaged
_PIECE = 1 << 24  # maximum number of source pixels per warp
Convert = Callable[[Float32, int, Window], Float32]
"""From values as read, their file number and window, to values that may be averaged."""


class BandGroup(NamedTuple):
    """Bands of one file, and the layers of the result that they fill."""

    file: int
    bands: tuple[int, ...]
    targets: tuple[int, ...]
    alignment: Alignment
    method: Resampling


def align_bands(source: Source, layers: Sequence[Layer], grid: GeoBox) -> list[BandGroup]:
    """Align the files of some layers with a grid, one group per file.

    Parameters
    ----------
    source : Source
    layers : sequence of Layer
    grid : GeoBox

    Raises
    ------
    InputError
        If a file does not overlap the grid. Of a product's granules, one must overlap.
    """
    groups: list[BandGroup] = []
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
        groups.append(BandGroup(file, bands, targets, alignment, method))
    fed = {target for group in groups for target in group.targets}
    for target, refusal in missing.items():
        if target not in fed:
            raise refusal
    return groups


def describe_resampling(modality: str, groups: Sequence[BandGroup]) -> list[Decision]:
    """Return how the files are resampled to the grid, without duplicates."""
    decisions = {}
    for group in groups:
        if group.alignment.same_pixels:
            value, how = "none", "values: the pixels of the file and the grid coincide."
        else:
            ratio = group.alignment.ratio
            value, how = group.method.name, f"values: a grid pixel spans {ratio:.3g} {SENSORS[modality].name} pixels."
        decisions[value, how] = Decision(f"{modality}.resampling", value, how)
    return list(decisions.values())


def read_layers(
    groups: Sequence[BandGroup],
    rasters: Mapping[int, Raster],
    window: Window,
    convert: Convert,
    counts: Counter[str],
    broken: NDArray[np.bool_] | None = None,
) -> Float32:
    """Read layers in a window of the grid.

    Parameters
    ----------
    groups : sequence of BandGroup
    rasters : mapping of int to Raster
        The calling thread's files, by number.
    window : Window
        Inside the grid.
    convert : callable
        See `Convert`.
    counts : Counter
        Updated with the numbers of undeclared NaN and infinite values and of unreadable pixels:
        ``optical_non_finite``, ``optical_unreadable``, and the same for ``sar``.
    broken : bool array, shape (H, W), optional
        If given, unreadable pixels are marked here and count as nodata. Otherwise they raise an error.

    Returns
    -------
    float32 array, shape (B, H, W)
        NaN where there is no measurement. Where several files fill a layer, the first valid value is used.
    """
    count = 1 + max(target for group in groups for target in group.targets)
    out = np.full((count, window.height, window.width), np.nan, np.float32)
    for group in groups:
        layers = np.full((len(group.bands), window.height, window.width), np.nan, np.float32)
        if broken is None:
            _read_group(group, rasters[group.file], window, layers, convert, counts)
        else:
            _read_around_damage(group, rasters[group.file], window, layers, convert, counts, broken)
        for target, layer in zip(group.targets, layers, strict=True):
            np.copyto(out[target], layer, where=np.isnan(out[target]))
    return out


def _read_around_damage(
    group: BandGroup,
    raster: Raster,
    window: Window,
    out: Float32,
    convert: Convert,
    counts: Counter[str],
    broken: NDArray[np.bool_],
) -> None:
    """Read a group in ever smaller windows where it is damaged. Count and mark the unreadable pixels."""
    aside: Counter[str] = Counter()
    try:
        _read_group(group, raster, window, out, convert, aside)
    except InputError:
        out[:] = np.nan
        if window.height * window.width <= _SMALLEST**2:
            counts[f"{raster.what.lower()}_unreadable"] += window.height * window.width
            broken[:] = True
            return
        for half in split_window(window):
            top, left = half.row - window.row, half.column - window.column
            place = np.s_[top : top + half.height, left : left + half.width]
            _read_around_damage(group, raster, half, out[:, *place], convert, counts, broken[place])
    else:
        counts.update(aside)


def _read_group(
    group: BandGroup, raster: Raster, window: Window, out: Float32, convert: Convert, counts: Counter[str]
) -> None:
    source = group.alignment.source_window(window)
    if not source.height * source.width:
        return
    if source.height * source.width > _PIECE and window.height * window.width > 1:
        for half in split_window(window):
            top, left = half.row - window.row, half.column - window.column
            target = out[:, top : top + half.height, left : left + half.width]
            _read_group(group, raster, half, target, convert, counts)
        return
    values, wrong = raster.read_masked(group.bands, source)
    counts[f"{raster.what.lower()}_non_finite"] += wrong
    values = convert(values, group.file, source)
    with raster.error_context(f"cannot be warped to {window} of the grid", window):
        group.alignment.warp(window, source, values, out, group.method)
        if group.method is Resampling.average:
            known = np.isfinite(values)
            if not known.all():
                share = np.zeros_like(out)
                group.alignment.warp(window, source, known.astype(np.float32), share, group.method)
                out[share < _MIN_SHARE] = np.nan
