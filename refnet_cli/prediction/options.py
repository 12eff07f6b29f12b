"""Options of a prediction: inputs, weights, outputs and engine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, get_args

from refnet_cli.engines.options import EngineOptions
from refnet_cli.errors import OptionsError
from refnet_cli.model.weight_files import BUNDLED, BundledName, ReplacedName, parse_weights
from refnet_cli.prediction.removed import find_removed
from refnet_cli.scene.absent import absent_sensor
from refnet_cli.scene.options import Combine, Coregistration, SceneOptions
from refnet_cli.sensors.dates import parse_dates
from refnet_cli.sensors.sensor import MODALITIES, Modality
from refnet_cli.system.options import names, narrow, option


def _demand_output() -> Path:
    raise OptionsError('There is no output file. Set output, for example output="lulc.tif".')


def _refuse_removed(options: Mapping[str, Any], outputs: Iterable[str] = ()) -> None:
    if removed := find_removed(options, outputs):
        raise OptionsError(f"The {removed.said}. Pass outputs=[{removed.output!r}] instead.")


@dataclass(frozen=True)
class MapOptions(SceneOptions):
    """Options that describe a map: inputs, weights, post-processing and outputs.

    Raises
    ------
    OptionsError
        If a value is invalid.
    """

    optical: Path | tuple[Path, ...] | None = option(
        None,
        help="Sentinel-2: a GeoTIFF or JPEG 2000, several (B02.tif,B03.tif,...), a folder of them, or a SAFE folder or "
        "zip. The map uses its finest grid. Optional if the weights work with --sar alone.",
        affects="elsewhere",
    )
    sar: Path | tuple[Path, ...] | None = option(
        None,
        help="Sentinel-1, terrain-corrected, on any grid: a file, or VV.tif,VH.tif. Optional if the weights work with "
        "--optical alone. Without --optical the map uses the SAR file's grid.",
        affects="elsewhere",
    )
    output: Path = option(
        default_factory=_demand_output,
        help="Class map to write, a Cloud Optimized GeoTIFF [required]. Repeat -o with KIND or KIND=PATH for further "
        "outputs: probabilities, confidence, quality, preview, polygons, areas, style, report, stac. "
        "Without PATH, an output is written next to the map and named after it.",
        affects="files",
    )
    weights: BundledName | ReplacedName | Path | None = option(
        None,
        help=f"Weights of the network: a file, or the name of bundled weights such as {BUNDLED}. To use a file with "
        f"that name, add a slash: ./{BUNDLED}.",
        default_text=BUNDLED,
        affects="elsewhere",
    )
    coreg: Coregistration = field(
        default="check", kw_only=True, metadata=SceneOptions.__dataclass_fields__["coreg"].metadata
    )
    scheme: str | None = option(
        None,
        help="Class scheme to write the map in: corine-level1, dfc2020, dynamic-world, esri-io, terramesh, worldcover, "
        "or a TOML file with your own scheme.",
        default_text="the weights'",
        affects="pixels",
    )
    resume: bool = option(
        True,
        help="Continue an interrupted run of the same map, or start again.",
        default_text="resume",
        affects="run",
    )
    overwrite: bool = option(False, help="Replace existing files that refnet did not write.", affects="run")
    outputs: tuple[str, ...] = option((), help="Further outputs, KIND or KIND=PATH, as in -o.", affects="files")
    tta: bool = option(
        False,
        help="Test-time augmentation: average over the eight rotations and reflections of each tile. Takes eight times "
        "as long.",
        affects="pixels",
    )
    smooth: int = option(
        0,
        help="Smooth probabilities within this many pixels where they are similar. Removes isolated uncertain pixels "
        "and keeps edges.",
        default_text="0, no smoothing",
        metavar="PIXELS",
        affects="pixels",
    )
    threshold: float = option(
        0.0,
        help="Set pixels to no data if their class is less probable than this.",
        metavar="PROBABILITY",
        affects="pixels",
    )
    zones: Path | None = option(
        None, help="Polygons, such as regions.gpkg: report areas per polygon too (-o areas).", affects="files"
    )
    zone_field: str | None = option(
        None, help="Field with the names of the zones.", default_text="zones are numbered", affects="files"
    )
    zone_layer: str | None = option(
        None, help="Layer of the zones file; required if several layers have geometries.", affects="files", since="0.2"
    )
    min_area: float = option(
        0.0,
        help="Merge polygons smaller than this (ha) into the largest neighbour (-o polygons).",
        affects="files",
    )
    date: str | None = option(
        None,
        help="Acquisition date of the scenes for -o stac: 2020-07-01, or an interval such as 2020-07-01/2020-07-05.",
        default_text="from the file names",
        affects="files",
    )
    checksum: bool = option(
        False, help="Also write the map's SHA-256 next to it, in the format of sha256sum.", affects="files"
    )
    max_memory: str | None = option(
        None, help="Memory limit, such as 4G.", default_text="90% of the free memory", affects="run"
    )
    overlap: int | None = option(
        None,
        help="Overlap of neighbouring tiles in pixels.",
        default_text="a quarter of a tile: 64 for tiles of 256",
        affects="pixels",
    )
    season: Path | None = option(
        None,
        help="Several dates of one place instead of --optical and --sar: a CSV table with the columns date, optical "
        "and sar, or a folder of dated scenes, such as refnet fetch --optical all writes.",
        metavar="TABLE|FOLDER",
        affects="elsewhere",
        since="0.2",
    )
    combine: Combine | None = option(
        None,
        help="How --season becomes one map: predict the median of the cloud-free pixels once, or predict each date and "
        "average the probabilities.",
        default_text="composite",
        affects="pixels",
        since="0.2",
    )

    def __new__(cls, *_: Any, **given: Any) -> Self:
        """Refuse arguments that earlier versions took."""
        _refuse_removed(given)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.season is None:
            absent_sensor(self.optical, self.sar)  # raises if both are absent
        elif isinstance(self.season, str):
            object.__setattr__(self, "season", Path(self.season))
        if self.combine not in (None, *get_args(Combine)):
            raise OptionsError(f"--combine is {self.combine!r}, but must be one of {', '.join(get_args(Combine))}.")
        if self.weights is not None:
            object.__setattr__(self, "weights", parse_weights(self.weights))
        if isinstance(self.outputs, str):
            object.__setattr__(self, "outputs", (self.outputs,))
        if not 0 <= self.smooth <= 16:
            raise OptionsError(f"smooth is {self.smooth}; it must be from 0 to 16 pixels.")
        if not 0 <= self.threshold < 1:
            raise OptionsError(f"threshold is {self.threshold}; it must be a probability from 0 to below 1.")
        if not 0 <= self.min_area < math.inf:
            raise OptionsError(f"min_area is {self.min_area} ha; it must be 0 or more.")
        self._check_own_options()
        if self.date is not None:
            parse_dates(self.date)

    def _check_own_options(self) -> None:
        """Refuse options for outputs that were not requested."""
        if self._writes_plain_map():
            return
        from refnet_cli.outputs import OUTPUTS  # takes half a second to import, and --help needs the fields

        others = {name: kind for kind in OUTPUTS.keys() - self.output_paths for name in OUTPUTS[kind].own_options}
        for name in (one.name for one in fields(self) if one.name in others and getattr(self, one.name)):
            kind = others[name]
            raise OptionsError(f"--{name.replace('_', '-')} needs the output {kind!r}: add --output {kind}.")

    def _writes_plain_map(self) -> bool:
        """Return whether no option but a path that ends in .tif says what files to write."""
        for_files = [one for one in fields(self) if one.name in names(MapOptions, "files") and one.name != "output"]
        given = any(getattr(self, one.name) != one.default for one in for_files)
        return not given and self.output.suffix.lower() == ".tif"

    @property
    def absent(self) -> Modality | None:
        """The sensor without files, if any."""
        return absent_sensor(self.optical, self.sar)

    @property
    def sensors(self) -> tuple[Modality, ...]:
        """The sensors with files."""
        return tuple(sensor for sensor in MODALITIES if sensor != self.absent)

    @property
    def either(self) -> bool:
        """Whether pixels with data from only one sensor get a class."""
        return self.missing == "use-other" or self.absent is not None

    @property
    def output_paths(self) -> dict[str, Path]:
        """Path of each output by its kind, in the order of writing.

        Raises
        ------
        OptionsError
            If a kind is unknown or given twice, or a file name has the ending of another format.
        """
        from refnet_cli.outputs import OUTPUTS, check_endings

        check_endings({"classes": self.output})
        stem = self.output.with_suffix("")
        paths = {"classes": self.output}
        for given in self.outputs:
            kind, equals, path = given.partition("=")
            if equals and not path:
                raise OptionsError(f"The output {given!r} has no path. Give {kind}=PATH, or {kind} alone.")
            if kind not in OUTPUTS:
                _refuse_removed({}, [given])
                raise OptionsError(f"The output {kind!r} is unknown; choose from {', '.join(OUTPUTS)}.")
            if kind in paths:
                raise OptionsError(f"The output {kind!r} is given twice.")
            paths[kind] = Path(path) if path else stem.with_name(stem.name + OUTPUTS[kind].ending)
        check_endings(paths)
        return {kind: paths[kind] for kind in OUTPUTS if kind in paths}


@dataclass(frozen=True)
class PredictOptions(EngineOptions, MapOptions):
    """Options that describe a map, and the engine to run the network with.

    Raises
    ------
    OptionsError
        If a value is invalid.
    """

    read_threads: int | None = option(
        None,
        help="Threads that read and warp ahead of the network. They do not affect the map.",
        default_text="number of processor cores, at most 8",
        affects="run",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.read_threads is not None and not 1 <= self.read_threads <= 256:
            raise OptionsError(f"read_threads is {self.read_threads}; it must be from 1 to 256.")
        if self.batch is not None and self.batch < 1:
            raise OptionsError(f"batch is {self.batch}; it must be 1 tile or more.")

    @property
    def engine(self) -> EngineOptions:
        """The options of the engine."""
        return narrow(self, EngineOptions)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as a plain dict, ready for JSON."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
