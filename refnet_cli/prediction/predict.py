"""The whole program: scene pair -> aligned grid -> tiles -> network -> stitched rows -> files."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from odc.geo.geobox import GeoBox

from refnet_cli.classes.crosswalk import Translation, read_translation
from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.engines.tta import SymmetricEngine
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.model.one_sensor import check_sensors
from refnet_cli.model.weight_files import find_weights, verify
from refnet_cli.outputs import (
    BLOCK,
    OUTPUTS,
    Making,
    Quicklook,
    Rows,
    look_of,
    sidecar_of,
    warn_of_styles,
    write_sidecar,
)
from refnet_cli.outputs.journal import Finished
from refnet_cli.outputs.output_set import Mapping, refuse_other_version
from refnet_cli.prediction.memory import demand_of, memory_of_outputs, share_out
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.provenance import WARNING, _identity, facts_of, tags_of
from refnet_cli.prediction.report import Report, _start_report, check_map
from refnet_cli.prediction.stream import BEHIND, Batch, Progress, _expect, _predict_batches
from refnet_cli.scene import ScenePair, crop
from refnet_cli.scene.options import as_paths
from refnet_cli.sensors.dates import acquired, read_dates
from refnet_cli.sensors.quality import usable
from refnet_cli.system.atomic import check_places
from refnet_cli.system.marks import check_replaceable
from refnet_cli.system.memory import may_use
from refnet_cli.system.prefetch import WriteBehind
from refnet_cli.system.process import usable_cores
from refnet_cli.tiles.rows import Finishing
from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float32

if TYPE_CHECKING:
    from refnet_cli.engines.base import Engine


class Part(NamedTuple):
    """A part of a map that is kept as what outputs need of it, in a file of its own."""

    window: Window
    """Of the map's grid."""
    shard: Path


