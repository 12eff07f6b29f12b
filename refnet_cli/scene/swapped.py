"""Detection of swapped inputs: optical files passed as SAR, and SAR files passed as optical."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from refnet_cli.errors import InputError
from refnet_cli.raster.sample import take_sample
from refnet_cli.scene.source import Source
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.bands import canonical_band
from refnet_cli.sensors.sensor import other_of

_NUMBERED = r"B(and)?[ _]*0*{}"


def refuse_swapped(sources: Sequence[Source], by_values: bool = False) -> None:
    """Refuse files of one sensor that were passed as the other's.

    Parameters
    ----------
    sources : sequence of Source
        Of one or both sensors.
    by_values : bool
        Whether to use pixel values if no name identifies the sensor. This reads pixels, so use it only after the files
        have turned out to be unusable.

    Raises
    ------
    InputError
        With the advice to swap the options.
    """
    evidence = [(source, *found) for source in sources if (found := _sensor_of(source, by_values))]
    wrong = [(source, sensor, how) for source, sensor, how in evidence if sensor != source.files.modality]
    if not wrong or (by_values and len(wrong) < len(evidence) and len(sources) > 1):
        return
    about = " and ".join(
        f"--{source.files.modality} {source.label} is {_article(sensor)} image ({how})" for source, sensor, how in wrong
    )
    source, sensor, _ = wrong[0]
    given = source.files.modality
    advice = "Swap --optical and --sar."
    if len(sources) == 1:
        advice = f"Pass it with --{sensor} instead."
    elif len(wrong) < len(sources):
        advice = (
            f"Pass it with --{sensor}, and {_article(given)} image with --{given}. Perhaps --optical and --sar are "
            "swapped."
        )
    with source.error_context():
        raise InputError(f"{about}. {advice}")


def warn_of_unused(source: Source) -> list[str]:
    """Name the files of a scene of one sensor that have bands of the other, which then serve no purpose."""
    given = source.files.modality
    other = SENSORS[other_of(given)]
    if source.files.product or _are_numbers([layer.description for layer in source.layers]):
        return []
    found: dict[str, list[str]] = {}
    for layer in source.layers:
        if (band := canonical_band(layer.description)) in other.bands:
            found.setdefault(source.rasters[layer.pieces[0][0]].path, []).append(str(band))
    return [
        f"{path} is given with --{given} and has the {other.name} bands {', '.join(bands)}, which are not used. Pass "
        f"it with --{other_of(given)} to map from both sensors."
        for path, bands in found.items()
    ]


@contextmanager
def explain_swapped(sources: Sequence[Source]) -> Iterator[None]:
    """If files turn out to be unusable and their values are those of the other sensor, raise that error instead."""
    try:
        yield
    except InputError as refusal:
        try:
            refuse_swapped(sources, by_values=True)
        except InputError as swapped:
            raise swapped from refusal
        raise


def _article(modality: str) -> str:
    name = SENSORS[modality].name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _sensor_of(source: Source, by_values: bool) -> tuple[str, str] | None:
    """Return the sensor of files according to names, else optionally values, and the evidence; None if unknown."""
    if source.files.product:
        return source.files.modality, "its product"
    texts = [layer.description for layer in source.layers]
    if not _are_numbers(texts):
        named = [(canonical_band(text), text) for text in texts]
        by_sensor = {key: [text for band, text in named if band in SENSORS[key].bands] for key in SENSORS}
        there = [key for key, own in by_sensor.items() if own]
        if len(there) == 1:
            return there[0], f"its bands are {', '.join(map(str, by_sensor[there[0]]))}"
    missions = {mission for path in source.files.paths if (mission := _mission(Path(path).name))}
    if len(missions) == 1:
        (sensor,) = missions
        return sensor, f"its file name is that of a {SENSORS[sensor].satellite} product"
    return _sensor_by_values(source) if by_values else None


def _mission(name: str) -> str | None:
    """Return the sensor whose product names occur in a file name."""
    patterns = "|".join(f"(?P<{key}>{sensor.product_name})" for key, sensor in SENSORS.items())
    found = re.search(rf"(?<![A-Z0-9])(?:{patterns})", name, re.IGNORECASE)
    return found.lastgroup if found else None


def _are_numbers(texts: Sequence[str | None]) -> bool:
    """Return whether bands are numbered B1, B2, B3 ... without a gap, as some writers number any bands."""
    return all(re.fullmatch(_NUMBERED.format(number), text or "", re.I) for number, text in enumerate(texts, 1))


def _sensor_by_values(source: Source) -> tuple[str, str] | None:
    file, band = source.layers[0].pieces[0]
    values = take_sample(source.rasters[file], [band], skip_unreadable=True).interior_values
    known = values[np.isfinite(values)]
    dtype = np.dtype(source.rasters[file].dataset.dtypes[band - 1])
    sure = [key for key, sensor in SENSORS.items() if known.size and sensor.recognises_values(known, dtype)]
    if len(sure) != 1:
        return None
    found = f"the median of its {dtype} values is {float(np.median(known)):.4g}"
    return sure[0], f"{found}, as in {SENSORS[sure[0]].unit}"
