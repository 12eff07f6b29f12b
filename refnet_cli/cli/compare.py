"""refnet compare."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from refnet_cli.cli.options import FILE, OVERWRITE, QUIET, check_output
from refnet_cli.cli.terminal import SHORT, ProgressBar, set_level
from refnet_cli.cli.usage import StrictCommand
from refnet_cli.errors import OptionsError

if TYPE_CHECKING:
    from refnet_cli.evaluation.change.result import Comparison

LOG = logging.getLogger(__name__)
_OF_SAMPLE = ("old_field", "new_field", "layer", "meanings", "strata")


@click.command("compare", cls=StrictCommand, short_help="Tabulate and map the change between two maps.")
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="GeoTIFF for the change map, with a code, a name and a colour for each pair of old and new class.",
)
@click.option("--table", type=FILE, help="CSV file for the area of each pair of classes, in the map and in zones.")
@click.option(
    "--scheme",
    help="Class scheme of the comparison, a name or a TOML file as for refnet predict. Maps in other schemes are "
    "translated. Required if the maps have different schemes.",
)
@click.option("--old-scheme", help="Class scheme of OLD, if its tags do not have it.")
@click.option("--new-scheme", help="Class scheme of NEW, if its tags do not have it.")
@click.option(
    "--resample",
    is_flag=True,
    help="Resample NEW to the grid of OLD if they differ: by nearest neighbour, or to the most frequent class if the "
    "pixels of NEW are less than half as large.",
)
@click.option("--zones", type=FILE, help="Vector file with polygons, to tabulate the change in each.")
@click.option("--zone-field", help="Field with the names of the zones.  [default: zones are numbered]")
@click.option("--zone-layer", help="Layer of --zones; required if several layers have geometries.")
@click.option(
    "--sample",
    type=FILE,
    multiple=True,
    help="Estimate accuracies and areas with confidence intervals of 95 % (Olofsson et al. 2014) from a probability "
    "sample: points with the true class at both dates in two fields; or labels of the old date and, in a second "
    "--sample, of the new date.",
)
@click.option("--old-field", help="Field of --sample with the true class at the old date.")
@click.option("--new-field", help="Field of --sample with the true class at the new date.")
@click.option("--layer", help="Layer of --sample; required if several layers have geometries.")
@click.option("--mapping", "meanings", type=FILE, help="Meaning of the sample's codes, as for refnet evaluate.")
@click.option(
    "--strata",
    help="Strata of the sample: 'transitions' (each pair of classes), 'change' (change and no change), or classes with "
    "commas between them (loss, gain, stable and absent of each).  [default: transitions]",
)
@OVERWRITE
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, with the transition matrix.")
@QUIET
def compare_command(
    old: Path, new: Path, output: Path | None, table: Path | None, overwrite: bool | None, as_json: bool, quiet: bool,
    **given: Any,
) -> None:
    """Compare two class maps of one place, and tabulate the change between classes in hectares.

    OLD and NEW are maps of class codes on the same grid. Pixels that are nodata in one of them are left out.

    \b
    refnet compare 2020.tif 2024.tif -o change.tif --table change.csv
    refnet compare 2020.tif 2024.tif --zones districts.gpkg --zone-field name
    refnet compare 2020.tif 2024.tif --sample points.gpkg --old-field c2020 --new-field c2024 --strata Trees

    The errors of both maps add up, so the counted areas are not estimates of change. Estimates need a sample. See
    docs/how-to/compare.md.
    """
    inputs = [old, new, given["zones"], given["meanings"], *given["sample"]]
    check_output(output, (".tif", ".tiff"), inputs, overwrite)
    check_output(table, (".csv",), [*inputs, output], overwrite)
    set_level(quiet)
    comparison = _prepare(old, new, given)
    with ProgressBar("rows", quiet, SHORT) as progress:
        found = comparison(output=output, table=table, progress=progress)
    for path in filter(None, (output, table)):
        LOG.info(f"wrote {path}")
    from refnet_cli.cli.compare_text import describe_comparison

    click.echo(json.dumps(found.to_dict(), indent=2) if as_json else "\n".join(describe_comparison(found)))


def _prepare(old: Path, new: Path, given: dict[str, Any]) -> Callable[..., Comparison]:
    """Return the comparison function for the options, which takes output files and progress."""
    from refnet_cli.evaluation.change.compare import Zones, compare
    from refnet_cli.evaluation.change.maps import MapSchemes
    from refnet_cli.evaluation.change.sample import ChangeSample

    for needed, names in (("zones", ("zone_field", "zone_layer")), ("sample", _OF_SAMPLE)):
        if not given[needed] and (idle := [name for name in names if given[name] is not None]):
            options = ", ".join(f"--{'mapping' if name == 'meanings' else name.replace('_', '-')}" for name in idle)
            raise OptionsError(f"{options} need{'s' * (len(idle) == 1)} --{needed} FILE. Give it, or remove them.")
    zones = Zones(given["zones"], given["zone_field"], given["zone_layer"]) if given["zones"] else None
    about = {name: given[name] for name in _OF_SAMPLE if given[name] is not None}
    sample = ChangeSample(given["sample"], **about) if given["sample"] else None
    schemes = MapSchemes(given["scheme"], given["old_scheme"], given["new_scheme"])
    return partial(compare, old, new, schemes=schemes, resample=given["resample"], zones=zones, sample=sample)
