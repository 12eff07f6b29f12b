"""refnet predict, inspect, register and verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from refnet_cli.cli.options import (
    FILE,
    OF_PREDICTION,
    OVERWRITE,
    PICTURE,
    PREDICT,
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
from refnet_cli.cli.terminal import ProgressBar, log_lines, log_warnings, set_level
from refnet_cli.cli.text import describe_inspection, describe_report, describe_shift
from refnet_cli.cli.usage import StrictCommand
from refnet_cli.system.log import set_context


@click.command("predict", cls=OptionsCommand)
@field_options(PREDICT)
@removed_options
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
    from refnet_cli.prediction.options import PredictOptions
    from refnet_cli.prediction.predict import predict

    options = PredictOptions(**fill(PredictOptions, with_outputs(given), config))
    set_level(quiet, verbose)
    set_context(scene=str(options.output))
    with ProgressBar("tiles", quiet) as progress:
        report = predict(options, progress=progress)
    log_lines(describe_report(report.to_dict()))
    log_warnings(report.warnings)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        print_paths((file["path"] for made in report.files.values() for file in made), null)


@click.command("inspect", cls=OptionsCommand)
@click.option("--optical", type=PathList(), help="Sentinel-2, as for refnet predict.")
@click.option("--sar", type=PathList(), help="Sentinel-1, as for refnet predict.")
@click.option(
    "--weights", type=WEIGHTS, help="Weights that the files are to fit, as for refnet predict.  [default: refnet-base]"
)
@field_options(SCENE, without=["on_read_error"])
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def inspect_command(
    optical: tuple[Path, ...] | None, sar: tuple[Path, ...] | None, weights: Any, as_json: bool, **given: Any
) -> None:
    """Tell what files are, how that was found out, and what refnet predict will do with them.

    Files of one sensor are enough. Whether a map can be made of them alone depends on the weights.

    Each decision tells the kind of evidence first: tag, metadata, description, name, data type, count, values or
    option.
    """
    from refnet_cli.model.weight_files import find_weights, read_card
    from refnet_cli.prediction.inspection import inspect
    from refnet_cli.scene.options import SceneOptions

    if optical is None and sar is None:
        raise click.UsageError("Nothing to inspect: give --optical, --sar or both.")
    chosen = {"coreg": "check"} | {name: value for name, value in given.items() if value is not None}
    found = inspect(optical, sar, read_card(find_weights(weights)), SceneOptions(**chosen)).to_dict()
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(describe_inspection(found)))


@click.command("register", cls=OptionsCommand)
@click.option("--optical", type=PathList(), required=True, help="Sentinel-2, as for refnet predict.")
@click.option("--sar", type=PathList(), required=True, help="Sentinel-1, as for refnet predict.")
@click.option("--plot", type=FILE, help="Draw the shift of each window into this PNG.")
@click.option("--geojson", type=FILE, help="Write the shift of each window as lines into this GeoJSON.")
@OVERWRITE
@field_options(SCENE, without=OF_PREDICTION)
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
    from refnet_cli.scene.coregistration import find_shift
    from refnet_cli.scene.options import SceneOptions

    check_output(plot, PICTURE, [*optical, *sar, geojson], overwrite)
    check_output(geojson, (".geojson", ".json"), [*optical, *sar], overwrite)
    options = SceneOptions(**{name: value for name, value in given.items() if value is not None})
    found = find_shift(optical, sar, options)
    if plot:
        from refnet_cli.plots import draw_shift

        draw_shift(plot, found.shift, *found.grid.shape)
    if geojson:
        found.write_geojson(geojson)
    click.echo(json.dumps(found.to_dict(), indent=2) if as_json else "\n".join(describe_shift(found.to_dict())))


@click.command("verify", cls=StrictCommand)
@click.argument("map_", metavar="MAP", type=FILE)
def verify_command(map_: Path) -> None:
    """Check a map against the checksums in it and next to it.

    Exit code 65 if it is damaged, or carries none.
    """
    from refnet_cli.outputs.verify import verify_map

    click.echo(f"{map_}: intact, {verify_map(map_)}")
