"""The report of a prediction, and the checks of the finished map."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from refnet_cli.classes.crosswalk import warn_of_old_codes
from refnet_cli.errors import InputError
from refnet_cli.model.card import warn_of_drift
from refnet_cli.model.one_sensor import warn_of_use_other
from refnet_cli.outputs.totals import MapTotals
from refnet_cli.prediction.drift import DISTRIBUTIONS, compare, warn_of_band_drift, warn_of_level
from refnet_cli.prediction.job import Job
from refnet_cli.prediction.low_confidence import LARGEST_SHARE, limit_of, warn_of_low_confidence
from refnet_cli.prediction.provenance import Provenance
from refnet_cli.raster.georeference import describe_grid
from refnet_cli.scene.blocks import Scene
from refnet_cli.scene.season import SEEN
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.sensor import MODALITIES, Modality
from refnet_cli.sensors.sentinel1 import DB_RANGE
from refnet_cli.system.html import paragraphs, table
from refnet_cli.version import __version__

MOST_CLAMPED = 0.01  # limit for the share of SAR values outside the physical range
CLOUD_DECISIONS = ("optical.clouds", "optical.cloud_mask")
MOST_UNREAD = 0.05  # limit for the share of unreadable pixels


@dataclass(frozen=True)
class Report:
    """The report of a prediction; ``refnet predict --json`` prints `to_dict`."""

    output: str
    weights: dict[str, str]
    grid: dict[str, Any]
    wkt: str
    """The grid's coordinate reference system as WKT."""
    decisions: list[dict[str, Any]]
    options: dict[str, Any]
    scheme: dict[str, Any]
    """Class scheme of the map."""
    network: dict[str, Any]
    """Input bands of the network by sensor, number of classes, and side of its tiles."""
    sensors: list[Modality] = field(default_factory=lambda: [*MODALITIES])
    """Sensors with input files: "optical", "sar" or both."""
    engine: dict[str, str] = field(default_factory=dict)
    """Device, kernel and settings of the engine."""
    version: str = __version__
    translation: dict[str, Any] | None = None
    """Crosswalk from the network's classes to the map's."""
    drift: dict[str, float] = field(default_factory=dict)
    """Difference of each band's mean from the training mean, in standard deviations of the training data."""
    unlike: dict[str, dict[str, Any]] = field(default_factory=dict)
    """How each band differs from the training data, see `refnet_cli.prediction.distribution.BandDrift`; empty if the
    card does not describe the training data."""
    cloud_share: float | None = None
    """Share of the map's pixels whose optical data are masked as cloud or shadow; None if no mask was used."""
    low_confidence: float = 0.0
    """Share of the valid pixels in which no class of the network reaches a probability of 0.5."""
    median_probability: float | None = None
    """Median of the probability of the network's most probable class over these pixels; None if there are none."""
    low_confidence_limit: float = LARGEST_SHARE
    """Share above which there is a warning."""
    warnings: list[str] = field(default_factory=list)
    warnings_of_run: list[str] = field(default_factory=list)
    """Those of `warnings` that concern this run and not the map; outputs do not contain them."""
    resumed_rows: int = 0
    """Rows of the map that an interrupted run had finished."""
    renewed: bool = False
    """Whether an interrupted run's rows were discarded because its inputs, weights or options differed."""
    sha256: str = ""
    """Checksum of the map's file."""
    files: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Files of each output, by the output's name: name, path, SHA-256 and size in bytes."""
    tiles: dict[str, int] = field(default_factory=lambda: {"run": 0, "skipped": 0})
    valid_share: float = 0.0
    """Share of the map's pixels that have a class."""
    areas_hectares: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def provenance(self) -> Provenance:
        """What the pixels of the map depend on."""
        return Provenance.of(
            self.options, self.sensors, self.weights, self.scheme["name"], self.decisions, self.translation,
            self.version,
        )  # fmt: skip

    @property
    def facts(self) -> dict[str, Any]:
        """Metadata for outputs: only what is equal in all runs for the same map."""
        common = (
            "version", "network", "sensors", "grid", "decisions", "warnings", "drift", "unlike", "low_confidence",
            "translation", "areas_hectares", "valid_share", "cloud_share", "counts",
        )  # fmt: skip
        provenance = self.provenance
        return {name: getattr(self, name) for name in common} | {
            "weights": {name: self.weights[name] for name in ("name", "sha256", "notice")},
            "optical": provenance.optical,
            "sar": provenance.sar,
            "options": provenance.options,
        }

    def with_warnings(self, *warnings: str) -> Report:
        """Return the report with these warnings added."""
        return replace(self, warnings=[*self.warnings, *warnings])

    def with_warnings_of_run(self, *warnings: str) -> Report:
        """Return the report with warnings added that outputs do not contain; call it when all outputs are complete."""
        return replace(self.with_warnings(*warnings), warnings_of_run=[*self.warnings_of_run, *warnings])

    def with_totals(self, totals: MapTotals) -> Report:
        """Return the report with the totals of the map's pixels."""
        masked = any(item["what"] in CLOUD_DECISIONS for item in self.decisions)
        pixels = self.grid["height"] * self.grid["width"]
        return replace(
            self, valid_share=totals.valid_share, low_confidence=totals.low_confidence,
            median_probability=totals.median_probability, areas_hectares=totals.areas_hectares,
            cloud_share=totals.cloudy / pixels if masked else None,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a plain dict that JSON can hold."""
        return asdict(self)

    def _repr_html_(self) -> str:
        """Show legend, areas and warnings in a notebook."""
        total = sum(self.areas_hectares.values())
        rows = [
            (colour, code, name, f"{area:,.1f} ha", f"{area / total:.1%}")
            for code, name, colour in zip(
                self.scheme["codes"], self.scheme["names"], self.scheme["colours"], strict=True
            )
            if (area := self.areas_hectares.get(name, 0.0))
        ]
        head = ("", "code", "class", "area", "share")
        title = self.output or "Land cover"
        return table(rows, head if rows else (), title) + self.notes_html()

    def notes_html(self) -> str:
        """Return size, confidence, weights and warnings as HTML."""
        height, width = self.grid["height"], self.grid["width"]
        about = [
            f"{width} x {height} pixels, {self.valid_share:.1%} with a class; {self.low_confidence:.1%} of those with "
            f"data have low confidence. Weights: {self.weights['name']}."
        ]
        return paragraphs([*about, *(f"! {text}" for text in self.warnings)])


def describe_scene(job: Job, pair: Scene) -> Report:
    """Return the report before the first tile: input files, decisions, options and drift from the training data."""
    card, options = job.card, job.options
    unlike, drift = compare(card, pair), card.drift(pair.levels)
    return Report(
        output=str(options.output),
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
        translation=job.crosswalk.to_dict() | {"lines": job.crosswalk.lines()} if job.crosswalk else None,
        drift=drift,
        unlike={band: asdict(found) for band, found in unlike.items()},
        low_confidence_limit=limit_of(card),
        warnings=[
            *([] if options.scheme else warn_of_old_codes(card.scheme)),
            *(warn_of_band_drift(unlike, card.name) if DISTRIBUTIONS in card.training else warn_of_drift(drift)),
            *warn_of_level(pair.decisions, card),
            *(warn_of_use_other(card) if options.missing == "use-other" and not options.absent else []),
            *pair.warnings,
        ],
    )  # fmt: skip


def check_map(report: Report, totals: MapTotals) -> list[str]:
    """Refuse a map without valid pixels or with too many unreadable ones, and return warnings about the rest.

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
        If no pixel is valid, or more than 5% of the pixels are unreadable.
    """
    given = (report.options[sensor] for sensor in report.sensors)
    names = " and ".join(",".join([paths] if isinstance(paths, str) else paths) for paths in given)
    if not totals.seen:
        saw = "either sensor" if report.options["missing"] == "use-other" else "both sensors"
        if len(report.sensors) == 1:
            saw = SENSORS[report.sensors[0]].satellite
        raise InputError(f"{names} have no pixel with data from {saw}: nothing to map. Check nodata and the overlap.")
    warnings = []
    if not report.valid_share:
        warnings.append(
            "no pixel of the map has a class. Either no class reaches the threshold of "
            f"{report.options['threshold']:g} (lower --threshold), or the map's scheme lacks the predicted classes "
            "(check --scheme)."
        )
    warnings += warn_of_low_confidence(report.low_confidence, report.low_confidence_limit, report.weights["name"])
    pixels = report.grid["height"] * report.grid["width"]
    dates = max(sum(name.startswith(SEEN) for name in report.counts), 1)
    clamped = report.counts.get("sar_clamped", 0) / (len(report.network["sar"]) * pixels * dates)
    if clamped > MOST_CLAMPED:
        warnings.append(
            f"{clamped:.0%} of the SAR values lie outside {DB_RANGE[0]:g} to {DB_RANGE[1]:+g} dB (limit "
            f"{MOST_CLAMPED:.0%}). The file may use a nodata value that it does not declare."
        )
    share = totals.unreadable / pixels
    if share > MOST_UNREAD:
        raise InputError(
            f"{share:.0%} of {names} is unreadable (limit {MOST_UNREAD:.0%}). Repair or re-download the files."
        )
    if share:
        warnings.append(f"{share:.2%} of the map has no data because the input is unreadable there.")
    return warnings
