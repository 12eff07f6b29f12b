"""The whole program: scene pair -> aligned grid -> tiles -> network -> stitched rows -> files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli import __version__
from refnet_cli.card import Card, default_weights, verify, warn_of_drift
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.files import check_places, explain
from refnet_cli.inspection import describe_grid
from refnet_cli.journal import Finished, Journal, is_journal
from refnet_cli.memory import ONNX_LAYERS, TORCH_LAYERS, Demand, may_use, share_out
from refnet_cli.onnx_file import is_onnx
from refnet_cli.outputs import JOURNAL, AreaCounter, ClassMap, Output, Preview, Rows, sidecar_of, write_sidecar
from refnet_cli.process import usable_cores
from refnet_cli.products import ClassScheme
from refnet_cli.scene import Coregistration, Patch, SceneOptions, ScenePair
from refnet_cli.threads import WriteBehind, read_ahead
from refnet_cli.tiling import Stitcher, Tiling, Window, reflect_indexes
from refnet_cli.translations import Translation, read_translation

if TYPE_CHECKING:
    from refnet_cli.engine import Engine

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""Called with the number of tiles done and of all tiles."""
Wanted = Callable[[Window], NDArray[np.bool_]]
MOST_CLAMPED = 0.01  # share of SAR values beyond all that is measured
MOST_UNREAD = 0.05  # share of the map that may be masked because it cannot be read
AHEAD, BEHIND = 3, 2  # batches that are in the network or read for it, and that wait to be written


@dataclass(frozen=True)
class PredictOptions(SceneOptions):
    """What to predict, with what, and where to put it.

    Raises
    ------
    OptionsError
        If a value is impossible.
    """

    optical: Path | tuple[Path, ...]
    """Sentinel-2: a file, files of some bands each, a folder of them, or a SAFE product."""
    sar: Path | tuple[Path, ...]
    """Sentinel-1: the same."""
    output: Path
    """Class map to write, a Cloud Optimized GeoTIFF."""
    weights: Path | None = None
    """Weights of the network; by default those that come along."""
    preview: Path | None = None
    """Picture of the map to write, a PNG with a legend."""
    coreg: Coregistration = field(default="check", kw_only=True)
    scheme: str | None = None
    """Class scheme of the map, or a TOML file of one; by default the weights'."""
    resume: bool = True
    """Go on with what an interrupted run for the same map has finished."""
    checksum: bool = False
    """Write the map's SHA-256 into a file beside it, as sha256sum does."""
    max_memory: str | None = None
    """Memory to take at most, as 4G; by default what is free, less a tenth."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share; by default a quarter of a tile."""
    device: str = "auto"
    """Device to compute on: auto, cpu, cuda or cuda:N; or several, as cuda:0,1, in a process each."""
    batch: int | None = None
    """Tiles at once on each device; by default what suits it."""
    scan: str | None = None
    """Kernel of the selective scan; by default what suits the device."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of matrix products and convolutions; bf16 and fp16 on GPUs only."""
    compile: bool = False
    """Have torch.compile make kernels for the network, a minute's work before the first tile."""
    deterministic: bool = False
    """Use only algorithms that give the same bits each time; on CPUs all of them do."""
    provider: str | None = None
    """Execution provider of ONNX Runtime, for ONNX models; by default the best of those that are there."""
    read_threads: int | None = None
    """Threads that read and warp; by default as many as there are processor cores to use, at most 8."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.read_threads is not None and not 1 <= self.read_threads <= 256:
            raise OptionsError(f"Reading in {self.read_threads} threads is impossible; give a number from 1 to 256.")
        if self.batch is not None and self.batch < 1:
            raise OptionsError(f"A batch of {self.batch} tiles is impossible; it takes at least one.")

    def to_dict(self) -> dict[str, Any]:
        """Return the options as a plain dict that JSON can hold."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


