"""refnet weights, export and doctor."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import click

from refnet_cli.cli.options import (
    FILE,
    OF_PREDICTION,
    OVERWRITE,
    QUIET,
    SCENE,
    WEIGHTS,
    OptionsCommand,
    PathList,
    field_options,
)
from refnet_cli.cli.terminal import (
    SHORT,
    ProgressBar,
    log_lines,
    log_warnings,
    on_stop,
    print_lines,
    print_rows,
    set_level,
)
from refnet_cli.cli.usage import StrictCommand, StrictGroup
from refnet_cli.system.words import count

LOG = logging.getLogger(__name__)


@click.command("export", cls=OptionsCommand, short_help="Export weights as an ONNX model.")
@click.argument("weights", type=WEIGHTS, required=False)
@click.option("-o", "--output", type=FILE, required=True, help="ONNX model to write.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Number format, except for the scan, the norms and the softmax; fp16 is for GPUs.",
)
@click.option(
    "--quantize",
    type=click.Choice(["int8"]),
    help="Quantize convolutions to 8-bit integers, with ranges calibrated on the scene. Refused if the class of more "
    "than 1 % of the sample pixels changes.",
)
@click.option("--optical", type=PathList(), help="Sentinel-2 scene for sample tiles, as for refnet predict.")
@click.option(
    "--sar",
    type=PathList(),
    help="Sentinel-1 of that scene. One sensor is enough if the weights can map from it; --quantize needs both.",
)
@OVERWRITE
@field_options(SCENE, without=OF_PREDICTION)
@click.option("--json", "as_json", is_flag=True, help="Print a report as JSON instead of the model's path.")
@QUIET
def export_command(
    weights: Any,
    output: Path,
    precision: Any,
    quantize: Any,
    optical: tuple[Path, ...] | None,
    sar: tuple[Path, ...] | None,
    overwrite: bool | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Export WEIGHTS, a file or a name (default: refnet-base), as an ONNX model, which runs without torch.

    The model contains network, standardisation, softmax and card. Use it with refnet predict --weights or in your own
    programs. The command compares it with the network in torch on sample tiles of the scene, or on random tiles. It
    prints the differences and records them in the model. This takes about a minute.
    """
    set_level(quiet)
    from refnet_cli.export import export_onnx
    from refnet_cli.export.onnx_model import STEPS
    from refnet_cli.model.weight_files import find_weights
    from refnet_cli.scene.options import SceneOptions

    options = SceneOptions(**{"coreg": "off"} | {name: value for name, value in given.items() if value is not None})
    with ProgressBar("steps", quiet) as bar:
        made = export_onnx(
            find_weights(weights), output, precision=precision, quantize=quantize, optical=optical, sar=sar,
            options=options, overwrite=bool(overwrite),
            progress=lambda done, total: bar(done, total, STEPS[done] if done < total else ""),
        ).to_dict()  # fmt: skip
    parity = made["parity"]
    log_lines([
        f"{made['card']}: ONNX, operators of version {made['opset']}, {made['precision']}, {made['megabytes']:.1f} MB",
        f"against torch on {count(parity['tiles'], 'tile')} of {parity['source']}: logits differ by "
        f"{parity['largest']:.2g} at most and {parity['mean']:.2g} on average; "
        f"{parity['agreement']:.2%} of the pixels get the same class",
    ])
    click.echo(json.dumps(made, indent=2) if as_json else output)


@click.command("doctor", cls=StrictCommand, short_help="Check the installation and the machine.")
@click.option("--online", is_flag=True, help="Also check whether the catalogues of refnet fetch answer (3 s each).")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@QUIET
def doctor_command(online: bool, as_json: bool, quiet: bool) -> None:
    """Check the installation and the machine, and show what refnet will use.

    Shows versions, GDAL drivers, memory, devices, engines, scan kernels, weights and their checksums. A self-test of a
    few seconds compares the predictions of all engines and kernels, and makes a small map. The exit code is 69 if it
    fails or no engine can run.
    """
    from refnet_cli.doctor.report import inspect_machine

    set_level(quiet)
    with ProgressBar("checks", quiet) as progress:
        found = inspect_machine(progress, online)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        print_lines(found.lines())
    found.check()


@click.group("weights", cls=StrictGroup, short_help="List, show, fetch, check and import weights.")
def weights_group() -> None:
    """List, show, fetch, check and import weights."""


@weights_group.command("list", short_help="List the bundled and the fetched weights.")
@click.option("--json", "as_json", is_flag=True, help="Print names, paths, sizes and schemes as JSON.")
@QUIET
def weights_list(as_json: bool, quiet: bool) -> None:
    """List the bundled and the fetched weights: their paths on stdout, and descriptions on stderr."""
    from refnet_cli.cli.card_text import describe_file
    from refnet_cli.model.published import fetched_weights
    from refnet_cli.model.weight_files import bundled_weights, default_weights, read_card

    set_level(quiet)
    default = default_weights()
    found = [(path, read_card(path)) for path in (*bundled_weights(), *fetched_weights())]
    if as_json:
        entries = [
            {"name": card.name, "path": str(path), "bytes": path.stat().st_size, "scheme": card.scheme.name,
             "default": path == default, "notice": card.notice}
            for path, card in found
        ]  # fmt: skip
        click.echo(json.dumps(entries, indent=2))
        return
    for path, card in found:
        used = ", used by default" * (path == default)
        LOG.info(f"{card.name}: {describe_file(path)}, {len(card.scheme.names)} classes of {card.scheme.name}{used}")
        click.echo(str(path))
    log_warnings(dict.fromkeys(card.notice for _, card in found if card.notice))


