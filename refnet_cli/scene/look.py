"""A first look at all files of a sensor: which band is where, and which files are pieces of one image."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refnet_cli.dates import acquisition_of
from refnet_cli.errors import InputError, InputMissingError
from refnet_cli.products import SENSOR_NAMES, Modality, band_of_file, canonical_band, canonical_mask
from refnet_cli.scene.bands import RADAR, Named, Said, band_names
from refnet_cli.scene.inputs import Files, Layer
from refnet_cli.scene.judge import Decision, refuse_landsat
from refnet_cli.scene.mosaic import Footprint, NotOneImageError, Placed, arrange, lie_apart, shape_of
from refnet_cli.scene.raster import PictureError, Raster
from refnet_cli.scene.sidecars import names_in_sidecar, values_in_sidecars

_MOST_OPEN = 64  # files that stay open while others are looked at
_SILENT_COLOURS = ("", "gray", "undefined")
_SAME_PASS = 900  # seconds between pieces that were acquired in one pass


class _Look(NamedTuple):
    """What is known of a file once it was opened."""

    said: dict[int, Said]
    """By the numbers of its bands, without alpha bands."""
    alphas: tuple[int, ...]
    footprint: Footprint
    is_picture: bool
    named: Named
    """One name a band of ``said``."""
    unused: str
    """Which files next to it say what its values mean, and are not read; empty if there are none."""


class Found(NamedTuple):
    """What a look at all files finds."""

    layers: list[Layer]
    named: Named
    """One name a layer that is no mask."""
    joined: dict[int, tuple[Placed, ...]]
    """See `Files.joined`."""
    decisions: list[Decision]
    warnings: list[str]


def look_at(files: Files, rasters: dict[int, Raster]) -> Found:
    """Look at files, opened when they are first asked for; those that are no bands are closed.

    Raises
    ------
    InputMissingError
        If none of them can be used.
    InputError
        If one cannot be used, or contradicts itself.
    """
    looks = _look_at_each(files, rasters)
    if len(looks) > 1:
        for number in _passed_over(looks, files):
            del looks[number]
            if number in rasters:
                rasters.pop(number).close()
    layers = [layer for number, look in looks.items() for layer in _layers(number, look, files.modality)]
    joined, apart = _join(layers, looks, SENSOR_NAMES[files.modality])
    later = {piece.file for placed in joined.values() for piece in placed[1:]}
    layers = [layer for layer in layers if layer.pieces[0][0] not in later]
    warnings = [text for placed in joined.values() for text in _different_times(placed, files)]
    unused = [look.unused for look in looks.values() if look.unused]
    warnings += [f"{unused[0]} It is so with {len(unused)} files." if len(unused) > 1 else text for text in unused[:1]]
    decisions = _describe(joined, files.modality)
    return Found(layers, _gather(layers, looks, apart), joined, decisions, list(dict.fromkeys(warnings)))


def _look_at_each(files: Files, rasters: dict[int, Raster]) -> dict[int, _Look]:
    looks = {}
    for number in range(len(files.paths)):
        try:
            raster = rasters[number]
        except PictureError:
            if files.found and len(files.paths) > 1:
                continue
            raise
        looks[number] = _look(raster, files.modality)
        if len(rasters) > _MOST_OPEN:
            rasters.pop(number).close()
    if not looks:
        raise InputMissingError(
            f"The {len(files.paths)} {SENSOR_NAMES[files.modality]} files found, such as {files.paths[0]}, are "
            "pictures without a place on the ground: give measured bands."
        )
    return looks


def _passed_over(looks: Mapping[int, _Look], files: Files) -> set[int]:
    """Return the numbers of files that are no bands, but lie next to some."""
    maps = {number for number, look in looks.items() if "REFNET_VERSION" in look.footprint.tags}
    if not files.found:
        return maps
    others = {number for number, look in looks.items() if look.is_picture or _of_other_sensor(look, files.modality)}
    return maps | others if len(maps | others) < len(looks) else maps


def _of_other_sensor(look: _Look, modality: Modality) -> bool:
    """Whether all bands of a file that have names are the other sensor's."""
    known = [name for name in look.named.names if name]
    return bool(known) and all((name in RADAR) != (modality == "sar") for name in known)


def _look(raster: Raster, modality: Modality) -> _Look:
    said = {band: each for band, each in enumerate(raster.said, 1) if not each.is_alpha}
    is_picture = raster.dataset.count > 2 and all(dtype == "uint8" for dtype in raster.dataset.dtypes)
    named = _name(raster, list(said.values()), modality)
    return _Look(said, raster.alphas, Footprint.of(raster), is_picture, named, _unused(raster))


