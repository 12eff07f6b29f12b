"""The whole program: scene pair -> aligned grid -> tiles -> network -> stitched rows -> files."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from refnet_cli import __version__
from refnet_cli.card import BundledName, Card, ReplacedName, as_weights, find_weights, verify, warn_of_drift
from refnet_cli.dates import acquired, read_dates
from refnet_cli.drift import SEEN, compare, warn_of_level, warn_of_unlike
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.files import check_places
from refnet_cli.finishing import Finishing
from refnet_cli.inspection import describe_grid
from refnet_cli.journal import Finished
from refnet_cli.low_confidence import LARGEST_SHARE, limit_of, warn_of_low_confidence
from refnet_cli.mapping import Mapping, refuse_other_version
from refnet_cli.marks import check_replaceable
from refnet_cli.memory import MB, ONNX_LAYERS, TORCH_LAYERS, Demand, may_use, share_out
from refnet_cli.one_sensor import check_sensors, say_absent, warn_of_use_other
from refnet_cli.onnx_file import is_onnx
from refnet_cli.outputs import (
    BLOCK,
    OUTPUTS,
    Making,
    Quicklook,
    Rows,
    check_endings,
    look_of,
    sidecar_of,
    union_of_layers,
    warn_of_styles,
    write_sidecar,
)
from refnet_cli.process import usable_cores
from refnet_cli.products import SATELLITES, ClassScheme, Modality, usable
from refnet_cli.remote import as_given
from refnet_cli.scene import Coregistration, Patch, Paths, SceneOptions, ScenePair, absent_sensor, crop
from refnet_cli.symmetries import SymmetricEngine
from refnet_cli.threads import WriteBehind, read_ahead
from refnet_cli.tiling import Tiling, Window
from refnet_cli.translations import Translation, read_translation, warn_of_old_codes

if TYPE_CHECKING:
    from refnet_cli.engine import Engine

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""Called with the number of tiles done and of all tiles."""
Wanted = Callable[[Window], NDArray[np.bool_]]
MOST_CLAMPED = 0.01  # share of SAR values beyond all that is measured
MOST_UNREAD = 0.05  # share of the map that may be masked because it cannot be read
NEEDED = {"areas": ("zones", "zone_field", "zone_layer"), "polygons": ("min_area",), "stac": ("date",)}
"""Outputs, and options that are for them only."""
WARNING = "warning"
"""Entry of `refnet_cli.engine.Engine.about` that is a warning."""
AHEAD, BEHIND = 3, 2  # batches that are in the network or read for it, and that wait to be written


def _demand_output() -> Path:
    raise OptionsError('There is no file to write: give output, as output="lulc.tif".')


