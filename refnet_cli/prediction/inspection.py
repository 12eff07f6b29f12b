"""Inspect input files: what they contain, and which decisions a prediction makes about them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from refnet_cli.errors import InputError
from refnet_cli.model.card import Card, Modality, warn_of_drift
from refnet_cli.model.one_sensor import explain_missing_sensor
from refnet_cli.model.weight_files import read_card
from refnet_cli.prediction.drift import DISTRIBUTIONS, compare, warn_of_band_drift, warn_of_level
from refnet_cli.raster.georeference import crs_name, describe_grid, unit_of
from refnet_cli.scene.absent import absent_sensor, single_sensor_options
from refnet_cli.scene.grid import GridNeededError, choose_zone, result_grid, zone_warnings
from refnet_cli.scene.inputs import Layer, find_files
from refnet_cli.scene.optical import OpticalReader
from refnet_cli.scene.options import Paths, SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.scene.resample import align_bands, describe_resampling
from refnet_cli.scene.sar import SarReader
from refnet_cli.scene.source import Source
from refnet_cli.scene.swapped import explain_swapped, refuse_swapped
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.band_names import choose_bands
from refnet_cli.sensors.decisions import Decision, refuse_guesses
from refnet_cli.sensors.sentinel1 import SCALES
from refnet_cli.system.steps import Steps
from refnet_cli.types import Progress

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclass(frozen=True)
class Band:
    """A band of a file, with statistics of sampled pixels in the network's unit."""

    name: str | None
    """Canonical name; None if unknown."""
    file: str
    band: int
    """Number of the band in the file, from 1."""
    description: str | None
    dtype: str
    nodata: float | str | None
    """As declared in the file."""
    scale: float
    """As declared in the file; 1 if undeclared."""
    offset: float
    """As declared in the file; 0 if undeclared."""
    pixel: list[float]
    """Width and height of a pixel in units of the CRS; empty for files georeferenced by ground control points."""
    pixel_unit: str
    """Unit of the CRS: m, degrees ..."""
    crs: str
    height: int
    width: int
    unit: str
    """Unit of the statistics below."""
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    percentiles: dict[str, float]
    valid_share: float
    """Share of the sampled pixels that are valid."""


@dataclass
class SensorReport:
    """Bands and properties of the files of one sensor."""

    paths: list[str]
    sensor: str
    bands: list[Band]
    masks: list[str]
    level: str | None = None
    """Processing level of optical files."""
    offset: float | None = None
    """Offset to subtract from optical values."""
    scale: float | str | None = None
    """Optical: factor to reflectance x 10,000. SAR: power, amplitude, db or db100."""
    nodata: float | str | None = None
    values: str = ""
    """How physical values are computed from the stored ones."""


@dataclass
class Inspection:
    """The result of an inspection; ``refnet inspect --json`` prints `to_dict`."""

    optical: SensorReport | None = None
    sar: SensorReport | None = None
    grid: dict[str, Any] | None = None
    """Grid of the map."""
    overlap: float | None = None
    """Share of the grid that SAR covers."""
    weights: str | None = None
    fits: bool | None = None
    """Whether a prediction with the weights is possible; None without weights."""
    missing: list[str] = field(default_factory=list)
    """Reasons why it is not possible."""
    drift: dict[str, float] = field(default_factory=dict)
    """Difference of each band's mean from the training mean, in standard deviations of the training data."""
    unlike: dict[str, dict[str, Any]] = field(default_factory=dict)
    """How each band differs from the training data, see `refnet_cli.prediction.distribution.BandDrift`; empty if the
    card does not describe the training data."""
    warnings: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as a plain dict, ready for JSON."""
        return asdict(self) | {"decisions": [decision._asdict() for decision in self.decisions]}


def inspect(
    optical: Paths | None,
    sar: Paths | None,
    card: Card | str | Path | None = None,
    options: SceneOptions | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Inspect files: report their content and the decisions that a prediction makes about them.

    Parameters
    ----------
    optical, sar : path, or sequence of paths, or None
        As in `ScenePair.open`; one of them may be None.
    card : Card, str or Path, optional
        Card of the weights to check the files against; or the weights, as a path or the name of bundled ones.
    options : SceneOptions, optional
    progress : callable, optional
        Called at the start and after each of a few steps with the number of finished steps and of all.

    Raises
    ------
    RefnetError
        If a file is unreadable or not usable at all. Bands that the weights need but the files lack are reported, not
        raised.
    OptionsError
        If ``strict`` is set and a decision is a guess, if neither sensor has files, or if an option is for the absent
        sensor.
    """
    absent = absent_sensor(optical, sar)
    options = single_sensor_options(options or SceneOptions(), absent)
    card = read_card(card) if isinstance(card, str | Path) else card
    found = Inspection(weights=card.name if card else None)
    steps = Steps(progress, 4)
    with ExitStack() as stack:
        optical_source, sar_source = _open(found, optical, sar, options, stack)
        sources = [source for source in (optical_source, sar_source) if source]
        refuse_swapped(sources)
        steps.count()
        with explain_swapped(sources):
            layers = _inspect_optical(found, optical_source, card, options) if optical_source else []
            steps.count()
            sar_layers = _inspect_sar(found, sar_source, card, options) if sar_source else []
        steps.count()
        _describe_grid(found, optical_source, sar_source, layers or sar_layers, options)
    if card:
        if lacking := explain_missing_sensor(card, absent):
            found.missing.append(lacking)
        if not found.missing:
            _open_pair(found, optical, sar, card, options)
    steps.count()
    for source in sources:
        found.decisions += [decision for decision in source.decisions if decision not in found.decisions]
        found.warnings += [warning for warning in source.warnings if warning not in found.warnings]
    if card:
        found.fits = not found.missing
    if options.strict:
        refuse_guesses(found.decisions)
    return found


