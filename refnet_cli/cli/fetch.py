"""refnet fetch: from a place and dates to files."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

import click

from refnet_cli.cli.options import FILE, FOLDER, QUIET, NameList, OptionsCommand
from refnet_cli.cli.terminal import ProgressBar, on_stop, print_lines, set_level

if TYPE_CHECKING:
    from refnet_cli.fetching.fetch import FetchReport

LOG = logging.getLogger(__name__)
GROUPS = {
    "Where and when": ("bbox", "area", "tile", "dates", "area_layer", "area_field", "items"),
    "What": ("source", "optical", "bands", "max_cloud", "min_clear", "orbit", "labels"),
    "Output": ("output", "dry_run", "resume", "overwrite"),
    "Network": ("workers", "concurrency", "allow_host"),
    "Messages": ("as_json", "verbose", "quiet"),
}
"""Options of ``refnet fetch`` by the headings of its help."""


@click.command("fetch", cls=OptionsCommand, groups=GROUPS, short_help="Download images and labels of a place.")
@click.option("--bbox", metavar="W,S,E,N", help="Bounding box in degrees. Across the antimeridian, W is larger than E.")
@click.option("--area", type=FILE, help="Polygons (.geojson, .gpkg, .shp, .fgb). Each feature becomes a scene.")
@click.option("--tile", metavar="NAME", help="Sentinel-2 tile, such as 32UPU.")
@click.option("--dates", metavar="DAY[/DAY]", help="First and last day, such as 2021-05-01/2021-09-30.")
@click.option("--area-layer", metavar="NAME", help="Layer of --area, if several have geometries.")
@click.option(
    "--area-field", metavar="NAME", help="Field of --area with scene names.  [default: name, id, region or title]"
)
@click.option("--items", type=FILE, help="File items.json of an earlier fetch, to fetch the same items again.")
@click.option(
    "--source",
    metavar="NAME|URL|FILE",
    help="planetary-computer, earth-search, the URL of a STAC API with the collections of Planetary Computer, or a "
    "TOML file that describes a catalogue.  [default: planetary-computer]",
)
@click.option(
    "--optical",
    metavar="HOW",
    default="best",
    show_default=True,
    help="best: the clearest date, with gaps filled from other dates; median: of all clear pixels; all: a scene for "
    "each clear date; or the id of an item.",
)
@click.option("--bands", type=NameList(), metavar="NAMES", help="Bands of Sentinel-2.  [default: B02,B03,B04,B08]")
@click.option(
    "--max-cloud",
    type=float,
    default=80.0,
    show_default=True,
    help="Maximum cloud cover of a Sentinel-2 scene in percent, by its metadata.",
)
@click.option(
    "--min-clear",
    type=float,
    default=0.95,
    show_default=True,
    help="Minimum clear share of the area on the clearest date; with --optical all, on each date.",
)
@click.option(
    "--orbit",
    metavar="ORBIT",
    default="auto",
    show_default=True,
    help="Sentinel-1 pass: auto (nearest to the optical date), ascending, descending, or a relative orbit's number.",
)
@click.option(
    "--labels",
    metavar="NAME",
    default="worldcover",
    show_default=True,
    help="Land-cover map for training, in the codes of esri-io: worldcover, io-lulc or none.",
)
@click.option("-o", "--output", type=FOLDER, required=True, help="Output folder.")
@click.option("--dry-run", is_flag=True, help="Only show what would be fetched: dates, clear shares, orbits, bytes.")
@click.option(
    "--resume/--no-resume",
    default=True,
    help="Resume an interrupted fetch and keep finished scenes, or start again.  [default: resume]",
)
@click.option("--overwrite", is_flag=True, help="Replace existing files that refnet did not write.")
@click.option("--workers", type=int, default=1, show_default=True, help="Scenes fetched at the same time.")
@click.option("--concurrency", type=int, default=8, show_default=True, help="Requests at the same time for each scene.")
@click.option(
    "--allow-host",
    multiple=True,
    metavar="HOST[:PORT]",
    help="Trust a further host, also with http and a private address. Can be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a report as JSON instead of the paths of the files.")
@click.option("-v", "--verbose", is_flag=True, help="Also show what was left out, and why.")
@QUIET
def fetch_command(as_json: bool, verbose: bool, quiet: bool, **given: Any) -> None:
    """Download Sentinel-2, Sentinel-1 and labels of a place from a public catalogue.

    \b
    refnet fetch --bbox 13.2,52.4,13.5,52.6 --dates 2021-05-01/2021-09-30 -o berlin
    refnet predict --optical berlin/s2.tif --sar berlin/s1.tif -o berlin/lulc.tif
    refnet train berlin/regions.toml -o runs/berlin

    Writes s2.tif (surface reflectance x 10,000), s1.tif (linear power), labels.tif, source.tif (the date of each
    pixel), items.json and regions.toml. Each of several features, UTM zones or dates has its own folder; scenes.csv
    lists them for refnet batch plan. With --optical all, seasons.csv lists a season for each place.
    Needs an extra: pip install 'refnet-cli[fetch]'.
    """
    from refnet_cli.fetching.options import FetchOptions

    set_level(quiet, verbose)
    chosen = {name: value for name, value in given.items() if value is not None}
    if "bands" in chosen:
        chosen["bands"] = tuple(band.upper() for band in chosen["bands"])
    options = FetchOptions(**chosen)
    from refnet_cli.fetching.fetch import fetch

    on_stop(lambda: f"Stopped. What was fetched is kept in {options.output}. The same command continues from there.")
    with ProgressBar("rows", quiet) as progress:
        report = fetch(options, progress)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    elif options.dry_run:
        print_lines(_describe_plans(report))
    else:
        for path in report.files:
            click.echo(path)
    if report.failed:
        scenes = len(report.failed) + len(report.scenes)
        LOG.error(f"{len(report.failed)} of {scenes} scenes failed; the same command tries them again")
        sys.exit(75 if report.error is not None and report.error.exit_code == 75 else 1)


def _describe_plans(report: FetchReport) -> list[str]:
    """Show what would be fetched."""
    lines = []
    for scene in report.scenes:
        grid = scene["grid"]
        size = f"{grid['width']} x {grid['height']} pixels"
        lines.append(f"{scene['name']}: {size}, EPSG:{grid['epsg']}, {scene['method']}")
        lines += [f"  {line}" for line in scene["decisions"]]
        lines.append(f"  {scene['clear']:.1%} clear in all; at most {scene['bytes'] / 1e6:,.1f} MB to fetch")
    return lines