@dataclass(frozen=True)
class PredictOptions(SceneOptions):
    """What to predict, with what, and where to put it.

    Raises
    ------
    OptionsError
        If a value is impossible.
    """

    optical: Path | tuple[Path, ...] | None = None
    """Sentinel-2: a file, files of some bands each, a folder of them, or a SAFE product. Without it the map is from
    Sentinel-1 alone, if the weights can do that."""
    sar: Path | tuple[Path, ...] | None = None
    """Sentinel-1: the same. One of both is needed."""
    output: Path = field(default_factory=_demand_output)
    """Class map to write, a Cloud Optimized GeoTIFF; always needed."""
    weights: BundledName | ReplacedName | Path | None = None
    """Weights of the network: a path, or the name of bundled ones, which are the default."""
    preview: Path | None = None
    """Picture of the map to write, a PNG with a legend."""
    coreg: Coregistration = field(default="check", kw_only=True)
    scheme: str | None = None
    """Class scheme of the map, or a TOML file of one; by default the weights'."""
    resume: bool = True
    """Go on with what an interrupted run for the same map has finished."""
    overwrite: bool = False
    """Replace existing files that refnet did not write."""
    outputs: tuple[str, ...] = ()
    """Further outputs, by their names in `refnet_cli.outputs.OUTPUTS`, each perhaps with a path as
    ``confidence=sure.tif``; by default they lie beside the map and are named after it."""
    tta: bool = False
    """Average over the eight symmetries of a square, in eight times the time."""
    smooth: int = 0
    """Pixels on each side over which probabilities are smoothed where they are alike; 0 for not at all."""
    threshold: float = 0.0
    """Probability below which a pixel becomes no data."""
    zones: Path | None = None
    """Polygons by which the output "areas" is told too."""
    zone_field: str | None = None
    """Field of the zones that names them."""
    zone_layer: str | None = None
    """Layer of the file of zones; needed where several have shapes."""
    min_area: float = 0.0
    """Hectares below which the output "polygons" merges a polygon into its neighbour."""
    date: str | None = None
    """When the scenes were taken, a day or an interval as 2020-07-01/2020-07-05, for the output "stac"; by default what
    the files' names tell."""
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
        absent_sensor(self.optical, self.sar)  # raises if both are
        if self.weights is not None:
            object.__setattr__(self, "weights", as_weights(self.weights))
        if isinstance(self.outputs, str):
            object.__setattr__(self, "outputs", (self.outputs,))
        if self.read_threads is not None and not 1 <= self.read_threads <= 256:
            raise OptionsError(f"Reading in {self.read_threads} threads is impossible; give a number from 1 to 256.")
        if self.batch is not None and self.batch < 1:
            raise OptionsError(f"A batch of {self.batch} tiles is impossible; it takes at least one.")
        if not 0 <= self.smooth <= 16:
            raise OptionsError(f"Smoothing over {self.smooth} pixels is impossible; give a number from 1 to 16.")
        if not 0 <= self.threshold < 1:
            raise OptionsError(f"A threshold of {self.threshold} is no probability; give one from 0 to below 1.")
        if not 0 <= self.min_area < math.inf:
            raise OptionsError(f"A least area of {self.min_area} hectares is impossible; give 0 or more.")
        places = self.places
        for kind, options in NEEDED.items():
            for option in (name for name in options if getattr(self, name) and kind not in places):
                raise OptionsError(f"--{option.replace('_', '-')} is for the output {kind!r}: add --output {kind}.")
        if self.date is not None:
            read_dates(self.date)

    @property
    def absent(self) -> Modality | None:
        """The sensor that there are no files of."""
        return absent_sensor(self.optical, self.sar)

    @property
    def sensors(self) -> tuple[Modality, ...]:
        """Those that there are files of."""
        return tuple(sensor for sensor in SATELLITES if sensor != self.absent)

    @property
    def either(self) -> bool:
        """Whether pixels that only one sensor saw get a class."""
        return self.missing == "use-other" or self.absent is not None

    @property
    def places(self) -> dict[str, Path]:
        """Where each output is to appear, by its name, in the order in which they are made.

        Raises
        ------
        OptionsError
            If there is no such output, one is given twice, or a name's ending is that of another format.
        """
        check_endings({"classes": self.output})
        stem = self.output.with_suffix("")
        places = {"classes": self.output} | ({"preview": self.preview} if self.preview else {})
        for given in self.outputs:
            kind, equals, path = given.partition("=")
            if equals and not path:
                raise OptionsError(f"The output {given!r} names no file: give a path, or {kind} alone.")
            if kind not in OUTPUTS:
                raise OptionsError(f"There is no output {kind!r}; there are {', '.join(OUTPUTS)}.")
            if kind in places:
                raise OptionsError(f"The output {kind!r} is given twice.")
            places[kind] = Path(path) if path else stem.with_name(stem.name + OUTPUTS[kind].ending)
        check_endings(places)
        return {kind: places[kind] for kind in OUTPUTS if kind in places}

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
    wkt: str
    """Of the grid's reference system."""
    decisions: list[dict[str, Any]]
    options: dict[str, Any]
    scheme: dict[str, Any]
    """Class scheme of the map."""
    network: dict[str, Any]
    """Bands that the network takes, by sensor; how many classes it tells apart; side of its tiles."""
    sensors: list[Modality] = field(default_factory=lambda: [*SATELLITES])
    """Which sensors the map is from: "optical", "sar" or both."""
    engine: dict[str, str] = field(default_factory=dict)
    """What the network ran on and with."""
    version: str = __version__
    translation: dict[str, Any] | None = None
    """What the network's classes became in the map's scheme."""
    drift: dict[str, float] = field(default_factory=dict)
    """How far each band's mean is from that of training, in standard deviations."""
    unlike: dict[str, dict[str, Any]] = field(default_factory=dict)
    """How each band differs from what the weights learned from, see `refnet_cli.seen.BandDrift`; empty if their card
    does not say what that was."""
    low_confidence: float = 0.0
    """Share of the pixels that the sensors saw in which no class of the network has a probability of 0.5."""
    low_confidence_limit: float = LARGEST_SHARE
    """Share above which there is a warning."""
    warnings: list[str] = field(default_factory=list)
    warnings_of_run: list[str] = field(default_factory=list)
    """Those of `warnings` that concern this run and not the map; no output holds them."""
    resumed_rows: int = 0
    """Rows of the map that an interrupted run had finished."""
    renewed: bool = False
    """Whether an interrupted run's rows were given up because its inputs, weights or options were others."""
    sha256: str = ""
    """Of the map's file."""
    files: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """For each output by its name, what files it consists of: name, path, SHA-256 and size in bytes."""
    tiles: dict[str, int] = field(default_factory=lambda: {"run": 0, "skipped": 0})
    valid_share: float = 0.0
    """Share of the map's pixels that have a class."""
    areas_hectares: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def add_warnings_of_run(self, warnings: list[str]) -> None:
        """Add warnings to both lists, when all outputs are complete."""
        self.warnings += warnings
        self.warnings_of_run += warnings

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
        Predict only this part of the map, for `refnet_cli.batch` to put together, and make none of the outputs.

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
        demand = replace(demand_of(card, weights, area.width), outputs=_memory_of(options, card, area.width))
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


