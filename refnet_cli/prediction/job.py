"""Everything about a prediction that is resolved before the first pixel is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from odc.geo.geobox import GeoBox

from refnet_cli.classes.crosswalk import Crosswalk, read_crosswalk
from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.engines.base import Engine
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.model.card import Card
from refnet_cli.model.one_sensor import check_sensors
from refnet_cli.model.weight_files import find_weights, verify
from refnet_cli.outputs import OUTPUTS, needs_quicklook
from refnet_cli.outputs.base import sidecar_path
from refnet_cli.outputs.block_file import quicklook_path
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.pictures.quicklook import Quicklook
from refnet_cli.outputs.resume_log import refuse_other_version
from refnet_cli.prediction.memory import demand_of, fit_to_memory, memory_of_outputs
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.raster.acquired import tagged_acquisition
from refnet_cli.raster.arrays import ArrayImage
from refnet_cli.scene.absent import absent_sensor
from refnet_cli.scene.blocks import Scene
from refnet_cli.scene.options import as_paths
from refnet_cli.scene.pair import ScenePair
from refnet_cli.scene.season import open_season
from refnet_cli.scene.season_files import SceneDate, files_of_season, read_season
from refnet_cli.sensors.dates import acquisition_range, parse_dates
from refnet_cli.sensors.sensor import MODALITIES, Modality
from refnet_cli.system.atomic import check_distinct_paths
from refnet_cli.system.marks import check_replaceable
from refnet_cli.system.memory import memory_limit
from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window


class MapBlock(NamedTuple):
    """A block of a map that is predicted on its own; its layers go to a shard file."""

    window: Window
    """Position in the map's grid."""
    shard: Path
    """File for the layers that the outputs need."""


@dataclass(frozen=True)
class Job:
    """A prediction with resolved weights, classes, files and memory limit.

    Raises
    ------
    RefnetError
        From `resolve`, for every error that can be detected before the scene is opened.
    """

    options: PredictOptions
    card: Card
    weights: Path | None
    """None if an engine was given without a file."""
    crosswalk: Crosswalk | None
    memory: int | None
    """Memory limit in bytes."""
    block: MapBlock | None = None
    arrays: Mapping[Modality, Sequence[ArrayImage]] = field(default_factory=dict)
    """Images in memory, which are read in place of the files that the options name."""
    season: tuple[SceneDate, ...] = ()
    """The dates of a season, which are read in place of the files that the options name."""

    @classmethod
    def resolve(cls, options: PredictOptions, card: Card | None = None, block: MapBlock | None = None) -> Job:
        """Resolve the options; ``card`` is that of an engine that is used instead of the options' weights."""
        options, season = resolve_season(options)
        weights = None if card and options.weights is None else find_weights(options.weights)
        _check_files(options, block, [*_inputs(options), weights])
        if options.resume:
            refuse_other_version(block.shard if block else options.output)
        card = card or verify(find_weights(options.weights))
        check_sensors(card, options.absent)
        if options.combine == "ensemble":
            for scene in season:
                check_sensors(card, absent_sensor(scene.optical, scene.sar), f"The date {scene.date}")
        crosswalk = read_crosswalk(card.scheme, options.scheme) if options.scheme else None
        return cls(options, card, weights, crosswalk, memory_limit(options.max_memory), block, season=season)

    @property
    def scheme(self) -> ClassScheme:
        """Class scheme of the map."""
        return self.crosswalk.target if self.crosswalk else self.card.scheme

    def open_scene(self, threads: int) -> Scene:
        """Open the input files, and read them with this number of threads."""
        bands = self.card.optical.bands, self.card.sar.bands
        if self.season and self.options.combine:
            return open_season(self.season, *bands, self.options.scene, self.options.combine, threads)
        optical = self.arrays.get("optical", self.options.optical)
        sar = self.arrays.get("sar", self.options.sar)
        return ScenePair.open(optical, sar, *bands, self.options.scene, read_threads=threads)

    def check_files(self, read: Sequence[Path]) -> None:
        """Refuse to overwrite input files or files that refnet did not write, now that all input files are known."""
        _check_files(self.options, self.block, [*_inputs(self.options), self.weights, *read], all_known=True)

    def tiling(self, grid: GeoBox) -> tuple[Tiling, Window]:
        """Return the tiling of a grid, and the area to predict.

        Raises
        ------
        InputError
            If the block extends beyond the grid.
        """
        height, width = grid.shape
        tiling = Tiling.of(height, width, self.card.tile, self.options.overlap)
        area = self.block.window if self.block else tiling.whole
        if area != area.clip(tiling.height, tiling.width):
            raise InputError(
                f"The block at row {area.row}, column {area.column} ({area.height} x {area.width} pixels) extends "
                f"beyond the map of {tiling.height} x {tiling.width} pixels. Run refnet batch plan again."
            )
        return tiling, area

    def quicklook(self, grid: GeoBox) -> Quicklook | None:
        """Return an empty quicklook if any output needs one."""
        height, width = grid.shape
        bands = self.card.optical.bands, self.card.sar.bands
        return Quicklook(height, width, *bands) if needs_quicklook(self.options.output_paths) else None

    def fit(self, batch: int, threads: int, width: int = 0, processes: int = 1) -> tuple[int, int]:
        """Choose a batch size and a number of reading threads that fit into memory for a map of this width.

        Raises
        ------
        TryAgainError
            If one tile and one thread do not fit.
        """
        outputs = memory_of_outputs(self.options, self.card, width) if width else 0
        dates = max(len(self.season), 1)
        demand = replace(
            demand_of(self.card, self.weights, width), outputs=outputs, processes=processes, dates=dates,
            combine=self.options.combine,
        )  # fmt: skip
        return fit_to_memory(demand, batch, threads, self.memory)