def _unused(raster: Raster) -> str:
    if not raster.is_local:
        return ""
    bands = raster.dataset.indexes
    return values_in_sidecars(
        raster.path,
        lacks_nodata=all(nodata is None for nodata in raster.dataset.nodatavals),
        lacks_scaling=all(raster.scaling(band) == (1.0, 0.0) for band in bands),
    )


def _name(raster: Raster, said: Sequence[Said], modality: Modality) -> Named:
    """Name the bands of one file, those of a single band by its name too."""
    named = band_names(said, modality)
    if len(said) == 1 and raster.dataset.count == 1:
        named = _name_single(raster, said[0], named)
    unknown = any(name is None for n, name in enumerate(named.names) if n not in named.others)
    if not raster.is_local or not (unknown or named.how.startswith("count")):
        return named
    is_picture = raster.dataset.dtypes[0] == "uint8"
    silent = modality == "optical" and not is_picture and all(band.colour in _SILENT_COLOURS for band in said)
    if sidecar := names_in_sidecar(raster.path, colours=silent):
        counted = named.how.startswith("count")
        names = (None,) * len(named.names) if counted else named.names
        return named._replace(names=names, how="" if counted else named.how, doubt=named.doubt or sidecar)
    return named


def _name_single(raster: Raster, said: Said, named: Named) -> Named:
    by_file = band_of_file(Path(raster.path).name)
    by_said = named.names[0] or canonical_band(said.description)
    if by_file and by_said and by_file != by_said and by_said != "B01":
        refuse_landsat(raster.tags, [raster.path])
        raise InputError(
            f"The {raster.what} file {raster.path} is {by_file} by its name and {by_said} by what it says of its band "
            f"({said.description or ' '.join((*said.tags, said.colour))}): rename it, or describe its band correctly."
        )
    how = f"name: {Path(raster.path).name}." if by_file else named.how or f"description: {said.description}."
    return named._replace(names=(by_file or by_said,), how=how if by_file or by_said else "")


def _layers(number: int, look: _Look, modality: Modality) -> list[Layer]:
    file = Path(look.footprint.path).name
    single = len(look.said) == 1
    by_name = single and band_of_file(file) is not None
    return [
        _layer(name, file if single and (by_name or not said.description) else said.description, number, band, modality)
        for (band, said), name in zip(look.said.items(), look.named.names, strict=True)
    ]


def _layer(name: str | None, said: str | None, file: int, band: int, modality: Modality) -> Layer:
    if name is not None and (name in RADAR) != (modality == "sar"):
        return Layer(None, said, ((file, band),))
    mask = canonical_mask(said) if modality == "optical" and name is None else None
    return Layer(mask or name, said, ((file, band),), mask is not None)


def _join(
    layers: Sequence[Layer], looks: Mapping[int, _Look], what: str
) -> tuple[dict[int, tuple[Placed, ...]], str]:
    """Join the files of the same bands; or say why that cannot be done."""
    bands: dict[int, list[tuple[str | None, bool, int]]] = defaultdict(list)
    for layer in layers:
        bands[layer.pieces[0][0]].append((layer.name, layer.is_mask, layer.pieces[0][1]))
    alike: dict[tuple[tuple[str | None, bool, int], ...], list[int]] = defaultdict(list)
    for number, own in bands.items():
        # A band without a name may be any, so only those at the same places of larger files are taken for the same.
        if len(own) > 1 or own[0][0]:
            alike[tuple(own)].append(number)
    joined, apart = {}, ""
    for same, numbers in alike.items():
        if len(numbers) > 1:
            try:
                joined[numbers[0]] = arrange({number: looks[number].footprint for number in numbers})
            except NotOneImageError as why:
                names = ", ".join(name for name, _, _ in same if name) or f"{len(same)} without names"
                apart = apart or f"There are several {what} files of the same bands ({names}), but {why}"
    return joined, apart or _of_other_bands([numbers[0] for numbers in alike.values()], layers, looks, what)