@dataclass
class Report:
    """What was done; `to_dict` is what ``refnet predict --json`` prints."""

    output: str
    preview: str | None
    weights: dict[str, str]
    grid: dict[str, Any]
    decisions: list[dict[str, Any]]
    options: dict[str, Any]
    engine: dict[str, str] = field(default_factory=dict)
    """What the network ran on and with."""
    version: str = __version__
    translation: dict[str, Any] | None = None
    """What the network's classes became in the map's scheme."""
    drift: dict[str, float] = field(default_factory=dict)
    """How far each band's mean is from that of training, in standard deviations."""
    warnings: list[str] = field(default_factory=list)
    resumed_rows: int = 0
    """Rows of the map that an interrupted run had finished."""
    renewed: bool = False
    """Whether an interrupted run's rows were given up because its inputs, weights or options were others."""
    sha256: str = ""
    """Of the map's file."""
    tiles: dict[str, int] = field(default_factory=lambda: {"run": 0, "skipped": 0})
    valid_share: float = 0.0
    areas_hectares: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a plain dict that JSON can hold."""
        return asdict(self)


class Batch(NamedTuple):
    """Tiles to predict at once."""

    windows: list[Window]
    """May be none, at the end of a row of tiles."""
    optical: Float32
    """Shape (N, Bo, tile, tile)."""
    sar: Float32
    """Shape (N, Bs, tile, tile)."""
    skipped: int
    """Tiles without any valid pixel that were passed over since the batch before."""
    finished: UInt8 | None
    """After the last tiles of a row: what was seen of the rows that no later tile touches, shape (rows, width)."""


def predict(
    options: PredictOptions,
    engine: Engine | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> Report:
    """Map the land cover of a scene pair.

    Parameters
    ----------
    options : PredictOptions
    engine : Engine, optional
        In place of the one that ``options.weights`` makes.
    progress : callable, optional
        Told after every batch how many tiles are done, and of how many.
    tell : callable, optional
        Told before the first tile, in a line each, what the network runs on and with.

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
    outputs_wanted = [options.output, options.preview, *([sidecar_of(options.output)] if options.checksum else [])]
    check_places(outputs_wanted, [*as_paths(options.optical), *as_paths(options.sar), options.grid, weights])
    card = engine.card if engine else verify(_given(weights))
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
        check_places(outputs_wanted, pair.files)
        height, width = pair.grid.shape
        tiling = Tiling(height, width, card.tile, overlap)
        demand = demand_of(card, weights, tiling.width)
        _, threads = share_out(demand, 1, threads, most)
        pair.use_threads(threads)
        report = _start_report(options, card, weights, pair, translation)
        mapping = _Mapping(options, report, pair, translation or card.scheme, stack)
        # The first blocks are read while the engine loads.
        _expect(pair, tiling)
        if engine is None:
            engine = _load(options, weights)
            stack.callback(engine.close)
        devices = engine.about.get("device", "").split(", ")
        if set(devices) == {"cpu"}:
            demand = replace(demand, processes=len(devices))
            engine.batch, threads = share_out(demand, engine.batch, threads, most)
            pair.use_threads(threads)
        report.engine = engine.about
        for name, value in engine.about.items():
            if tell:
                tell(f"{name}: {value}")
        first, engine.batch = mapping.go_on(_identity(report, pair, engine), engine.batch)
        if first:
            _expect(pair, tiling, first=first)
        stitcher = Stitcher(tiling, card.network.classes, first)

        def take(batch: Batch, probabilities: Float32) -> None:
            rows = _stitch(stitcher, batch, probabilities, card, pair)
            if rows is not None:
                mapping.add(rows)

        with (
            closing(_predict_batches(pair, engine, tiling, progress, report.tiles, first=first)) as done,
            WriteBehind(BEHIND) as rest,
        ):
            for batch, probabilities in done:
                rest.call(take, batch, probabilities)
        mapping.sum_up(report)
        report.counts = dict(pair.counts)
        _warn_of_clamped(report, card, tiling)
        _refuse_much_unread(report, options, tiling)
    report.sha256 = mapping.map.sha256[options.output.name]
    if options.checksum:
        write_sidecar(options.output, report.sha256)
    report.seconds = time.monotonic() - started
    return report


