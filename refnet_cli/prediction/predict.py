"""The whole program: scene pair -> aligned grid -> tiles -> network -> stitched rows -> files."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.engines.tta import SymmetricEngine
from refnet_cli.outputs.base import write_sidecar
from refnet_cli.outputs.journal import FinishedRows
from refnet_cli.outputs.output_set import OutputSet
from refnet_cli.outputs.rows import Rows
from refnet_cli.outputs.style import style_warnings
from refnet_cli.prediction.job import Job, MapBlock, context_of, load
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.provenance import WARNING
from refnet_cli.prediction.report import Report, check_map, describe_scene
from refnet_cli.prediction.stream import prefetch, write_rows
from refnet_cli.scene.grid import crop
from refnet_cli.sensors.quality import usable
from refnet_cli.system.process import default_read_threads
from refnet_cli.types import Progress

if TYPE_CHECKING:
    from refnet_cli.engines.base import Engine

LOG = logging.getLogger(__name__)


def predict(
    options: PredictOptions,
    engine: Engine | None = None,
    progress: Progress | None = None,
    block: MapBlock | None = None,
    on_start: Callable[[Report], None] | None = None,
) -> Report:
    """Map the land cover of a scene pair, or of a scene of one sensor.

    Parameters
    ----------
    options : PredictOptions
    engine : Engine, optional
        Use this engine instead of loading ``options.weights``.
    progress : callable, optional
        Called after every batch with the number of finished tiles and of all tiles.
    block : MapBlock, optional
        Predict only this block of the map and write its shard, without any output; `refnet_cli.batch.mosaic` joins the
        shards.
    on_start : callable, optional
        Called before the first tile with the report so far: first after the files are examined, and again after the
        network is loaded, with `Report.engine`, `Report.resumed_rows` and `Report.renewed`.

    Returns
    -------
    Report

    Raises
    ------
    RefnetError
        If the prediction fails. No output is written then.
    """
    started = time.monotonic()
    job = Job.resolve(options, engine.card if engine else None, block)
    _, threads = job.fit(1, options.read_threads or default_read_threads())
    with job.open_scene(threads) as pair, ExitStack() as stack:
        job.check_files(pair.files)
        tiling, area = job.tiling(pair.grid)
        # The report states the overlap that was used, not the default.
        job = replace(job, options=replace(job.options, overlap=tiling.overlap))
        _, threads = job.fit(1, threads, area.width)
        pair.use_threads(threads)
        report = describe_scene(job, pair)
        if on_start:
            on_start(report)
        quicklook = job.quicklook(pair.grid)
        context = context_of(job.options, job.scheme, crop(pair.grid, area), report.provenance.tags, quicklook)
        outputs = OutputSet(context, options.output_paths, stack, block.shard if block else None)
        prefetch(pair, tiling, area)  # the first blocks are read while the engine loads
        engine = prepare_engine(engine, job, stack)
        pair.use_threads(fit_engine(engine, job, threads, area.width))
        for name, value in engine.about.items():
            LOG.debug(f"{name}: {value}")
        identity = report.provenance.identity(pair, report.grid, engine, area)
        first = _resume(engine, job, outputs, identity)
        pair.restore_counts(outputs.log.counts())
        report = replace(report, engine=engine.about, resumed_rows=first, renewed=outputs.log.renewed)
        if on_start:
            on_start(report)
        tiles = write_rows(job, pair, engine, first, outputs, quicklook, progress)
        report = replace(report, tiles=tiles, counts=pair.counts_in(area))
        report = complete(report, outputs, of_map=block is None)
        report = report.with_warnings_of_run(*(text for name, text in engine.about.items() if name == WARNING))
    if block is None:
        report = add_sidecars(report, job.options, job.scheme)
    return replace(report, seconds=time.monotonic() - started)


def prepare_engine(engine: Engine | None, job: Job, stack: ExitStack) -> Engine:
    """Return the given engine, or load one and close it with the stack; add test-time augmentation if requested."""
    if engine is None:
        engine = load(job.options, job.weights)
        stack.callback(engine.close)
    return SymmetricEngine(engine) if job.options.tta else engine


def fit_engine(engine: Engine, job: Job, threads: int, width: int) -> int:
    """Reduce the batch size of an engine on the CPU until it fits into memory, and return the number of threads."""
    devices = engine.about.get("device", "").split(", ")
    if set(devices) == {"cpu"}:
        engine.batch, threads = job.fit(engine.batch, threads, width, len(devices))
    return threads


def _resume(engine: Engine, job: Job, outputs: OutputSet, identity: dict[str, Any]) -> int:
    """Restore the rows and the batch size of an interrupted run, and return the number of rows."""
    as_rows = partial(rows_of, scheme=job.scheme, either=job.options.either)
    first, engine.batch = outputs.resume(identity, engine.batch, as_rows, resume=job.options.resume)
    return first


def rows_of(finished: FinishedRows, scheme: ClassScheme, either: bool) -> Rows:
    """Return the rows of a journal entry; with ``either``, pixels with one sensor are valid."""
    quality = finished.layers["quality"]
    return Rows(finished.row, None, usable(quality, either), scheme, None, quality, finished.layers)


def complete(report: Report, outputs: OutputSet, of_map: bool = True) -> Report:
    """Check a map with all of its rows, finish its outputs and move them into place.

    Parameters
    ----------
    report : Report
    outputs : OutputSet
    of_map : bool
        False for a block of a map, which may have no valid pixel.

    Returns
    -------
    Report
        With totals, files and further warnings.

    Raises
    ------
    InputError
        If no pixel of the map is valid, or more than 5% are unreadable.
    """
    report = report.with_warnings(*outputs.warnings).with_totals(outputs.totals)
    if of_map:
        report = report.with_warnings(*check_map(report, outputs.totals))
    files = outputs.finish(report.facts)
    report = replace(report, files=files, sha256=next(iter(files.values()))[0]["sha256"])
    return report.with_warnings_of_run(*outputs.warnings_of_run)


def add_sidecars(report: Report, options: PredictOptions, scheme: ClassScheme) -> Report:
    """Write the map's checksum file if requested, and warn of style files next to the map that show other classes."""
    if options.checksum:
        write_sidecar(options.output, report.sha256)
    return report.with_warnings(*style_warnings(options.output, scheme))