def _of_other_bands(numbers: Sequence[int], layers: Sequence[Layer], looks: Mapping[int, _Look], what: str) -> str:
    """Say which files lie side by side but differ in their bands, and how to make them alike; nothing if none do."""
    bands = {number: _names_and_masks(layers, number) for number in numbers}
    for later, number in enumerate(numbers):
        for first in numbers[:later]:
            common = [name for name in bands[first] if name in bands[number]]
            if len(common) > 1 and lie_apart(looks[first].footprint, looks[number].footprint):
                commands = [
                    _taking(looks[each], [bands[each][name] for name in common], f"bands_{n}.tif")
                    for n, each in enumerate((first, number), 1)
                    if list(bands[each]) != common
                ]
                return (
                    f"The {what} files {looks[first].footprint.path} and {looks[number].footprint.path} lie side by "
                    "side, but have different bands or another order of them, so they are not read as one image. Give "
                    f"files with the same bands in the same order: {' and '.join(commands)}"
                )
    return ""


def _names_and_masks(layers: Sequence[Layer], number: int) -> dict[str, int]:
    """Return the bands of a file by their names, in their order; those without a name by their numbers."""
    own = [(layer.name, layer.pieces[0][1]) for layer in layers if layer.pieces[0][0] == number]
    return {name or f"number {band}": band for name, band in own}


def _taking(look: _Look, bands: Sequence[int], ending: str) -> str:
    """Return the command that writes some bands of a file, in an order, to a file whose name gets an ending."""
    path = look.footprint.path
    chosen = " ".join(f"-b {band}" for band in (*bands, *look.alphas))
    return f"`gdal_translate {chosen} {shlex.quote(path)} {shlex.quote(f'{Path(path).stem}_{ending}')}`"


def _describe(joined: Mapping[int, tuple[Placed, ...]], modality: Modality) -> list[Decision]:
    if not joined:
        return []
    height, width = shape_of(max(joined.values(), key=lambda placed: np.prod(shape_of(placed))))
    count = sum(map(len, joined.values()))
    how = f"values: files of the same bands lie side by side and are read as one image of {width} x {height} pixels."
    return [Decision(f"{modality}.pieces", count, how)]


def _different_times(placed: Sequence[Placed], files: Files) -> list[str]:
    """Warn of pieces that were acquired at different times by their names."""
    times = {}
    for piece in placed:
        name = Path(files.paths[piece.file]).name
        if (text := _date_of(name)) is not None:
            when = datetime.fromisoformat(text)
            times[when if when.tzinfo else when.replace(tzinfo=UTC)] = name
    if not times or (max(times) - min(times)).total_seconds() <= _SAME_PASS:
        return []
    return [
        f"The {SENSOR_NAMES[files.modality]} pieces were acquired at different times by their names "
        f"({times[min(times)]} and {times[max(times)]})."
    ]


def _date_of(name: str) -> str | None:
    """Return the time in a file's name, or the only date in it."""
    days = re.findall(r"(?<!\d)(20\d\d)([-_]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)", name)
    found = {f"{year}-{month}-{day}" for year, _, month, day in days}
    return acquisition_of(name) or (found.pop() if len(found) == 1 else None)


def _gather(layers: Sequence[Layer], looks: Mapping[int, _Look], apart: str) -> Named:
    """Put together what named the bands of all files."""
    measured = [layer for layer in layers if not layer.is_mask]
    used = {layer.pieces[0][0]: looks[layer.pieces[0][0]] for layer in layers}
    others = {
        (file, band) for file, look in used.items() for n, band in enumerate(look.said) if n in look.named.others
    }  # fmt: skip
    names = tuple(layer.name for layer in measured)
    doubt = next((look.named.doubt for look in used.values() if look.named.doubt), "")
    beyond = frozenset(n for n, layer in enumerate(measured) if layer.pieces[0] in others)
    how = [look.named.how for look in used.values() if look.named.how]
    if len(used) > 1 or any(len(look.said) == 1 for look in used.values()):
        known = ", ".join(name for name in names if name)
        kinds = [each.partition(":")[0] for each in how]
        kind = next((each for each in ("count", "name", "description") if each in kinds), "tag")
        how = [f"{kind}: the files are {known}."] if known else []
    alpha = next(filter(None, map(_describe_alpha, used.values())), "")
    return Named(names, how[0] if how else "", doubt, beyond, apart, alpha)


def _describe_alpha(look: _Look) -> str:
    """Say which band of a file is alpha, and how to say that it is none; nothing if it has none."""
    if not look.alphas:
        return ""
    band, path = look.alphas[0], look.footprint.path
    names = f"{shlex.quote(path)} {shlex.quote(f'{Path(path).stem}_measured.tif')}"
    return (
        f"Band {band} of {path} is alpha by what the file says of it, and no measurement. If it is one, say so: "
        f"`gdal_translate -colorinterp_{band} undefined {names}`."
    )