class _Mapping:
    """Where the rows of a prediction go: its outputs, the areas, and the journal with which a killed run goes on."""

    def __init__(
        self,
        options: PredictOptions,
        report: Report,
        pair: ScenePair,
        scheme: Translation | ClassScheme,
        stack: ExitStack,
    ) -> None:
        self._translation = scheme if isinstance(scheme, Translation) else None
        target = scheme.target if isinstance(scheme, Translation) else scheme
        self._pair, self._stack, self._options, self._report = pair, stack, options, report
        # The stack finishes the last one first: a preview never shows a map that did not come to be.
        tags = _tags(report)
        self._outputs: list[Output] = []
        if options.preview:
            self._outputs.append(stack.enter_context(Preview(options.preview, pair.grid, target, tags)))
        self.map = stack.enter_context(
            ClassMap(options.output, pair.grid, target, tags, quality=options.missing == "use-other")
        )
        self._outputs.append(self.map)
        self._areas = AreaCounter(pair.grid, target)
        self._valid = 0

    def go_on(self, identity: dict[str, Any], batch: int) -> tuple[int, int]:
        """Take over what an interrupted run for the same map has finished.

        Returns
        -------
        row : int
            The first that is not finished.
        batch : int
            Tiles at once from there on: as many as that run had, on which the last bits may depend, if these are fewer.
        """
        path = self.map.workplace.folder / JOURNAL
        if not self._options.resume:
            path.unlink(missing_ok=True)
        fitting = (count for count in range(batch, 0, -1) if is_journal(path, identity | {"batch": count}))
        batch = next(fitting, batch)
        try:
            self._journal = Journal(path, identity | {"batch": batch})
        except OSError as error:
            raise explain(self._options.output, error) from error
        self._stack.callback(self._close_journal)
        for row, codes, seen in self._journal.replay():
            usable = self._pair.usable(seen)
            scheme = self._translation.source if self._translation else self._areas.scheme
            self._put(Rows(row, None, usable, scheme, self._translation, seen, {"codes": codes}))
        self._report.resumed_rows, self._report.renewed = self._journal.next_row, self._journal.renewed
        return self._journal.next_row, batch

    def _close_journal(self) -> None:
        self._journal.close()
        if not self._journal.next_row:
            (self.map.workplace.folder / JOURNAL).unlink(missing_ok=True)

    def add(self, rows: Rows) -> None:
        """Take the next rows."""
        rows = replace(rows, translation=self._translation)
        self._put(rows)
        try:
            self._journal.add(Finished(rows.row, rows.codes, np.asarray(rows.quality)))
        except OSError as error:
            raise explain(self._options.output, error) from error

    def _put(self, rows: Rows) -> None:
        for output in self._outputs:
            output.write(rows)
        self._areas.add(rows.row, rows.codes)
        self._valid += int(np.count_nonzero(rows.valid))

    def sum_up(self, report: Report) -> None:
        """Report what the map shows.

        Raises
        ------
        InputError
            If it shows nothing.
        """
        if not self._valid:
            raise InputError(f"{_names(self._options)} have no pixel that both sensors saw; nothing can be mapped.")
        height, width = self._pair.grid.shape
        report.valid_share = self._valid / (height * width)
        report.areas_hectares = self._areas.hectares()


def _identity(report: Report, pair: ScenePair, engine: Engine) -> dict[str, Any]:
    """Everything that the map's pixels depend on, to the last bit."""
    states = [(path.name, path.stat()) for path in pair.files]
    return {
        "tags": _tags(report),
        "grid": report.grid,
        "files": [[name, state.st_size, state.st_mtime_ns] for name, state in states],
        # What a server has, its pixels tell.
        "remote": [pair.remote, pair.levels] if pair.remote else [],
        "engine": {name: value for name, value in engine.about.items() if name != "threads"},
    }


def demand_of(card: Card, weights: Path | None, width: int) -> Demand:
    """Return what predicting a map of a width takes; without weights, what holds them is not counted."""
    bands = len(card.optical.bands) + len(card.sar.bands)
    size = weights.stat().st_size if weights else 0
    layers = ONNX_LAYERS if weights and is_onnx(weights) else TORCH_LAYERS
    return Demand(card.tile, bands, card.network.classes, card.network.width, size, width, layers=layers)


def _refuse_much_unread(report: Report, options: PredictOptions, tiling: Tiling) -> None:
    """Count what could not be read, and refuse a map of which much could not."""
    unread = max(report.counts.get(f"{sensor}_unreadable", 0) for sensor in ("optical", "sar"))
    share = unread / (tiling.height * tiling.width)
    if share > MOST_UNREAD:
        raise InputError(
            f"{share:.0%} of {_names(options)} cannot be read, and {MOST_UNREAD:.0%} may be: mend the files."
        )
    if unread:
        report.warnings.append(f"{share:.2%} of the map is no data because it could not be read.")


def _warn_of_clamped(report: Report, card: Card, tiling: Tiling) -> None:
    clamped = report.counts.get("sar_clamped", 0) / (len(card.sar.bands) * tiling.height * tiling.width)
    if clamped > MOST_CLAMPED:
        report.warnings.append(
            f"{clamped:.0%} of the SAR values lie beyond -60 to +40 dB, which no ground does: a number that stands "
            "for no data may be undeclared."
        )


