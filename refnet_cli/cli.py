"""The command line: options become a dataclass, one library call does the work, errors become exit codes.

Only this file and `refnet_cli.usage` know click. Commands import what they need when they run, so that
``refnet --help`` is instant.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from refnet_cli import __version__
from refnet_cli.errors import ConfigError, OptionsError, TryAgainError, as_known
from refnet_cli.log import LOG
from refnet_cli.process import collect_garbage_seldom, let_waiting_threads_sleep
from refnet_cli.remote import Remote, is_remote, split_paths
from refnet_cli.usage import StrictGroup, wildcard_remedy

FILE = click.Path(path_type=Path, dir_okay=False)
PICTURE = (".png",)
TASK_LISTS = (".jsonl", ".ndjson", ".json", ".txt", "")
FILES = (".safetensors", ".onnx", ".pt", ".pth", ".tif", ".tiff", ".toml")
PIPE_CLOSED, USAGE, BUG = 141, 2, 70
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}


# Only recent clicks let ParamType be subscripted.
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
        from refnet_cli.card import as_weights

        chosen = as_weights(value)
        return FILE.convert(value, param, ctx) if isinstance(chosen, Path) else chosen


WEIGHTS = Weights()
OVERWRITE = click.option(
    "--overwrite", is_flag=True, default=None, help="Replace existing files that refnet did not write."
)


def scene_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what the files are and what is made of them."""
    return file_options(COREG_OPTION(command))


def file_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add those of `scene_options` that are for `refnet register` too."""
    for option in reversed(FILE_OPTIONS):
        command = option(command)
    return command


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
        help="Weights of the network: a file, or the name of bundled ones, as refnet-base; a file without ending that "
        "has such a name needs a slash, as ./refnet-base.  [default: refnet-base]",
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


def predict_options(without: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of a prediction but for the scenes, and for some that a command has not."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(PREDICT_OPTIONS):
            command = option(command)
        parameters = command.__click_params__  # type: ignore[attr-defined]
        parameters[:] = [parameter for parameter in parameters if parameter.name not in without]
        return command

    return add


@click.group(cls=StrictGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="refnet")
@click.option("--debug", is_flag=True, help="Show where in the program an error arose.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Messages on stderr as lines for people, or as JSON: time, level, event, message, scene, window, code. "
    "May stand behind the command too.",
)
@click.pass_context
def commands(context: click.Context, debug: bool, log_format: str) -> None:
    """Map land use and land cover from Sentinel-1 and Sentinel-2 scenes with REF-Net.

    \b
    refnet predict --optical s2.tif --sar s1.tif -o lulc.tif
    refnet train regions.toml -o runs/name

    Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 scenes of a batch failed, 2 wrong usage,
    64 options contradict each other or the files, 65 input unusable, 66 input missing, 69 device missing, 70 a bug,
    73 output impossible, 74 disk full or input/output error, 75 try again, 78 weights do not fit.
    """  # noqa: D301
    context.obj = debug
    LOG.as_json = log_format == "json"


@commands.command("predict")
@click.option(
    "--optical",
    type=PathList(),
    help="Sentinel-2: a GeoTIFF or JPEG 2000, several (B02.tif,B03.tif,...), a folder of them, or a SAFE folder or "
    "zip; its finest grid is the map's. May be left out where the weights can do with --sar alone.",
)
@click.option(
    "--sar",
    type=PathList(),
    help="Sentinel-1, terrain-corrected, of any grid: a file, or VV.tif,VH.tif. May be left out where the weights can "
    "do with --optical alone. Without --optical the map lies on the SAR file's grid.",
)
@predict_options()
@click.option(
    "--config",
    type=FILE,
    help="TOML file with any of these options, as optical_bands = [...], paths relative to it; the command line wins.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a report as JSON instead of the paths of what was made.")
@click.option("-0", "--null", is_flag=True, help="End paths with a zero byte, for xargs -0.")
@click.option("-v", "--verbose", is_flag=True, help="Say what the network runs on and with, and why.")
@click.option("-q", "--quiet", is_flag=True, help="No messages but errors.")
def predict_command(
    config: Path | None, as_json: bool, null: bool, verbose: bool, quiet: bool, **given: Any
) -> None:
    """Make a land-cover map of a scene pair, or of a scene of one sensor.

    The map lies on the optical file's grid, pixel for pixel; without one, on that of the SAR file or of --grid. What
    was decided about the files (bands, units, offsets) is said on stderr and recorded in the map's tags.
    """
    from refnet_cli.prediction.predict import PredictOptions, predict

    options = PredictOptions(**_fill(PredictOptions, _with_outputs(given), config))
    LOG.scene = str(options.output)
    with _ProgressBar("tiles", quiet) as progress:
        report = predict(options, progress=progress, tell=_say_line if verbose and not quiet else None)
    if not quiet:
        _say(_describe(report.to_dict()))
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _print_paths((file["path"] for made in report.files.values() for file in made), null)


@commands.command("inspect")
@click.option("--optical", type=PathList(), help="Sentinel-2, as for refnet predict.")
@click.option("--sar", type=PathList(), help="Sentinel-1, as for refnet predict.")
@click.option(
    "--weights", type=WEIGHTS, help="Weights that the files are to fit, as for refnet predict.  [default: refnet-base]"
)
@scene_options
@MISSING_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def inspect_command(
    optical: tuple[Path, ...] | None, sar: tuple[Path, ...] | None, weights: Any, as_json: bool, **given: Any
) -> None:
    """Tell what files are, how that was found out, and what refnet predict will do with them.

    Files of one sensor are enough. Whether a map can be made of them alone depends on the weights.

    Each decision tells the kind of evidence first: tag, metadata, description, name, data type, count, values or
    option.
    """
    from refnet_cli.card import find_weights, read_card
    from refnet_cli.inspection import inspect
    from refnet_cli.scene import SceneOptions

    if optical is None and sar is None:
        raise click.UsageError("Nothing to inspect: give --optical, --sar or both.")
    chosen = {"coreg": "check"} | {name: value for name, value in given.items() if value is not None}
    found = inspect(optical, sar, read_card(find_weights(weights)), SceneOptions(**chosen)).to_dict()
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(_describe_inspection(found)))


@commands.command("register")
@click.option("--optical", type=PathList(), required=True, help="Sentinel-2, as for refnet predict.")
@click.option("--sar", type=PathList(), required=True, help="Sentinel-1, as for refnet predict.")
@click.option("--plot", type=FILE, help="Draw the shift of each window into this PNG.")
@click.option("--geojson", type=FILE, help="Write the shift of each window as lines into this GeoJSON.")
@OVERWRITE
@file_options
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON, with a vector for each window.")
def register_command(
    optical: tuple[Path, ...],
    sar: tuple[Path, ...],
    plot: Path | None,
    geojson: Path | None,
    overwrite: bool | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Tell how far SAR and optical are still apart where georeferencing says that they are aligned.

    The shift is what to add to where SAR lies: columns to the east, rows to the south on a north-up grid. `refnet
    predict --coreg auto` applies it. Exit code 0 also where it is not certain; the first word of the answer tells.
    """
    from refnet_cli.coregistration import find_shift
    from refnet_cli.scene import SceneOptions

    _check_output(plot, PICTURE, [*optical, *sar, geojson], overwrite)
    _check_output(geojson, (".geojson", ".json"), [*optical, *sar], overwrite)
    options = SceneOptions(**{name: value for name, value in given.items() if value is not None})
    found = find_shift(optical, sar, options)
    if plot:
        from refnet_cli.figures import draw_shift

        draw_shift(plot, found.shift, *found.grid.shape)
    if geojson:
        found.write_geojson(geojson)
    click.echo(json.dumps(found.to_dict(), indent=2) if as_json else "\n".join(_describe_shift(found.to_dict())))


