"""Optical files that were given as SAR, and SAR files that were given as optical."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from refnet_cli.errors import InputError
from refnet_cli.products import Modality, canonical_band, other_of
from refnet_cli.scene.bands import RADAR
from refnet_cli.scene.sample import take_sample
from refnet_cli.scene.source import Source

_NUMBERED = r"B(and)?[ _]*0*{}"
_MISSION = re.compile(r"(?<![A-Z0-9])S([12])[A-D]_(?:MSI|IW|EW|SM)", re.IGNORECASE)


def refuse_exchanged(sources: Sequence[Source], by_values: bool = False) -> None:
    """Refuse files of one sensor that were given as the other's.

    Parameters
    ----------
    sources : sequence of Source
        Of one sensor, or of both.
    by_values : bool
        Whether values count where nothing has names. They cost reading, and are worth it only where files turned out
        not to be what they were given as.

    Raises
    ------
    InputError
        With the advice to exchange the options.
    """
    evidence = {source.files.modality: _sensor_of(source, by_values) for source in sources}
    wrong = [source for source in sources if (evidence[source.files.modality] or ("",))[0] == _other_of(source)]
    right = [source for source in sources if (evidence[source.files.modality] or ("",))[0] == source.files.modality]
    if not wrong or (by_values and right and len(sources) > 1):
        return
    found = " and ".join(
        f"--{source.files.modality} {source.label} is {_article(_other_of(source))} image "
        f"({(evidence[source.files.modality] or ('', ''))[1]})"
        for source in wrong
    )
    advice = "exchange --optical and --sar"
    if len(sources) == 1:
        advice = f"give it with --{_other_of(wrong[0])} instead"
    elif len(wrong) < len(sources):
        advice = f"give it with --{_other_of(wrong[0])}, and {_article(wrong[0].files.modality)} image with " + (
            f"--{wrong[0].files.modality}; perhaps --optical and --sar are exchanged"
        )
    with wrong[0].naming():
        raise InputError(f"{found}: {advice}.")


@contextmanager
def advising_exchange(sources: Sequence[Source]) -> Iterator[None]:
    """Where files cannot be used, say so if that is because they are the other sensor's by their values."""
    try:
        yield
    except InputError as refusal:
        try:
            refuse_exchanged(sources, by_values=True)
        except InputError as exchanged:
            raise exchanged from refusal
        raise


def _other_of(source: Source) -> Modality:
    return other_of(source.files.modality)


def _article(modality: Modality) -> str:
    return "a SAR" if modality == "sar" else "an optical"


def _sensor_of(source: Source, by_values: bool) -> tuple[Modality, str] | None:
    """Tell the sensor of files by names, else perhaps by values, and the evidence; None if nothing tells."""
    if source.files.product:
        return source.files.modality, "its product"
    texts = [layer.said for layer in source.layers]
    if not _are_numbers(texts):
        named = [(canonical_band(text), text) for text in texts]
        radar = [text for band, text in named if band in RADAR]
        others = [text for band, text in named if band and band not in RADAR]
        if bool(radar) != bool(others):
            return ("sar" if radar else "optical"), f"its bands are {', '.join(map(str, radar or others))}"
    missions = {mission.group(1) for path in source.files.paths if (mission := _MISSION.search(Path(path).name))}
    if len(missions) == 1:
        return ("sar" if "1" in missions else "optical"), f"its name says Sentinel-{missions.pop()}"
    return _sensor_by_values(source) if by_values else None


def _are_numbers(texts: Sequence[str | None]) -> bool:
    """Tell whether bands are called B1, B2, B3 ... in a row, as some writers call those of any file."""
    return all(re.fullmatch(_NUMBERED.format(number), text or "", re.I) for number, text in enumerate(texts, 1))


def _sensor_by_values(source: Source) -> tuple[Modality, str] | None:
    file, band = source.layers[0].pieces[0]
    values = take_sample(source.rasters[file], [band], pass_over=True).judged
    known = values[np.isfinite(values)]
    dtype = np.dtype(source.rasters[file].dataset.dtypes[band - 1])
    if not known.size:
        return None
    negative, median = float(np.mean(known < 0)), float(np.median(known))
    found = f"the median of its {dtype} values is {median:.4g}"
    if negative > 0.9 and (-45 < median < -3 or (dtype.kind == "i" and -4500 < median < -300)):
        return "sar", f"{found}, as in dB"
    if negative < 0.01 and dtype.kind in "iu" and dtype.itemsize > 1 and 100 < median < 20_000 and known.max() < 30_000:
        return "optical", f"{found}, as in reflectance x 10,000"
    return None
