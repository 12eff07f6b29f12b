"""The whole program: scene pair -> aligned grid -> tiles -> network -> stitched rows -> files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli import __version__
from refnet_cli.card import Card, default_weights, verify
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.files import check_places
from refnet_cli.outputs import OUTPUTS, AreaCounter, class_codes
from refnet_cli.products import SarScale
from refnet_cli.scene import Patch, SceneOptions, ScenePair
from refnet_cli.tiling import Stitcher, Tiling, Window, reflect_indexes

if TYPE_CHECKING:
    from refnet_cli.engine import Engine

Float32 = NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with the number of tiles done and of all tiles."""


@dataclass(frozen=True)
class PredictOptions:
    """What to predict, with what, and where to put it.

    Raises
    ------
    OptionsError
        If a value is impossible.
    """

    optical: Path
    """Sentinel-2 file."""
    sar: Path
    """Sentinel-1 file."""
    output: Path
    """Class map to write, a Cloud Optimized GeoTIFF."""
    weights: Path | None = None
    """Weights of the network; by default those that come along."""
    preview: Path | None = None
    """Picture of the map to write, a PNG with a legend."""
    optical_bands: tuple[str, ...] | None = None
    """Names or numbers (from 1) of the bands of the optical file, in the order of the weights' bands."""
    sar_bands: tuple[str, ...] | None = None
    """Names or numbers (from 1) of the bands of the SAR file, in the order of the weights' bands."""
    optical_offset: float | None = None
    """Number to subtract from the optical file's values."""
    sar_scale: SarScale | None = None
    """Scale of the SAR values: power, amplitude, db or db100."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share; by default a quarter of a tile."""
    device: str = "auto"
    """Device to compute on: auto, cpu, cuda or cuda:N."""
    batch: int | None = None
    """Tiles at once; by default what suits the device."""

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise OptionsError(f"A batch of {self.batch} tiles is impossible; it takes at least one.")

    @property
    def scene(self) -> SceneOptions:
        """The part that concerns reading the files."""
        return SceneOptions(self.optical_bands, self.sar_bands, self.optical_offset, self.sar_scale)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as a plain dict that JSON can hold."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