def reading_threads() -> int:
    """Return in how many threads to read by default: a core each, and at most 8, for more would read no faster."""
    return min(usable_cores(), 8)


def predict_rows(
    pair: ScenePair,
    engine: Engine,
    tiling: Tiling,
    progress: Progress | None = None,
    counts: dict[str, int] | None = None,
    wanted: Wanted | None = None,
) -> Generator[Rows, None, None]:
    """Predict a scene, row of tiles by row of tiles, while a thread reads the next tiles.

    Until it is exhausted or closed, nothing else may read from the pair.

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
    wanted : callable, optional
        Tells of a window of the grid which pixels are wanted; tiles without any are skipped, and the others are not
        valid.

    Yields
    ------
    Rows
        From north to south, each row of the grid once.
    """
    _expect(pair, tiling, wanted)
    stitcher = Stitcher(tiling, engine.card.network.classes)
    counts = counts if counts is not None else {"run": 0, "skipped": 0}
    with closing(_predict_batches(pair, engine, tiling, progress, counts, wanted)) as done:
        for batch, probabilities in done:
            rows = _stitch(stitcher, batch, probabilities, engine.card, pair)
            if rows is not None:
                yield rows


def _expect(pair: ScenePair, tiling: Tiling, wanted: Wanted | None = None, first: int = 0) -> None:
    """Have the pair's threads begin to read what the tiles need that reach below row ``first``."""
    rows = (windows for windows in tiling.rows() if windows[0].row + tiling.tile > first)
    inside = (window.clip(tiling.height, tiling.width) for windows in rows for window in windows)
    pair.expect(window for window in inside if wanted is None or wanted(window).any())


def _read_seen(pair: ScenePair, window: Window, wanted: Wanted | None) -> UInt8:
    """Read what was seen of a window's wanted pixels, and nothing where none is wanted."""
    if wanted is None:
        return pair.read_seen(window)
    chosen = wanted(window)
    seen = np.zeros(chosen.shape, np.uint8)
    columns = np.flatnonzero(chosen.any(0))
    if len(columns):
        left, right = int(columns[0]), int(columns[-1]) + 1
        part = window._replace(column=window.column + left, width=right - left)
        seen[:, left:right] = pair.read_seen(part) * chosen[:, left:right]
    return seen


def _stitch(
    stitcher: Stitcher, batch: Batch, probabilities: Float32, card: Card, pair: ScenePair
) -> Rows | None:
    """Blend in a batch; the rows that are finished by it, if any."""
    for window, tile in zip(batch.windows, probabilities, strict=True):
        stitcher.add(window, tile)
    if batch.finished is None:
        return None
    row, finished = stitcher.finish_rows(stitcher.top + len(batch.finished))
    return Rows(row, finished, pair.usable(batch.finished), card.scheme, quality=batch.finished)


def _predict_batches(
    pair: ScenePair,
    engine: Engine,
    tiling: Tiling,
    progress: Progress | None,
    counts: dict[str, int],
    wanted: Wanted | None = None,
    first: int = 0,
) -> Generator[tuple[Batch, Float32], None, None]:
    """Yield batches with their probabilities, shape (N, K, tile, tile), of the tiles that reach below row ``first``."""
    passed = sum(start + tiling.tile <= first for start in tiling.row_starts) * len(tiling.column_starts)
    nothing = np.empty((0, engine.card.network.classes, tiling.tile, tiling.tile), np.float32)
    with closing(read_ahead(_read_batches(pair, engine, tiling, wanted, first), AHEAD)) as batches:
        for batch in batches:
            probabilities = engine.predict(batch.optical, batch.sar) if batch.windows else nothing
            counts["run"] += len(batch.windows)
            counts["skipped"] += batch.skipped
            if progress:
                progress(passed + counts["run"] + counts["skipped"], len(tiling))
            yield batch, probabilities


