"""Reports as lines for people."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from refnet_cli.system.urls import is_remote
from refnet_cli.system.words import count as count  # other texts take it from here

if TYPE_CHECKING:
    from refnet_cli.scene.coregistration import PairShift


def describe_inspection(found: dict[str, Any]) -> list[str]:
    """Describe what `refnet inspect` found."""
    lines: list[str] = []
    for sensor in (found["optical"], found["sar"]):
        if sensor:
            lines += _describe_sensor(sensor)
    if found["grid"]:
        lines.append("grid: {height} x {width} pixels of {pixel:g} {unit} in {crs}".format(
            **found["grid"], pixel=found["grid"]["transform"][0]))  # fmt: skip
    lines += ["", *describe_decisions(found["decisions"])]
    if found["drift"]:
        listed = ", ".join(f"{band} {value:+.2f}" for band, value in found["drift"].items())
        lines.append(f"means against those of training, in standard deviations: {listed}")
    sensors = [sensor["sensor"] for sensor in (found["optical"], found["sar"]) if sensor]
    files = "files" if len(sensors) == 2 else f"{sensors[0]} files alone"
    fits = "fit" if found["fits"] else "do not fit"
    lines += ["", f"The {files} {fits} the weights {found['weights']}.", *found["missing"]]
    return lines + [f"warning: {warning}" for warning in found["warnings"]]


def describe_decisions(decisions: Sequence[dict[str, Any]]) -> list[str]:
    """Return each decision with its evidence."""
    return [f"{item['what']}: {_describe_value(item['value'])} ({item['how']})" for item in decisions]


def _describe_value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return str(value)


def describe_shift(found: PairShift) -> list[str]:
    """Describe what `refnet register` measured."""
    from refnet_cli.scene.registration import NEGLIGIBLE

    shift = found.shift
    if not found.move:
        return [f"unknown: {shift.reason}"]
    pixels = f"{abs(shift.columns):.2f} columns, {abs(shift.rows):.2f} rows"
    lines = [f"{'accepted' if shift.accepted else 'not accepted'}: SAR must move {found.move} ({pixels})", shift.reason]
    if shift.accepted:
        needed = math.hypot(shift.columns, shift.rows) > NEGLIGIBLE
        lines.append("refnet predict --coreg auto moves it." if needed else "That is too little to matter.")
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


def describe_labels(counts: dict[str, dict[str, int]]) -> list[str]:
    """Tabulate the labelled pixels of each class by split."""
    lines = [f"{'labelled pixels':<24}" + "".join(f" {split:>14}" for split in counts)]
    for name in next(iter(counts.values())):
        lines.append(f"{name:<24}" + "".join(f" {pixels[name]:14,}" for pixels in counts.values()))
    return lines


def missing_labels(counts: dict[str, dict[str, int]]) -> list[str]:
    """Return a warning for each split in which classes have no labelled pixel."""
    lines = []
    for split, pixels in counts.items():
        missing = [name for name, count in pixels.items() if not count]
        if missing:
            of = "at all" if len(missing) == len(pixels) else f"of {', '.join(missing)}"
            lines.append(f"{split} has no pixel {of}.")
    return lines


def describe_scores(found: dict[str, Any]) -> list[str]:
    """Tabulate scores, and areas where they were estimated."""
    names = ("overall_accuracy", "balanced_accuracy", "mean_iou", "mean_f1", "kappa")
    lines = ["counted in the sample, not weighted by area"] if "area_estimates" in found else []
    lines += [f"{name:<18} {found[name]:.4f}" for name in names]
    lines += ["", f"{'':<24} {'precision':>9} {'recall':>9} {'F1':>9} {'IoU':>9} {'labelled pixels':>15}"]
    for name, pixels in found["labelled"].items():
        values = " ".join(f"{found[score][name]:9.4f}" for score in ("precision", "recall", "f1", "iou"))
        lines.append(f"{name:<24} {values} {pixels:15,}")
    if len(found.get("overall_accuracy_by_scene", {})) > 1:
        lines += ["", f"{'scene':<24} {'overall accuracy':>17}"]
        lines += [f"{name:<24} {accuracy:17.4f}" for name, accuracy in found["overall_accuracy_by_scene"].items()]
    return lines + (describe_estimates(found["area_estimates"]) if "area_estimates" in found else [])


def describe_estimates(estimates: dict[str, Any]) -> list[str]:
    """Tabulate what was estimated from a sample; see `refnet_cli.evaluation.areas.AreaEstimates.to_dict`."""

    def shown(estimate: dict[str, float | None]) -> str:
        value, margin = estimate["value"], estimate["margin"]
        return "unknown" if value is None or margin is None else f"{value:.4f} ± {margin:.4f}"

    lines = [
        "",
        "estimated from the sample, with confidence intervals of 95 %",
        f"overall_accuracy   {shown(estimates['overall_accuracy'])}",
        "",
        f"{'':<24} {'precision':>17} {'recall':>17}",
    ]
    for name in estimates["mapped"]:
        precision, recall = shown(estimates["precision"][name]), shown(estimates["recall"][name])
        lines.append(f"{name:<24} {precision:>17} {recall:>17}")
    lines += ["", f"{'':<24} {'mapped ha':>16} {'estimated ha':>30}"]
    for name, mapped in estimates["mapped"].items():
        area = "{value:,.2f} ± {margin:,.2f}".format(**estimates["area"][name])
        lines.append(f"{name:<24} {mapped:16,.2f} {area:>30}")
    return lines


def describe_seconds(seconds: float) -> str:
    """Return a duration for people: ``4.2 s``, ``3:05 min`` or ``2:10 h``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"


def name_files(paths: str | Sequence[Any]) -> str:
    """Name a file, or the first of several and how many more there are."""
    paths = [paths] if isinstance(paths, str) else paths
    names = [os.path.basename(str(path).rstrip("/")) or str(path) for path in paths]
    first = names[0].encode(errors="backslashreplace").decode()  # a name need not be UTF-8
    return first if len(names) == 1 else f"{first} and {len(names) - 1} more"
