"""Finds the undeclared fills in the files of a sensor, has them read as no data, and says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refnet_cli.raster.fills import (
    Fill,
    Fills,
    Ground,
    Level,
    certain_fills,
    fill_mask,
    holds,
    shared_fills,
    spikes,
)
from refnet_cli.raster.sample import confirm_fills
from refnet_cli.scene.source import FileSample, Source
from refnet_cli.sensors.decisions import Decision

_MOST_NAMED = 16  # files in a message


class Rules(NamedTuple):
    """What tells fills of a sensor from measurements."""

    level: Level
    least_gap: float
    """Levels that are less apart than this count as near."""
    low: float
    """Level below which a repeated value is a fill by itself."""
    high: float
    ground: Ground


def remove_fills(source: Source, samples: Sequence[FileSample], rules: Rules) -> tuple[list[Decision], list[str]]:
    """Find fills, and have `source` read without them from now on.

    Parameters
    ----------
    source : Source
    samples : sequence of FileSample
        Read with the fills.
    rules : Rules

    Returns
    -------
    decisions : list of Decision
        One if there are fills.
    warnings : list of str
    """
    decisions, warnings = _say_clipped(source, samples, rules)
    found = {}
    for file, fills in _candidates(source, samples, rules).items():
        (sampled,) = (sampled for sampled in samples if sampled.file == file)
        confirmed = confirm_fills(source.rasters[file], sampled.bands, fills, source.files.mask_errors)
        if confirmed.values:
            found[file] = confirmed
    if found:
        source.set_fills(found)
        said = _say(source, samples, found)
        decisions, warnings = decisions + said[0], warnings + said[1]
    return decisions, warnings


def _say_clipped(
    source: Source, samples: Sequence[FileSample], rules: Rules
) -> tuple[list[Decision], list[str]]:
    """Say which repeated values stay because ground may be clipped to them."""
    unclipped = rules._replace(ground=lambda at, others: False)
    fills, apart = _candidates(source, samples, rules), _candidates(source, samples, unclipped)
    kept: dict[float, float] = {}
    for file, bands, _, sample in samples:
        scale, offset = source.rasters[file].scaling(bands[0])
        for fill in set(apart.get(file, ())) - set(fills.get(file, ())):
            stored = float(f"{(fill.value - offset) / scale:.6g}")
            kept[stored] = max(kept.get(stored, 0.0), float(np.mean(fill_mask(sample.values, [fill]))))
    if not kept:
        return [], []
    listed = ", ".join(f"{value:g} in {share:.2%}" for value, share in kept.items())
    how = f"a guess, one repeated number in all bands ({listed} of the sampled pixels) is taken for clipped ground"
    warning = f"the {source.what} input may hold an undeclared fill: {how}. If it is a fill, declare it as nodata."
    return [Decision(f"{source.files.modality}.clipped", list(kept), f"values: {how}.")], [warning]


def _candidates(source: Source, samples: Sequence[FileSample], rules: Rules) -> dict[int, list[Fill]]:
    alone: dict[int, list[float]] = {}
    together: dict[int, list[float]] = {}
    for file, _, _, sample in samples:
        alone[file] = certain_fills(sample.values, rules.level, rules.low, rules.high)
        if len(sample.values) > 1:
            together[file] = shared_fills(sample.values, rules.level, rules.least_gap, rules.ground)
    single = [sampled for sampled in samples if len(sampled.bands) == 1]
    shared = _shared_by_files(source, single, {value for values in together.values() for value in values}, rules)
    for sampled in single:
        together[sampled.file] = [value for value in shared if holds(sampled.sample.values[0], value)]
    found = {}
    for file, values in alone.items():
        others = [value for value in together[file] if value not in values]
        fills = [*(Fill(value, False) for value in values), *(Fill(value, True) for value in others)]
        if fills:
            found[file] = fills
    return found


def _shared_by_files(
    source: Source, single: Sequence[FileSample], elsewhere: set[float], rules: Rules
) -> list[float]:
    """Find values that a file of each band holds, if there is one a band, and that lie apart from the others in one.

    A file that declares the value as nodata counts as holding it.
    """
    apart = dict.fromkeys(elsewhere)
    for sampled in single:
        apart |= dict.fromkeys(spikes(sampled.sample.values[0], rules.level, rules.least_gap, rules.ground))
    layers: dict[int, list[FileSample]] = {}
    for sampled in single:
        layers.setdefault(sampled.targets[0], []).append(sampled)
    return [
        value
        for value in apart
        if all(
            any(holds(sampled.sample.values[0], value) or _declares(source, sampled, value) for sampled in pieces)
            for pieces in layers.values()
        )
    ]


def _declares(source: Source, sampled: FileSample, value: float) -> bool:
    """Tell whether a file of one band declares a value, as read, as nodata."""
    raster, band = source.rasters[sampled.file], sampled.bands[0]
    nodata, (scale, offset) = raster.dataset.nodatavals[band - 1], raster.scaling(band)
    return nodata is not None and np.float32(nodata * scale + offset) == np.float32(value)


def _say(
    source: Source, samples: Sequence[FileSample], found: Mapping[int, Fills]
) -> tuple[list[Decision], list[str]]:
    shares: dict[float, float] = {}
    for file, bands, _, sample in samples:
        scale, offset = source.rasters[file].scaling(bands[0])
        for fill in found[file].values if file in found else ():
            stored = float(f"{(fill.value - offset) / scale:.6g}")
            share = float(np.mean(fill_mask(sample.values, [fill])))
            shares[stored] = max(shares.get(stored, 0.0), share)
    rim = max(fills.rim for fills in found.values())
    listed = ", ".join(f"{value:g} in {share:.2%}" for value, share in shares.items())
    around = f", as are {rim} pixels around them, which are blended with it" if rim else ""
    how = f"values: no file declares them, but they are repeated ({listed} of the sampled pixels): no data{around}."
    modality = source.files.modality
    warning = (
        f"the {source.what} input holds an undeclared fill ({listed} of the sampled pixels): these pixels are no "
        f"data{around}. {_advise(list(shares), [source.files.paths[file] for file in source.files.pieces(found)], rim)}"
    )
    values = list(shares)
    return [Decision(f"{modality}.fill", values[0] if len(values) == 1 else values, how)], [warning]


def _advise(fills: Sequence[float], paths: Sequence[str], rim: int) -> str:
    """Say how to declare fills, as stored, in all files that may hold them."""
    names = [Path(path).name for path in paths]
    listed = ", ".join(names[:_MOST_NAMED]) + f" and {len(names) - _MOST_NAMED} more" * (len(names) > _MOST_NAMED)
    fill = f"{fills[0]:g}"
    if rim:
        return (
            "Do not declare it as nodata in these files, or the blended pixels count as measurements: resample the "
            f"files again from their sources with the fill declared, for instance with gdalwarp -srcnodata {fill} "
            f"({listed})."
        )
    if len(fills) > 1:
        return f"Set these pixels to one number, and declare it as nodata with gdal_edit.py -a_nodata ({listed})."
    # GDAL cannot change JPEG 2000 files.
    if any(name.lower().endswith((".jp2", ".j2k")) for name in names):
        how = f"write each file again with gdal_translate -a_nodata {fill} to a GeoTIFF"
        return f"Declare it as nodata: {how} ({listed})."
    if len(names) == 1:
        return f"Declare it as nodata, for instance with gdal_edit.py -a_nodata {fill} {listed}."
    return f"Declare it as nodata in each file, for instance with gdal_edit.py -a_nodata {fill} ({listed})."
