"""What files are and what will be done with them: the decisions of a prediction, without one."""

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
from refnet_cli.model.one_sensor import say_lacking
from refnet_cli.model.weight_files import read_card
from refnet_cli.prediction.drift import SEEN, compare, warn_of_level, warn_of_unlike
from refnet_cli.raster.georeference import crs_name, describe_grid
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

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclass(frozen=True)
class Band:
    """A band of a file, and its values over pixels spread over the file, in the network's unit."""

    name: str | None
    """Canonical name; None if nothing tells it."""
    file: str
    band: int
    """Number in the file, from 1."""
    description: str | None
    dtype: str
    nodata: float | str | None
    """As declared in the file."""
    scale: float
    """As declared in the file; 1 if nothing is."""
    offset: float
    """As declared in the file; 0 if nothing is."""
    pixel: list[float]
    """Width and height of a pixel in units of the reference system; empty where ground control points place it."""
    pixel_unit: str
    """Of the reference system: m, degrees ..."""
    crs: str
    height: int
    width: int
    unit: str
    """Of the numbers below."""
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    percentiles: dict[str, float]
    valid_share: float
    """Of the sampled pixels."""


@dataclass
class SensorReport:
    """What the files of one sensor are."""

    paths: list[str]
    sensor: str
    bands: list[Band]
    masks: list[str]
    level: str | None = None
    """Processing level of optical files."""
    offset: float | None = None
    """Number to subtract from optical numbers."""
    scale: float | str | None = None
    """Optical: factor to reflectance x 10,000. SAR: power, amplitude, db or db100."""
    nodata: float | str | None = None
    values: str = ""
    """How the bands' values come from the numbers in the files."""