def resolve_season(options: PredictOptions) -> tuple[PredictOptions, tuple[SceneDate, ...]]:
    """Return the options with the files of all dates of a season, and the dates.

    Raises
    ------
    OptionsError
        If the season contradicts other options.
    RefnetError
        If the season cannot be read; see `read_season`.
    """
    if options.season is None:
        if options.combine is not None:
            raise OptionsError("--combine needs several dates. Pass them with --season.")
        return options, ()
    if options.optical is not None or options.sar is not None:
        raise OptionsError("--season names the files of all dates. Omit --optical and --sar.")
    dates = read_season(options.season)
    optical, sar = (files_of_season(dates, sensor) for sensor in MODALITIES)
    return replace(options, optical=optical, sar=sar, combine=options.combine or "composite"), dates


def load(options: PredictOptions, weights: Path | None) -> Engine:
    """Load the engine for the options' weights.

    Raises
    ------
    RefnetError
        See `refnet_cli.engines.load.load_engine`.
    """
    # Torch takes seconds to import: check everything else first.
    from refnet_cli.engines.load import load_engine

    if weights is None:
        raise OptionsError("Neither weights nor an engine was given.")
    return load_engine(weights, options.engine)


def files_of(options: PredictOptions, block: MapBlock | None = None) -> list[Path]:
    """Return all files that a prediction of a map, or of one block, writes."""
    if block is not None:
        return [block.shard, *([quicklook_path(block.shard)] if needs_quicklook(options.output_paths) else [])]
    paths = options.output_paths
    made = [file for kind, path in paths.items() for file in (path, *OUTPUTS[kind].companions(path, options.output))]
    return [*made, *([sidecar_path(options.output)] if options.checksum else [])]


def context_of(
    options: PredictOptions, scheme: ClassScheme, grid: GeoBox, tags: dict[str, str], look: Quicklook | None
) -> MapContext:
    """Return the context that all outputs of a map share."""
    return MapContext(
        options.output, grid, scheme, tags, quality=options.missing == "use-other", look=look,
        zones=options.zones, zone_field=options.zone_field, zone_layer=options.zone_layer,
        acquired=_acquired(options), min_area=options.min_area, dates=options.season is not None,
    )  # fmt: skip


def _inputs(options: PredictOptions) -> list[Path | None]:
    return [
        *as_paths(options.optical), *as_paths(options.sar), options.grid, options.zones, options.cloud_file,
        options.season,
    ]  # fmt: skip


def _check_files(
    options: PredictOptions, block: MapBlock | None, inputs: Sequence[Path | None], all_known: bool = False
) -> None:
    check_distinct_paths(files_of(options) + (files_of(options, block) if block else []), inputs)
    # The input files of a folder are only known once it is open.
    if all_known or not any(isinstance(path, Path) and path.is_dir() for path in inputs):
        check_replaceable(files_of(options, block), options.overwrite)


def _acquired(options: PredictOptions) -> tuple[str, str] | None:
    """Acquisition interval of the scenes, from the option, the file names, or the tags that refnet fetch writes."""
    if options.date is not None:
        return parse_dates(options.date)
    if options.season is not None:
        spans = [scene.span for scene in read_season(options.season)]
        return min(start for start, _ in spans), max(end for _, end in spans)
    spans = []
    for sensor in options.sensors:
        paths = as_paths(getattr(options, sensor))
        found = acquisition_range([Path(path).name for path in paths]) or tagged_acquisition(paths)
        if found is None:
            return None
        spans.append(found)
    return min(start for start, _ in spans), max(end for _, end in spans)
