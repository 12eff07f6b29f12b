"""What `refnet predict` says before it predicts and when the map is written, as lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyproj import CRS

from refnet_cli.cli.text import count, describe_seconds, name_files
from refnet_cli.model.one_sensor import describe_absent_sensor
from refnet_cli.prediction.report import Report
from refnet_cli.raster.georeference import unit_of
from refnet_cli.scene.season import SEEN
from refnet_cli.sensors.decisions import name_source

MOST_LINES = 12
"""Lines before the first tile; -v shows all."""
MOST_CLASSES = 4
"""Classes that the result names; the others are added up."""
_UNITS = {"db": "in dB", "db100": "in dB x 100", "power": "in linear power", "amplitude": "in amplitude"}


def describe_plan(report: Report) -> list[str]:
    """Return what will be mapped and how the files are read, a line for each sensor and one for the map."""
    decided = {item["what"]: item for item in report.decisions}
    lines = [("Sentinel-2", _describe_optical(report, decided)), ("Sentinel-1", _describe_sar(report, decided))]
    height, width = report.grid["height"], report.grid["width"]
    side = f"{abs(report.grid['transform'][0]):g}"
    unit = unit_of(CRS.from_wkt(report.wkt))
    lines.append(("Map", f"{width} x {height} pixels of {side} {unit}, {report.grid['crs']}"))
    if season := decided.get("season"):
        dates = season["value"]
        first, last = (text.partition(": ")[0][:10] for text in (dates[0], dates[-1]))
        lines.append(("Dates", f"{len(dates)}, {first} to {last}, {report.options['combine']}"))
    if report.translation:
        lines.append(("Classes", "{target}, translated from {source}".format(**report.translation)))
    return [f"{name:<11} {text}" for name, text in lines]


def describe_warnings(warnings: Sequence[str], lines: int) -> tuple[list[str], int]:
    """Return the warnings that fit into the lines that are left, and how many do not."""
    room = max(MOST_LINES - lines - 1, 1)
    return list(warnings[:room]), max(len(warnings) - room, 0)


def describe_engine(report: Report) -> list[str]:
    """Return what the network runs on, and where an interrupted run continues."""
    about = report.engine
    threads = f" ({count(int(about['threads']), 'thread')})" if about.get("threads", "").isdigit() else ""
    lines = [f"{report.weights['name']} on {about.get('device', 'this machine')}{threads}"]
    if report.weights["notice"]:
        lines.append(report.weights["notice"])
    if report.resumed_rows:
        lines.append(f"Continues after {count(report.resumed_rows, 'row')} that an interrupted run finished")
    if report.renewed:
        lines.append("Discards an interrupted run: its inputs, weights or options were different")
    return lines


def describe_result(report: Report) -> list[str]:
    """Return the shares of the classes, the mapped area and the files that were written."""
    total = sum(report.areas_hectares.values())
    lines = []
    if total:
        shares = sorted(((area / total, name) for name, area in report.areas_hectares.items() if area), reverse=True)
        shown = [(name, share) for share, name in shares[:MOST_CLASSES]]
        if len(shares) > MOST_CLASSES:
            shown.append(("other", sum(share for share, _ in shares[MOST_CLASSES:])))
        lines.append("  ".join(f"{name} {share:.1%}" for name, share in shown))
    median = "" if report.median_probability is None else f"; median probability {report.median_probability:.2f}"
    clouds = "" if report.cloud_share is None else f", clouds and shadows masked {report.cloud_share:.1%}"
    lines.append(f"{total:,.1f} ha mapped, no data {1 - report.valid_share:.1%}{clouds}{median}")
    if seen := [number for name, number in report.counts.items() if name.startswith(SEEN)]:
        pixels = report.grid["height"] * report.grid["width"]
        least, most = min(seen) / pixels, max(seen) / pixels
        mean = f"{sum(seen) / pixels:.1f} dates a pixel on average"
        lines.append(f"each of {count(len(seen), 'date')} saw {least:.0%} to {most:.0%} of the map, {mean}")
    names = [file["name"] for made in report.files.values() for file in made]
    return [*lines, f"{', '.join(names)} written in {describe_seconds(report.seconds)}"]


def describe_details(report: Report) -> list[str]:
    """Return numbers that matter to few: tiles, values set aside, and how classes were translated."""
    tiles = report.tiles
    lines = [f"{count(tiles['run'], 'tile')} predicted, {tiles['skipped']:,} without data skipped"]
    lines += [f"{name}: {number:,} values" for name, number in report.counts.items() if number]
    return lines + [f"class {line}" for line in (report.translation or {}).get("lines", ())]


def _describe_optical(report: Report, decided: dict[str, dict[str, Any]]) -> str:
    if "optical" not in report.sensors:
        return describe_absent_sensor("optical")
    level = decided["optical.level"]["value"]
    parts = ["level unknown" if level == "unknown" else str(level), " ".join(report.network["optical"])]
    if offset := decided.get("optical.offset"):
        parts.append(f"offset {offset['value']:g}{name_source(offset['how'])}")
    return f"{name_files(report.options['optical'])}  {', '.join(parts)}"


def _describe_sar(report: Report, decided: dict[str, dict[str, Any]]) -> str:
    if "sar" not in report.sensors:
        return describe_absent_sensor("sar")
    scale = decided["sar.scale"]
    parts = [f"{' '.join(report.network['sar'])} {_UNITS[scale['value']]}{name_source(scale['how'])}"]
    if overlap := decided.get("overlap"):
        parts.append(f"covers {overlap['value']:.0%} of the map")
    return f"{name_files(report.options['sar'])}  {', '.join(parts)}"