@dataclass
class Report:
    """What was done; `to_dict` is what ``refnet predict --json`` prints."""

    output: str
    preview: str | None
    weights: dict[str, str]
    grid: dict[str, Any]
    decisions: list[dict[str, Any]]
    options: dict[str, Any]
    version: str = __version__
    tiles: dict[str, int] = field(default_factory=lambda: {"run": 0, "skipped": 0})
    valid_share: float = 0.0
    areas_hectares: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a plain dict that JSON can hold."""
        return asdict(self)


class Rows(NamedTuple):
    """Finished rows of a map."""

    row: int
    """First of the rows."""
    probabilities: Float32
    """Shape (K, rows, width)."""
    valid: NDArray[np.bool_]
    """Where both sensors saw something, shape (rows, width)."""


def predict(options: PredictOptions, engine: Engine | None = None, progress: Progress | None = None) -> Report:
    """Map the land cover of a scene pair.

    Parameters
    ----------
    options : PredictOptions
    engine : Engine, optional
        In place of the one that ``options.weights`` makes.
    progress : callable, optional
        Told after every batch how many tiles are done, and of how many.

    Returns
    -------
    Report

    Raises
    ------
    RefnetError
        Of the kind that fits; then no output is left behind, but for a map whose preview could not be drawn.
    """
    started = time.monotonic()
    weights = options.weights or (default_weights() if engine is None else None)
    check_places([options.output, options.preview], [options.optical, options.sar, weights])
    card = engine.card if engine else verify(_given(weights))
    # The tags and the report tell what was done, not what was left open.
    overlap = card.tile // 4 if options.overlap is None else options.overlap
    options = replace(options, overlap=overlap)
    with (
        ScenePair.open(options.optical, options.sar, card.optical.bands, card.sar.bands, options.scene) as pair,
        ExitStack() as stack,
    ):
        report = _start_report(options, card, weights, pair)
        # The stack finishes the last one first: a preview never shows a map that did not come to be.
        outputs = [
            stack.enter_context(OUTPUTS[kind](path, pair.grid, card.scheme, _tags(report)))
            for kind, path in (("preview", options.preview), ("classes", options.output))
            if path
        ]
        height, width = pair.grid.shape
        tiling = Tiling(height, width, card.tile, overlap)
        areas = AreaCounter(pair.grid, card.scheme)
        valid_pixels = 0
        for rows in predict_rows(pair, engine or _load(options, weights), tiling, progress, report.tiles):
            for output in outputs:
                output.write(*rows)
            areas.add(rows.row, class_codes(rows.probabilities, rows.valid, card.scheme))
            valid_pixels += int(rows.valid.sum())
        if not valid_pixels:
            raise InputError(
                f"{options.optical} and {options.sar} have no pixel that both sensors saw; nothing can be mapped."
            )
        report.valid_share = valid_pixels / (tiling.height * tiling.width)
        report.areas_hectares = areas.hectares()
        report.counts = dict(pair.counts)
    report.seconds = time.monotonic() - started
    return report


def predict_rows(
    pair: ScenePair,
    engine: Engine,
    tiling: Tiling,
    progress: Progress | None = None,
    counts: dict[str, int] | None = None,
) -> Iterator[Rows]:
    """Predict a scene, row of tiles by row of tiles.

    Parameters
    ----------
    pair : ScenePair
    engine : Engine
    tiling : Tiling
        Of the pair's grid.
    progress : callable, optional
        Told after every batch how many tiles are done, and of how many.
    counts : dict, optional
        Its entries ``run`` and ``skipped`` are counted up.

    Yields
    ------
    Rows
        From north to south, each row of the grid once.
    """
    counts = counts if counts is not None else {"run": 0, "skipped": 0}
    stitcher = Stitcher(tiling, engine.card.network.classes)
    ends = [*tiling.row_starts[1:], tiling.height]
    for windows, end in zip(tiling.rows(), ends, strict=True):
        for batch in _batches(pair, windows, engine, counts):
            probabilities = engine.predict(
                np.stack([patch.optical for _, patch in batch]), np.stack([patch.sar for _, patch in batch])
            )
            for (window, _), tile in zip(batch, probabilities, strict=True):
                stitcher.add(window, tile)
            counts["run"] += len(batch)
            if progress:
                progress(counts["run"] + counts["skipped"], len(tiling))
        row, finished = stitcher.finish_rows(end)
        yield Rows(row, finished, _read_valid(pair, row, finished.shape[1]))


def _batches(
    pair: ScenePair, windows: list[Window], engine: Engine, counts: dict[str, int]
) -> Iterator[list[tuple[Window, Patch]]]:
    """Tiles that have any valid pixel, as many at once as the engine likes."""
    batch: list[tuple[Window, Patch]] = []
    for window in windows:
        patch = read_tile(pair, window)
        if not patch.valid.any():
            counts["skipped"] += 1
            continue
        batch.append((window, patch))
        if len(batch) >= engine.batch:
            yield batch
            batch = []
    if batch:
        yield batch


def read_tile(pair: ScenePair, window: Window) -> Patch:
    """Read a window that may reach beyond the grid; what lies outside is filled by reflection."""
    height, width = pair.grid.shape
    rows = reflect_indexes(window.row, window.height, height)
    columns = reflect_indexes(window.column, window.width, width)
    top, left = int(rows.min()), int(columns.min())
    patch = pair.read(Window(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1))
    place = rows[:, None] - top, columns[None, :] - left
    return Patch(patch.optical[:, *place], patch.sar[:, *place])


def _read_valid(pair: ScenePair, row: int, count: int, step: int = 512) -> NDArray[np.bool_]:
    """Validity of whole rows, read in pieces so that the bands of whole rows are never in memory at once."""
    width = pair.grid.shape[1]
    pieces = [pair.read(Window(row, left, count, min(step, width - left))).valid for left in range(0, width, step)]
    return np.concatenate(pieces, axis=1)


def _given(weights: Path | None) -> Path:
    if weights is None:
        raise OptionsError("Neither weights nor an engine were given.")
    return weights


def _load(options: PredictOptions, weights: Path | None) -> Engine:
    # Torch takes seconds to import: not before all that can be wrong with the call has been checked.
    from refnet_cli.engine import load_engine

    return load_engine(_given(weights), options.device, options.batch)


def _start_report(options: PredictOptions, card: Card, weights: Path | None, pair: ScenePair) -> Report:
    grid = pair.grid
    epsg = grid.crs.to_epsg() if grid.crs else None
    return Report(
        output=str(options.output),
        preview=str(options.preview) if options.preview else None,
        weights={"name": card.name, "path": str(weights or ""), "sha256": card.sha256, "notice": card.notice},
        grid={
            "crs": f"EPSG:{epsg}" if epsg else str(grid.crs),
            "transform": list(grid.transform)[:6],
            "height": grid.shape[0],
            "width": grid.shape[1],
        },
        decisions=[decision._asdict() for decision in pair.decisions],
        options=options.to_dict(),
    )


def _tags(report: Report) -> dict[str, str]:
    """What the map says of itself: what its pixels depend on and nothing else, so that equal maps are equal files."""
    elsewhere = {"optical", "sar", "output", "preview", "weights", "device", "batch"}
    options = {name: value for name, value in report.options.items() if name not in elsewhere}
    return {
        "REFNET_VERSION": report.version,
        "REFNET_WEIGHTS": report.weights["name"],
        "REFNET_WEIGHTS_SHA256": report.weights["sha256"],
        "REFNET_OPTICAL": Path(report.options["optical"]).name,
        "REFNET_SAR": Path(report.options["sar"]).name,
        "REFNET_OPTIONS": json.dumps(options, sort_keys=True),
        "REFNET_DECISIONS": json.dumps(report.decisions, sort_keys=True),
    }
