"""Predict images in memory, by the same steps as files, into arrays."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from refnet_cli.classes.crosswalk import read_crosswalk
from refnet_cli.errors import OptionsError, RefnetError, TryAgainError
from refnet_cli.model.one_sensor import check_sensors
from refnet_cli.model.weight_files import find_weights, parse_weights, verify
from refnet_cli.outputs.journal import Counts
from refnet_cli.outputs.rows import CONFIDENCE, PROBABILITY_NODATA, STEPS, Rows
from refnet_cli.outputs.totals import MapTotals
from refnet_cli.prediction.job import Job
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import fit_engine, prepare_engine
from refnet_cli.prediction.report import Report, check_map, describe_scene
from refnet_cli.prediction.stream import prefetch, write_rows
from refnet_cli.raster.arrays import ArrayImage
from refnet_cli.sensors.sensor import Modality
from refnet_cli.system.memory import MB, memory_limit
from refnet_cli.system.process import default_read_threads
from refnet_cli.types import Progress

if TYPE_CHECKING:
    from refnet_cli.classes.schemes import ClassScheme
    from refnet_cli.engines.base import Engine

LOG = logging.getLogger(__name__)
LAYERS = ("probabilities", "confidence", "quality")
"""What there can be besides the classes."""
_OF_FILES = {
    "optical", "sar", "output", "outputs", "weights", "stac", "allow_gcps", "allow_vrt", "allow_remote", "extent",
    "bounds", "grid", "on_read_error", "resume", "overwrite", "zones", "zone_field", "zone_layer", "min_area", "date",
    "checksum",
}  # fmt: skip
TAKEN = tuple(field.name for field in fields(PredictOptions) if field.name not in _OF_FILES)
"""Options of `PredictOptions` that mean something without files."""


class ArrayOutputs:
    """The rows of a map as arrays.

    Parameters
    ----------
    grid : GeoBox
    scheme : ClassScheme
        The map's class scheme.
    layers : collection of str
        Names in `LAYERS` of what is kept besides the classes.

    Attributes
    ----------
    classes : uint8 array, shape (H, W)
        Codes of the scheme; 0 for no class.
    layers : dict of str to array
        ``probabilities``, float32, shape (K, H, W), and ``confidence``, float32, shape (3, H, W): NaN where there is no
        class. ``quality``, uint8, shape (H, W).
    """

    def __init__(self, grid: GeoBox, scheme: ClassScheme, layers: Collection[str]) -> None:
        height, width = grid.shape
        self.classes = np.zeros((height, width), np.uint8)
        self.layers: dict[str, NDArray[Any]] = {
            name: np.zeros(shape, dtype) for name, (shape, dtype) in _shapes(grid, scheme).items() if name in layers
        }
        self.totals = MapTotals(grid, scheme)

    def keep_counts(self, counts: Counts) -> None:
        """Do nothing: what is in memory cannot be resumed."""

    def add(self, rows: Rows) -> None:
        """Take the next rows."""
        here = slice(rows.row, rows.row + len(rows.valid))
        self.classes[here] = rows.codes
        if "probabilities" in self.layers:
            shares = rows.shares.copy()
            shares[:, rows.layer("probabilities")[0] == PROBABILITY_NODATA] = np.nan
            self.layers["probabilities"][:, here] = shares
        if "confidence" in self.layers:
            stored = rows.confidence
            steps = stored.astype(np.float32) / np.float32(STEPS)
            self.layers["confidence"][:, here] = np.where(stored == PROBABILITY_NODATA, np.float32(np.nan), steps)
        if "quality" in self.layers:
            self.layers["quality"][here] = rows.sensors
        self.totals.add(rows)

    @staticmethod
    def size(grid: GeoBox, scheme: ClassScheme, layers: Collection[str]) -> int:
        """Return the size of the arrays in bytes."""
        shapes = _shapes(grid, scheme)
        sizes = [int(np.prod(shapes[name][0])) * np.dtype(shapes[name][1]).itemsize for name in layers]
        return int(grid.shape[0] * grid.shape[1]) + sum(sizes)


def _shapes(grid: GeoBox, scheme: ClassScheme) -> dict[str, tuple[tuple[int, ...], type[Any]]]:
    height, width = grid.shape
    return {
        "probabilities": ((len(scheme.codes), height, width), np.float32),
        "confidence": ((len(CONFIDENCE), height, width), np.float32),
        "quality": ((height, width), np.uint8),
    }


def resolve(
    images: Mapping[Modality, Sequence[ArrayImage]],
    labels: Mapping[Modality, str],
    weights: str | Path | None,
    engine: Engine | None,
    options: Mapping[str, Any],
) -> Job:
    """Return the job of a prediction of images in memory.

    Parameters
    ----------
    images : mapping of str to sequence of ArrayImage
        By sensor, for those that are given.
    labels : mapping of str to str
        What stands in the map's tags in place of file names, by sensor.
    weights : str, Path or None
        None for those of ``engine``, or the bundled ones.
    engine : Engine or None
    options : mapping of str to value
        Fields of `PredictOptions`.

    Raises
    ------
    RefnetError
        For every error that can be detected before a pixel is read.
    """
    for name in options:
        if name not in TAKEN:
            raise OptionsError(f"The option {name} is unknown for arrays; choose from {', '.join(TAKEN)}.")
    named: dict[str, Any] = {sensor: Path(labels[sensor]) for sensor in images}
    chosen = None if weights is None else parse_weights(weights)
    asked = PredictOptions(**named, output=Path("classes.tif"), weights=chosen, **options)
    path = None if engine and weights is None else find_weights(asked.weights)
    card = engine.card if engine else verify(find_weights(asked.weights))
    check_sensors(card, asked.absent)
    crosswalk = read_crosswalk(card.scheme, asked.scheme) if asked.scheme else None
    return Job(asked, card, path, crosswalk, memory_limit(asked.max_memory), arrays=images)


def predict_images(
    job: Job, layers: Collection[str], engine: Engine | None = None, progress: Progress | None = None
) -> tuple[ArrayOutputs, GeoBox, Report]:
    """Predict images in memory; `refnet_cli.prediction.predict.predict` does the same with files.

    Parameters
    ----------
    job : Job
        See `resolve`.
    layers : collection of str
        See `ArrayOutputs`.
    engine : Engine, optional
        Use this engine instead of loading the job's weights.
    progress : callable, optional
        Called after every batch with the number of finished tiles and of all tiles.

    Returns
    -------
    outputs : ArrayOutputs
    grid : GeoBox
    report : Report

    Raises
    ------
    RefnetError
        If the images cannot be used, or no pixel can be classified.
    """
    started = time.monotonic()
    _, threads = job.fit(1, job.options.read_threads or default_read_threads())
    with job.open_scene(threads) as pair, ExitStack() as stack:
        tiling, area = job.tiling(pair.grid)
        job = replace(job, options=replace(job.options, overlap=tiling.overlap))
        _check_size(job, pair.grid, layers)
        _, threads = job.fit(1, threads, area.width)
        pair.use_threads(threads)
        report = describe_scene(job, pair)
        outputs = ArrayOutputs(pair.grid, job.scheme, layers)
        prefetch(pair, tiling, area)  # the first blocks are read while the engine loads
        engine = prepare_engine(engine, job, stack)
        pair.use_threads(fit_engine(engine, job, threads, area.width))
        tiles = write_rows(job, pair, engine, 0, outputs, progress=progress)
        report = replace(report, output="", engine=engine.about, tiles=tiles, counts=pair.counts_in(area))
        report = report.with_totals(outputs.totals)
        report = report.with_warnings(*check_map(report, outputs.totals))
    for warning in report.warnings:
        LOG.warning(warning)
    return outputs, pair.grid, replace(report, seconds=time.monotonic() - started)


def _check_size(job: Job, grid: GeoBox, layers: Collection[str]) -> None:
    size = ArrayOutputs.size(grid, job.scheme, layers)
    if job.memory is not None and size > job.memory:
        more = f" without {' and '.join(layers)}, or" if layers else ""
        raise TryAgainError(
            f"The result takes {size // MB} MB, but only {job.memory // MB} MB of memory can be used. Predict"
            f"{more} a part of the area at a time, or write a file with refnet predict."
        )


@contextmanager
def python_names() -> Iterator[None]:
    """Name options in errors as Python does: ``sar_scale`` for ``--sar-scale``."""
    try:
        yield
    except RefnetError as error:
        text = re.sub(r"--([a-z][a-z-]*[a-z])", lambda found: found[1].replace("-", "_"), str(error))
        text = text.replace("omit the option", "pass None")
        if text == str(error):
            raise
        raise type(error)(text) from error.__cause__
