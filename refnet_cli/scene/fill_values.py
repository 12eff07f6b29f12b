"""Detection of undeclared fill values in the files of a sensor. They are masked and reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refnet_cli.raster.fills import (
    COMPLETE,
    Fill,
    Fills,
    IsGround,
    Level,
    contains_fill,
    fill_mask,
    impossible_fills,
    shared_fills,
    spike_fills,
)
from refnet_cli.raster.sample import confirm_fills
from refnet_cli.scene.source import FileSample, Source
from refnet_cli.sensors.decisions import Decision

_MAX_LISTED = 16  # file names in a message


class FillRules(NamedTuple):
    """Rules that distinguish a sensor's fill values from measurements."""

    level: Level
    min_gap: float
    """Values with a smaller difference in level count as near."""
    low: float
    """Level below which an isolated, repeated value is always a fill value; above `high` as well."""
    high: float
    is_ground: IsGround


def mask_fill_values(
    source: Source, samples: Sequence[FileSample], rules: FillRules
) -> tuple[list[Decision], list[str]]:
    """Detect undeclared fill values, and mask them in ``source``; files with the tag `COMPLETE` have none.

    Parameters
    ----------
    source : Source
    samples : sequence of FileSample
        Samples without masked fill values.
    rules : FillRules

    Returns
    -------
    decisions : list of Decision
        One if there are fill values or clipped ground.
    warnings : list of str
    """
    tag, text = COMPLETE
    samples = [sampled for sampled in samples if source.rasters[sampled.file].tags.get(tag) != text]
    candidates = _candidates(source, samples, rules)
    decisions, warnings = _report_clipped(source, samples, rules, candidates)
    found = {}
    for file, fills in candidates.items():
        (sampled,) = (sampled for sampled in samples if sampled.file == file)
        confirmed = confirm_fills(source.rasters[file], sampled.bands, fills, source.files.mask_errors)
        if confirmed.values:
            found[file] = confirmed
    if found:
        source.set_fills(found)
        reported = _report(source, samples, found)
        decisions, warnings = decisions + reported[0], warnings + reported[1]
    return decisions, warnings


def _report_clipped(
    source: Source, samples: Sequence[FileSample], rules: FillRules, fills: Mapping[int, Sequence[Fill]]
) -> tuple[list[Decision], list[str]]:
    """Return the decision and warning on repeated values that are no ``fills`` because they may be clipped ground."""
    isolated = _candidates(source, samples, rules._replace(is_ground=lambda at, others: False))
    kept: dict[float, float] = {}
    for file, bands, _, sample in samples:
        scale, offset = source.rasters[file].scaling(bands[0])
        for fill in set(isolated.get(file, ())) - set(fills.get(file, ())):
            stored = float(f"{(fill.value - offset) / scale:.6g}")
            kept[stored] = max(kept.get(stored, 0.0), float(np.mean(fill_mask(sample.values, [fill]))))
    if not kept:
        return [], []
    listed = ", ".join(f"{value:g} in {share:.2%}" for value, share in kept.items())
    how = f"a guess, one value is repeated in all bands ({listed} of the sampled pixels) and read as clipped ground"
    warning = f"the {source.what} input may have an undeclared fill value: {how}. If it is one, declare it as nodata."
    return [Decision(f"{source.files.modality}.clipped", list(kept), f"values: {how}.")], [warning]


def _candidates(source: Source, samples: Sequence[FileSample], rules: FillRules) -> dict[int, list[Fill]]:
    alone: dict[int, list[float]] = {}
    together: dict[int, list[float]] = {}
    for file, _, _, sample in samples:
        alone[file] = impossible_fills(sample.values, rules.level, rules.low, rules.high)
        if len(sample.values) > 1:
            together[file] = shared_fills(sample.values, rules.level, rules.min_gap, rules.is_ground)
    single = [sampled for sampled in samples if len(sampled.bands) == 1]
    shared = _shared_by_files(source, single, {value for values in together.values() for value in values}, rules)
    for sampled in single:
        together[sampled.file] = [value for value in shared if contains_fill(sampled.sample.values[0], value)]
    found = {}
    for file, values in alone.items():
        others = [value for value in together[file] if value not in values]
        fills = [*(Fill(value, False) for value in values), *(Fill(value, True) for value in others)]
        if fills:
            found[file] = fills
    return found


