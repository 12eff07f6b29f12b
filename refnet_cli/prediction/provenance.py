"""What the pixels of a map depend on, and what the map says of that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refnet_cli.model.one_sensor import say_absent
from refnet_cli.prediction.report import Report, _as_list
from refnet_cli.scene import ScenePair
from refnet_cli.sensors.sensor import Modality

if TYPE_CHECKING:
    from refnet_cli.engines.base import Engine


WARNING = "warning"
"""Entry of `refnet_cli.engines.base.Engine.about` that is a warning."""


def _identity(report: Report, pair: ScenePair, engine: Engine) -> dict[str, Any]:
    """Everything that the map's pixels depend on, to the last bit."""
    states = [(path.name, path.stat()) for path in pair.files]
    return {
        "tags": tags_of(report),
        "grid": report.grid,
        "files": [[name, state.st_size, state.st_mtime_ns] for name, state in states],
        # What a server has, its pixels tell.
        "remote": [pair.remote, pair.levels] if pair.remote else [],
        "engine": {name: value for name, value in engine.about.items() if name not in ("threads", WARNING)},
    }


def tags_of(report: Report) -> dict[str, str]:
    """Return what the map says of itself: what its pixels depend on and nothing else, so that equal maps are equal."""
    elsewhere = {
        "optical", "sar", "grid", "output", "preview", "weights", "device", "batch", "scan", "compile", "read_threads",
        "deterministic", "provider", "resume", "overwrite", "checksum", "max_memory", "allow_vrt", "allow_remote",
        "outputs", "zones", "zone_field", "zone_layer", "min_area", "date", "stac",
    }  # fmt: skip
    options = {name: value for name, value in report.options.items() if name not in elsewhere}
    if options["scheme"] is not None:  # perhaps a file's path, whose content is in the translation
        options["scheme"] = report.scheme["name"]
    return {
        "REFNET_VERSION": report.version,
        "REFNET_WEIGHTS": report.weights["name"],
        "REFNET_WEIGHTS_SHA256": report.weights["sha256"],
        "REFNET_OPTICAL": _file_names(report, "optical"),
        "REFNET_SAR": _file_names(report, "sar"),
        "REFNET_OPTIONS": json.dumps(options, sort_keys=True),
        "REFNET_DECISIONS": json.dumps(report.decisions, sort_keys=True),
        **({"REFNET_TRANSLATION": json.dumps(report.translation)} if report.translation else {}),
    }


def facts_of(report: Report) -> dict[str, Any]:
    """Return what outputs may tell of a map: nothing that differs between two runs for the same map."""
    told = (
        "version", "network", "sensors", "grid", "decisions", "warnings", "drift", "unlike", "low_confidence",
        "translation", "areas_hectares", "valid_share", "counts",
    )  # fmt: skip
    tags = tags_of(report)
    return {name: getattr(report, name) for name in told} | {
        "weights": {name: report.weights[name] for name in ("name", "sha256", "notice")},
        "optical": tags["REFNET_OPTICAL"],
        "sar": tags["REFNET_SAR"],
        "options": json.loads(tags["REFNET_OPTIONS"]),
    }


def _file_names(report: Report, sensor: Modality) -> str:
    if sensor not in report.sensors:
        return say_absent(sensor)
    return ",".join(Path(path).name for path in _as_list(report.options[sensor]))
