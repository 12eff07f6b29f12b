"""What to predict, with what, and where to put it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from refnet_cli.engines.options import EngineOptions
from refnet_cli.errors import OptionsError
from refnet_cli.model.weight_files import BUNDLED, BundledName, ReplacedName, as_weights
from refnet_cli.scene.absent import absent_sensor
from refnet_cli.scene.options import Coregistration, SceneOptions
from refnet_cli.sensors.dates import parse_dates
from refnet_cli.sensors.sensor import MODALITIES, Modality
from refnet_cli.system.options import narrow, option


def _demand_output() -> Path:
    raise OptionsError('There is no file to write: give output, as output="lulc.tif".')


@dataclass(frozen=True)
class MapOptions(SceneOptions):
    """What to map, what to make of it, and where to write it.

    Raises
    ------
    OptionsError
        If a value is impossible.
    """

    optical: Path | tuple[Path, ...] | None = option(
        None,
        help="Sentinel-2: a GeoTIFF or JPEG 2000, several (B02.tif,B03.tif,...), a folder of them, or a SAFE folder or "
        "zip; its finest grid is the map's. May be left out where the weights can do with --sar alone.",
        affects="elsewhere",
    )
    sar: Path | tuple[Path, ...] | None = option(
        None,
        help="Sentinel-1, terrain-corrected, of any grid: a file, or VV.tif,VH.tif. May be left out where the weights "
        "can do with --optical alone. Without --optical the map lies on the SAR file's grid.",
        affects="elsewhere",
    )
    output: Path = option(
        default_factory=_demand_output,
        help="Class map to write, a Cloud Optimized GeoTIFF [required]; and, each with an -o of its own, KIND or "
        "KIND=PATH of further outputs: probabilities, probabilities16, confidence, quality, preview, polygons, areas, "
        "style, report, stac. Without a path they lie next to the map and are named after it.",
        affects="files",
    )
    weights: BundledName | ReplacedName | Path | None = option(
        None,
        help=f"Weights of the network: a file, or the name of bundled ones, as {BUNDLED}; a file without ending that "
        f"has such a name needs a slash, as ./{BUNDLED}.",
        default_text=BUNDLED,
        affects="elsewhere",
    )
    preview: Path | None = option(
        None, help="Also draw the map with a legend into this PNG; as -o preview=PATH.", affects="files"
    )
    coreg: Coregistration = field(
        default="check", kw_only=True, metadata=SceneOptions.__dataclass_fields__["coreg"].metadata
    )
    scheme: str | None = option(
        None,
        help="Class scheme to write the map in: corine-level1, dfc2020, dynamic-world, esri-io, terramesh, worldcover, "
        "or a TOML file of your own.",
        default_text="the weights'",
        affects="pixels",
    )
    resume: bool = option(
        True,
        help="Go on with what an interrupted run for the same map has finished, or start again.",
        default_text="resume",
        affects="run",
    )
    overwrite: bool = option(False, help="Replace existing files that refnet did not write.", affects="run")
    outputs: tuple[str, ...] = option((), help="Further outputs, KIND or KIND=PATH, as -o takes them.", affects="files")
    tta: bool = option(
        False, help="Average over the eight ways to turn and mirror a tile, in eight times the time.", affects="pixels"
    )
    smooth: int = option(
        0,
        help="Smooth probabilities over this many pixels on each side, where they are alike: single pixels that stand "
        "out unsurely go, edges stay.",
        default_text="0, not at all",
        metavar="PIXELS",
        affects="pixels",
    )
    threshold: float = option(
        0.0, help="Make pixels no data whose class is less probable than this.", metavar="PROBABILITY", affects="pixels"
    )
    zones: Path | None = option(
        None, help="Polygons by which the output areas is told too, as regions.gpkg.", affects="files"
    )
    zone_field: str | None = option(
        None, help="Field of the zones that names them.", default_text="they are numbered", affects="files"
    )
    zone_layer: str | None = option(
        None, help="Layer of the file of zones; needed where several have shapes.", affects="files", since="0.2"
    )
    min_area: float = option(
        0.0,
        help="Hectares below which the output polygons merges a polygon into its largest neighbour.",
        affects="files",
    )
    date: str | None = option(
        None,
        help="When the scenes were taken, for the output stac: 2020-07-01, or an interval as 2020-07-01/2020-07-05.",
        default_text="what the files' names tell",
        affects="files",
    )
    checksum: bool = option(False, help="Also write the map's SHA-256 next to it, as sha256sum does.", affects="files")
    max_memory: str | None = option(
        None, help="Memory to take at most, as 4G.", default_text="what is free, less a tenth", affects="run"
    )
    overlap: int | None = option(
        None,
        help="Pixels that neighbouring tiles share.",
        default_text="a quarter of a tile, that is 64 of 256",
        affects="pixels",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        absent_sensor(self.optical, self.sar)  # raises if both are
        if self.weights is not None:
            object.__setattr__(self, "weights", as_weights(self.weights))
        if isinstance(self.outputs, str):
            object.__setattr__(self, "outputs", (self.outputs,))
        if not 0 <= self.smooth <= 16:
            raise OptionsError(f"Smoothing over {self.smooth} pixels is impossible; give a number from 1 to 16.")
        if not 0 <= self.threshold < 1:
            raise OptionsError(f"A threshold of {self.threshold} is no probability; give one from 0 to below 1.")
        if not 0 <= self.min_area < math.inf:
            raise OptionsError(f"A least area of {self.min_area} hectares is impossible; give 0 or more.")
        self._check_own_options()
        if self.date is not None:
            parse_dates(self.date)

    def _check_own_options(self) -> None:
        """Refuse options that are for an output which is not made."""
        from refnet_cli.outputs import OUTPUTS

        others = {name: kind for kind in OUTPUTS.keys() - self.places for name in OUTPUTS[kind].own_options}
        for name in (one.name for one in fields(self) if one.name in others and getattr(self, one.name)):
            kind = others[name]
            raise OptionsError(f"--{name.replace('_', '-')} is for the output {kind!r}: add --output {kind}.")

    @property
    def absent(self) -> Modality | None:
        """The sensor that there are no files of."""
        return absent_sensor(self.optical, self.sar)

    @property
    def sensors(self) -> tuple[Modality, ...]:
        """Those that there are files of."""
        return tuple(sensor for sensor in MODALITIES if sensor != self.absent)

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
        from refnet_cli.outputs import OUTPUTS, check_endings  # takes a second to import, and --help needs the fields

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


@dataclass(frozen=True)
class PredictOptions(EngineOptions, MapOptions):
    """What to map, what to make of it and where to write it, and what the network is to run on and with.

    Raises
    ------
    OptionsError
        If a value is impossible.
    """

    read_threads: int | None = option(
        None,
        help="Threads that read and warp ahead of the network; the map is the same for any number.",
        default_text="the processor's cores, at most 8",
        affects="run",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.read_threads is not None and not 1 <= self.read_threads <= 256:
            raise OptionsError(f"Reading in {self.read_threads} threads is impossible; give a number from 1 to 256.")
        if self.batch is not None and self.batch < 1:
            raise OptionsError(f"A batch of {self.batch} tiles is impossible; it takes at least one.")

    @property
    def engine(self) -> EngineOptions:
        """What the network is to run on and with."""
        return narrow(self, EngineOptions)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as a plain dict that JSON can hold."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
