"""A prediction with everything settled that can be settled before a pixel is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from odc.geo.geobox import GeoBox

from refnet_cli.classes.crosswalk import Translation, read_translation
from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.engines.base import Engine
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.model.card import Card
from refnet_cli.model.one_sensor import check_sensors
from refnet_cli.model.weight_files import find_weights, verify
from refnet_cli.outputs import OUTPUTS, needs_quicklook
from refnet_cli.outputs.base import sidecar_of
from refnet_cli.outputs.block_file import look_of
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.pictures.quicklook import Quicklook
from refnet_cli.outputs.resume_log import refuse_other_version
from refnet_cli.prediction.memory import demand_of, memory_of_outputs, share_out
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.scene.options import as_paths
from refnet_cli.scene.pair import ScenePair
from refnet_cli.sensors.dates import acquisition_range, parse_dates
from refnet_cli.system.atomic import check_places
from refnet_cli.system.marks import check_replaceable
from refnet_cli.system.memory import may_use
from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window


class Part(NamedTuple):
    """A part of a map that is kept as what outputs need of it, in a file of its own."""

    window: Window
    """Of the map's grid."""
    shard: Path


@dataclass(frozen=True)
class Job:
    """A prediction whose weights, classes, files and memory are settled.

    Raises
    ------
    RefnetError
        From `settle`, for all that can be wrong before the scene is opened.
    """

    options: PredictOptions
    card: Card
    weights: Path | None
    """None where an engine came without a file."""
    translation: Translation | None
    memory: int | None
    """Bytes to take at most."""
    part: Part | None

    @classmethod
    def settle(cls, options: PredictOptions, card: Card | None = None, part: Part | None = None) -> Job:
        """Settle a prediction; a card that is given is that of an engine in place of the options' weights."""
        weights = None if card and options.weights is None else find_weights(options.weights)
        _check_files(options, part, [*_inputs(options), weights])
        if options.resume:
            refuse_other_version(part.shard if part else options.output)
        card = card or verify(find_weights(options.weights))
        check_sensors(card, options.absent)
        translation = read_translation(card.scheme, options.scheme) if options.scheme else None
        return cls(options, card, weights, translation, may_use(options.max_memory), part)

    @property
    def scheme(self) -> ClassScheme:
        """The map's class scheme."""
        return self.translation.target if self.translation else self.card.scheme

    def open_scene(self, threads: int) -> ScenePair:
        """Open the files, to be read in so many threads."""
        bands = self.card.optical.bands, self.card.sar.bands
        return ScenePair.open(
            self.options.optical, self.options.sar, *bands, self.options.scene, read_threads=threads
        )

    def check_files(self, read: Sequence[Path]) -> None:
        """Refuse to write what is read, or to replace files of others, once all files that are read are known."""
        _check_files(self.options, self.part, [*_inputs(self.options), self.weights, *read], all_known=True)

    def tiling(self, grid: GeoBox) -> tuple[Tiling, Window]:
        """Return the tiles of a grid, and the part of it that is mapped.

        Raises
        ------
        InputError
            If the part lies beyond the grid.
        """
        height, width = grid.shape
        tiling = Tiling.of(height, width, self.card.tile, self.options.overlap)
        area = self.part.window if self.part else tiling.whole
        if area != area.clip(tiling.height, tiling.width):
            raise InputError(
                f"The block at row {area.row} and column {area.column}, {area.height} x {area.width} pixels, lies "
                f"beyond the map of {tiling.height} x {tiling.width}: plan again."
            )
        return tiling, area

    def quicklook(self, grid: GeoBox) -> Quicklook | None:
        """Return a quicklook for outputs that show one, None without such an output."""
        height, width = grid.shape
        bands = self.card.optical.bands, self.card.sar.bands
        return Quicklook(height, width, *bands) if needs_quicklook(self.options.places) else None

    def fit(self, batch: int, threads: int, width: int = 0, processes: int = 1) -> tuple[int, int]:
        """Choose tiles at once and reading threads for a map of a width so that they fit into memory.

        Raises
        ------
        TryAgainError
            If a single tile and thread are too much.
        """
        outputs = memory_of_outputs(self.options, self.card, width) if width else 0
        demand = replace(demand_of(self.card, self.weights, width), outputs=outputs, processes=processes)
        return share_out(demand, batch, threads, self.memory)


def load(options: PredictOptions, weights: Path | None) -> Engine:
    """Load the network that the options name.

    Raises
    ------
    RefnetError
        See `refnet_cli.engines.load.load_engine`.
    """
    # Torch takes seconds to import: not before all that can be wrong with the call has been checked.
    from refnet_cli.engines.load import load_engine

    if weights is None:
        raise OptionsError("Neither weights nor an engine were given.")
    return load_engine(weights, options.engine)


def files_of(options: PredictOptions, part: Part | None = None) -> list[Path]:
    """Return all files that a prediction, or one of a part, writes."""
    if part is not None:
        return [part.shard, *([look_of(part.shard)] if needs_quicklook(options.places) else [])]
    places = options.places
    made = [file for kind, path in places.items() for file in (path, *OUTPUTS[kind].companions(path, options.output))]
    return [*made, *([sidecar_of(options.output)] if options.checksum else [])]


def context_of(
    options: PredictOptions, scheme: ClassScheme, grid: GeoBox, tags: dict[str, str], look: Quicklook | None
) -> MapContext:
    """Return what the outputs of a map have in common."""
    return MapContext(
        options.output, grid, scheme, tags, quality=options.missing == "use-other", look=look,
        zones=options.zones, zone_field=options.zone_field, zone_layer=options.zone_layer,
        acquired=_acquired(options), min_area=options.min_area,
    )  # fmt: skip


def _inputs(options: PredictOptions) -> list[Path | None]:
    return [*as_paths(options.optical), *as_paths(options.sar), options.grid, options.zones]


def _check_files(
    options: PredictOptions, part: Part | None, inputs: Sequence[Path | None], all_known: bool = False
) -> None:
    check_places(files_of(options) + (files_of(options, part) if part else []), inputs)
    # Which files of a folder are read is known once it is open.
    if all_known or not any(isinstance(path, Path) and path.is_dir() for path in inputs):
        check_replaceable(files_of(options, part), options.overwrite)


def _acquired(options: PredictOptions) -> tuple[str, str] | None:
    """When the scenes were acquired, as the user or the files' names tell."""
    if options.date is not None:
        return parse_dates(options.date)
    given = (getattr(options, sensor) for sensor in options.sensors)
    return acquisition_range(*([Path(path).name for path in as_paths(files)] for files in given))
