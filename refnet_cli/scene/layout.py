"""Detection of the layout of a sensor's files: which band is in which file, and which files form a mosaic."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refnet_cli.errors import InputError, InputMissingError
from refnet_cli.raster.mosaic import (
    MosaicPiece,
    NotAMosaicError,
    RasterProfile,
    are_side_by_side,
    arrange_pieces,
    mosaic_shape,
)
from refnet_cli.raster.raster import PictureError, Raster
from refnet_cli.raster.sidecars import band_names_in_sidecar, value_metadata_in_sidecars
from refnet_cli.scene.inputs import Files, Layer
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.band_names import BandMetadata, BandNames, band_names
from refnet_cli.sensors.bands import band_of_file, canonical_band
from refnet_cli.sensors.dates import acquisition_time
from refnet_cli.sensors.decisions import Decision
from refnet_cli.sensors.quality import canonical_mask
from refnet_cli.sensors.sentinel2 import refuse_landsat

_MAX_OPEN = 64  # files that stay open during detection
_SILENT_COLOURS = ("", "gray", "undefined")
_SAME_PASS = 900  # maximum time difference in seconds between pieces of one pass


class _FileInfo(NamedTuple):
    """What is known of a file after opening it."""

    bands: dict[int, BandMetadata]
    """By band number, without alpha bands."""
    alphas: tuple[int, ...]
    profile: RasterProfile
    is_picture: bool
    band_names: BandNames
    """One name for each of ``bands``."""
    unused: str
    """A message about ignored sidecar files that describe the values; empty if there are none."""


class Layout(NamedTuple):
    """Layers and mosaics of a sensor's files."""

    layers: list[Layer]
    band_names: BandNames
    """One name for each layer that is not a mask."""
    mosaics: dict[int, tuple[MosaicPiece, ...]]
    """See `Files.mosaics`."""
    decisions: list[Decision]
    warnings: list[str]


def detect_layout(files: Files, rasters: dict[int, Raster]) -> Layout:
    """Open all files of a sensor and detect their layout. Files that do not contain bands are closed.

    Raises
    ------
    InputMissingError
        If none of the files is usable.
    InputError
        If a file is unusable, or its metadata contradict each other.
    """
    infos = _inspect_files(files, rasters)
    if len(infos) > 1:
        for number in _skipped_files(infos, files):
            del infos[number]
            if number in rasters:
                rasters.pop(number).close()
    layers = [layer for number, info in infos.items() for layer in _layers(number, info, files.modality)]
    mosaics, not_joined = _find_mosaics(layers, infos, SENSORS[files.modality].name)
    later = {piece.file for placed in mosaics.values() for piece in placed[1:]}
    layers = [layer for layer in layers if layer.pieces[0][0] not in later]
    warnings = [text for placed in mosaics.values() for text in _time_warnings(placed, files)]
    unused = [info.unused for info in infos.values() if info.unused]
    if unused:
        warnings.append(unused[0] if len(unused) == 1 else f"{unused[0]} This applies to {len(unused)} files.")
    named = _combine_band_names(layers, infos, not_joined)
    return Layout(layers, named, mosaics, _describe(mosaics, files.modality), list(dict.fromkeys(warnings)))


def _inspect_files(files: Files, rasters: dict[int, Raster]) -> dict[int, _FileInfo]:
    infos = {}
    for number in range(len(files.paths)):
        try:
            raster = rasters[number]
        except PictureError:
            if files.in_folder and len(files.paths) > 1:
                continue
            raise
        infos[number] = _inspect_file(raster, files.modality)
        if len(rasters) > _MAX_OPEN:
            rasters.pop(number).close()
    if not infos:
        raise InputMissingError(
            f"The {len(files.paths)} {SENSORS[files.modality].name} files found, such as {files.paths[0]}, are "
            "pictures without georeferencing. Use the measured bands."
        )
    return infos


def _skipped_files(infos: Mapping[int, _FileInfo], files: Files) -> set[int]:
    """Return the numbers of files that contain no bands, unless there are no others."""
    maps = {number for number, info in infos.items() if "REFNET_VERSION" in info.profile.tags}
    if not files.in_folder:
        return maps
    others = {number for number, info in infos.items() if info.is_picture or _of_other_sensor(info, files.modality)}
    return maps | others if len(maps | others) < len(infos) else maps


def _of_other_sensor(info: _FileInfo, modality: str) -> bool:
    """Return whether all named bands of a file are the other sensor's."""
    known = [name for name in info.band_names.names if name]
    return bool(known) and not {*known} & {*SENSORS[modality].bands}


def _inspect_file(raster: Raster, modality: str) -> _FileInfo:
    bands = {band: each for band, each in enumerate(raster.band_metadata, 1) if not each.is_alpha}
    is_picture = raster.dataset.count > 2 and all(dtype == "uint8" for dtype in raster.dataset.dtypes)
    named = _name(raster, list(bands.values()), modality)
    return _FileInfo(bands, raster.alphas, RasterProfile.of(raster), is_picture, named, _unused(raster))