@commands.command("train")
@click.argument("regions", type=FILE)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for checkpoint and weights.  [required but for --dry-run]",
)
@click.option("--dry-run", is_flag=True, help="Only count the labelled pixels of each class, and train nothing.")
@click.option("--fold", help="Hold out this region (a scene's region, by default its name) and score on it.")
@click.option(
    "--folds",
    help="Train one network for each of these regions, with it held out: 'all', or names with commas between them. The "
    "folder gets one folder for each, and the table folds.csv of all scores.",
)
@click.option(
    "--split",
    type=click.Choice(["blocks", "region", "random", "none"]),
    help="How validation is held out: in blocks of 2.56 km with a buffer of a tile, by region, in patches at random "
    "(whose scores flatter), or not at all.  [default: by region where a scene is marked or a fold named, else blocks]",
)
@click.option(
    "--init",
    type=WEIGHTS,
    help="Weights or published checkpoint to start from, or the name of bundled weights: refnet-base, or 'shipped'.",
)
@click.option(
    "--encoder-weights",
    help="Pretrained encoders to start from: 'imagenet', which timm fetches, a file of such, or a name: 'bigearthnet', "
    "'ssl4eo-moco' or 'decur', whose checksums the regions file states as encoder_sha256.",
)
@click.option("--freeze", type=click.Choice(["encoders"]), help="What is not to learn.")
@click.option("--steps", type=int, help="Optimiser steps.")
@click.option("--batch", type=int, help="Crops of each step, over all devices.")
@click.option("--name", help="Name of the weights.")
@click.option("--seed", type=int, help="Of everything that is drawn at random.")
@click.option(
    "--without",
    type=click.Choice(["optical", "sar"]),
    help="Set this sensor to its mean, to compare; the weights will never see it.",
)
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Number format; half ones on GPUs only.")
@click.option("--scan", help="Kernel of the selective scan; see refnet predict.")
@OVERWRITE
@click.option("--json", "as_json", is_flag=True, help="Print the weights' card as JSON instead of their path.")
@click.option("-q", "--quiet", is_flag=True, help="No messages but errors.")
def train_command(
    regions: Path,
    output: Path | None,
    dry_run: bool,
    folds: str | None,
    overwrite: bool | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Train on the scenes of a regions file.

    REGIONS is a TOML file; paths in it are relative to it, and options given here replace those in it:

    \b
    scheme = "esri-io"
    encoder = "resnet18"
    steps = 5000
    [[scenes]]
    optical = "s2.tif"
    sar = "s1.tif"
    labels = "labels.tif"

    README.md tells more. The folder gets weights, checkpoints, tables and pictures of how it went. An interrupted
    training goes on where its last checkpoint was when called again; SIGTERM and Ctrl-C have one written first.
    --folds all holds out each region in turn; folds that are finished are not trained again.
    With several GPUs: torchrun --nproc-per-node 2 -m refnet_cli train ...
    """  # noqa: D301
    from refnet_cli.regions import read_folds, read_regions

    if output is None and not dry_run:
        raise click.UsageError("Missing option '-o' / '--output'.")
    if output is not None and output.suffix.lower() in FILES and not output.is_dir():
        raise OptionsError(
            f"{output} would be a folder, but its name is that of a file. Give -o {output.with_suffix('')}. The "
            "weights become a file in it."
        )
    chosen = {name: value for name, value in given.items() if value is not None}
    if "fold" in chosen:
        chosen.setdefault("split", "region")
    if folds is not None and "fold" in chosen:
        raise OptionsError("--fold holds out one region, --folds each in turn: give one of them.")
    configs = {"": read_regions(regions, chosen)} if folds is None else read_folds(regions, folds, chosen)
    if output is None or dry_run:
        _count_labels(configs, as_json, quiet)
        return
    from refnet_cli.folds import TABLE, fit_folds
    from refnet_cli.train import fit

    with _ProgressBar("steps", quiet) as bar, _Asked() as asked:

        def report(progress: Any) -> None:
            _report_step(bar, progress, quiet)

        run = output, report, None if quiet else bar.say, asked, bool(overwrite)
        try:
            made = fit(configs[""], *run) if folds is None else fit_folds(configs, *run)
        except TryAgainError as stopped:
            if not asked():
                raise
            bar.say(f"refnet: {stopped}")
            raise SystemExit(_ended_by[0]) from stopped
    if isinstance(made, dict):
        click.echo(json.dumps(made, indent=2) if as_json else str(output / TABLE))
    elif made.first:
        click.echo(json.dumps(made.card.to_dict(), indent=2) if as_json else str(made.weights))


def _count_labels(configs: Mapping[str, Any], as_json: bool, quiet: bool) -> None:
    """Print the labelled pixels of each class, of each fold where there are folds."""
    from refnet_cli.sampling import count_classes, survey

    found = {}
    for fold, config in configs.items():
        scenes = survey(config)
        found[fold] = counts = count_classes(scenes, config)
        if not as_json:
            click.echo("\n".join([*[f"fold {fold}"] * bool(fold), *_describe_labels(counts)]))
        if not quiet:
            _say([f"warning: {look.scene.name}: {warning}" for look in scenes for warning in look.warnings])
            _say(_missing_labels(counts))
    if as_json:
        click.echo(json.dumps(found.get("", found), indent=2))


class _Asked:
    """Whether a signal asked to end; from the first time that this is asked on, it only asks, instead of ending."""

    def __init__(self) -> None:
        self._polite = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Asked:
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __call__(self) -> bool:
        self._polite = True
        return bool(_ended_by)

    def _note(self, number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # the second one ends at once
        _ended_by.append(SIGNALS[signal.Signals(number)])
        if not self._polite:
            raise SystemExit(_ended_by[-1])

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@commands.command("evaluate")
@click.argument("map_", metavar="[MAP]", type=FILE, required=False)
@click.argument("labels", type=FILE, required=False)
@click.option(
    "--scheme",
    help="Class scheme of both files, or a TOML file of your own as for refnet predict.  "
    "[default: the one the map names]",
)
@click.option(
    "--mapping",
    "meanings",
    type=FILE,
    help="TOML file of what the labels' codes or names stand for in the scheme: [mapping] or [label_codes], as 10 = "
    '"Trees" and 255 = 0 for no label; or ignore = [255].',
)
@click.option(
    "--sample",
    is_flag=True,
    help="The labels are a probability sample: pixels of the map drawn at random within each of its classes, or over "
    "all of it. Estimate accuracies and areas with confidence intervals of 95 % (Olofsson et al. 2014).",
)
@click.option("--field", help="Field of a vector file of labels that holds the class; needed where it has several.")
@click.option("--layer", help="Layer of a vector file of labels; needed where several have shapes.")
@click.option(
    "--weights", type=WEIGHTS, help="In place of a map: score these weights (file or name) on the scenes of --regions."
)
@click.option("--regions", type=FILE, help="Regions file of refnet train; what it holds out is scored.")
@click.option("--fold", help="With --regions: the region to score.")
@click.option("--device", default="auto", show_default=True, help="With --weights: auto, cpu, cuda or cuda:N.")
@click.option("--plot", type=FILE, help="Also draw the confusion matrix into this PNG.")
@OVERWRITE
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON, the confusion matrix among them.")
def evaluate_command(
    map_: Path | None, labels: Path | None, plot: Path | None, overwrite: bool | None, as_json: bool, **given: Any
) -> None:
    """Score a class map against reference labels, or weights on labelled scenes.

    Labels are a raster of codes of the map's class scheme, brought onto the map's grid by nearest neighbour, or
    polygons or points (GeoPackage, GeoJSON, Shapefile) with such codes or the classes' names.

    \b
    refnet evaluate lulc.tif labels.tif
    refnet evaluate lulc.tif worldcover.tif --mapping codes.toml
    refnet evaluate --weights mine.safetensors --regions regions.toml
    """  # noqa: D301
    of_map, of_weights = (map_, labels), (given["weights"], given["regions"])
    if all(of_map) == all(of_weights) or (any(of_map) and any(of_weights)):
        raise click.UsageError("Give either MAP and LABELS, or --weights and --regions.")
    _check_output(plot, PICTURE, [*of_map, *of_weights, given["meanings"]], overwrite)
    found = _score_weights(given) if all(of_weights) else _score_map(map_, labels, given)
    if plot:
        import numpy as np

        from refnet_cli.figures import draw_confusion

        draw_confusion(plot, np.array(found["confusion_matrix"]), list(found["labelled"]))
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(_describe_scores(found)))


def _score_map(map_: Any, labels: Any, given: dict[str, Any]) -> dict[str, Any]:
    from refnet_cli.evaluation.evaluate import evaluate

    if given["fold"]:
        raise click.UsageError("--fold is for --regions.")
    chosen = {name: given[name] for name in ("scheme", "sample", "field", "layer", "meanings")}
    return evaluate(map_, labels, **chosen, tell=_say_line).to_dict()


def _score_weights(given: dict[str, Any]) -> dict[str, Any]:
    from refnet_cli.regions import read_regions
    from refnet_cli.validation import evaluate_weights

    if any(given[name] for name in ("scheme", "sample", "field", "layer", "meanings")):
        raise click.UsageError(
            "--scheme, --mapping, --field, --layer and --sample are for maps. A regions file says what its labels are: "
            "scheme, label_codes, label_field, label_layer."
        )
    options = {"split": "region", "fold": given["fold"]} if given["fold"] else {}
    config = read_regions(given["regions"], options)
    scores, by_scene = evaluate_weights(given["weights"], config, given["device"], _say_line)
    return scores.to_dict() | {"overall_accuracy_by_scene": by_scene}


@commands.group("batch")
def batch_group() -> None:
    """Map many scenes: plan them, run them anywhere and again, put blocks together.

    \b
    refnet batch plan scenes.csv -o tasks.jsonl
    refnet batch run tasks.jsonl --workers 2
    refnet batch merge tasks.jsonl       (only after plan --blocks)
    refnet batch status tasks.jsonl
    """  # noqa: D301


@batch_group.command("plan")
@click.argument("scenes", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("-o", "--output", type=FILE, help="File of tasks to write, a line of JSON each.  [default: stdout]")
@click.option(
    "--optical",
    metavar="TEMPLATE",
    help="Where the list has no column optical: a text with fields; or none, if no scene has optical files.",
)
@click.option("--sar", metavar="TEMPLATE", help="The same for SAR, as '{parent}/s1.tif', or none.")
@click.option("--map", "map_", metavar="TEMPLATE", help="The same for the map to write, as 'maps/{id}.tif'.")
@click.option(
    "--also",
    multiple=True,
    metavar="KIND[=TEMPLATE]",
    help="Further outputs of each scene, as --output of refnet predict; may be given several times.",
)
@click.option(
    "--blocks",
    type=int,
    metavar="PIXELS",
    help="Cut maps into blocks of this side, a multiple of 512, as 8192; refnet batch merge puts them together.",
)
@click.option("-0", "--null", is_flag=True, help="The list is of paths that end with a zero byte, as of find -print0.")
@click.option("--config", type=FILE, help="TOML file with any of the options below; the command line wins.")
@predict_options(without=("given_outputs", "preview"))
def batch_plan(
    scenes: Path,
    output: Path | None,
    map_: str | None,
    also: tuple[str, ...],
    blocks: int | None,
    null: bool,
    config: Path | None,
    **given: Any,
) -> None:
    """Turn a list of scenes into tasks.

    SCENES is a CSV table with columns optical, sar and output (and any others, as fields for templates), a STAC
    ItemCollection, or a list of paths of optical files (of SAR files with --optical none), a line each; - reads it from
    stdin. Paths in it are relative to it; those of templates to the working directory. In templates {field} is a
    column, an asset or id of a STAC item, or of the optical file its path, name, stem (the name without .tif), parent
    (the folder's path) and folder (its name).
    A scene of one sensor has an empty cell in the column of the other; its fields are those of the file that it has.

    \b
    refnet batch plan scenes.csv -o tasks.jsonl --also preview --also areas
    refnet batch plan items.json --optical '{B02},{B03},{B04},{B08}' --sar '{vv},{vh}' --map 'maps/{id}.tif'
    find . -name s2.tif | refnet batch plan - --sar '{parent}/s1.tif' --map '{parent}/lulc.tif'
    """  # noqa: D301
    from refnet_cli.files import replacing
    from refnet_cli.planning import NONE, Templates, plan, read_list, read_scenes
    from refnet_cli.prediction.predict import PredictOptions

    options = _read_config(PredictOptions, config) if config else {}
    for name in ("optical", "sar", "output", "preview"):
        if name in options:
            raise ConfigError(f"{config} names {name}, which each scene has its own of: give it as a template.")
    outputs = options.pop("outputs", ())
    templates = Templates(given.pop("optical"), given.pop("sar"), map_, also or outputs)
    options |= {name: value for name, value in given.items() if value is not None}
    if output is not None:
        read = [scenes, config, *(options.get(name) for name in ("weights", "grid", "zones"))]
        inputs = [path for path in read if isinstance(path, Path) and str(path) != "-"]
        remedy = "Give -o tasks.jsonl for the list of tasks; --map names the maps, as --map '{folder}.tif'."
        _check_output(output, TASK_LISTS, inputs, given["overwrite"], remedy)
    text, folder, guessed = read_list(None if str(scenes) == "-" else scenes, sys.stdin, null)
    if guessed:
        _say([f"warning: {scenes} is not UTF-8 and was read as {guessed}. If names are wrong, save it as UTF-8."])
    listed = read_scenes(text, folder, null, "sar" if templates.optical == NONE else "optical")
    tasks = list(plan(listed, templates, options, folder, blocks, _say_line))
    lines = "".join(f"{task.to_line()}\n" for task in tasks)
    if output is None:
        click.echo(lines, nl=False)
        return
    with replacing(output) as temporary:
        temporary.write_text(lines, encoding="utf-8")
    _say([f"{len(tasks)} tasks"])
    click.echo(output)


@batch_group.command("run")
@click.argument("tasks", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--index", type=int, default=0, show_default=True, help="Which of the parts to run, from 0.")
@click.option("--of", type=int, default=1, show_default=True, help="In how many parts the tasks are dealt out.")
@click.option("--workers", type=int, help="Run in this many processes at once.")
@click.option("--dask", metavar="ADDRESS", help="Run on the Dask cluster of this scheduler, as tcp://host:8786.")
@click.option("--device", help="In place of the tasks' own: auto, cpu, cuda or cuda:N.")
@click.option("--max-memory", help="In place of the tasks' own: memory that each process may take, as 4G.")
@click.option(
    "--overwrite",
    is_flag=True,
    default=None,
    help="Replace existing files that refnet did not write, and make again what another version of refnet made.",
)
@click.option("--as-worker", is_flag=True, hidden=True, help="Leave it to who reads the outcomes to tell of failures.")
def batch_run(
    tasks: Path, index: int, of: int, workers: int | None, dask: str | None, as_worker: bool, **given: Any
) -> None:
    """Run tasks, but for those that are done.

    Each prints a line of JSON when it ends: id, output, status (done, skipped, failed), code as the exit code of refnet
    predict, message. Failures do not stop the others; those with code 74 or 75 are tried again, three times in all.
    Exit code 1 if any failed. With - tasks are read from stdin and run as they come, each once.

    \b
    refnet batch run tasks.jsonl --workers 2
    seq 0 3 | xargs -P 2 -I{} refnet batch run tasks.jsonl --index {} --of 4
    refnet batch run tasks.jsonl --index $SLURM_ARRAY_TASK_ID --of $SLURM_ARRAY_TASK_COUNT
    """  # noqa: D301
    from refnet_cli import batch
    from refnet_cli.tasks import read_tasks

    overrides = {name: value for name, value in given.items() if value is not None}
    if not 0 <= index < of:
        raise click.UsageError(f"--index {index} is none of {of} parts, which are numbered from 0.")
    if workers is not None and (workers < 1 or dask):
        raise click.UsageError("--workers takes a number from 1, and not together with --dask.")
    if str(tasks) == "-" and (of > 1 or workers or dask):
        raise click.UsageError("Tasks from stdin run as they come: --index, --of, --workers and --dask want a file.")
    if str(tasks) == "-":
        if as_worker:
            batch.end_with_parent()
        _report_outcomes(batch.run_lines(sys.stdin, overrides), quiet=as_worker)
        return
    chosen = batch.share(read_tasks(tasks), index, of)
    if dask:
        _report_outcomes(batch.run_on_dask(chosen, dask, overrides))
    elif workers:
        _report_outcomes(batch.run_in_workers(chosen, workers, overrides))
    else:
        _report_outcomes(batch.run_here(chosen, overrides))


def _report_outcomes(outcomes: Iterator[Any], quiet: bool = False) -> None:
    """Print outcomes as they come to be, and exit with 1 if any is a failure."""
    counts: Counter[str] = Counter()
    with closing(outcomes) as outcomes:  # type: ignore[type-var]
        for outcome in outcomes:
            counts[outcome.status] += 1
            if outcome.failed and not quiet:
                LOG.say(f"refnet: {outcome.output}: {outcome.message}", "failed", outcome.code)
            click.echo(outcome.to_line())
            sys.stdout.flush()
    if not quiet:
        _say([", ".join(f"{counts[status]} {status}" for status in ("done", "skipped", "failed"))])
    if counts["failed"]:
        raise SystemExit(1)


@batch_group.command("merge")
@click.argument("tasks", type=FILE)
@OVERWRITE
def batch_merge(tasks: Path, overwrite: bool | None) -> None:
    """Put the blocks of maps together, where all are done.

    The maps and their further outputs are those of a single run. Prints a line of JSON a map; exit code 1 if any could
    not be made. The blocks, in a folder beside each map, may be removed afterwards.
    """
    from refnet_cli.batch import merge_maps
    from refnet_cli.tasks import read_tasks

    _report_outcomes(merge_maps(read_tasks(tasks), bool(overwrite)))


@batch_group.command("status")
@click.argument("tasks", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers and the missing outputs as JSON.")
@click.option("-0", "--null", is_flag=True, help="End paths with a zero byte, for xargs -0.")
def batch_status(tasks: Path, as_json: bool, null: bool) -> None:
    """Tell how many tasks are done, and print the paths of the outputs that are missing.

    Exit code 1 while any is missing.
    """
    from refnet_cli.batch import missing
    from refnet_cli.tasks import read_tasks

    planned = read_tasks(tasks)
    left = [str(task.path) for task in missing(planned)]
    done = len(planned) - len(left)
    if as_json:
        click.echo(json.dumps({"tasks": len(planned), "done": done, "missing": left}, indent=2))
    else:
        _print_paths(left, null)
    _say([f"{done} of {len(planned)} done"])
    if left:
        raise SystemExit(1)


def _print_paths(paths: Iterable[str], null: bool) -> None:
    """Print paths, a line each or with a zero byte behind each."""
    for path in paths:
        click.echo(path, nl=not null)
        if null:
            click.echo("\0", nl=False)


@commands.command("verify")
@click.argument("map_", metavar="MAP", type=FILE)
def verify_command(map_: Path) -> None:
    """Hold a map against the checksums in it and beside it.

    Exit code 65 if it is damaged, or carries none.
    """
    from refnet_cli.outputs import verify_map

    click.echo(f"{map_}: intact, {verify_map(map_)}")


@commands.command("export")
@click.argument("weights", type=WEIGHTS, required=False)
@click.option("-o", "--output", type=FILE, required=True, help="ONNX model to write.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Number format of all but the scan, the norms and the softmax; fp16 is for GPUs.",
)
@click.option(
    "--quantize",
    type=click.Choice(["int8"]),
    help="Compute in whole numbers of 8 bits, with ranges taken from the scene. Refused if more than a hundredth of "
    "the sample pixels gets another class.",
)
@click.option("--optical", type=PathList(), help="Sentinel-2, as for refnet predict, to cut sample tiles from.")
@click.option(
    "--sar",
    type=PathList(),
    help="Sentinel-1 of that scene. One sensor is enough for weights that can do without the other; --quantize needs "
    "both.",
)
@OVERWRITE
@file_options
@click.option("--json", "as_json", is_flag=True, help="Print a report as JSON instead of the model's path.")
def export_command(
    weights: Any,
    output: Path,
    precision: Any,
    quantize: Any,
    optical: tuple[Path, ...] | None,
    sar: tuple[Path, ...] | None,
    overwrite: bool | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Write WEIGHTS, a file or a name (default: refnet-base), as an ONNX model, which needs no torch to run.

    Network, standardisation, softmax and card become one file, for refnet predict --weights and for programs of your
    own. It is held against the network in torch on sample tiles, of a scene or else drawn at random, and the
    differences are told and recorded in it. Takes about a minute.
    """
    from refnet_cli.card import find_weights
    from refnet_cli.export import export_onnx
    from refnet_cli.scene import SceneOptions

    options = SceneOptions(**{"coreg": "off"} | {name: value for name, value in given.items() if value is not None})
    done = export_onnx(
        find_weights(weights), output,
        precision=precision, quantize=quantize, optical=optical, sar=sar, options=options, overwrite=bool(overwrite),
    ).to_dict()  # fmt: skip
    parity = done["parity"]
    _say([
        f"{done['card']}: ONNX, operators of version {done['opset']}, {done['precision']}, {done['megabytes']:.1f} MB",
        f"against torch on {parity['tiles']} tiles of {parity['source']}: logits differ by {parity['largest']:.2g} at "
        f"most and {parity['mean']:.2g} on average; {parity['agreement']:.4%} of the pixels get the same class",
    ])
    click.echo(json.dumps(done, indent=2) if as_json else output)


@commands.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def doctor_command(as_json: bool) -> None:
    """Tell what this machine has, what refnet will use, and whether it works.

    Versions, GDAL's drivers, memory, devices, engines, scan kernels, weights and their checksums; and a self-test of
    some seconds, in which everything that can run predicts the same small images and has to agree, and a map is made
    of files. Exit code 69 if that fails or no engine can run.
    """
    from refnet_cli.doctor import examine

    found = examine()
    click.echo(json.dumps(found.to_dict(), indent=2) if as_json else "\n".join(found.lines()))
    found.check()


@commands.group("weights")
def weights_group() -> None:
    """Look at weights, check them, import published checkpoints."""


@weights_group.command("list")
def weights_list() -> None:
    """List the weights that come along."""
    from refnet_cli.card import read_card, shipped_weights

    for path in shipped_weights():
        _say([f"{read_card(path).name}: {read_card(path).notice or read_card(path).scheme.name}"])
        click.echo(str(path))


@weights_group.command("info")
@click.argument("weights", type=WEIGHTS, required=False)
def weights_info(weights: Any) -> None:
    """Print the card of WEIGHTS, a file or a name (default: refnet-base), as JSON.

    sensors_alone lists the sensors that suffice alone, of optical and sar.
    """
    from refnet_cli.card import SENSORS_ALONE, find_weights, read_card

    card = read_card(find_weights(weights))
    click.echo(json.dumps(card.to_dict() | {SENSORS_ALONE: card.sensors_alone}, indent=2))


@weights_group.command("verify")
@click.argument("weights", type=WEIGHTS)
def weights_verify(weights: Any) -> None:
    """Hold WEIGHTS, a file or a name, against the checksum in their card."""
    from refnet_cli.card import find_weights, verify

    click.echo(f"{weights}: intact, sha256 {verify(find_weights(weights)).sha256}")


@weights_group.command("import")
@click.argument("checkpoint", type=FILE)
@click.option("-o", "--output", required=True, type=FILE, help="Weights to write.")
@click.option(
    "--card",
    required=True,
    type=FILE,
    help="TOML file with what the checkpoint does not say: name, bands, statistics, scheme.",
)
@OVERWRITE
def weights_import(checkpoint: Path, output: Path, card: Path, overwrite: bool | None) -> None:
    """Turn a published REF-Net checkpoint (.pth) into weights with a card.

    The file is read as data only; code inside it is refused.
    """
    from refnet_cli.tables import read_toml
    from refnet_cli.weights import import_published

    click.echo(str(import_published(checkpoint, output, read_toml(card), bool(overwrite))))


def _check_output(
    output: Path | None,
    endings: Sequence[str],
    inputs: Iterable[Path | Remote | None],
    overwrite: bool | None,
    remedy: str = "",
) -> None:
    """Refuse a file to write, if there is one, that cannot be written, or in whose place another one lies."""
    from refnet_cli.files import check_ending, check_folder, check_places
    from refnet_cli.marks import check_replaceable

    if output is None:
        return
    check_ending(output, endings, "this output", remedy)
    check_places([output], [path for path in inputs if isinstance(path, Path)])
    check_replaceable([output], bool(overwrite))
    check_folder(output)


def _with_outputs(given: dict[str, Any]) -> dict[str, Any]:
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


def _read_config(kind: type[Any], config: Path) -> dict[str, Any]:
    """Read a config file; paths in it, those inside texts too, are relative to its folder."""
    from refnet_cli.tables import read_table, read_toml

    values = read_table(kind, read_toml(config), config)
    if str(values.get("scheme", "")).lower().endswith(".toml"):
        values["scheme"] = str(config.parent / values["scheme"])
    if "outputs" in values:
        split = [(text, *text.partition("=")[::2]) for text in values["outputs"]]
        values["outputs"] = tuple(f"{name}={config.parent / path}" if path else text for text, name, path in split)
    return values


def _fill(kind: type[Any], given: dict[str, Any], config: Path | None) -> dict[str, Any]:
    """Return the options that the command line gives and, behind it, those of a config file."""
    values = _read_config(kind, config) if config else {}
    values |= {name: value for name, value in given.items() if value is not None}
    if not {"optical", "sar"} & values.keys():
        raise click.UsageError("Nothing to map: give --optical, --sar or both.", click.get_current_context())
    if "output" not in values:
        raise click.UsageError("Missing option '--output'.", click.get_current_context())
    return values


class _ProgressBar:
    """A progress bar on a terminal, nothing elsewhere; called with the number of things done and of all."""

    def __init__(self, unit: str, quiet: bool) -> None:
        self._unit = unit
        self._hidden = quiet or not _on_terminal() or LOG.as_json
        self._quiet = quiet
        self._bar: Any = None

    def __enter__(self) -> _ProgressBar:
        return self

    def __call__(self, done: int, total: int, note: str = "") -> None:
        if not self._quiet:
            LOG.progress(done, total, self._unit, note)
        if self._hidden:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=f" {self._unit}", file=sys.stderr)
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def say(self, line: str) -> None:
        """Write a line to stderr, above the bar."""
        if self._bar is None:
            _say_line(line)
        else:
            self._bar.write(line, file=sys.stderr)

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _report_step(bar: _ProgressBar, progress: Any, quiet: bool) -> None:
    scored = "" if progress.mean_iou is None else f", mIoU {progress.mean_iou:.3f}"
    bar(progress.step, progress.steps, f"loss {progress.loss:.3f}{scored}")
    if not quiet and not _on_terminal() and progress.step % 50 == 0:
        _say([f"step {progress.step} of {progress.steps}, loss {progress.loss:.4f}"])


def _describe(report: dict[str, Any]) -> list[str]:
    """The report in lines for people."""
    from refnet_cli.one_sensor import say_absent
    from refnet_cli.products import SENSOR_NAMES

    lines = [f"weights: {report['weights']['name']}"]
    if report["weights"]["notice"]:
        lines.append(f"  note: {report['weights']['notice']}")
    absent = [sensor for sensor in SENSOR_NAMES if sensor not in report["sensors"]]
    lines += [f"{SENSOR_NAMES[sensor]}: {say_absent(sensor)}" for sensor in absent]
    lines += _describe_decisions(report["decisions"])
    lines += [f"{name}: {count} values" for name, count in report["counts"].items() if count]
    if report["resumed_rows"]:
        lines.append(f"went on after {report['resumed_rows']} rows that an interrupted run had finished")
    if report["renewed"]:
        lines.append("an interrupted run's rows were given up: its inputs, weights or options were others")
    tiles = report["tiles"]
    lines.append(
        f"{tiles['run']} tiles predicted, {tiles['skipped']} without data skipped; "
        f"{report['valid_share']:.1%} of the map has data; {report['seconds']:.1f} s"
    )
    width = max(map(len, report["areas_hectares"]), default=0)
    total = sum(report["areas_hectares"].values()) or 1.0
    lines += [
        f"  {name:<{width}} {area:14,.2f} ha {area / total:7.1%}"
        for name, area in report["areas_hectares"].items()
        if area
    ]
    if report["translation"]:
        lines.append("classes were translated from {source} to {target}:".format(**report["translation"]))
        lines += [f"  {line}" for line in report["translation"]["lines"]]
    lines += [f"warning: {warning}" for warning in report["warnings"]]
    return lines


def _describe_inspection(found: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for sensor in (found["optical"], found["sar"]):
        if sensor:
            lines += _describe_sensor(sensor)
    if found["grid"]:
        lines.append("grid: {height} x {width} pixels of {pixel:g} {unit} in {crs}".format(
            **found["grid"], pixel=found["grid"]["transform"][0]))  # fmt: skip
    lines += ["", *_describe_decisions(found["decisions"])]
    if found["drift"]:
        listed = ", ".join(f"{band} {value:+.2f}" for band, value in found["drift"].items())
        lines.append(f"means against those of training, in standard deviations: {listed}")
    sensors = [sensor["sensor"] for sensor in (found["optical"], found["sar"]) if sensor]
    files = "files" if len(sensors) == 2 else f"{sensors[0]} files alone"
    fits = "fit" if found["fits"] else "do not fit"
    lines += ["", f"The {files} {fits} the weights {found['weights']}.", *found["missing"]]
    return lines + [f"warning: {warning}" for warning in found["warnings"]]


def _describe_decisions(decisions: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{item['what']}: {_describe_value(item['value'])} ({item['how']})" for item in decisions]


def _describe_value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return str(value)


def _describe_shift(found: dict[str, Any]) -> list[str]:
    if found["columns"] is None:
        return [f"unknown: {found['reason']}"]
    east, south = found["metres"]
    lines = [
        f"{'accepted' if found['accepted'] else 'not accepted'}: SAR must move {found['columns']:+.2f} columns, "
        f"{found['rows']:+.2f} rows ({east:+.1f} m along the rows, {south:+.1f} m down the columns)",
        found["reason"],
        "",
        f"{'row':>8} {'column':>8} {'columns':>9} {'rows':>9} {'peak':>7}   of each window",
    ]
    for vector in found["vectors"]:
        lines.append(
            "{row:8.0f} {column:8.0f} {columns:+9.2f} {rows:+9.2f} {peak:7.3f}".format(**vector)
        )  # fmt: skip
    return lines


def _describe_sensor(sensor: dict[str, Any]) -> list[str]:
    """A table of bands: what they are, and their values in the network's unit."""
    level = {None: "", "unknown": ", level unknown"}.get(sensor["level"], f" {sensor['level']}")
    names = ("band", "type", "pixel", "nodata", "valid", "min", "1 %", "median", "99 %", "max", "unit")
    rows = [names, *map(_band_cells, sensor["bands"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.append(f"values are {sensor['values']}")
    lines += [f"masks: {', '.join(sensor['masks'])}"] if sensor["masks"] else []
    paths = sensor["paths"]
    where = paths[0] if len(paths) == 1 else f"{len(paths)} files in {_folder_of(paths)}"
    return [f"{sensor['sensor']}{level}: {where}", *(f"  {line.rstrip()}" for line in lines), ""]


def _folder_of(paths: Sequence[str]) -> str:
    remote = any(map(is_remote, paths))
    return f"{os.path.dirname(paths[0])} and the like" if remote else os.path.commonpath(map(os.path.abspath, paths))


def _band_cells(band: dict[str, Any]) -> tuple[str, ...]:
    values = [band["minimum"], *(band["percentiles"].get(key) for key in ("1", "50", "99")), band["maximum"]]
    return (
        band["name"] or "?",
        band["dtype"],
        f"{band['pixel'][0]:.4g} {band['pixel_unit']}" if band["pixel"] else "points",
        "-" if band["nodata"] is None else str(band["nodata"]),
        f"{band['valid_share']:.1%}",
        *("" if value is None else f"{value:.4g}" for value in values),
        band["unit"],
    )


def _describe_labels(counts: dict[str, dict[str, int]]) -> list[str]:
    lines = [f"{'labelled pixels':<24}" + "".join(f" {split:>14}" for split in counts)]
    for name in next(iter(counts.values())):
        lines.append(f"{name:<24}" + "".join(f" {pixels[name]:14,}" for pixels in counts.values()))
    return lines


def _missing_labels(counts: dict[str, dict[str, int]]) -> list[str]:
    lines = []
    for split, pixels in counts.items():
        missing = [name for name, count in pixels.items() if not count]
        if missing:
            of = "at all" if len(missing) == len(pixels) else f"of {', '.join(missing)}"
            lines.append(f"warning: {split} has no pixel {of}.")
    return lines


def _describe_scores(found: dict[str, Any]) -> list[str]:
    names = ("overall_accuracy", "balanced_accuracy", "mean_iou", "mean_f1", "kappa")
    lines = ["counted in the sample, not weighted by area"] if "area_estimates" in found else []
    lines += [f"{name:<18} {found[name]:.4f}" for name in names]
    lines += ["", f"{'':<24} {'precision':>9} {'recall':>9} {'F1':>9} {'IoU':>9} {'labelled pixels':>16}"]
    for name, count in found["labelled"].items():
        values = " ".join(f"{found[score][name]:9.4f}" for score in ("precision", "recall", "f1", "iou"))
        lines.append(f"{name:<24} {values} {count:16,}")
    if len(found.get("overall_accuracy_by_scene", {})) > 1:
        lines += ["", f"{'scene':<24} {'overall accuracy':>17}"]
        lines += [f"{name:<24} {accuracy:17.4f}" for name, accuracy in found["overall_accuracy_by_scene"].items()]
    return lines + (_describe_estimates(found["area_estimates"]) if "area_estimates" in found else [])


def _describe_estimates(estimates: dict[str, Any]) -> list[str]:
    def shown(estimate: dict[str, float | None]) -> str:
        value, margin = estimate["value"], estimate["margin"]
        return "unknown" if value is None or margin is None else f"{value:.4f} ± {margin:.4f}"

    lines = [
        "",
        "estimated from the sample, with confidence intervals of 95 %",
        f"overall_accuracy   {shown(estimates['overall_accuracy'])}",
        "",
        f"{'':<24} {'precision':>17} {'recall':>17} {'mapped ha':>16} {'estimated ha':>30}",
    ]
    for name, mapped in estimates["mapped"].items():
        area = "{value:,.2f} ± {margin:,.2f}".format(**estimates["area"][name])
        precision, recall = shown(estimates["precision"][name]), shown(estimates["recall"][name])
        lines.append(f"{name:<24} {precision:>17} {recall:>17} {mapped:16,.2f} {area:>30}")
    return lines


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        _say_line(line)


def _say_line(line: str) -> None:
    LOG.say(line)


def main() -> None:
    """Run the command line tool and leave with its exit code."""
    for number, code in SIGNALS.items():
        signal.signal(number, _leave_with(code))
    let_waiting_threads_sleep()
    collect_garbage_seldom()
    pass_over_what_is_no_text()
    try:
        code = run(sys.argv[1:])
    finally:
        gc.freeze()  # else all objects are looked through once more on leaving
    sys.exit(code)


def pass_over_what_is_no_text() -> None:
    """Keep rasterio from showing, twice, that it cannot decode a message in which GDAL quotes a damaged file."""

    def unraisable(event: Any) -> None:
        if not isinstance(event.exc_value, UnicodeDecodeError):
            sys.__unraisablehook__(event)

    def uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        # What comes from compiled code has no traceback.
        if not isinstance(error, UnicodeDecodeError) or traceback is not None:
            sys.__excepthook__(kind, error, traceback)

    sys.unraisablehook, sys.excepthook = unraisable, uncaught


def run(arguments: Sequence[str]) -> int:
    """Run the command line tool.

    Parameters
    ----------
    arguments : sequence of str
        Without the program's name.

    Returns
    -------
    int
        The exit code.
    """
    LOG.reset()
    debug = "--debug" in arguments
    try:
        # Not commands.main, which would turn a closed pipe into exit code 1.
        with commands.make_context("refnet", _with_log_format_first(list(arguments))) as context:
            commands.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
        return 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        if LOG.as_json:
            LOG.say(error.format_message(), "failed", USAGE)
        else:
            error.show()
        return USAGE
    except BrokenPipeError:
        # Python would try to flush stdout once more on its way out.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Exception as error:  # the one place where exceptions become exit codes
        if debug:
            traceback.print_exc()
        if _ended_by:
            return _ended_by[0]  # a library made an error of its own of the signal's SystemExit
        known = as_known(error)
        if known is None:
            about = f"{type(error).__name__}: {error} (refnet --debug ... tells)"
            LOG.say(f"refnet: this is a bug, not your mistake: {about}", "failed", BUG)
            return BUG
        LOG.say(f"refnet: {known}", "failed", known.exit_code)
        return known.exit_code


def _with_log_format_first(arguments: list[str]) -> list[str]:
    """Move every ``--log-format`` before the command, where click expects it."""
    first, rest = [], list(arguments)
    place = 0
    while place < len(rest) and rest[place] != "--":
        argument = rest[place]
        if argument == "--log-format" or argument.startswith("--log-format="):
            end = place + 1 + (argument == "--log-format")
            first += rest[place:end]
            del rest[place:end]
        else:
            place += 1
    return first + rest


_ended_by: list[int] = []
"""Exit codes of the signals that came."""


def _leave_with(code: int) -> Callable[[int, object], None]:
    """Make a handler that ends the program tidily at the first signal and at once at the second."""

    def leave(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        _ended_by.append(code)
        # Not KeyboardInterrupt, which libraries take for an error of their own.
        raise SystemExit(code)

    return leave
