"""Compare two class maps: areas of all transitions, a change map, and estimates from a sample of changes."""

from __future__ import annotations

import json
import logging
import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import InputError
from refnet_cli.evaluation.change.change_map import ChangeMap
from refnet_cli.evaluation.change.maps import MapPair, MapSchemes
from refnet_cli.evaluation.change.result import Comparison, Transitions
from refnet_cli.evaluation.change.sample import ChangeEstimates, ChangeSample, SampleCounter
from refnet_cli.evaluation.change.transitions import (
    TransitionCounter,
    UInt16,
    as_matrix,
    check_areas,
    number_transitions,
)
from refnet_cli.outputs.areas.pixel_areas import CELL
from refnet_cli.outputs.areas.zones import ZoneCounter, read_zones
from refnet_cli.system.atomic import check_distinct_paths, replacing
from refnet_cli.system.words import count
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float64, Progress, UInt8

LOG = logging.getLogger(__name__)
ROWS = 4 * CELL
"""Rows that are read at once: whole cells of equal pixel area."""


@dataclass(frozen=True)
class Zones:
    """Polygons in which change is tabulated too; see `refnet_cli.outputs.areas.zones.read_zones`."""

    path: Path
    field: str | None = None
    """Field with the zones' names; by default they are numbered."""
    layer: str | None = None