def _open(
    found: Inspection, optical: Paths | None, sar: Paths | None, options: SceneOptions, stack: ExitStack
) -> tuple[Source | None, Source | None]:
    """Open the files of each sensor that has files."""
    sar_source = Source(find_files(sar, "sar", options)[0], stack) if sar is not None else None
    if optical is None:
        return None, sar_source
    files, decision = choose_zone(find_files(optical, "optical", options), sar_source)
    if decision:
        found.decisions.append(decision)
        found.warnings += zone_warnings(decision)
    return Source(files, stack), sar_source


def _describe_grid(
    found: Inspection, optical: Source | None, sar: Source | None, layers: Sequence[Layer], options: SceneOptions
) -> None:
    """Choose the grid and describe the resampling onto it; see `result_grid` for ``layers``."""
    try:
        grid, decision = result_grid(optical, layers, sar, options)
    except GridNeededError as refusal:
        found.missing.append(str(refusal))
        return
    found.decisions.append(decision)
    found.grid = describe_grid(grid) | {"unit": unit_of(CRS.from_user_input(grid.crs))}
    if optical is not None:
        found.decisions += describe_resampling("optical", align_bands(optical, layers, grid))
    if sar is not None:
        parts = align_bands(sar, sar.layers, grid)
        found.overlap = min(part.alignment.share for part in parts)
        found.decisions += describe_resampling("sar", parts)


def _open_pair(
    found: Inspection, optical: Paths | None, sar: Paths | None, card: Card, options: SceneOptions
) -> None:
    """Open the pair as a prediction does; its decisions replace those made so far."""
    try:
        with ScenePair.open(optical, sar, card.optical.bands, card.sar.bands, options) as pair:
            own = {decision.what for decision in pair.decisions}
            found.decisions = [*pair.decisions, *(other for other in found.decisions if other.what not in own)]
            found.drift, unlike = card.drift(pair.levels), compare(card, pair)
            found.unlike = {band: asdict(drift) for band, drift in unlike.items()}
            described = DISTRIBUTIONS in card.training
            found.warnings = [
                *pair.warnings,
                *warn_of_level(pair.decisions, card),
                *(warn_of_band_drift(unlike, card.name) if described else warn_of_drift(found.drift)),
            ]
    except InputError as refusal:
        found.missing.append(str(refusal))


def _choose_layers(
    found: Inspection, source: Source, modality: Modality | None, option: Sequence[str] | None
) -> tuple[list[Layer], list[str]]:
    """Choose the bands to inspect: those of the weights if the files have them, otherwise all named bands."""
    if modality is not None:
        try:
            indexes, how = choose_bands(
                modality.bands, source.descriptions, source.files.modality, option, source.band_names
            )
            layers = [source.layers[index - 1] for index in indexes]
            if source.files.modality == "optical":
                found.decisions.append(Decision("optical.bands", list(indexes), how))
            return layers, list(modality.bands)
        except InputError as refusal:
            found.missing.append(str(refusal))
    layers = [layer for layer in source.layers if layer.name] or list(source.layers)
    return layers, [layer.name or f"band {number}" for number, layer in enumerate(layers, 1)]