def _unused(raster: Raster) -> str:
    if not raster.is_local:
        return ""
    bands = raster.dataset.indexes
    return value_metadata_in_sidecars(
        raster.path,
        lacks_nodata=all(nodata is None for nodata in raster.dataset.nodatavals),
        lacks_scaling=all(raster.scaling(band) == (1.0, 0.0) for band in bands),
    )


def _name(raster: Raster, bands: Sequence[BandMetadata], modality: str) -> BandNames:
    """Name the bands of a file. For single-band files, the file name counts too."""
    named = band_names(bands, modality)
    if len(bands) == 1 and raster.dataset.count == 1:
        named = _name_single(raster, bands[0], named)
    unknown = any(name is None for n, name in enumerate(named.names) if n not in named.excluded)
    if not raster.is_local or not (unknown or named.how.startswith("count")):
        return named
    is_picture = raster.dataset.dtypes[0] == "uint8"
    silent = modality == "optical" and not is_picture and all(band.colour in _SILENT_COLOURS for band in bands)
    if sidecar := band_names_in_sidecar(raster.path, colours=silent):
        counted = named.how.startswith("count")
        names = (None,) * len(named.names) if counted else named.names
        return named._replace(names=names, how="" if counted else named.how, conflict=named.conflict or sidecar)
    return named


def _name_single(raster: Raster, band: BandMetadata, named: BandNames) -> BandNames:
    by_file = band_of_file(Path(raster.path).name)
    by_metadata = named.names[0] or canonical_band(band.description)
    if by_file and by_metadata and by_file != by_metadata and by_metadata != "B01":
        refuse_landsat(raster.tags, [raster.path])
        raise InputError(
            f"The {raster.what} file {raster.path} is {by_file} according to its name, but {by_metadata} according to "
            f"its metadata ({band.description or ' '.join((*band.tags, band.colour))}). Rename it, or correct the "
            "description of its band."
        )
    how = f"name: {Path(raster.path).name}." if by_file else named.how or f"description: {band.description}."
    return named._replace(names=(by_file or by_metadata,), how=how if by_file or by_metadata else "")


def _layers(number: int, info: _FileInfo, modality: str) -> list[Layer]:
    file = Path(info.profile.path).name
    single = len(info.bands) == 1
    by_name = single and band_of_file(file) is not None
    layers = []
    for (band, metadata), name in zip(info.bands.items(), info.band_names.names, strict=True):
        use_name = single and (by_name or not metadata.description)
        layers.append(_layer(name, file if use_name else metadata.description, number, band, modality))
    return layers


def _layer(name: str | None, description: str | None, file: int, band: int, modality: str) -> Layer:
    if name is not None and name not in SENSORS[modality].bands:
        return Layer(None, description, ((file, band),))
    mask = canonical_mask(description) if modality == "optical" and name is None else None
    return Layer(mask or name, description, ((file, band),), mask is not None)


def _find_mosaics(
    layers: Sequence[Layer], infos: Mapping[int, _FileInfo], what: str
) -> tuple[dict[int, tuple[MosaicPiece, ...]], str]:
    """Find the mosaics among files with the same bands, and the reason if some cannot be mosaicked."""
    bands: dict[int, list[tuple[str | None, bool, int]]] = defaultdict(list)
    for layer in layers:
        bands[layer.pieces[0][0]].append((layer.name, layer.is_mask, layer.pieces[0][1]))
    alike: dict[tuple[tuple[str | None, bool, int], ...], list[int]] = defaultdict(list)
    for number, own in bands.items():
        # An unnamed band may be any. Only the unnamed bands of multi-band files count as equal, by position.
        if len(own) > 1 or own[0][0]:
            alike[tuple(own)].append(number)
    mosaics, not_joined = {}, ""
    for same, numbers in alike.items():
        if len(numbers) > 1:
            try:
                mosaics[numbers[0]] = arrange_pieces({number: infos[number].profile for number in numbers})
            except NotAMosaicError as why:
                names = ", ".join(name for name, _, _ in same if name) or f"{len(same)} unnamed"
                not_joined = not_joined or f"Several {what} files have the same bands ({names}), but {why}"
    first = [numbers[0] for numbers in alike.values()]
    return mosaics, not_joined or _describe_band_mismatch(first, layers, infos, what)


