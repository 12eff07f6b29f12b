"""What the pixels of a map depend on: the one source for tags, the resume identity and the outputs' metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refnet_cli.model.one_sensor import describe_absent_sensor
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.scene.blocks import Scene
from refnet_cli.sensors.sensor import MODALITIES, Modality
from refnet_cli.system.options import names
from refnet_cli.tiles.window import Window
from refnet_cli.version import __version__

if TYPE_CHECKING:
    from refnet_cli.engines.base import Engine

WARNING = "warning"
"""Key of the warning in `refnet_cli.engines.base.Engine.about`."""


@dataclass(frozen=True)
class Provenance:
    """What the pixels of a map depend on, and nothing else: equal maps have equal provenance."""

    weights: str
    weights_sha256: str
    optical: str
    """File names, or a note that the sensor is absent."""
    sar: str
    options: dict[str, Any]
    decisions: list[dict[str, Any]]
    translation: dict[str, Any] | None
    version: str = __version__

    @classmethod
    def of(
        cls,
        options: Mapping[str, Any],
        sensors: Sequence[Modality],
        weights: Mapping[str, str],
        scheme: str,
        decisions: list[dict[str, Any]],
        translation: dict[str, Any] | None,
        version: str = __version__,
    ) -> Provenance:
        """Return the provenance of a map.

        Parameters
        ----------
        options : mapping
            All options as plain values.
        sensors : sequence of str
            Sensors with input files.
        weights : mapping
            ``name`` and ``sha256`` of the weights.
        scheme : str
            Name of the map's class scheme.
        decisions : list of dict
            Decisions about the input files.
        translation : dict or None
            Crosswalk from the network's classes to the map's.
        version : str
            Version of refnet.
        """
        chosen = {name: options[name] for name in sorted(options) if name in names(PredictOptions, "pixels")}
        if chosen["scheme"] is not None:  # may be a path; the file's content is in the crosswalk
            chosen["scheme"] = scheme
        optical, sar = (
            _names(options[name]) if name in sensors else describe_absent_sensor(name) for name in MODALITIES
        )
        return cls(weights["name"], weights["sha256"], optical, sar, chosen, decisions, translation, version)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the map's file."""
        return {
            "REFNET_VERSION": self.version,
            "REFNET_WEIGHTS": self.weights,
            "REFNET_WEIGHTS_SHA256": self.weights_sha256,
            "REFNET_OPTICAL": self.optical,
            "REFNET_SAR": self.sar,
            "REFNET_OPTIONS": json.dumps(self.options, sort_keys=True),
            "REFNET_DECISIONS": json.dumps(self.decisions, sort_keys=True),
            **({"REFNET_TRANSLATION": json.dumps(self.translation)} if self.translation else {}),
        }

    def identity(self, pair: Scene, grid: dict[str, Any], engine: Engine, area: Window) -> dict[str, Any]:
        """Return everything that the exact pixel values of an area depend on."""
        states = [(path.name, path.stat()) for path in pair.files]
        return {
            "tags": self.tags,
            "grid": grid,
            "files": [[name, state.st_size, state.st_mtime_ns] for name, state in states],
            # Remote files have no local size and time: the means of the bands stand for their content.
            "remote": [pair.remote, pair.levels] if pair.remote else [],
            "engine": {name: value for name, value in engine.about.items() if name not in ("threads", WARNING)},
            "area": area,
        }


def _names(given: str | list[str]) -> str:
    return ",".join(Path(path).name for path in ([given] if isinstance(given, str) else given))