def check_map(report: Report, seen: int, unreadable: int) -> None:
    """Refuse a map that shows nothing, or of which much could not be read, and warn of what is strange.

    Parameters
    ----------
    report : Report
        Is given the warnings.
    seen : int
        Pixels that the sensors saw.
    unreadable : int
        Pixels that are no data because they could not be read.

    Raises
    ------
    InputError
    """
    names = " and ".join(",".join(_as_list(report.options[sensor])) for sensor in report.sensors)
    if not seen:
        saw = "either sensor" if report.options["missing"] == "use-other" else "both sensors"
        if len(report.sensors) == 1:
            saw = SATELLITES[report.sensors[0]]
        raise InputError(f"{names} have no pixel that {saw} saw; nothing can be mapped.")
    if not report.valid_share:
        report.warnings.append(
            "no pixel of the map has a class: no class reaches the threshold of "
            f"{report.options['threshold']:g}, or the map's scheme lacks the classes; lower --threshold or check "
            "--scheme."
        )
    report.warnings += warn_of_low_confidence(
        report.low_confidence, report.low_confidence_limit, report.weights["name"]
    )
    pixels = report.grid["height"] * report.grid["width"]
    clamped = report.counts.get("sar_clamped", 0) / (len(report.network["sar"]) * pixels)
    if clamped > MOST_CLAMPED:
        report.warnings.append(
            f"{clamped:.0%} of the SAR values lie beyond -60 to +40 dB, which no ground does: a number that stands "
            "for no data may be undeclared."
        )
    share = unreadable / pixels
    if share > MOST_UNREAD:
        raise InputError(f"{share:.0%} of {names} cannot be read, and {MOST_UNREAD:.0%} may be: mend the files.")
    if share:
        report.warnings.append(f"{share:.2%} of the map is no data because it could not be read.")


def _identity(report: Report, pair: ScenePair, engine: Engine) -> dict[str, Any]:
    """Everything that the map's pixels depend on, to the last bit."""
    states = [(path.name, path.stat()) for path in pair.files]
    return {
        "tags": tags_of(report),
        "grid": report.grid,
        "files": [[name, state.st_size, state.st_mtime_ns] for name, state in states],
        # What a server has, its pixels tell.
        "remote": [pair.remote, pair.levels] if pair.remote else [],
        "engine": {name: value for name, value in engine.about.items() if name not in ("threads", WARNING)},
    }


def demand_of(card: Card, weights: Path | None, width: int) -> Demand:
    """Return what predicting a map of a width takes; without weights, what holds them is not counted."""
    bands = len(card.optical.bands) + len(card.sar.bands)
    size = weights.stat().st_size if weights else 0
    layers = ONNX_LAYERS if weights and is_onnx(weights) else TORCH_LAYERS
    return Demand(card.tile, bands, card.network.classes, card.network.width, size, width, layers=layers)


