"""Options of several commands, and how they become dataclasses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from refnet_cli.cli.usage import wildcard_remedy
from refnet_cli.system.urls import Remote, is_remote, split_paths

FILE = click.Path(path_type=Path, dir_okay=False)
PICTURE = (".png",)
TASK_LISTS = (".jsonl", ".ndjson", ".json", ".txt", "")
FILES = (".safetensors", ".onnx", ".pt", ".pth", ".tif", ".tiff", ".toml")


class NameList(click.ParamType):  # type: ignore[type-arg]
    """Names separated by commas.

    Parameters
    ----------
    joins : bool
        Whether two of its values, with a comma between them, are a value.
    """

    name = "names"

    def __init__(self, joins: bool = True) -> None:
        self.joins = joins

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split the text."""
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else tuple(value)


class PathList(click.ParamType):  # type: ignore[type-arg]
    """A path or URL, or several separated by commas."""

    name, joins = "paths", True

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Path | Remote, ...]:
        """Split the text, unless all of it is a path with commas in it."""
        if not isinstance(value, str):
            return tuple(value)
        if remedy := wildcard_remedy(value):
            self.fail(f"{value} is a wildcard, which refnet does not expand. {remedy}", param, ctx)
        parts = [value] if os.path.exists(value) else split_paths(value)
        if not all(parts):
            shown = ",".join(str(Remote(part)) if is_remote(part) else part for part in parts)
            self.fail(f"{shown!r} has an empty path between commas.", param, ctx)
        return tuple(Remote(part) if is_remote(part) else Path(part) for part in parts)