def _shared_by_files(
    source: Source, single: Sequence[FileSample], elsewhere: set[float], rules: FillRules
) -> list[float]:
    """Return values that are isolated in one band and occur in a file of each band, for files of single bands.

    A file that declares a value as nodata counts as one that contains it.
    """
    isolated = dict.fromkeys(elsewhere)
    for sampled in single:
        isolated |= dict.fromkeys(spike_fills(sampled.sample.values[0], rules.level, rules.min_gap, rules.is_ground))
    layers: dict[int, list[FileSample]] = {}
    for sampled in single:
        layers.setdefault(sampled.targets[0], []).append(sampled)
    return [
        value
        for value in isolated
        if all(
            any(contains_fill(file.sample.values[0], value) or _declares(source, file, value) for file in pieces)
            for pieces in layers.values()
        )
    ]


def _declares(source: Source, sampled: FileSample, value: float) -> bool:
    """Return whether a single-band file declares a value (as read) as nodata."""
    raster, band = source.rasters[sampled.file], sampled.bands[0]
    nodata, (scale, offset) = raster.dataset.nodatavals[band - 1], raster.scaling(band)
    return nodata is not None and np.float32(nodata * scale + offset) == np.float32(value)


def _report(
    source: Source, samples: Sequence[FileSample], found: Mapping[int, Fills]
) -> tuple[list[Decision], list[str]]:
    shares: dict[float, float] = {}
    for file, bands, _, sample in samples:
        scale, offset = source.rasters[file].scaling(bands[0])
        for fill in found[file].values if file in found else ():
            stored = float(f"{(fill.value - offset) / scale:.6g}")
            share = float(np.mean(fill_mask(sample.values, [fill])))
            shares[stored] = max(shares.get(stored, 0.0), share)
    buffer = max(fills.buffer for fills in found.values())
    listed = ", ".join(f"{value:g} in {share:.2%}" for value, share in shares.items())
    around = f", as are {buffer} pixels around them, which are blended with them" if buffer else ""
    how = f"values: undeclared, but repeated ({listed} of the sampled pixels); they are nodata{around}."
    values, paths = list(shares), [source.files.paths[file] for file in source.files.expand_mosaics(found)]
    warning = (
        f"the {source.what} input has an undeclared fill value ({listed} of the sampled pixels): these pixels are "
        f"nodata{around}. {_nodata_advice(values, paths, buffer)}"
    )
    return [Decision(f"{source.files.modality}.fill", values[0] if len(values) == 1 else values, how)], [warning]


def _nodata_advice(fills: Sequence[float], paths: Sequence[str], buffer: int) -> str:
    """Return advice on declaring fill values, as stored, in all files that may contain them."""
    names = [Path(path).name for path in paths]
    listed = ", ".join(names[:_MAX_LISTED]) + f" and {len(names) - _MAX_LISTED} more" * (len(names) > _MAX_LISTED)
    fill = f"{fills[0]:g}"
    if buffer:
        return (
            "Do not declare it as nodata in these files, because the blended pixels would count as measurements. "
            "Resample the original files again with the fill value declared, for instance with gdalwarp "
            f"-srcnodata {fill} ({listed})."
        )
    if len(fills) > 1:
        return f"Set these pixels to one value, and declare it as nodata with gdal_edit.py -a_nodata ({listed})."
    # GDAL cannot change JPEG 2000 files.
    if any(name.lower().endswith((".jp2", ".j2k")) for name in names):
        return f"Declare it as nodata: convert each file to GeoTIFF with gdal_translate -a_nodata {fill} ({listed})."
    if len(names) == 1:
        return f"Declare it as nodata, for instance with gdal_edit.py -a_nodata {fill} {listed}."
    return f"Declare it as nodata in each file, for instance with gdal_edit.py -a_nodata {fill} ({listed})."