def _memory_of(options: PredictOptions, card: Card, width: int) -> int:
    """Bytes that smoothing and outputs take besides the map's own, for rows of tiles and of blocks in work."""
    classes, layers = card.network.classes, union_of_layers(options.places)
    copies = 3 * (options.smooth > 0) + 4 * (len(layers) > len(union_of_layers(())) or options.threshold > 0)
    per_pixel = {"probabilities": classes, "probabilities16": 6 * classes, "confidence": 3, "quality": 2}
    blocks = sum(size for kind, size in per_pixel.items() if kind in options.places)
    fixed = {"report": 150 * MB, "polygons": 250 * MB}
    return (
        card.tile * width * 4 * classes * copies
        + BLOCK * width * blocks
        + sum(size for kind, size in fixed.items() if kind in options.places)
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
    _expect(pair, tiling, tiling.whole, wanted)
    finishing = Finishing(tiling, engine.card.network.classes, tiling.whole, 0, pair.usable)
    counts = counts if counts is not None else {"run": 0, "skipped": 0}
    with closing(_predict_batches(pair, engine, tiling, tiling.whole, progress, counts, wanted)) as done:
        for batch, probabilities in done:
            for row, finished, seen in finishing.take(batch.windows, probabilities, batch.finished):
                yield Rows(row, finished, pair.usable(seen), engine.card.scheme, quality=seen)


def _expect(pair: ScenePair, tiling: Tiling, area: Window, wanted: Wanted | None = None) -> None:
    """Have the pair's threads begin to read what the tiles of an area need."""
    inside = (window.clip(tiling.height, tiling.width) for windows in tiling.rows(area) for window in windows)
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


def _predict_batches(
    pair: ScenePair,
    engine: Engine,
    tiling: Tiling,
    area: Window,
    progress: Progress | None,
    counts: dict[str, int],
    wanted: Wanted | None = None,
    look_at: Callable[[Window], None] | None = None,
) -> Generator[tuple[Batch, Float32], None, None]:
    """Yield batches with their probabilities, shape (N, K, tile, tile), of the tiles that touch an area."""
    total = sum(map(len, tiling.rows(area)))
    nothing = np.empty((0, engine.card.network.classes, tiling.tile, tiling.tile), np.float32)
    with closing(read_ahead(_read_batches(pair, engine, tiling, area, wanted, look_at), AHEAD)) as batches:
        for batch in batches:
            probabilities = engine.predict(batch.optical, batch.sar) if batch.windows else nothing
            counts["run"] += len(batch.windows)
            counts["skipped"] += batch.skipped
            if progress:
                progress(counts["run"] + counts["skipped"], total)
            yield batch, probabilities


def _read_batches(
    pair: ScenePair,
    engine: Engine,
    tiling: Tiling,
    area: Window,
    wanted: Wanted | None,
    look_at: Callable[[Window], None] | None,
) -> Iterator[Batch]:
    """Read the tiles of an area that have any valid pixel, as many at once as the engine likes."""
    top, end = area.row, area.row + area.height
    rows = list(tiling.rows(area))
    for windows, later in zip(rows, [*rows[1:], None], strict=True):
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
        bottom = end if later is None else min(later[0].row, end)
        if bottom <= top:  # these tiles have a say further below
            yield _batch(chosen, skipped)
            continue
        finished = area._replace(row=top, height=bottom - top)
        if look_at:
            look_at(finished)
        yield _batch(chosen, skipped, _read_seen(pair, finished, wanted))
        top = bottom


def _batch(tiles: list[tuple[Window, Patch]], skipped: int, finished: UInt8 | None = None) -> Batch:
    optical, sar = (
        np.stack(layers) if tiles else np.empty((0, 0, 0, 0), np.float32)
        for layers in ([patch.optical for _, patch in tiles], [patch.sar for _, patch in tiles])
    )
    return Batch([window for window, _ in tiles], optical, sar, skipped, finished)


def read_tile(pair: ScenePair, window: Window) -> Patch:
    """Read a window that may reach beyond the grid, where there is no data."""
    inside = window.clip(*pair.grid.shape)
    patch = pair.read(inside)
    if inside == window:
        return patch
    top, left = inside.row - window.row, inside.column - window.column
    here = np.s_[:, top : top + inside.height, left : left + inside.width]
    optical, sar = (np.full((len(image), window.height, window.width), np.nan, np.float32) for image in patch)
    optical[here], sar[here] = patch
    return patch._replace(optical=optical, sar=sar)


def _given(weights: Path | None) -> Path:
    if weights is None:
        raise OptionsError("Neither weights nor an engine were given.")
    return weights


def load(options: PredictOptions, weights: Path | None) -> Engine:
    """Load the network that the options name.

    Raises
    ------
    RefnetError
        See `refnet_cli.engine.load_engine`.
    """
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
    unlike, drift = compare(card, pair), card.drift(pair.levels)
    return Report(
        output=str(options.output),
        preview=str(options.preview) if options.preview else None,
        weights={"name": card.name, "path": str(weights or ""), "sha256": card.sha256, "notice": card.notice},
        grid=describe_grid(pair.grid),
        wkt=pair.grid.crs.to_wkt() if pair.grid.crs else "",
        decisions=[decision._asdict() for decision in pair.decisions],
        options=options.to_dict(),
        scheme=(translation.target if translation else card.scheme).to_dict(),
        network={
            "optical": list(card.optical.bands), "sar": list(card.sar.bands), "classes": card.network.classes,
            "tile": card.tile,
        },
        sensors=[*options.sensors],
        translation=translation.to_dict() | {"lines": translation.lines()} if translation else None,
        drift=drift,
        unlike={band: asdict(found) for band, found in unlike.items()},
        low_confidence_limit=limit_of(card),
        warnings=[
            *([] if options.scheme else warn_of_old_codes(card.scheme)),
            *(warn_of_unlike(unlike, card.name) if SEEN in card.training else warn_of_drift(drift)),
            *warn_of_level(pair.decisions, card),
            *(warn_of_use_other(card) if options.missing == "use-other" and not options.absent else []),
            *pair.warnings,
        ],
    )  # fmt: skip


def as_paths(given: Paths | None) -> tuple[Path, ...]:
    """Return one path or several as several; none where no files are given."""
    if given is None:
        return ()
    paths: tuple[Path, ...] = as_given([given] if isinstance(given, str | Path) else given)
    return paths


def tags_of(report: Report) -> dict[str, str]:
    """Return what the map says of itself: what its pixels depend on and nothing else, so that equal maps are equal."""
    elsewhere = {
        "optical", "sar", "grid", "output", "preview", "weights", "device", "batch", "scan", "compile", "read_threads",
        "deterministic", "provider", "resume", "overwrite", "checksum", "max_memory", "allow_vrt", "allow_remote",
        "outputs", "zones", "zone_field", "zone_layer", "min_area", "date", "stac",
    }  # fmt: skip
    options = {name: value for name, value in report.options.items() if name not in elsewhere}
    if options["scheme"] is not None:  # perhaps a file's path, whose content is in the translation
        options["scheme"] = report.scheme["name"]
    return {
        "REFNET_VERSION": report.version,
        "REFNET_WEIGHTS": report.weights["name"],
        "REFNET_WEIGHTS_SHA256": report.weights["sha256"],
        "REFNET_OPTICAL": _file_names(report, "optical"),
        "REFNET_SAR": _file_names(report, "sar"),
        "REFNET_OPTIONS": json.dumps(options, sort_keys=True),
        "REFNET_DECISIONS": json.dumps(report.decisions, sort_keys=True),
        **({"REFNET_TRANSLATION": json.dumps(report.translation)} if report.translation else {}),
    }


def facts_of(report: Report) -> dict[str, Any]:
    """Return what outputs may tell of a map: nothing that differs between two runs for the same map."""
    told = (
        "version", "network", "sensors", "grid", "decisions", "warnings", "drift", "unlike", "low_confidence",
        "translation", "areas_hectares", "valid_share", "counts",
    )  # fmt: skip
    tags = tags_of(report)
    return {name: getattr(report, name) for name in told} | {
        "weights": {name: report.weights[name] for name in ("name", "sha256", "notice")},
        "optical": tags["REFNET_OPTICAL"],
        "sar": tags["REFNET_SAR"],
        "options": json.loads(tags["REFNET_OPTIONS"]),
    }


def _file_names(report: Report, sensor: Modality) -> str:
    if sensor not in report.sensors:
        return say_absent(sensor)
    return ",".join(Path(path).name for path in _as_list(report.options[sensor]))


def _as_list(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given