def predict(
    options: PredictOptions,
    engine: Engine | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
    part: Part | None = None,
) -> Report:
    """Map the land cover of a scene pair, or of a scene of one sensor.

    Parameters
    ----------
    options : PredictOptions
    engine : Engine, optional
        In place of the one that ``options.weights`` makes.
    progress : callable, optional
        Told after every batch how many tiles are done, and of how many.
    tell : callable, optional
        Told before the first tile, in a line each, what the network runs on and with.
    part : Part, optional
        Predict only this part of the map, for `refnet_cli.batch.run` to put together, and make none of the outputs.

    Returns
    -------
    Report

    Raises
    ------
    RefnetError
        Of the kind that fits; then no unfinished output is left behind, and no new map.
    """
    started = time.monotonic()
    weights = None if engine is not None and options.weights is None else find_weights(options.weights)
    places = options.places
    outputs = files_of(options) + (files_of(options, part) if part else [])
    inputs = [*as_paths(options.optical), *as_paths(options.sar), options.grid, options.zones, weights]
    check_places(outputs, inputs)
    if not any(isinstance(path, Path) and path.is_dir() for path in inputs):  # which of a folder are read is seen below
        check_replaceable(files_of(options, part), options.overwrite)
    if options.resume:
        refuse_other_version(part.shard if part else options.output)
    card = engine.card if engine else verify(_given(weights))
    check_sensors(card, options.absent)
    translation = read_translation(card.scheme, options.scheme) if options.scheme else None
    # The tags and the report tell what was done, not what was left open.
    overlap = card.tile // 4 if options.overlap is None else options.overlap
    options = replace(options, overlap=overlap)
    most = may_use(options.max_memory)
    _, threads = share_out(demand_of(card, weights, 0), 1, options.read_threads or reading_threads(), most)
    with (
        ScenePair.open(
            options.optical, options.sar, card.optical.bands, card.sar.bands, options.scene, read_threads=threads
        ) as pair,
        ExitStack() as stack,
    ):  # fmt: skip
        inputs += pair.files
        check_places(outputs, inputs)
        check_replaceable(files_of(options, part), options.overwrite)
        height, width = pair.grid.shape
        tiling = Tiling(height, width, card.tile, overlap)
        area = _area_of(part, tiling)
        demand = replace(demand_of(card, weights, area.width), outputs=memory_of_outputs(options, card, area.width))
        _, threads = share_out(demand, 1, threads, most)
        pair.use_threads(threads)
        report = _start_report(options, card, weights, pair, translation)
        look = Quicklook(height, width, card.optical.bands, card.sar.bands) if "report" in places else None
        making = making_of(options, report, crop(pair.grid, area), look)
        mapping = Mapping(making, places, stack, part.shard if part else None)
        report.warnings += mapping.warnings
        # The first blocks are read while the engine loads.
        _expect(pair, tiling, area)
        engine = _make_ready(engine, options, weights, stack)
        devices = engine.about.get("device", "").split(", ")
        if set(devices) == {"cpu"}:
            demand = replace(demand, processes=len(devices))
            engine.batch, threads = share_out(demand, engine.batch, threads, most)
            pair.use_threads(threads)
        report.engine = engine.about
        for name, value in engine.about.items():
            if tell:
                tell(f"{name}: {value}")
        identity = _identity(report, pair, engine) | {"area": area}
        as_rows = partial(rows_of, scheme=making.scheme, either=options.either)
        first, engine.batch = mapping.go_on(identity, engine.batch, as_rows, resume=options.resume)
        report.resumed_rows, report.renewed = first, mapping.renewed
        _Running(options, pair, engine, tiling, area, mapping, report, translation, look, progress).go(first)
        report.valid_share = mapping.valid / (area.height * area.width)
        report.low_confidence = mapping.low_confidence_share
        report.areas_hectares = mapping.areas_hectares
        report.counts = pair.counts_in(area)
        if part is None:
            check_map(report, mapping.seen, mapping.unreadable)
        report.files = mapping.finish(facts_of(report))
        of_engine = [text for name, text in engine.about.items() if name == WARNING]
        report.add_warnings_of_run(mapping.warnings_of_run + of_engine)
    report.sha256 = next(iter(report.files.values()))[0]["sha256"]
    if part is None:
        report.warnings += warn_of_styles(options.output, making.scheme)
        if options.checksum:
            write_sidecar(options.output, report.sha256)
    report.seconds = time.monotonic() - started
    return report


def files_of(options: PredictOptions, part: Part | None = None) -> list[Path]:
    """Return all files that a prediction, or one of a part, writes."""
    if part is not None:
        return [part.shard, *([look_of(part.shard)] if "report" in options.places else [])]
    made = [file for kind, path in options.places.items() for file in OUTPUTS[kind].files(path, options.output)]
    return [*made, *([sidecar_of(options.output)] if options.checksum else [])]


def _area_of(part: Part | None, tiling: Tiling) -> Window:
    area = part.window if part else tiling.whole
    if area != area.clip(tiling.height, tiling.width):
        raise InputError(
            f"The block at row {area.row} and column {area.column}, {area.height} x {area.width} pixels, lies "
            f"beyond the map of {tiling.height} x {tiling.width}: plan again."
        )
    return area


def _make_ready(engine: Engine | None, options: PredictOptions, weights: Path | None, stack: ExitStack) -> Engine:
    """Return the engine that was given, or that is loaded and closed with the stack, as the options want it."""
    if engine is None:
        engine = load(options, weights)
        stack.callback(engine.close)
    return SymmetricEngine(engine) if options.tta else engine


