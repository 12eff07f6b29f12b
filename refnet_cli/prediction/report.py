"""What was done, and what is strange about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from refnet_cli.classes.crosswalk import Translation, warn_of_old_codes
from refnet_cli.errors import InputError
from refnet_cli.model.card import Card, warn_of_drift
from refnet_cli.model.one_sensor import warn_of_use_other
from refnet_cli.prediction.drift import SEEN, compare, warn_of_level, warn_of_unlike
from refnet_cli.prediction.low_confidence import LARGEST_SHARE, limit_of, warn_of_low_confidence
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.raster.georeference import describe_grid
from refnet_cli.scene import ScenePair
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.sensor import MODALITIES, Modality
from refnet_cli.sensors.sentinel1 import DB_RANGE
from refnet_cli.version import __version__

MOST_CLAMPED = 0.01  # share of SAR values beyond all that is measured
MOST_UNREAD = 0.05  # share of the map that may be masked because it cannot be read


@dataclass
class Report:
    """What was done; `to_dict` is what ``refnet predict --json`` prints."""

    output: str
    preview: str | None
    weights: dict[str, str]
    grid: dict[str, Any]
    wkt: str
    """Of the grid's reference system."""
    decisions: list[dict[str, Any]]
    options: dict[str, Any]
    scheme: dict[str, Any]
    """Class scheme of the map."""
    network: dict[str, Any]
    """Bands that the network takes, by sensor; how many classes it tells apart; side of its tiles."""
    sensors: list[Modality] = field(default_factory=lambda: [*MODALITIES])
    """Which sensors the map is from: "optical", "sar" or both."""
    engine: dict[str, str] = field(default_factory=dict)
    """What the network ran on and with."""
    version: str = __version__
    translation: dict[str, Any] | None = None
    """What the network's classes became in the map's scheme."""
    drift: dict[str, float] = field(default_factory=dict)
    """How far each band's mean is from that of training, in standard deviations."""
    unlike: dict[str, dict[str, Any]] = field(default_factory=dict)
    """How each band differs from what the weights learned from, see `refnet_cli.prediction.seen.BandDrift`; empty if
    their card does not say what that was."""
    low_confidence: float = 0.0
    """Share of the pixels that the sensors saw in which no class of the network has a probability of 0.5."""
    low_confidence_limit: float = LARGEST_SHARE
    """Share above which there is a warning."""
    warnings: list[str] = field(default_factory=list)
    warnings_of_run: list[str] = field(default_factory=list)
    """Those of `warnings` that concern this run and not the map; no output holds them."""
    resumed_rows: int = 0
    """Rows of the map that an interrupted run had finished."""
    renewed: bool = False
    """Whether an interrupted run's rows were given up because its inputs, weights or options were others."""
    sha256: str = ""
    """Of the map's file."""
    files: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """For each output by its name, what files it consists of: name, path, SHA-256 and size in bytes."""
    tiles: dict[str, int] = field(default_factory=lambda: {"run": 0, "skipped": 0})
    valid_share: float = 0.0
    """Share of the map's pixels that have a class."""
    areas_hectares: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def add_warnings_of_run(self, warnings: list[str]) -> None:
        """Add warnings to both lists, when all outputs are complete."""
        self.warnings += warnings
        self.warnings_of_run += warnings

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a plain dict that JSON can hold."""
        return asdict(self)


def check_map(report: Report, seen: int, unreadable: int) -> None:
    """Refuse a map that shows nothing, or of which much could not be read, and warn of what is strange.

    Parameters
    ----------
    report : Report
        Is given the warnings.
    seen : int
        Pixels that the sensors saw.
    unreadable : int
        Pixels that are no data because they could not be read.

    Raises
    ------
    InputError
    """
    names = " and ".join(",".join(_as_list(report.options[sensor])) for sensor in report.sensors)
    if not seen:
        saw = "either sensor" if report.options["missing"] == "use-other" else "both sensors"
        if len(report.sensors) == 1:
            saw = SENSORS[report.sensors[0]].satellite
        raise InputError(f"{names} have no pixel that {saw} saw; nothing can be mapped.")
    if not report.valid_share:
        report.warnings.append(
            "no pixel of the map has a class: no class reaches the threshold of "
            f"{report.options['threshold']:g}, or the map's scheme lacks the classes; lower --threshold or check "
            "--scheme."
        )
    report.warnings += warn_of_low_confidence(
        report.low_confidence, report.low_confidence_limit, report.weights["name"]
    )
    pixels = report.grid["height"] * report.grid["width"]
    clamped = report.counts.get("sar_clamped", 0) / (len(report.network["sar"]) * pixels)
    if clamped > MOST_CLAMPED:
        report.warnings.append(
            f"{clamped:.0%} of the SAR values lie beyond {DB_RANGE[0]:g} to {DB_RANGE[1]:+g} dB, which no ground does: "
            "a number that stands for no data may be undeclared."
        )
    share = unreadable / pixels
    if share > MOST_UNREAD:
        raise InputError(f"{share:.0%} of {names} cannot be read, and {MOST_UNREAD:.0%} may be: mend the files.")
    if share:
        report.warnings.append(f"{share:.2%} of the map is no data because it could not be read.")


def _start_report(
    options: PredictOptions, card: Card, weights: Path | None, pair: ScenePair, translation: Translation | None
) -> Report:
    unlike, drift = compare(card, pair), card.drift(pair.levels)
    return Report(
        output=str(options.output),
        preview=str(options.preview) if options.preview else None,
        weights={"name": card.name, "path": str(weights or ""), "sha256": card.sha256, "notice": card.notice},
        grid=describe_grid(pair.grid),
        wkt=pair.grid.crs.to_wkt() if pair.grid.crs else "",
        decisions=[decision._asdict() for decision in pair.decisions],
        options=options.to_dict(),
        scheme=(translation.target if translation else card.scheme).to_dict(),
        network={
            "optical": list(card.optical.bands), "sar": list(card.sar.bands), "classes": card.network.classes,
            "tile": card.tile,
        },
        sensors=[*options.sensors],
        translation=translation.to_dict() | {"lines": translation.lines()} if translation else None,
        drift=drift,
        unlike={band: asdict(found) for band, found in unlike.items()},
        low_confidence_limit=limit_of(card),
        warnings=[
            *([] if options.scheme else warn_of_old_codes(card.scheme)),
            *(warn_of_unlike(unlike, card.name) if SEEN in card.training else warn_of_drift(drift)),
            *warn_of_level(pair.decisions, card),
            *(warn_of_use_other(card) if options.missing == "use-other" and not options.absent else []),
            *pair.warnings,
        ],
    )  # fmt: skip


def _as_list(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given