class Weights(click.ParamType):  # type: ignore[type-arg]
    """A file of weights, or the name of bundled ones."""

    name = "weights"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Keep a name, and make a path of all else."""
        from refnet_cli.model.weight_files import as_weights

        chosen = as_weights(value)
        return FILE.convert(value, param, ctx) if isinstance(chosen, Path) else chosen


WEIGHTS = Weights()
OVERWRITE = click.option(
    "--overwrite", is_flag=True, default=None, help="Replace existing files that refnet did not write."
)
FILE_OPTIONS = (
    click.option(
        "--optical-bands",
        type=NameList(),
        help="Names or numbers of the optical bands to use, in the order of the weights' bands.",
    ),
    click.option("--sar-bands", type=NameList(), help="The same for SAR."),
    click.option(
        "--optical-offset",
        type=float,
        help="Number to subtract from the optical values: 1000 since baseline 04.00, else 0.  [default: detected]",
    ),
    click.option(
        "--optical-scale",
        type=click.Choice(["dn", "reflectance"]),
        help="Scale of the optical values: reflectance x 10,000, or from 0 to 1.  [default: detected]",
    ),
    click.option(
        "--sar-scale",
        type=click.Choice(["power", "amplitude", "db", "db100"]),
        help="Scale of the SAR values.  [default: detected]",
    ),
    click.option("--strict", is_flag=True, default=None, help="Refuse what can only be guessed from the values."),
    click.option(
        "--mask-clouds",
        is_flag=True,
        default=None,
        help="Leave out clouds by a mask that comes with the optical files, such as SCL or QA60.",
    ),
    click.option(
        "--allow-gcps",
        is_flag=True,
        default=None,
        help="Accept SAR that is not terrain-corrected, placed by ground control points only.",
    ),
    click.option(
        "--allow-vrt",
        is_flag=True,
        default=None,
        help="Accept GDAL virtual rasters (.vrt), which can make any raster file of this machine pixels.",
    ),
    click.option(
        "--allow-remote",
        is_flag=True,
        default=None,
        help="Accept URLs, http:// and https://, of GeoTIFF and JPEG 2000 files, and read these over the network. "
        "After a URL and a comma, a relative path begins with ./",
    ),
    click.option(
        "--extent",
        type=click.Choice(["optical", "intersection"]),
        help="Map the whole optical image, or the rectangle where SAR lies too.  [default: optical]",
    ),
    click.option(
        "--bounds",
        type=NameList(joins=False),
        help="Map only west,south,east,north in the map's reference system, or in one named behind them, as "
        "13.1,52.3,13.5,52.6,EPSG:4326.",
    ),
    click.option(
        "--grid",
        type=FILE,
        help="Map on the grid of this raster.  [default: the optical image's finest grid; of SAR alone, its own]",
    ),
)
COREG_OPTION = click.option(
    "--coreg",
    type=click.Choice(["off", "check", "auto", "require"]),
    help="The shift that is left between SAR and optical: tell it, correct it where it is certain, or fail where "
    "it is not; of one sensor there is none.  [default: check]",
)
MISSING_OPTION = click.option(
    "--missing",
    type=click.Choice(["nodata", "use-other"]),
    help="Where one sensor saw nothing: no data, or a prediction from the other, which a second band of the map, "
    "'quality', tells.  [default: nodata]",
)
OUTPUT_OPTIONS = (
    click.option(
        "-o",
        "--output",
        "given_outputs",
        multiple=True,
        metavar="[KIND=]PATH",
        help="Class map to write, a Cloud Optimized GeoTIFF [required]; and, each with an -o of its own, KIND or "
        "KIND=PATH of further outputs: probabilities, probabilities16, confidence, quality, preview, polygons, areas, "
        "style, report, stac. Without a path they lie beside the map and are named after it.",
    ),
    click.option("--preview", type=FILE, help="Also draw the map with a legend into this PNG; as -o preview=PATH."),
    click.option("--zones", type=FILE, help="Polygons by which the output areas is told too, as regions.gpkg."),
    click.option("--zone-field", help="Field of the zones that names them.  [default: they are numbered]"),
    click.option("--zone-layer", help="Layer of the file of zones; needed where several have shapes."),
    click.option(
        "--min-area",
        type=float,
        help="Hectares below which the output polygons merges a polygon into its largest neighbour.  [default: 0]",
    ),
    click.option(
        "--date",
        help="When the scenes were taken, for the output stac: 2020-07-01, or an interval as 2020-07-01/2020-07-05.  "
        "[default: what the files' names tell]",
    ),
    click.option(
        "--tta",
        is_flag=True,
        default=None,
        help="Average over the eight ways to turn and mirror a tile, in eight times the time.",
    ),
    click.option(
        "--smooth",
        type=int,
        metavar="PIXELS",
        help="Smooth probabilities over this many pixels on each side, where they are alike: single pixels that stand "
        "out unsurely go, edges stay.  [default: 0, not at all]",
    ),
    click.option(
        "--threshold",
        type=float,
        metavar="PROBABILITY",
        help="Make pixels no data whose class is less probable than this.  [default: 0]",
    ),
)
PREDICT_OPTIONS = (
    click.option(
        "--weights",
        type=WEIGHTS,
        help="Weights of the network: a file, or the name of bundled ones, as refnet-small; a file without ending that "
        "has such a name needs a slash, as ./refnet-small.  [default: refnet-small]",
    ),
    *OUTPUT_OPTIONS,
    COREG_OPTION,
    *FILE_OPTIONS,
    MISSING_OPTION,
    click.option(
        "--on-read-error",
        type=click.Choice(["fail", "mask"]),
        help="Where a file is damaged: fail, or no data, up to a twentieth of the map.  [default: fail]",
    ),
    click.option(
        "--scheme",
        help="Class scheme to write the map in: corine-level1, dfc2020, dynamic-world, esri-io, terramesh, worldcover, "
        "or a TOML file of your own.  [default: the weights']",
    ),
    click.option(
        "--resume/--no-resume",
        default=None,
        help="Go on with what an interrupted run for the same map has finished, or begin anew.  [default: resume]",
    ),
    OVERWRITE,
    click.option(
        "--checksum", is_flag=True, default=None, help="Also write the map's SHA-256 beside it, as sha256sum does."
    ),
    click.option("--max-memory", help="Memory to take at most, as 4G.  [default: what is free, less a tenth]"),
    click.option(
        "--overlap",
        type=int,
        help="Pixels that neighbouring tiles share.  [default: a quarter of a tile, that is 64 of 256]",
    ),
    click.option(
        "--device",
        help="auto, cpu, cuda or cuda:N; or several, in a process each, as cuda:0,1, which was not measured.  "
        "[default: auto]",
    ),
    click.option("--batch", type=int, help="Tiles at once on each device.  [default: what suits it]"),
    click.option(
        "--scan",
        help="Kernel of the selective scan: loop, torch, cpu, mamba, fla or triton; `refnet doctor` tells which can "
        "run.  [default: what REFNET_SCAN names, else what suits the device]",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16", "fp16"]),
        help="Number format of matrix products and convolutions; bf16 and fp16 on GPUs only.  [default: fp32]",
    ),
    click.option(
        "--compile",
        is_flag=True,
        default=None,
        help="Have torch.compile make kernels for the network, a minute's work before the first tile. On CPUs it "
        "gained nothing; on GPUs it was not measured.",
    ),
    click.option(
        "--deterministic",
        is_flag=True,
        default=None,
        help="On GPUs, use only algorithms that give the same bits each time. On CPUs all of them do.",
    ),
    click.option(
        "--provider",
        type=click.Choice(["tensorrt", "cuda", "openvino", "directml", "coreml", "cpu"]),
        help="Execution provider of ONNX Runtime, for ONNX models.  [default: the first of these that is there]",
    ),
    click.option(
        "--read-threads",
        type=int,
        help="Threads that read and warp ahead of the network; the map is the same for any number.  "
        "[default: the processor's cores, at most 8]",
    ),
)


# Only recent clicks let ParamType be subscripted.
def scene_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what the files are and what is made of them."""
    return file_options(COREG_OPTION(command))