def _describe_band_mismatch(
    numbers: Sequence[int], layers: Sequence[Layer], infos: Mapping[int, _FileInfo], what: str
) -> str:
    """Return a message about adjacent files with different bands, and how to make these equal; "" if there are none."""
    bands = {number: _names_and_masks(layers, number) for number in numbers}
    for later, number in enumerate(numbers):
        for first in numbers[:later]:
            common = [name for name in bands[first] if name in bands[number]]
            if len(common) > 1 and are_side_by_side(infos[first].profile, infos[number].profile):
                commands = [
                    _extraction_command(infos[each], [bands[each][name] for name in common], f"bands_{n}.tif")
                    for n, each in enumerate((first, number), 1)
                    if list(bands[each]) != common
                ]
                return (
                    f"The {what} files {infos[first].profile.path} and {infos[number].profile.path} are adjacent, but "
                    "have different bands or another band order, so they are not mosaicked. Use files with the same "
                    f"bands in the same order: {' and '.join(commands)}"
                )
    return ""


def _names_and_masks(layers: Sequence[Layer], number: int) -> dict[str, int]:
    """Return the bands of a file by name, in file order. Unnamed bands are listed by number."""
    own = [(layer.name, layer.pieces[0][1]) for layer in layers if layer.pieces[0][0] == number]
    return {name or f"number {band}": band for name, band in own}


def _extraction_command(info: _FileInfo, bands: Sequence[int], ending: str) -> str:
    """Return the command that extracts some bands of a file, in the given order."""
    path = info.profile.path
    chosen = " ".join(f"-b {band}" for band in (*bands, *info.alphas))
    return f"`gdal_translate {chosen} {shlex.quote(path)} {shlex.quote(f'{Path(path).stem}_{ending}')}`"


def _describe(mosaics: Mapping[int, tuple[MosaicPiece, ...]], modality: str) -> list[Decision]:
    if not mosaics:
        return []
    height, width = mosaic_shape(max(mosaics.values(), key=lambda placed: np.prod(mosaic_shape(placed))))
    count = sum(map(len, mosaics.values()))
    how = f"values: adjacent files with the same bands are mosaicked to an image of {width} x {height} pixels."
    return [Decision(f"{modality}.pieces", count, how)]


def _time_warnings(placed: Sequence[MosaicPiece], files: Files) -> list[str]:
    """Return a warning if the pieces have different acquisition times according to their names."""
    times = {}
    for piece in placed:
        name = Path(files.paths[piece.file]).name
        if (text := _date_of(name)) is not None:
            when = datetime.fromisoformat(text)
            times[when if when.tzinfo else when.replace(tzinfo=UTC)] = name
    if not times or (max(times) - min(times)).total_seconds() <= _SAME_PASS:
        return []
    return [
        f"the {SENSORS[files.modality].name} files of the mosaic have different acquisition times in their names "
        f"({times[min(times)]} and {times[max(times)]})."
    ]


def _date_of(name: str) -> str | None:
    """Return the acquisition time in a file name, or the only date in it."""
    days = re.findall(r"(?<!\d)(20\d\d)([-_]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)", name)
    found = {f"{year}-{month}-{day}" for year, _, month, day in days}
    return acquisition_time(name) or (found.pop() if len(found) == 1 else None)


def _combine_band_names(layers: Sequence[Layer], infos: Mapping[int, _FileInfo], not_joined: str) -> BandNames:
    """Combine the band names and evidence of all files."""
    measured = [layer for layer in layers if not layer.is_mask]
    used = {layer.pieces[0][0]: infos[layer.pieces[0][0]] for layer in layers}
    excluded = {
        (file, band)
        for file, info in used.items()
        for n, band in enumerate(info.bands)
        if n in info.band_names.excluded
    }
    names = tuple(layer.name for layer in measured)
    conflict = next((info.band_names.conflict for info in used.values() if info.band_names.conflict), "")
    indexes = frozenset(n for n, layer in enumerate(measured) if layer.pieces[0] in excluded)
    how = [info.band_names.how for info in used.values() if info.band_names.how]
    if len(used) > 1 or any(len(info.bands) == 1 for info in used.values()):
        known = ", ".join(name for name in names if name)
        kinds = [each.partition(":")[0] for each in how]
        kind = next((each for each in ("count", "name", "description") if each in kinds), "tag")
        how = [f"{kind}: the files contain {known}."] if known else []
    alpha = next(filter(None, map(_describe_alpha, used.values())), "")
    return BandNames(names, how[0] if how else "", conflict, indexes, not_joined, alpha)


def _describe_alpha(info: _FileInfo) -> str:
    """Return which band of a file is an alpha band, and how to use it as a measurement; "" if there is none."""
    if not info.alphas:
        return ""
    band, path = info.alphas[0], info.profile.path
    names = f"{shlex.quote(path)} {shlex.quote(f'{Path(path).stem}_measured.tif')}"
    return (
        f"Band {band} of {path} is skipped because its metadata declare it an alpha band. If it is a measurement, "
        f"declare it as one: `gdal_translate -colorinterp_{band} undefined {names}`."
    )