@weights_group.command("info", short_help="Show the card of weights.")
@click.argument("weights", type=WEIGHTS, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the card as JSON.")
def weights_info(weights: Any, as_json: bool) -> None:
    """Show the card of WEIGHTS, a file or a name (default: refnet-base).

    The card has bands, classes, tile size, training data, scores, licence and limits. In JSON, sensors_alone lists the
    sensors from which the weights can map without the other.
    """
    from refnet_cli.cli.card_text import describe_card
    from refnet_cli.model.card import SENSORS_ALONE
    from refnet_cli.model.weight_files import find_weights, read_card

    path = find_weights(weights)
    card = read_card(path)
    if as_json:
        click.echo(json.dumps(card.to_dict() | {SENSORS_ALONE: card.sensors_alone}, indent=2))
    else:
        print_rows(describe_card(card, path))


@weights_group.command("fetch", short_help="Download published weights.")
@click.argument("name")
@click.option(
    "--list", "listed", type=FILE, help="List of weights (TOML).  [default: REFNET_WEIGHTS_LIST, or refnet's own]"
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="HOST[:PORT]",
    help="Trust a further host, also with http and a private address. Can be repeated.",
)
@click.option("--overwrite", is_flag=True, help="Replace fetched weights of that name that differ from the list's.")
@QUIET
def weights_fetch(name: str, listed: Path | None, allow_host: tuple[str, ...], overwrite: bool, quiet: bool) -> None:
    """Download the published weights NAME, and print the path of the file.

    Afterwards --weights NAME finds them. The file must have the size and SHA-256 in the list. The same command resumes
    an interrupted download. Needs an extra: pip install 'refnet-cli[fetch]'.
    """
    set_level(quiet)
    from refnet_cli.fetching.weights import fetch_weights

    on_stop(lambda: "Stopped. What was received is kept. The same command continues from there.")
    with ProgressBar("MB", quiet, SHORT) as progress:
        path = fetch_weights(name, listed, allow_host, overwrite, progress)
    click.echo(str(path))


@weights_group.command("verify", short_help="Check weights against their checksum.")
@click.argument("weights", type=WEIGHTS)
@click.option("--for-listing", is_flag=True, help="Also run the weights, and check what they need for the list.")
@click.option("--on", "regions", type=FILE, help="With --for-listing: regions file of the fixed evaluation.")
@click.option("--list", "listed", type=FILE, help="With --for-listing: list with the weights' entry, for comparison.")
@click.option("--json", "as_json", is_flag=True, help="With --for-listing: print the report as JSON.")
@QUIET
def weights_verify(
    weights: Any, for_listing: bool, regions: Path | None, listed: Path | None, as_json: bool, quiet: bool
) -> None:
    """Compare WEIGHTS, a file or a name, with the checksum in their card.

    With --for-listing, also print what they lack for the list of refnet weights fetch, and their entry for it. The
    exit code is 78 if they lack something.
    """
    from refnet_cli.model.weight_files import find_weights, verify

    set_level(quiet)
    if not for_listing:
        if regions or listed or as_json:
            raise click.UsageError("--on, --list and --json are for --for-listing.")
        click.echo(f"{weights}: intact, sha256 {verify(find_weights(weights)).sha256}")
        return
    from refnet_cli.doctor.listing import check_for_listing
    from refnet_cli.model.published import read_list

    path = find_weights(weights)
    entry = read_list(listed).weights.get(verify(path).name)
    report = check_for_listing(path, entry, _score(path, regions, quiet) if regions else None)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        print_lines(report.lines())
    report.check()


def _score(path: Path, regions: Path, quiet: bool) -> dict[str, Any]:
    """Return the scores of weights on a regions file."""
    from refnet_cli.training.regions_file import read_regions
    from refnet_cli.training.validation import evaluate_weights

    with ProgressBar("tiles", quiet, SHORT) as progress:
        scores, _ = evaluate_weights(path, read_regions(regions, {}), progress=progress)
    return scores.to_dict()


@weights_group.command("import", short_help="Convert a published REF-Net checkpoint.")
@click.argument("checkpoint", type=FILE)
@click.option("-o", "--output", required=True, type=FILE, help="Weights to write.")
@click.option(
    "--card",
    required=True,
    type=FILE,
    help="TOML file with what the checkpoint lacks: name, bands, statistics, scheme.",
)
@OVERWRITE
@QUIET
def weights_import(checkpoint: Path, output: Path, card: Path, overwrite: bool | None, quiet: bool) -> None:
    """Convert a published REF-Net checkpoint (.pth) to weights with a card.

    Checkpoints that contain code are refused.
    """
    from refnet_cli.model.weights import import_published

    set_level(quiet)
    with ProgressBar("steps", quiet, SHORT) as progress:
        path = import_published(checkpoint, output, card, bool(overwrite), progress)
    click.echo(str(path))