def file_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add those of `scene_options` that are for `refnet register` too."""
    for option in reversed(FILE_OPTIONS):
        command = option(command)
    return command


def predict_options(without: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of a prediction but for the scenes, and for some that a command has not."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(PREDICT_OPTIONS):
            command = option(command)
        parameters = command.__click_params__  # type: ignore[attr-defined]
        parameters[:] = [parameter for parameter in parameters if parameter.name not in without]
        return command

    return add


def print_paths(paths: Iterable[str], null: bool) -> None:
    """Print paths, a line each or with a zero byte behind each."""
    for path in paths:
        click.echo(path, nl=not null)
        if null:
            click.echo("\0", nl=False)


def check_output(
    output: Path | None,
    endings: Sequence[str],
    inputs: Iterable[Path | Remote | None],
    overwrite: bool | None,
    remedy: str = "",
) -> None:
    """Refuse a file to write, if there is one, that cannot be written, or in whose place another one lies."""
    from refnet_cli.system.atomic import check_ending, check_folder, check_places
    from refnet_cli.system.marks import check_replaceable

    if output is None:
        return
    check_ending(output, endings, "this output", remedy)
    check_places([output], [path for path in inputs if isinstance(path, Path)])
    check_replaceable([output], bool(overwrite))
    check_folder(output)


def with_outputs(given: dict[str, Any]) -> dict[str, Any]:
    """Tell the map from the further outputs among what ``--output`` was given."""
    from refnet_cli.outputs import OUTPUTS

    maps, further = [], []
    for text in given.pop("given_outputs"):
        kind, _, path = text.partition("=")
        if kind == "classes" and path:
            maps.append(path)
        elif kind in OUTPUTS:
            further.append(text)
        else:
            maps.append(text)
    if len(maps) > 1:
        raise click.UsageError(
            f"{' and '.join(maps)} are two class maps. Further outputs are given as KIND or KIND=PATH, with KIND one "
            f"of {', '.join(OUTPUTS)}."
        )
    if "-" in maps or any(text.endswith("=-") for text in further):
        raise click.UsageError(
            "A map cannot go to stdout: it is checked and then moved into place as a whole, and a Cloud Optimized "
            "GeoTIFF begins with what is known last. Write it to a file, whose path is printed: "
            "cp \"$(refnet predict ... -o lulc.tif)\" elsewhere."
        )
    return given | {"output": Path(maps[0]) if maps else None, "outputs": tuple(further) or None}


def read_config(kind: type[Any], config: Path) -> dict[str, Any]:
    """Read a config file; paths in it, those inside texts too, are relative to its folder."""
    from refnet_cli.system.config import read_table, read_toml

    values = read_table(kind, read_toml(config), config)
    if str(values.get("scheme", "")).lower().endswith(".toml"):
        values["scheme"] = str(config.parent / values["scheme"])
    if "outputs" in values:
        split = [(text, *text.partition("=")[::2]) for text in values["outputs"]]
        values["outputs"] = tuple(f"{name}={config.parent / path}" if path else text for text, name, path in split)
    return values


def fill(kind: type[Any], given: dict[str, Any], config: Path | None) -> dict[str, Any]:
    """Return the options that the command line gives and, behind it, those of a config file."""
    values = read_config(kind, config) if config else {}
    values |= {name: value for name, value in given.items() if value is not None}
    if not {"optical", "sar"} & values.keys():
        raise click.UsageError("Nothing to map: give --optical, --sar or both.", click.get_current_context())
    if "output" not in values:
        raise click.UsageError("Missing option '--output'.", click.get_current_context())
    return values