@dataclass
class _Running:
    """What a prediction works with from the first tile on."""

    options: PredictOptions
    pair: ScenePair
    engine: Engine
    tiling: Tiling
    area: Window
    mapping: Mapping
    report: Report
    translation: Translation | None
    look: Quicklook | None
    progress: Progress | None

    def go(self, first: int) -> None:
        """Predict the rows of the area from its row ``first`` on, and give them to the outputs."""
        self.missing = self.area._replace(row=self.area.row + first, height=self.area.height - first)
        self._show(self.area._replace(height=first))
        if not self.missing.height:
            return
        classes = self.engine.card.network.classes
        self._finishing = Finishing(self.tiling, classes, self.missing, self.options.smooth, self.pair.usable)
        stitched = self._finishing.stitched
        if self.look or stitched != self.area:  # it was told what the whole area needs, and has begun
            _expect(self.pair, self.tiling, stitched)
        batches = _predict_batches(
            self.pair, self.engine, self.tiling, stitched, self.progress, self.report.tiles, look_at=self._look_at
        )  # fmt: skip
        with closing(batches) as done, WriteBehind(BEHIND) as rest:
            for batch, probabilities in done:
                rest.call(self._take, batch, probabilities)

    def _take(self, batch: Batch, probabilities: Float32) -> None:
        """Give what is finished by a batch to the outputs."""
        for row, finished, seen in self._finishing.take(batch.windows, probabilities, batch.finished):
            valid, scheme = self.pair.usable(seen), self.engine.card.scheme
            rows = Rows(row - self.area.row, finished, valid, scheme, self.translation, seen)
            self.mapping.add(replace(rows, threshold=self.options.threshold))

    def _look_at(self, window: Window) -> None:
        self._show(window.within(self.missing))

    def _show(self, window: Window) -> None:
        """Add a window to the quicklook, piece by piece."""
        if self.look is None:
            return
        for row in range(window.row, window.row + window.height, BLOCK):
            for column in range(window.column, window.column + window.width, BLOCK):
                piece = Window(row, column, BLOCK, BLOCK).within(window)
                patch = self.pair.read(piece)
                self.look.add(piece.row, piece.column, patch.optical, patch.sar)


def _acquired(options: PredictOptions) -> tuple[str, str] | None:
    """When the scenes were acquired, as the user or the files' names tell."""
    if options.date is not None:
        return read_dates(options.date)
    given = (getattr(options, sensor) for sensor in options.sensors)
    return acquired(*([Path(path).name for path in as_paths(files)] for files in given))


def rows_of(finished: Finished, scheme: ClassScheme, either: bool) -> Rows:
    """Make rows of what a journal holds; ``either`` tells whether one sensor does."""
    quality = finished.layers["quality"]
    return Rows(finished.row, None, usable(quality, either), scheme, None, quality, finished.layers)


def making_of(options: PredictOptions, report: Report, grid: GeoBox, look: Quicklook | None) -> Making:
    """Return what the outputs of a map have in common."""
    scheme = ClassScheme.from_dict(report.scheme)
    return Making(
        options.output, grid, scheme, tags_of(report), quality=options.missing == "use-other", look=look,
        zones=options.zones, zone_field=options.zone_field, zone_layer=options.zone_layer,
        acquired=_acquired(options), min_area=options.min_area,
    )  # fmt: skip


def reading_threads() -> int:
    """Return in how many threads to read by default: a core each, and at most 8, for more would read no faster."""
    return min(usable_cores(), 8)


def _given(weights: Path | None) -> Path:
    if weights is None:
        raise OptionsError("Neither weights nor an engine were given.")
    return weights


def load(options: PredictOptions, weights: Path | None) -> Engine:
    """Load the network that the options name.

    Raises
    ------
    RefnetError
        See `refnet_cli.engines.load.load_engine`.
    """
    # Torch takes seconds to import: not before all that can be wrong with the call has been checked.
    from refnet_cli.engines.base import EngineOptions
    from refnet_cli.engines.load import load_engine

    chosen = EngineOptions(
        options.device, options.batch, options.scan, options.precision, options.compile, options.deterministic,
        options.provider,
    )  # fmt: skip
    return load_engine(_given(weights), chosen)
