"""Several dates of one place on one grid, as one scene: composited, or each with its own patches."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, fields, replace
from itertools import tee
from typing import Any

import numpy as np

from refnet_cli.errors import InputError, OptionsError, RefnetError
from refnet_cli.raster.raster import BLOCK
from refnet_cli.scene.absent import absent_sensor, options_that_need
from refnet_cli.scene.blocks import Block, BlockReader, OneSensorPatch, Patch, Scene, read_tile
from refnet_cli.scene.options import Combine, SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.scene.season_files import SceneDate, orbit_of, pass_of
from refnet_cli.sensors.decisions import Decision
from refnet_cli.sensors.quality import CLOUD, SENSOR_BITS, UNREADABLE
from refnet_cli.sensors.sensor import Modality
from refnet_cli.tiles.window import Window
from refnet_cli.types import Bool, Float32, UInt8, UInt16

UNKNOWN_ORBIT = "unknown"
SEEN = "seen_"
"""Prefix of the counts of pixels that a date contributed to."""
_CACHE = 2 << 30
"""Bytes of blocks that the dates of an ensemble may keep; with fewer than two rows of blocks, blocks are read again."""
_FEWEST_KEPT = 6
"""Blocks that suffice to read each block once for a row of tiles."""


def open_season(
    dates: Sequence[SceneDate],
    optical_bands: Sequence[str],
    sar_bands: Sequence[str],
    options: SceneOptions,
    combine: Combine,
    read_threads: int = 1,
) -> Scene:
    """Open the dates of a season on one grid: that of the first date with an optical image, or of ``options.grid``.

    Parameters
    ----------
    dates : sequence of SceneDate
        In order.
    optical_bands, sar_bands, options, read_threads
        As of `ScenePair.open`. Properties that the options do not give are detected for each date by itself.
    combine : {"composite", "ensemble"}
        ``composite``: one scene with the median of the valid, cloud-free reflectance of each pixel and band, and the
        mean of the SAR passes of one orbit in linear power. ``ensemble``: each date with its own patches.

    Raises
    ------
    RefnetError
        As from `ScenePair.open`, with the date.
    OptionsError
        If an option is for one date only.
    InputError
        If a date of an ensemble lacks a sensor that another has.
    """
    if options.cloud_file is not None:
        raise OptionsError(
            "--cloud-mask FILE is the mask of one date, and --season has several. Put a mask such as SCL among the "
            "files of each date and pass --mask-clouds, or pass --cloud-mask omnicloudmask."
        )
    dates, decisions, warnings = _one_orbit(dates) if combine == "composite" else ([*dates], [], [])
    if options.strict and any(decision.value == UNKNOWN_ORBIT and warnings for decision in decisions):
        raise OptionsError(
            "--strict forbids guesses, but neither tags nor names of the SAR files tell their orbits, and a composite "
            "averages passes of one orbit only. Use --combine ensemble, or give one SAR pass."
        )
    if combine == "ensemble" and options.missing == "nodata":
        _check_sensors(dates)
    first = next((number for number, scene in enumerate(dates) if scene.optical), 0)
    order = [first, *(number for number in range(len(dates)) if number != first)]
    pairs: dict[int, ScenePair] = {}
    kept = kept_blocks(len(dates), len(optical_bands) + len(sar_bands), combine)
    with ExitStack() as opened:
        for number in order:
            scene = dates[number]
            with _named(scene.date):
                pairs[number] = ScenePair.open(
                    scene.optical, scene.sar, optical_bands, sar_bands, _options_of(scene, options),
                    grid=pairs[first].grid if pairs else None,
                )  # fmt: skip
            opened.callback(pairs[number].close)
            pairs[number].keep_blocks(kept)
        kind = Composite if combine == "composite" else Ensemble
        bands = len(optical_bands), len(sar_bands)
        season: _Season = kind(dates, [pairs[number] for number in range(len(dates))], options)
        season.start(bands, read_threads)
        season.decisions = [_describe(dates, combine, first), *decisions, *season.decisions]
        season.warnings = [*warnings, *season.warnings]
        season.opened = opened.pop_all()
    return season


def kept_blocks(dates: int, bands: int, combine: Combine) -> int:
    """Return the number of blocks that each date may keep; what a composite keeps are its own blocks."""
    if combine == "composite":
        return 1
    return max(_CACHE // (dates * bands * 4 * BLOCK**2), _FEWEST_KEPT)


@contextmanager
def _named(date: str) -> Iterator[None]:
    """Begin errors with the date that they are about."""
    try:
        yield
    except RefnetError as error:
        named = type(error)(f"{date}: {error}")
        named.window = error.window
        raise named from error.__cause__


def _options_of(scene: SceneDate, options: SceneOptions) -> SceneOptions:
    """Return the options for a date, without those of a sensor that it lacks."""
    absent = absent_sensor(scene.optical, scene.sar)
    if absent is None:
        return options
    defaults = {field.name: field.default for field in fields(SceneOptions) if field.default is not MISSING}
    without: dict[str, Any] = {name: defaults[name] for name in options_that_need(absent)}
    return replace(options, **without)


def _check_sensors(dates: Sequence[SceneDate]) -> None:
    kinds = {absent_sensor(scene.optical, scene.sar): scene for scene in dates}
    if len(kinds) > 1:
        lacking = next(scene for absent, scene in kinds.items() if absent)
        raise InputError(
            f"{lacking.date}: there is no {'SAR' if lacking.optical else 'optical'} file, but other dates have one. "
            "Add it, leave the date out, pass --missing use-other, or --combine composite."
        )


def _one_orbit(dates: Sequence[SceneDate]) -> tuple[list[SceneDate], list[Decision], list[str]]:
    """Keep each SAR pass once, and those of the orbit with most passes: looks of other sides do not average."""
    orbits: dict[str | None, list[int]] = {}
    passes: dict[str, int] = {}
    for number, scene in enumerate(dates):
        if scene.sar and passes.setdefault(pass_of(scene.sar), number) == number:
            orbits.setdefault(orbit_of(scene.sar), []).append(number)
    if not orbits:
        return [*dates], [], []
    chosen = max(orbits, key=lambda orbit: (len(orbits[orbit]), orbit is not None))
    kept = [scene if number in orbits[chosen] else scene._replace(sar=None) for number, scene in enumerate(dates)]
    kept = [scene for scene in kept if scene.optical or scene.sar]
    several, warnings = len(orbits[chosen]) > 1, []
    if chosen is None:
        how = "count: a guess, " if several else "count: one pass; "
        how += "neither tags nor names of the SAR files tell their orbit."
        if several:
            warnings.append(
                f"the orbit of the {len(orbits[chosen])} SAR passes is unknown: passes of different orbits see slopes "
                "differently, and their mean blurs that."
            )
    else:
        how = f"tag: {len(orbits[chosen])} of {len(passes)} SAR passes."
    if len(orbits) > 1:
        left_out = ", ".join(dates[number].date for orbit in orbits if orbit != chosen for number in orbits[orbit])
        warnings.append(
            f"SAR of {left_out} is left out: a composite takes the passes of one orbit, {chosen or 'an unknown one'}, "
            "which has most."
        )
    return kept, [Decision("sar.orbit", chosen or UNKNOWN_ORBIT, how)], warnings


def _describe(dates: Sequence[SceneDate], combine: Combine, first: int) -> Decision:
    how = f"option: --season, the {combine} of {len(dates)} dates on the grid of {dates[first].date}."
    return Decision("season", [scene.names for scene in dates], how)


class _Season(Scene):
    """What composites and ensembles share."""

    def __init__(self, dates: Sequence[SceneDate], pairs: Sequence[ScenePair], options: SceneOptions) -> None:
        self.dates, self.pairs = dates, pairs
        self.grid = pairs[0].grid
        self.either = options.missing == "use-other"
        self.absent = _absent(pairs)
        self.decisions, self.warnings = _merge(dates, pairs)
        self.files = list(dict.fromkeys(path for pair in pairs for path in pair.files))
        self.remote = list(dict.fromkeys(url for pair in pairs for url in pair.remote))
        levels: dict[str, list[float]] = {}
        for pair in pairs:
            for name, level in pair.levels.items():
                levels.setdefault(name, []).append(level)
        self.levels = {name: sum(values) / len(values) for name, values in levels.items()}
        self.opened = ExitStack()

    @abstractmethod
    def start(self, bands: tuple[int, int], read_threads: int) -> None:
        """Begin to read this number of optical and of SAR bands."""


class Composite(_Season, BlockReader):
    """The dates of a season as one scene; see `open_season`.

    A block takes one block of each date at a time, so memory grows with the number of dates, but not with the scene.
    """

    def start(self, bands: tuple[int, int], read_threads: int) -> None:
        """Start the threads, each of which makes a block of all dates."""
        self.start_reading(bands, self.either, None, read_threads)

    def close(self) -> None:
        """Stop the threads and close the files."""
        super().close()
        self.opened.close()

    def use_threads(self, count: int) -> None:
        """See `Scene.use_threads`. No more blocks are made at a time than there are threads."""
        self._most_ahead = min(self._most_ahead, count)

    def make_block(self, key: tuple[int, int]) -> Block:
        """See `BlockReader.make_block`. Threads take turns at the files of each date."""
        counts: Counter[str] = Counter()
        blocks = []
        for scene, pair in zip(self.dates, self.pairs, strict=True):
            with _named(scene.date):
                block = pair.make_block(key)
            counts.update(block.counts)
            patch = block.patch
            contributed = patch.sar_valid if pair.absent == "optical" else patch.optical_valid
            counts[f"{SEEN}{scene.date}"] = int(np.count_nonzero(contributed))
            blocks.append((pair, block, contributed))
        patch = composite([block.patch for _, block, _ in blocks], [pair.absent for pair, _, _ in blocks])
        optical_seen, sar_seen = patch.optical_valid, patch.sar_valid
        if self.either:
            patch = Patch(
                np.where(optical_seen, patch.optical, np.float32(np.nan)),
                np.where(sar_seen, patch.sar, np.float32(np.nan)),
            )
        own = [seen for pair, _, seen in blocks if (pair.absent == "optical") == (self.absent == "optical")]
        flags = np.bitwise_or.reduce([block.seen & np.uint8(CLOUD | UNREADABLE) for _, block, _ in blocks])
        sensors = np.asarray(optical_seen + np.uint8(2) * sar_seen, np.uint8)
        return Block(patch, _seen(sensors, flags, np.sum(own, axis=0), self.absent), counts)


class Ensemble(_Season):
    """The dates of a season, each with its own patches; see `open_season`."""

    def start(self, bands: tuple[int, int], read_threads: int) -> None:
        """Count what each date sees; the dates read by themselves, with one thread each."""
        self.patches_per_tile = len(self.dates)
        for pair in self.pairs:
            pair.tally = True

    def close(self) -> None:
        """Stop the threads and close the files."""
        self.opened.close()

    def use_threads(self, count: int) -> None:
        """See `Scene.use_threads`: each date has one thread."""

    @property
    def counts(self) -> Counter[str]:  # type: ignore[override]  # an attribute of scenes of one date
        """See `Scene`."""
        return sum((pair.counts for pair in self.pairs), Counter())

    def counts_in(self, area: Window) -> dict[str, int]:
        """See `Scene.counts_in`."""
        total: Counter[str] = Counter()
        for scene, pair in zip(self.dates, self.pairs, strict=True):
            found = pair.counts_in(area)
            total[f"{SEEN}{scene.date}"] = found.pop("seen", 0)
            total.update(found)
        return dict(sorted(total.items()))

    def take_counts(self) -> dict[str, dict[str, int]]:
        """See `Scene.take_counts`."""
        return {
            f"{number}:{name}": counts
            for number, pair in enumerate(self.pairs)
            for name, counts in pair.take_counts().items()
        }

    def restore_counts(self, counted: Mapping[str, Mapping[str, int]]) -> None:
        """See `Scene.restore_counts`."""
        for name, counts in counted.items():
            number, _, block = name.partition(":")
            self.pairs[int(number)].restore_counts({block: counts})

    def prefetch(self, windows: Iterable[Window]) -> None:
        """See `Scene.prefetch`."""
        for pair, own in zip(self.pairs, tee(windows, len(self.pairs)), strict=True):
            pair.prefetch(own)

    def read(self, window: Window) -> Patch:
        """See `Scene.read`: the composite, for pictures and comparisons; passes of different orbits are averaged."""
        patches = []
        for scene, pair in zip(self.dates, self.pairs, strict=True):
            with _named(scene.date):
                patches.append(pair.read(window))
        return composite(patches, [pair.absent for pair in self.pairs])

    def read_seen(self, window: Window) -> UInt16:
        """See `Scene.read_seen`: the sensors of the dates that count in a pixel, or of the best of the others."""
        shape = window.height, window.width
        counting, others, flags, count = (np.zeros(shape, np.uint8) for _ in range(4))
        for scene, pair in zip(self.dates, self.pairs, strict=True):
            with _named(scene.date):
                seen = np.asarray(pair.read_seen(window), np.uint8)
            valid = pair.usable(seen)
            count += valid
            counting |= np.where(valid, seen & np.uint8(SENSOR_BITS), np.uint8(0))
            np.maximum(others, seen & np.uint8(SENSOR_BITS), out=others, where=~valid)
            flags |= seen & np.uint8(CLOUD | UNREADABLE)
        return _seen(np.where(count > 0, counting, others), flags, count, self.absent)

    def read_tiles(self, window: Window) -> Iterator[tuple[Patch, Bool | None]]:
        """See `Scene.read_tiles`: a patch of each date that has a valid pixel there."""
        inside = window.clip(*self.grid.shape)
        top, left = inside.row - window.row, inside.column - window.column
        for scene, pair in zip(self.dates, self.pairs, strict=True):
            valid = np.zeros((window.height, window.width), bool)
            with _named(scene.date):
                valid[top : top + inside.height, left : left + inside.width] = pair.read_valid(inside)
                patch = read_tile(pair, window) if valid.any() else None
            if patch is not None:
                yield patch, valid


def composite(patches: Sequence[Patch], absent: Sequence[Modality | None]) -> Patch:
    """Return the median of each optical band, and the mean of SAR in linear power, over dates.

    Parameters
    ----------
    patches : sequence of Patch
        Reflectance x 10,000 and dB; NaN is no measurement.
    absent : sequence of {"optical", "sar", None}
        The sensor that each patch lacks.
    """
    seen: dict[Modality, list[Float32]] = {
        "optical": [patch.optical for patch, lacking in zip(patches, absent, strict=True) if lacking != "optical"],
        "sar": [patch.sar for patch, lacking in zip(patches, absent, strict=True) if lacking != "sar"],
    }
    optical = median(seen["optical"]) if seen["optical"] else patches[0].optical
    sar = mean_power(seen["sar"]) if seen["sar"] else patches[0].sar
    return Patch(optical, sar) if seen["optical"] and seen["sar"] else OneSensorPatch(optical, sar)


def median(images: Sequence[Float32]) -> Float32:
    """Return the median over images of equal shape, without NaN: the mean of the middle two if their number is even.

    Examples
    --------
    >>> nan = np.float32(np.nan)
    >>> median([np.array([1, nan, nan], np.float32), np.array([4, 2, nan], np.float32)]).tolist()
    [2.5, 2.0, nan]
    """
    if len(images) == 1:
        return images[0]
    found = np.empty(images[0].shape, np.float32)
    for band in np.ndindex(found.shape[:-2]):  # one by one: all dates are sorted in a copy
        found[band] = _median_of_band(np.stack([image[band] for image in images]))
    return found


def _median_of_band(stack: Float32) -> Float32:
    """Return the median over the first axis, which becomes sorted."""
    stack.sort(axis=0)  # NaN last
    count = np.isfinite(stack).sum(axis=0, dtype=np.intp)[None]
    low = np.take_along_axis(stack, np.maximum(count - 1, 0) // 2, axis=0)[0]
    high = np.take_along_axis(stack, np.minimum(count // 2, len(stack) - 1), axis=0)[0]
    high = np.where(count[0] > 0, high, low)
    return np.asarray((low + high) / np.float32(2), np.float32)


def mean_power(levels: Sequence[Float32]) -> Float32:
    """Return the mean of images in dB, taken in linear power, without NaN; a single value stays as it is.

    Examples
    --------
    >>> mean_power([np.array([-10, -20], np.float32), np.array([-10, np.nan], np.float32)]).tolist()
    [-10.0, -20.0]
    """
    total = np.zeros(levels[0].shape, np.float64)
    count = np.zeros(levels[0].shape, np.uint8)
    only = np.full(levels[0].shape, np.nan, np.float32)
    for level in levels:
        known = np.isfinite(level)
        np.copyto(only, level, where=known & (count == 0))
        total += np.where(known, 10 ** (np.nan_to_num(level, nan=0.0).astype(np.float64) / 10), 0.0)
        count += known
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = 10 * np.log10(total / count)
    return np.where(count > 1, mean.astype(np.float32), only)


def _absent(pairs: Sequence[ScenePair]) -> Modality | None:
    """Return the sensor that no date has."""
    lacking = {pair.absent for pair in pairs}
    return lacking.pop() if len(lacking) == 1 else None


def _seen(sensors: UInt8, flags: UInt8, dates: Any, absent: Modality | None) -> UInt16:
    """Return quality bits of which the upper eight count dates; flags stay where they are why a sensor is missing."""
    full = {None: SENSOR_BITS, "sar": 1, "optical": 2}[absent]
    low = sensors.copy()
    low |= np.where(sensors & np.uint8(1), np.uint8(0), flags & np.uint8(CLOUD))
    low |= np.where(sensors == full, np.uint8(0), flags & np.uint8(UNREADABLE))
    counted = np.where(sensors > 0, dates, 0).astype(np.uint16)
    return np.asarray(low.astype(np.uint16) | counted << np.uint16(8))


def _merge(dates: Sequence[SceneDate], pairs: Sequence[ScenePair]) -> tuple[list[Decision], list[str]]:
    """Return the decisions of the first date with each, those of other dates that differ, and all warnings."""
    decisions: list[Decision] = []
    first: dict[str, tuple[str, list[Any]]] = {}
    warnings: dict[str, list[str]] = {}
    for scene, pair in zip(dates, pairs, strict=True):
        for text in pair.warnings:
            warnings.setdefault(text, []).append(scene.date)
        for decision in pair.decisions:
            date, values = first.setdefault(decision.what, (scene.date, []))
            if date == scene.date:
                values.append(decision.value)
                decisions.append(decision)
            elif decision.value not in values:
                decisions.append(decision._replace(what=f"{decision.what}@{scene.date}"))
                if decision.what == "optical.resampling":
                    text = f"the optical image is not on the pixels of the map's grid: resampled ({decision.value})."
                    warnings.setdefault(text, []).append(scene.date)
    said = [text if len(of) == len(dates) else f"{', '.join(of)}: {text}" for text, of in warnings.items()]
    return decisions, said
