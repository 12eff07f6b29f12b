"""What was done, and what is strange about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from refnet_cli.classes.crosswalk import warn_of_old_codes
from refnet_cli.errors import InputError
from refnet_cli.model.card import warn_of_drift
from refnet_cli.model.one_sensor import warn_of_use_other
from refnet_cli.outputs.totals import MapTotals
from refnet_cli.prediction.drift import SEEN, compare, warn_of_level, warn_of_unlike
from refnet_cli.prediction.job import Job
from refnet_cli.prediction.low_confidence import LARGEST_SHARE, limit_of, warn_of_low_confidence
from refnet_cli.prediction.provenance import Provenance
from refnet_cli.raster.georeference import describe_grid
from refnet_cli.scene.pair import ScenePair
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.sensor import MODALITIES, Modality
from refnet_cli.sensors.sentinel1 import DB_RANGE
from refnet_cli.version import __version__

MOST_CLAMPED = 0.01  # share of SAR values beyond all that is measured
MOST_UNREAD = 0.05  # share of the map that may be masked because it cannot be read


@dataclass(frozen=True)
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

    @property
    def provenance(self) -> Provenance:
        """What the map's pixels depend on."""
        return Provenance.of(
            self.options, self.sensors, self.weights, self.scheme["name"], self.decisions, self.translation,
            self.version,
        )  # fmt: skip

    @property
    def facts(self) -> dict[str, Any]:
        """What outputs may say about a map: nothing that differs between two runs for the same map."""
        told = (
            "version", "network", "sensors", "grid", "decisions", "warnings", "drift", "unlike", "low_confidence",
            "translation", "areas_hectares", "valid_share", "counts",
        )  # fmt: skip
        provenance = self.provenance
        return {name: getattr(self, name) for name in told} | {
            "weights": {name: self.weights[name] for name in ("name", "sha256", "notice")},
            "optical": provenance.optical,
            "sar": provenance.sar,
            "options": provenance.options,
        }

    def with_warnings(self, *warnings: str) -> Report:
        """Return the report with further warnings."""
        return replace(self, warnings=[*self.warnings, *warnings])

    def with_warnings_of_run(self, *warnings: str) -> Report:
        """Return the report with warnings that no output holds, when all outputs are complete."""
        return replace(self.with_warnings(*warnings), warnings_of_run=[*self.warnings_of_run, *warnings])

    def with_totals(self, totals: MapTotals) -> Report:
        """Return the report of a map whose pixels add up to something."""
        return replace(
            self, valid_share=totals.valid_share, low_confidence=totals.low_confidence,
            areas_hectares=totals.areas_hectares,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a plain dict that JSON can hold."""
        return asdict(self)


def examine(job: Job, pair: ScenePair) -> Report:
    """Describe a scene and what will be made of it, before a tile is predicted."""
    card, options = job.card, job.options
    unlike, drift = compare(card, pair), card.drift(pair.levels)
    return Report(
        output=str(options.output),
        preview=str(options.preview) if options.preview else None,
        weights={"name": card.name, "path": str(job.weights or ""), "sha256": card.sha256, "notice": card.notice},
        grid=describe_grid(pair.grid),
        wkt=pair.grid.crs.to_wkt() if pair.grid.crs else "",
        decisions=[decision._asdict() for decision in pair.decisions],
        options=options.to_dict(),
        scheme=job.scheme.to_dict(),
        network={
            "optical": list(card.optical.bands), "sar": list(card.sar.bands), "classes": card.network.classes,
            "tile": card.tile,
        },
        sensors=[*options.sensors],
        translation=job.translation.to_dict() | {"lines": job.translation.lines()} if job.translation else None,
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


def check_map(report: Report, totals: MapTotals) -> list[str]:
    """Refuse a map that shows nothing, or of which much could not be read, and warn of what is strange.

    Parameters
    ----------
    report : Report
        With the totals of the map.
    totals : MapTotals

    Returns
    -------
    list of str
        Warnings.

    Raises
    ------
    InputError
    """
    given = (report.options[sensor] for sensor in report.sensors)
    names = " and ".join(",".join([paths] if isinstance(paths, str) else paths) for paths in given)
    if not totals.seen:
        saw = "either sensor" if report.options["missing"] == "use-other" else "both sensors"
        if len(report.sensors) == 1:
            saw = SENSORS[report.sensors[0]].satellite
        raise InputError(f"{names} have no pixel that {saw} saw; nothing can be mapped.")
    warnings = []
    if not report.valid_share:
        warnings.append(
            "no pixel of the map has a class: no class reaches the threshold of "
            f"{report.options['threshold']:g}, or the map's scheme lacks the classes; lower --threshold or check "
            "--scheme."
        )
    warnings += warn_of_low_confidence(report.low_confidence, report.low_confidence_limit, report.weights["name"])
    pixels = report.grid["height"] * report.grid["width"]
    clamped = report.counts.get("sar_clamped", 0) / (len(report.network["sar"]) * pixels)
    if clamped > MOST_CLAMPED:
        warnings.append(
            f"{clamped:.0%} of the SAR values lie beyond {DB_RANGE[0]:g} to {DB_RANGE[1]:+g} dB, which no ground does: "
            "a number that stands for no data may be undeclared."
        )
    share = totals.unreadable / pixels
    if share > MOST_UNREAD:
        raise InputError(f"{share:.0%} of {names} cannot be read, and {MOST_UNREAD:.0%} may be: repair the files.")
    if share:
        warnings.append(f"{share:.2%} of the map is no data because it could not be read.")
    return warnings