def _inspect_optical(
    found: Inspection, source: Source, card: Card | None, options: SceneOptions
) -> list[Layer]:
    """Inspect the optical files, and return the layers that a prediction uses."""
    with source.error_context():
        layers, names = _choose_layers(found, source, card.optical if card else None, options.optical_bands)
        named = dict(zip(layers, names, strict=True))
        others = [layer for layer in source.layers if layer not in named and layer.name]
        reader = OpticalReader(source, [*layers, *others], [*names, *(layer.name for layer in others)], options)
    found.decisions += reader.decisions
    found.warnings += reader.warnings
    values = {what: value for what, value, _ in reader.decisions}
    found.optical = SensorReport(
        paths=[str(path) for path in source.files.paths],
        sensor=SENSORS["optical"].satellite,
        bands=_bands(source, reader.samples, named),
        masks=[str(mask.name) for mask in source.masks],
        level=values["optical.level"],
        offset=values["optical.offset"],
        scale=values["optical.scale"],
        nodata=values["optical.nodata"],
        values=_describe_scaling(reader.declared, float(reader.scale), float(reader.offsets[0])),
    )
    return layers


def _inspect_sar(
    found: Inspection, source: Source, card: Card | None, options: SceneOptions
) -> list[Layer]:
    """Inspect the SAR files, and return the layers that a prediction uses."""
    with source.error_context():
        layers, names = _choose_layers(found, source, card.sar if card else None, options.sar_bands)
        how = source.band_names[1] or "count: a guess, because the bands have no names."
        reader = SarReader(source, layers, names, how, options)
    found.decisions += reader.decisions
    found.warnings += reader.warnings
    values = {what: value for what, value, _ in reader.decisions}
    found.sar = SensorReport(
        paths=[str(path) for path in source.files.paths],
        sensor=SENSORS["sar"].satellite,
        bands=_bands(source, reader.samples, dict(zip(layers, names, strict=True))),
        masks=[],
        scale=values["sar.scale"],
        nodata=values["sar.nodata"],
        values="dB" if values["sar.scale"] == "db" else f"dB, converted from {SCALES[values['sar.scale']]}",
    )
    return layers


def _describe_scaling(declared: tuple[float, float], scale: float, offset: float) -> str:
    steps = " with the declared scale {:g} and offset {:g}".format(*declared) * (declared != (1.0, 0.0))
    steps += f" x {scale:g}" if scale != 1 else ""
    steps += f", minus the offset {offset:g}" if offset else ""
    return f"reflectance x 10,000: stored values{steps or ', unchanged'}"


def _bands(
    source: Source, samples: dict[Layer, NDArray[np.float32]], names: dict[Layer, str]
) -> list[Band]:
    return [_band(source, layer, names.get(layer, layer.name), samples.get(layer)) for layer in source.layers]


def _band(source: Source, layer: Layer, name: str | None, sample: NDArray[np.float32] | None) -> Band:
    file, number = layer.pieces[0]
    raster = source.rasters[file]
    dataset = raster.dataset
    known = np.empty(0) if sample is None else sample[np.isfinite(sample)].astype(np.float64)
    nodata = dataset.nodatavals[number - 1]
    return Band(
        name=name,
        file=raster.path,
        band=number,
        description=dataset.descriptions[number - 1],
        dtype=dataset.dtypes[number - 1],
        nodata=nodata if nodata is None or np.isfinite(nodata) else str(nodata),
        scale=raster.scaling(number)[0],
        offset=raster.scaling(number)[1],
        pixel=[] if raster.gcps_only else [abs(raster.transform.a), abs(raster.transform.e)],
        pixel_unit=unit_of(raster.crs),
        crs=crs_name(raster.crs),
        height=raster.shape[0],
        width=raster.shape[1],
        unit=SENSORS[source.files.modality].unit if sample is not None else "unknown",
        minimum=float(known.min()) if known.size else None,
        maximum=float(known.max()) if known.size else None,
        mean=float(known.mean()) if known.size else None,
        std=float(known.std()) if known.size else None,
        percentiles=dict(zip(map(str, PERCENTILES), np.percentile(known, PERCENTILES).tolist(), strict=True))
        if known.size
        else {},
        valid_share=known.size / max(sample.size, 1) if sample is not None else 0.0,
    )
