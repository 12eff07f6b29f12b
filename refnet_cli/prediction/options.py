"""What to predict, with what, and where to put it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from refnet_cli.errors import OptionsError
from refnet_cli.model.weight_files import BundledName, as_weights
from refnet_cli.outputs import OUTPUTS, check_endings
from refnet_cli.scene import Coregistration, SceneOptions, absent_sensor
from refnet_cli.sensors.dates import read_dates
from refnet_cli.sensors.sensor import MODALITIES, Modality

NEEDED = {"areas": ("zones", "zone_field", "zone_layer"), "polygons": ("min_area",), "stac": ("date",)}
"""Outputs, and options that are for them only."""


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
    weights: BundledName | Path | None = None
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