def compare(
    old: str | Path,
    new: str | Path,
    *,
    output: str | Path | None = None,
    table: str | Path | None = None,
    schemes: MapSchemes | None = None,
    resample: bool = False,
    zones: Zones | None = None,
    sample: ChangeSample | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two class maps of one place, the older one first; log warnings.

    A pixel without a class in one of the maps counts as no data. Areas are true areas, see
    `refnet_cli.outputs.areas.pixel_areas.PixelAreas`. Rows are read a few at a time. Files appear at the end, complete,
    and replace what is there.

    Parameters
    ----------
    old, new : str or Path
        Rasters of class codes. The grid of the old map is that of the result.
    output : str or Path, optional
        Change map to write, see `ChangeMap`.
    table : str or Path, optional
        CSV to write, see `Comparison.table`.
    schemes : MapSchemes, optional
        Scheme to compare in, and schemes of maps without tags.
    resample : bool
        Whether the new map may be resampled to the old one's grid, see `MapPair.open`.
    zones : Zones, optional
    sample : ChangeSample, optional
        Estimate accuracies and areas from it (Olofsson et al. 2014), see `refnet_cli.evaluation.areas.estimate_areas`.
    progress : callable, optional
        Called with the number of compared rows and of all rows.

    Raises
    ------
    OptionsError
        If the schemes differ and no scheme is given, or if options contradict each other or the files.
    InputMissingError, InputError
        If a file is unreadable or not usable, if maps do not overlap, have no pixel in common or are on different
        grids, or if a sample is too small or on another grid.
    OutputError, StorageError
        If a file cannot be written.
    """
    outputs = [Path(path) if path is not None else None for path in (output, table)]
    read = [old, new, *([zones.path] if zones else []), *(sample.files if sample else ())]
    check_distinct_paths(outputs, [Path(path) for path in read])
    with ExitStack() as stack:
        pair = stack.enter_context(MapPair.open(old, new, schemes or MapSchemes(), resample=resample))
        counts = stack.enter_context(_Counts(pair, zones, sample))
        writer = _open_map(outputs[0], pair, Path(old), Path(new))
        if writer:
            stack.enter_context(writer.output)
        _read_rows(pair, counts, writer, progress)
        found = counts.finish(pair, str(old), str(new))
        for warning in found.warnings:
            LOG.warning(warning)
        _write_files(found, writer, outputs[1])
    return found


def _open_map(path: Path | None, pair: MapPair, old: Path, new: Path) -> ChangeMap | None:
    if path is None:
        return None
    translations = {when: value for when, value in _translations(pair).items() if value}
    tags = {"REFNET_OLD_MAP": old.name, "REFNET_NEW_MAP": new.name, "REFNET_RESAMPLED": str(pair.resampled).lower()}
    tags |= {"REFNET_TRANSLATION": json.dumps(translations)} if translations else {}
    return ChangeMap(path, pair.grid, pair.scheme, tags)


def _translations(pair: MapPair) -> dict[str, object]:
    old, new = (crosswalk.to_dict() if crosswalk else None for crosswalk in pair.crosswalks)
    return {"old": old, "new": new}


def _read_rows(pair: MapPair, counts: _Counts, writer: ChangeMap | None, progress: Progress | None) -> None:
    """Read both maps from north to south, count their transitions, and write the map."""
    height, width = pair.grid.shape
    for row in range(0, height, ROWS):
        window = Window(row, 0, min(ROWS, height - row), width)
        old, new = pair.read(window)
        numbers = number_transitions(old, new, len(pair.scheme.codes))
        counts.add(window, old, new, numbers)
        if writer:
            writer.add(numbers)
        if progress:
            progress(row + window.height, height)


def _write_files(found: Comparison, writer: ChangeMap | None, table: Path | None) -> None:
    """Move the map into place, and the table with it: both, or none."""
    if writer:
        writer.output.complete()
    with ExitStack() as stack:
        if table is not None:
            temporary = stack.enter_context(replacing(table))
            temporary.write_text(found.table(), encoding="utf-8", newline="")
        if writer:
            writer.output.finish()


class _Counts:
    """What is counted row by row."""

    def __init__(self, pair: MapPair, zones: Zones | None, sample: ChangeSample | None) -> None:
        grid, scheme = pair.grid, pair.scheme
        self._classes = len(scheme.codes)
        self._whole = TransitionCounter(grid, self._classes)
        self._zones = _count_zones(zones, grid, scheme) if zones else None
        self._zone_file = zones.path.name if zones else ""
        self._sample = SampleCounter(sample, grid, scheme) if sample else None
        self._pixels = np.zeros(3, np.int64)  # with a class in the old map, in the new one, in both

    def __enter__(self) -> _Counts:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._sample:
            self._sample.close()

    def add(self, window: Window, old: UInt8, new: UInt8, numbers: UInt16) -> None:
        self._whole.add(numbers)
        self._pixels += [np.count_nonzero(part) for part in (old, new, numbers)]
        if self._zones:
            self._zones.add(numbers)
        if self._sample:
            self._sample.add(window, old, new)

    def finish(self, pair: MapPair, old: str, new: str) -> Comparison:
        if not self._pixels[2]:
            raise InputError(
                f"No pixel has a class in both {old} and {new}, so there is nothing to compare. Use maps of the same "
                "place."
            )
        whole = self._transitions(self._whole.hectares())
        by_zone = self._zones.by_code() if self._zones else {}
        zones = {zone: self._transitions(check_areas(areas)) for zone, areas in by_zone.items()}
        estimates = self._sample.estimate(whole.hectares) if self._sample else None
        warnings = [*pair.warnings, *self._warnings(pair, whole, estimates)]
        return Comparison(
            old, new, pair.scheme, whole, zones, _translations(pair), pair.resampled, estimates,
            list(dict.fromkeys(warnings)),
        )  # fmt: skip

    def _transitions(self, hectares: Float64) -> Transitions:
        return Transitions(as_matrix(hectares, self._classes), float(hectares[0]))

    def _warnings(self, pair: MapPair, whole: Transitions, estimates: ChangeEstimates | None) -> list[str]:
        found = [f"zone {_printable(zone)} of {self._zone_file} is off the map." for zone in self._outside]
        in_old, in_new, both = self._pixels.tolist()
        if lost := in_old + in_new - 2 * both:
            share = lost / (in_old + in_new - both)
            found.append(f"{_percent(share)} of the pixels with a class have none in one of the maps: no data.")
        if pair.clouds:
            found.append(f"{count(pair.clouds, 'pixel of class Clouds is', 'pixels of class Clouds are')} no data.")
        if pair.resampled:
            found.append(
                "The new map was resampled to the grid of the old one. Edges of classes move by up to half a pixel, "
                "which counts as change."
            )
        found += self._sample.warnings if self._sample else []
        return [*found, warn_of_errors(whole.changed_share or 0, estimates)]

    @property
    def _outside(self) -> list[str]:
        return self._zones.outside if self._zones else []


def warn_of_errors(share: float, estimates: ChangeEstimates | None) -> str:
    """Return the warning that the errors of both maps add up.

    Parameters
    ----------
    share : float
        Share of the compared area whose class differs.
    estimates : ChangeEstimates or None
        From a sample of changes.
    """
    if estimates is not None:
        return (
            "The mapped areas of change contain the errors of both maps. Use the estimates from the sample, with their "
            "intervals; they hold if the sample was drawn at random within these strata, or from the whole map."
        )
    found = "the classes differ nowhere"
    if share:
        found = (
            f"the classes differ on {_percent(share)} of the area, and two maps that are each right on "
            f"{_percent(math.sqrt(1 - share))} can differ as much where nothing changed"
        )
    return (
        f"Errors of both maps add up: {found}. Areas counted in maps are no estimates of change. Label a probability "
        "sample of changes for estimates with intervals (--sample)."
    )


def _percent(share: float) -> str:
    """Return a share as percent, with as many digits as tell it from 0 and 100."""
    digits = 1 if 0.001 <= share <= 0.999 or share in (0, 1) else 3
    return f"{100 * share:.{digits}f} %"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _count_zones(zones: Zones, grid: GeoBox, scheme: ClassScheme) -> ZoneCounter:
    shapes = read_zones(zones.path, grid, zones.field, zones.layer)
    return ZoneCounter(shapes, grid, range(1, len(scheme.codes) ** 2 + 1))