def _read_batches(
    pair: ScenePair, engine: Engine, tiling: Tiling, wanted: Wanted | None, first: int = 0
) -> Iterator[Batch]:
    """Read the tiles that have any valid pixel, as many at once as the engine likes."""
    top = first
    for windows, end in zip(tiling.rows(), [*tiling.row_starts[1:], tiling.height], strict=True):
        if first >= min(windows[0].row + tiling.tile, tiling.height):
            continue
        chosen: list[tuple[Window, Patch]] = []
        skipped = 0
        for window in windows:
            if not pair.usable(_read_seen(pair, window.clip(*pair.grid.shape), wanted)).any():
                skipped += 1
                continue
            chosen.append((window, read_tile(pair, window)))
            if len(chosen) >= engine.batch:
                yield _batch(chosen, skipped)
                chosen, skipped = [], 0
        bottom = min(end, tiling.height)
        if bottom <= top:  # finished by an earlier run, but these tiles have a say further below
            yield _batch(chosen, skipped)
            continue
        yield _batch(chosen, skipped, _read_seen(pair, Window(top, 0, bottom - top, tiling.width), wanted))
        top = bottom


def _batch(tiles: list[tuple[Window, Patch]], skipped: int, finished: UInt8 | None = None) -> Batch:
    optical, sar = (
        np.stack(layers) if tiles else np.empty((0, 0, 0, 0), np.float32)
        for layers in ([patch.optical for _, patch in tiles], [patch.sar for _, patch in tiles])
    )
    return Batch([window for window, _ in tiles], optical, sar, skipped, finished)


def read_tile(pair: ScenePair, window: Window) -> Patch:
    """Read a window that may reach beyond the grid; what lies outside is filled by reflection."""
    height, width = pair.grid.shape
    if window == window.clip(height, width):
        return pair.read(window)
    rows = reflect_indexes(window.row, window.height, height)
    columns = reflect_indexes(window.column, window.width, width)
    top, left = int(rows.min()), int(columns.min())
    patch = pair.read(Window(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1))
    place = rows[:, None] - top, columns[None, :] - left
    return Patch(patch.optical[:, *place], patch.sar[:, *place])


def _given(weights: Path | None) -> Path:
    if weights is None:
        raise OptionsError("Neither weights nor an engine were given.")
    return weights


def _load(options: PredictOptions, weights: Path | None) -> Engine:
    # Torch takes seconds to import: not before all that can be wrong with the call has been checked.
    from refnet_cli.engine import EngineOptions, load_engine

    chosen = EngineOptions(
        options.device, options.batch, options.scan, options.precision, options.compile, options.deterministic,
        options.provider,
    )  # fmt: skip
    return load_engine(_given(weights), chosen)


def _start_report(
    options: PredictOptions, card: Card, weights: Path | None, pair: ScenePair, translation: Translation | None
) -> Report:
    return Report(
        output=str(options.output),
        preview=str(options.preview) if options.preview else None,
        weights={"name": card.name, "path": str(weights or ""), "sha256": card.sha256, "notice": card.notice},
        grid=describe_grid(pair.grid),
        decisions=[decision._asdict() for decision in pair.decisions],
        options=options.to_dict(),
        translation=translation.to_dict() | {"lines": translation.lines()} if translation else None,
        drift=card.drift(pair.levels),
        warnings=[*warn_of_drift(card.drift(pair.levels)), *pair.warnings],
    )


def as_paths(given: Path | tuple[Path, ...]) -> tuple[Path, ...]:
    """Return one path or several as several."""
    return (given,) if isinstance(given, str | Path) else tuple(given)


def _names(options: PredictOptions) -> str:
    return " and ".join(",".join(map(str, as_paths(given))) for given in (options.optical, options.sar))


def _tags(report: Report) -> dict[str, str]:
    """What the map says of itself: what its pixels depend on and nothing else, so that equal maps are equal files."""
    elsewhere = {
        "optical", "sar", "grid", "output", "preview", "weights", "device", "batch", "scan", "compile", "read_threads",
        "deterministic", "provider", "resume", "checksum", "max_memory", "allow_vrt", "allow_remote",
    }  # fmt: skip
    options = {name: value for name, value in report.options.items() if name not in elsewhere}
    return {
        "REFNET_VERSION": report.version,
        "REFNET_WEIGHTS": report.weights["name"],
        "REFNET_WEIGHTS_SHA256": report.weights["sha256"],
        "REFNET_OPTICAL": _file_names(report.options["optical"]),
        "REFNET_SAR": _file_names(report.options["sar"]),
        "REFNET_OPTIONS": json.dumps(options, sort_keys=True),
        "REFNET_DECISIONS": json.dumps(report.decisions, sort_keys=True),
        **({"REFNET_TRANSLATION": json.dumps(report.translation)} if report.translation else {}),
    }


def _file_names(given: str | list[str]) -> str:
    return ",".join(Path(path).name for path in ([given] if isinstance(given, str) else given))
