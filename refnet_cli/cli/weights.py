"""refnet weights, export and doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from refnet_cli.cli.options import (
    FILE,
    OF_PREDICTION,
    OVERWRITE,
    SCENE,
    WEIGHTS,
    OptionsCommand,
    PathList,
    field_options,
)
from refnet_cli.cli.terminal import log_lines
from refnet_cli.cli.usage import StrictCommand, StrictGroup


@click.command("export", cls=OptionsCommand)
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
@field_options(SCENE, without=OF_PREDICTION)
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
    own. It is compared with the network in torch on sample tiles, of a scene or else drawn at random, and the
    differences are told and recorded in it. Takes about a minute.
    """
    from refnet_cli.export import export_onnx
    from refnet_cli.model.weight_files import find_weights
    from refnet_cli.scene.options import SceneOptions

    options = SceneOptions(**{"coreg": "off"} | {name: value for name, value in given.items() if value is not None})
    done = export_onnx(
        find_weights(weights), output,
        precision=precision, quantize=quantize, optical=optical, sar=sar, options=options, overwrite=bool(overwrite),
    ).to_dict()  # fmt: skip
    parity = done["parity"]
    log_lines([
        f"{done['card']}: ONNX, operators of version {done['opset']}, {done['precision']}, {done['megabytes']:.1f} MB",
        f"against torch on {parity['tiles']} tiles of {parity['source']}: logits differ by {parity['largest']:.2g} at "
        f"most and {parity['mean']:.2g} on average; {parity['agreement']:.4%} of the pixels get the same class",
    ])
    click.echo(json.dumps(done, indent=2) if as_json else output)


@click.command("doctor", cls=StrictCommand)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def doctor_command(as_json: bool) -> None:
    """Tell what this machine has, what refnet will use, and whether it works.

    Versions, GDAL's drivers, memory, devices, engines, scan kernels, weights and their checksums; and a self-test of
    some seconds, in which everything that can run predicts the same small images and has to agree, and a map is made
    of files. Exit code 69 if that fails or no engine can run.
    """
    from refnet_cli.doctor.report import inspect_machine

    found = inspect_machine()
    click.echo(json.dumps(found.to_dict(), indent=2) if as_json else "\n".join(found.lines()))
    found.check()


@click.group("weights", cls=StrictGroup)
def weights_group() -> None:
    """Look at weights, check them, import published checkpoints."""


@weights_group.command("list")
def weights_list() -> None:
    """List the bundled weights."""
    from refnet_cli.model.weight_files import bundled_weights, read_card

    for path in bundled_weights():
        log_lines([f"{read_card(path).name}: {read_card(path).notice or read_card(path).scheme.name}"])
        click.echo(str(path))


@weights_group.command("info")
@click.argument("weights", type=WEIGHTS, required=False)
def weights_info(weights: Any) -> None:
    """Print the card of WEIGHTS, a file or a name (default: refnet-base), as JSON.

    sensors_alone lists the sensors that suffice alone, of optical and sar.
    """
    from refnet_cli.model.card import SENSORS_ALONE
    from refnet_cli.model.weight_files import find_weights, read_card

    card = read_card(find_weights(weights))
    click.echo(json.dumps(card.to_dict() | {SENSORS_ALONE: card.sensors_alone}, indent=2))


@weights_group.command("verify")
@click.argument("weights", type=WEIGHTS)
def weights_verify(weights: Any) -> None:
    """Hold WEIGHTS, a file or a name, against the checksum in their card."""
    from refnet_cli.model.weight_files import find_weights, verify

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
    from refnet_cli.model.weights import import_published

    click.echo(str(import_published(checkpoint, output, card, bool(overwrite))))
