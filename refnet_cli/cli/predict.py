"""refnet predict, inspect, register and verify."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from refnet_cli.cli.options import (
    FILE,
    OF_PREDICTION,
    OVERWRITE,
    PICTURE,
    PREDICT,
    QUIET,
    SCENE,
    WEIGHTS,
    OptionsCommand,
    PathList,
    check_output,
    field_options,
    fill,
    print_paths,
    removed_options,
    with_outputs,
)
from refnet_cli.cli.terminal import SHORT, ProgressBar, log_lines, log_warnings, on_stop, print_lines, set_level
from refnet_cli.cli.text import describe_decisions, describe_inspection, describe_shift, name_files
from refnet_cli.cli.usage import StrictCommand
from refnet_cli.system.log import is_json, set_context

if TYPE_CHECKING:
    from refnet_cli.prediction.options import PredictOptions
    from refnet_cli.prediction.report import Report

LOG = logging.getLogger(__name__)


GROUPS = {
    "Input": (
        "optical", "sar", "season", "combine", "optical_bands", "sar_bands", "optical_offset", "optical_scale",
        "sar_scale", "strict", "allow_gcps", "allow_vrt", "allow_remote", "config",
    ),
    "What to map": ("weights", "scheme", "extent", "bounds", "grid"),
    "Outputs": (
        "given_outputs", "overwrite", "resume", "zones", "zone_field", "zone_layer", "min_area", "date", "checksum",
    ),
    "Quality": (
        "mask_clouds", "cloud_mask", "cloud_classes", "cloud_buffer", "coreg", "missing", "on_read_error", "tta",
        "smooth", "threshold", "overlap", "precision", "deterministic",
    ),
    "Speed": ("device", "batch", "read_threads", "max_memory", "scan", "compile", "provider"),
    "Messages": ("verbose", "quiet", "as_json", "null"),
}  # fmt: skip
"""Options of ``refnet predict`` by the headings of its help."""


@click.command("predict", cls=OptionsCommand, groups=GROUPS, short_help="Make a map of one scene.")
@field_options(PREDICT)
@removed_options
@click.option(
    "--config",
    type=FILE,
    help="TOML file with any of these options, such as optical_bands = [...]. Paths in it are relative to its folder. "
    "The command line takes precedence.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a report as JSON instead of the paths of the files.")
@click.option("-0", "--null", is_flag=True, help="End paths with a zero byte, for xargs -0.")
@click.option("-v", "--verbose", is_flag=True, help="Show every decision with its evidence, and how the network runs.")
@click.option("-q", "--quiet", is_flag=True, help="No messages but errors.")
def predict_command(
    config: Path | None, as_json: bool, null: bool, verbose: bool, quiet: bool, **given: Any
) -> None:
    """Make a land-cover map of a scene pair, or of a scene of one sensor.

    \b
    refnet predict --optical s2.tif --sar s1.tif -o lulc.tif
    refnet predict --s2 S2A_MSIL2A_T32TQS.SAFE --s1 VV.tif,VH.tif -o lulc.tif -o preview

    The map lies on the grid of the optical file; without one, on that of the SAR file or of --grid. Bands, units and
    offsets are detected, shown, and recorded in the map's tags.
    """
    from refnet_cli.prediction.options import PredictOptions

    set_level(quiet, verbose)
    options = PredictOptions(**fill(PredictOptions, with_outputs(given), config))
    set_context(scene=str(options.output))
    log_reading(options)
    from refnet_cli.prediction.predict import predict

    with ProgressBar("tiles", quiet) as progress:
        follow = Follow(options)

        def on_start(so_far: Report) -> None:
            follow(so_far)
            progress.begin()  # the time left is that of tiles, which takes less than loading the network

        report = predict(options, progress=progress, on_start=on_start)
    follow.finish(report)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        print_paths((file["path"] for made in report.files.values() for file in made), null)


def log_reading(options: PredictOptions) -> None:
    """Say which files are read, before that takes time."""
    from refnet_cli.scene.options import as_paths

    if options.season is not None:
        LOG.info(f"reading the season {name_files([options.season])} ...")
        return
    given = (as_paths(getattr(options, sensor)) for sensor in options.sensors)
    LOG.info(f"reading {' and '.join(name_files(paths) for paths in given)} ...")


class Follow:
    """Logs what a prediction will do, and then what it did.

    Parameters
    ----------
    options : PredictOptions
    """

    def __init__(self, options: PredictOptions) -> None:
        self._options = options
        self._shown: list[str] = []

    def __call__(self, report: Report) -> None:
        """Log the decisions about the files and, when the network is loaded, its device."""
        from refnet_cli.cli.prediction_text import describe_engine, describe_plan, describe_warnings

        if report.engine:
            log_lines(describe_engine(report))
            return
        for line in describe_decisions(report.decisions):
            LOG.log(logging.INFO if is_json() else logging.DEBUG, line, extra={"event": "decision"})
        plan = describe_plan(report)
        log_lines(plan)
        self._shown, more = describe_warnings(report.warnings, len(plan))
        log_warnings(self._shown)
        if more:
            LOG.info(f"{more} more warnings follow at the end")
        on_stop(self._describe_stop)

    def finish(self, report: Report) -> None:
        """Log further warnings and the result."""
        from refnet_cli.cli.prediction_text import describe_details, describe_result

        for line in describe_details(report):
            LOG.debug(line)
        log_warnings(warning for warning in report.warnings if warning not in self._shown)
        log_lines(describe_result(report))

    def _describe_stop(self) -> str:
        from refnet_cli.system.lock import work_folder_of

        folder = work_folder_of(self._options.output)
        if not folder.exists():
            return "Stopped. No file was written."
        return f"Stopped. Finished rows are kept in {folder}. The same command continues from there."


@click.command("inspect", cls=OptionsCommand, short_help="Show how files are read, and why.")
@click.option("--optical", "--s2", "optical", type=PathList(), help="Sentinel-2, as for refnet predict.")
@click.option("--sar", "--s1", "sar", type=PathList(), help="Sentinel-1, as for refnet predict.")
@click.option(
    "--weights", type=WEIGHTS, help="Weights to check the files for, as for refnet predict.  [default: refnet-base]"
)
@field_options(SCENE, without=["on_read_error"])
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@QUIET
def inspect_command(
    optical: tuple[Path, ...] | None, sar: tuple[Path, ...] | None, weights: Any, as_json: bool, quiet: bool,
    **given: Any,
) -> None:
    """Show how refnet predict will read files, and the evidence for it.

    The files of one sensor are enough. Each decision starts with the kind of evidence: tag, metadata, description,
    name, data type, count, values or option.
    """
    from refnet_cli.model.weight_files import find_weights, read_card
    from refnet_cli.prediction.inspection import inspect
    from refnet_cli.scene.options import SceneOptions

    if optical is None and sar is None:
        raise click.UsageError("Nothing to inspect: give --optical, --sar or both.")
    set_level(quiet)
    chosen = {"coreg": "check"} | {name: value for name, value in given.items() if value is not None}
    with ProgressBar("steps", quiet, SHORT) as progress:
        found = inspect(optical, sar, read_card(find_weights(weights)), SceneOptions(**chosen), progress).to_dict()
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        print_lines(describe_inspection(found))


@click.command("register", cls=OptionsCommand, short_help="Measure the shift between SAR and optical.")
@click.option("--optical", "--s2", "optical", type=PathList(), required=True, help="Sentinel-2, as for refnet predict.")
@click.option("--sar", "--s1", "sar", type=PathList(), required=True, help="Sentinel-1, as for refnet predict.")
@click.option("--plot", type=FILE, help="PNG file for a picture of the shift of each window over the optical image.")
@click.option("--geojson", type=FILE, help="GeoJSON file for the shift of each window, as lines.")
@OVERWRITE
@field_options(SCENE, without=OF_PREDICTION)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, with a vector for each window.")
@QUIET
def register_command(
    optical: tuple[Path, ...],
    sar: tuple[Path, ...],
    plot: Path | None,
    geojson: Path | None,
    overwrite: bool | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Measure the shift that remains between SAR and optical image after georeferencing.

    Prints the direction and distance by which the SAR image must move. `refnet predict --coreg auto` moves it. The
    exit code is 0 even if the shift is uncertain; the first word is accepted, not or unknown. In JSON, the shift is in
    columns and rows of the grid: to the east and south if it is north-up.
    """
    from refnet_cli.scene.coregistration import find_shift
    from refnet_cli.scene.options import SceneOptions

    set_level(quiet)
    check_output(plot, PICTURE, [*optical, *sar, geojson], overwrite)
    check_output(geojson, (".geojson", ".json"), [*optical, *sar], overwrite)
    options = SceneOptions(**{name: value for name, value in given.items() if value is not None})
    with ProgressBar("parts", quiet, SHORT) as progress:
        found = find_shift(optical, sar, options, progress)
    if plot:
        from refnet_cli.plots import draw_shift

        draw_shift(plot, found)
    if geojson:
        found.write_geojson(geojson)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        print_lines(describe_shift(found))


@click.command("verify", cls=StrictCommand, short_help="Check maps against their checksums.")
@click.argument("map_", metavar="MAP", type=FILE)
@QUIET
def verify_command(map_: Path, quiet: bool) -> None:
    """Compare a map with the checksums in its tags and in the file next to it.

    The exit code is 65 if the map is damaged or has no checksums.
    """
    from refnet_cli.outputs.verify import verify_map

    set_level(quiet)
    with ProgressBar("blocks", quiet, SHORT) as progress:
        checked = verify_map(map_, progress)
    click.echo(f"{map_}: intact, {checked}")