@dataclass
class Inspection:
    """What was found; `to_dict` is what ``refnet inspect --json`` prints."""

    optical: SensorReport | None = None
    sar: SensorReport | None = None
    grid: dict[str, Any] | None = None
    """The result's grid."""
    overlap: float | None = None
    """Share of the grid that SAR covers."""
    weights: str | None = None
    fits: bool | None = None
    """Whether a prediction with the weights is possible; None without weights."""
    missing: list[str] = field(default_factory=list)
    """Why not."""
    drift: dict[str, float] = field(default_factory=dict)
    """How far each band's mean is from that of the weights' training, in its standard deviations."""
    unlike: dict[str, dict[str, Any]] = field(default_factory=dict)
    """How each band differs from what the weights learned from, see `refnet_cli.prediction.seen.BandDrift`; empty if
    their card does not say what that was."""
    warnings: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as a plain dict that JSON can hold."""
        return asdict(self) | {"decisions": [decision._asdict() for decision in self.decisions]}


def inspect(
    optical: Paths | None,
    sar: Paths | None,
    card: Card | str | Path | None = None,
    options: SceneOptions | None = None,
) -> Inspection:
    """Tell what files are and what a prediction would do with them.

    Parameters
    ----------
    optical, sar : path, or sequence of paths, or None
        As `ScenePair.open` takes them; one of them may be None.
    card : Card, str or Path, optional
        Of the weights that they are to fit; or these weights, as a path or the name of bundled ones.
    options : SceneOptions, optional

    Raises
    ------
    RefnetError
        If a file cannot be read or understood at all; that bands are missing for the weights is told and no error.
    OptionsError
        If ``strict`` and something can only be guessed, if neither sensor has files, or if an option is for the sensor
        that has none.
    """
    absent = absent_sensor(optical, sar)
    options = single_sensor_options(options or SceneOptions(), absent)
    card = read_card(card) if isinstance(card, str | Path) else card
    found = Inspection(weights=card.name if card else None)
    with ExitStack() as stack:
        optical_source, sar_source = _open(found, optical, sar, options, stack)
        sources = [source for source in (optical_source, sar_source) if source]
        refuse_swapped(sources)
        with explain_swapped(sources):
            layers = _look_at_optical(found, optical_source, card, options) if optical_source else []
            sar_layers = _look_at_sar(found, sar_source, card, options) if sar_source else []
        _place(found, optical_source, sar_source, layers or sar_layers, options)
    if card:
        if lacking := say_lacking(card, absent):
            found.missing.append(lacking)
        if not found.missing:
            _try(found, optical, sar, card, options)
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
    """Open the files of each sensor that there are files of."""
    sar_source = Source(find_files(sar, "sar", options)[0], stack) if sar is not None else None
    if optical is None:
        return None, sar_source
    files, decision = choose_zone(find_files(optical, "optical", options), sar_source)
    if decision:
        found.decisions.append(decision)
        found.warnings += zone_warnings(decision)
    return Source(files, stack), sar_source


def _place(
    found: Inspection, optical: Source | None, sar: Source | None, layers: Sequence[Layer], options: SceneOptions
) -> None:
    """Choose the grid and say how the files come onto it; ``layers`` as `result_grid` takes them."""
    try:
        grid, decision = result_grid(optical, layers, sar, options)
    except GridNeededError as refusal:
        found.missing.append(str(refusal))
        return
    found.decisions.append(decision)
    found.grid = describe_grid(grid) | {"unit": _unit_of(CRS.from_user_input(grid.crs))}
    if optical is not None:
        found.decisions += describe_resampling("optical", align_bands(optical, layers, grid))
    if sar is not None:
        parts = align_bands(sar, sar.layers, grid)
        found.overlap = min(part.alignment.share for part in parts)
        found.decisions += describe_resampling("sar", parts)


def _try(
    found: Inspection, optical: Paths | None, sar: Paths | None, card: Card, options: SceneOptions
) -> None:
    """Open the pair as a prediction does; its decisions are the ones that count."""
    try:
        with ScenePair.open(optical, sar, card.optical.bands, card.sar.bands, options) as pair:
            own = {decision.what for decision in pair.decisions}
            found.decisions = [*pair.decisions, *(other for other in found.decisions if other.what not in own)]
            found.drift, unlike = card.drift(pair.levels), compare(card, pair)
            found.unlike = {band: asdict(drift) for band, drift in unlike.items()}
            found.warnings = [
                *pair.warnings,
                *warn_of_level(pair.decisions, card),
                *(warn_of_unlike(unlike, card.name) if SEEN in card.training else warn_of_drift(found.drift)),
            ]
    except InputError as refusal:
        found.missing.append(str(refusal))


def _chosen(
    found: Inspection, source: Source, modality: Modality | None, option: Sequence[str] | None
) -> tuple[list[Layer], list[str]]:
    """Bands to judge the files by: those that the weights want if they are there, else all that have names."""
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


def _look_at_optical(
    found: Inspection, source: Source, card: Card | None, options: SceneOptions
) -> list[Layer]:
    """Judge the optical files; the bands that are used."""
    with source.error_context():
        layers, names = _chosen(found, source, card.optical if card else None, options.optical_bands)
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
        values=_from_numbers(reader.declared, float(reader.scale), float(reader.offsets[0])),
    )
    return layers


def _look_at_sar(
    found: Inspection, source: Source, card: Card | None, options: SceneOptions
) -> list[Layer]:
    """Judge the SAR files; the bands that are used."""
    with source.error_context():
        layers, names = _chosen(found, source, card.sar if card else None, options.sar_bands)
        how = source.band_names[1] or "count: a guess, the bands have no names."
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
        values="dB" if values["sar.scale"] == "db" else f"dB, from the files' {SCALES[values['sar.scale']]}",
    )
    return layers


def _from_numbers(declared: tuple[float, float], scale: float, offset: float) -> str:
    steps = " with the scale {:g} and the offset {:g} that they declare".format(*declared) * (declared != (1.0, 0.0))
    steps += f" x {scale:g}" if scale != 1 else ""
    steps += f", less the offset of {offset:g}" if offset else ""
    return f"reflectance x 10,000: the files' numbers{steps or ', unchanged'}"


def _unit_of(crs: CRS) -> str:
    unit = crs.axis_info[0].unit_name
    return {"metre": "m", "degree": "degrees"}.get(unit, unit)


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
        pixel_unit=_unit_of(raster.crs),
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
