"""Identify the bands of a file from its metadata: descriptions, tags, colour interpretations and band count."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.bands import (
    band_of_wavelength,
    candidate_bands,
    canonical_band,
    is_band_number,
    is_landsat_name,
)
from refnet_cli.system.words import count


class BandMetadata(NamedTuple):
    """Metadata of one band."""

    description: str | None = None
    tags: tuple[str, ...] = ()
    """Values of the tags that identify the band."""
    colour: str = ""
    """GDAL's name of the colour interpretation."""

    @property
    def is_alpha(self) -> bool:
        """Whether the band is an alpha band (a valid mask) rather than a measurement."""
        return self.colour == "alpha" or re.fullmatch(
            r"(a|alpha)([ _-]?(band|channel))?", (self.description or "").strip(), re.IGNORECASE
        ) is not None  # fmt: skip


class BandNames(NamedTuple):
    """Names of the bands of one or more files."""

    names: tuple[str | None, ...]
    """Canonical names; None for an unidentified band."""
    how: str
    """The evidence; empty if no band could be identified."""
    conflict: str = ""
    """Why unidentified bands must not be guessed; empty if guessing is allowed."""
    excluded: frozenset[int] = frozenset()
    """Indexes of bands whose metadata rule out every band of the sensor."""
    not_joined: str = ""
    """Why files with the same bands are not mosaicked; empty if they are or if there are none."""
    alpha_hint: str = ""
    """Which bands are skipped as alpha bands, and how to use them as measurements; empty if there are none."""


def band_names(bands: Sequence[BandMetadata | str | None], modality: str) -> BandNames:
    """Identify the bands of a file from their metadata; fall back to the band order of a product of as many bands.

    Parameters
    ----------
    bands : sequence of BandMetadata, or of str or None
        One per band, without alpha bands. A str is a description.
    modality : str
        Key of `SENSORS`. Only products of this sensor are considered.
    """
    metadata = [band if isinstance(band, BandMetadata) else BandMetadata(band) for band in bands]
    if any(is_landsat_name(band.description) for band in metadata) and modality == "optical":
        listed = ", ".join(str(band.description) for band in metadata)
        return BandNames((None,) * len(metadata), "", f"The file names its bands {listed}, as Landsat products do")
    metadata = _drop_numbering(metadata)
    evidence = [_evidence(band, modality) for band in metadata]
    chosen = [_choose(band, found, modality) for band, found in zip(metadata, evidence, strict=True)]
    names = _resolve_narrow_nir(chosen, metadata)
    excluded = frozenset(number for number, found in enumerate(evidence) if found is not None and not found)
    conflict = _find_conflict(metadata, evidence)
    if SENSORS[modality].named_by_number and not conflict:
        silent = [number for number, found in enumerate(evidence) if found is None]
        filled, how, conflict = _by_count(names, evidence, silent, excluded, modality)
        if how:
            return BandNames(filled, how, "", excluded)
    return BandNames(names, _describe_evidence(metadata, names) if any(names) else "", conflict, excluded)


def _drop_numbering(metadata: list[BandMetadata]) -> list[BandMetadata]:
    """Drop texts that only number the bands, and prefix Sentinel-2's own band numbers with the sensor's name."""
    texts = [band.description or "" for band in metadata]
    # Some writers name the bands of any file B1, B2, B3 ... Without a gap and without B8A, these are plain numbers.
    if all(is_band_number(text, number) for number, text in enumerate(texts, 1)):
        metadata = [band._replace(description=None) for band in metadata]
    left = [tuple(text for text in band.tags if not is_band_number(text, n)) for n, band in enumerate(metadata, 1)]
    if all(len(tags) < len(band.tags) for tags, band in zip(left, metadata, strict=True)):
        metadata = [band._replace(tags=tags) for tags, band in zip(left, metadata, strict=True)]
    if all(re.fullmatch(r"BAND[ _-]*(8A|0?[1-9]|1[0-2])", text, re.I) for text in texts):
        return [band._replace(description=f"Sentinel-2 {band.description}") for band in metadata]
    return metadata


def _texts(band: BandMetadata) -> list[set[str] | None]:
    """Return the bands that each text of a band's metadata can mean."""
    tags: list[set[str] | None] = []
    for text in band.tags:
        name = band_of_wavelength(text)
        tags.append({name} if name else candidate_bands(text))
    return [candidate_bands(band.description), *tags]


def _evidence(band: BandMetadata, modality: str) -> set[str] | None:
    """Return the bands that all metadata of a band allow; None if the metadata do not identify any."""
    found = [bands for bands in _texts(band) if bands is not None]
    if band.colour in (colours := SENSORS[modality].naming.colours):
        found.append(set(colours[band.colour]))
    return set.intersection(*found) if found else None


def _choose(band: BandMetadata, found: set[str] | None, modality: str) -> str | None:
    """Return the only allowed band, or the most common one of a colour."""
    if not found or len(found) == 1:
        return next(iter(found), None) if found else None
    naming = SENSORS[modality].naming
    usual = [canonical_band(text) for text in (band.description, *band.tags)]
    usual += naming.colours.get(band.colour, ())[:1] if band.colour not in naming.ambiguous_colours else ()
    return next((name for name in usual if name in found), None)


def _resolve_narrow_nir(names: Sequence[str | None], metadata: Sequence[BandMetadata]) -> tuple[str | None, ...]:
    """Read the near-infrared band next to a broad one as the narrow one: FORCE names them NIR and BROADNIR."""
    infrared = [number for number, name in enumerate(names) if name == "B08"]
    plain = [number for number in infrared if not re.search("broad", metadata[number].description or "", re.IGNORECASE)]
    if len(infrared) == 2 and len(plain) == 1 and "B8A" in (candidate_bands(metadata[plain[0]].description) or ()):
        return tuple("B8A" if number == plain[0] else name for number, name in enumerate(names))
    return tuple(names)


def _find_conflict(metadata: Sequence[BandMetadata], evidence: Sequence[set[str] | None]) -> str:
    """Return a description of the first band whose metadata contradict each other; "" if there is none."""
    colours = {colour for sensor in SENSORS.values() for colour, bands in sensor.naming.colours.items() if bands}
    for number, (band, found) in enumerate(zip(metadata, evidence, strict=True), 1):
        words = [text for text in (band.description, *band.tags) if text and candidate_bands(text)]
        words += [f"the colour interpretation {band.colour}"] if band.colour in colours else []
        if found is not None and not found and len(words) > 1:
            return f"The metadata of band {number} contradict each other ({', '.join(words)})"
    return ""


def _by_count(
    names: tuple[str | None, ...],
    evidence: Sequence[set[str] | None],
    silent: list[int],
    excluded: frozenset[int],
    modality: str,
) -> tuple[tuple[str | None, ...], str, str]:
    """Name unidentified bands by their position unless other bands contradict it: names, evidence, conflict."""
    real = [number for number in range(len(names)) if number not in excluded]
    if not silent:
        return names, "", ""
    known = {names[number] for number in real if evidence[number] is not None}
    if len(real) == 4 and len(silent) == 1 and known == {"B02", "B03", "B04"}:
        filled = tuple("B08" if number == silent[0] else name for number, name in enumerate(names))
        how = f"count: a guess, band {silent[0] + 1} is unnamed, and read as B08 next to red, green and blue."
        return filled, how, ""
    for product in SENSORS[modality].products:
        if len(product.bands) != len(real):
            continue
        usual = dict(zip(real, product.bands, strict=True))
        wrong = [n for n, band in usual.items() if (found := evidence[n]) is not None and band not in found]
        if wrong:
            return names, "", (
                f"The metadata of band {wrong[0] + 1} rule out {usual[wrong[0]]}, so the {len(real)} bands are not in "
                f"the usual order of {product.name}"
            )
        how = f"count: {len(real)} unnamed bands are read in the usual order of {product.name}."
        return tuple(usual.get(number) for number in range(len(names))), how, ""
    return names, "", ""


def _describe_evidence(metadata: Sequence[BandMetadata], names: Sequence[str | None]) -> str:
    """Return the evidence for the bands' names."""
    if any(canonical_band(band.description) for band in metadata):
        listed = ", ".join(str(band.description).removeprefix("Sentinel-2 ") for band in metadata)
        return f"description: the file names its bands {listed}."
    if any(band.tags for band in metadata):
        return f"tag: the band tags are {', '.join(' '.join(band.tags) or 'empty' for band in metadata)}."
    return f"tag: the colour interpretations of the bands are {', '.join(band.colour for band in metadata)}."


def choose_bands(
    needed: Sequence[str],
    descriptions: Sequence[str | None],
    modality: str,
    option: Sequence[str] | None = None,
    named: BandNames | None = None,
) -> tuple[tuple[int, ...], str]:
    """Find the needed bands in a file or in several files of one image.

    Parameters
    ----------
    needed : sequence of str
        Bands of the network, in its order.
    descriptions : sequence of str or None
        Band descriptions of the files.
    modality : str
        The sensor: a key of `SENSORS`.
    option : sequence of str, optional
        The user's choice: names or 1-based numbers of the file's bands, in the order of ``needed``.
    named : BandNames, optional
        Canonical names and evidence, if they come from more than the descriptions; see `band_names`.

    Returns
    -------
    indexes : tuple of int
        1-based band numbers in the order of ``needed``.
    how : str
        The evidence.

    Raises
    ------
    InputError
        If the bands cannot be identified without guessing.
    OptionsError
        If the option does not match the file.

    Examples
    --------
    >>> choose_bands(["B04", "B02"], ["blue", "green", "red"], "optical")
    ((3, 1), 'description: the file names its bands blue, green, red.')
    """
    named = named or band_names(descriptions, modality)
    try:
        return _choose_bands(needed, descriptions, modality, option, named)
    except (InputError, OptionsError) as refusal:
        if not named.alpha_hint:
            raise
        raise type(refusal)(f"{refusal} {named.alpha_hint}") from None


def _choose_bands(
    needed: Sequence[str],
    descriptions: Sequence[str | None],
    modality: str,
    option: Sequence[str] | None,
    named: BandNames,
) -> tuple[tuple[int, ...], str]:
    names, how, conflict, excluded, not_joined, _ = named
    if option is not None:
        indexes_by_option = _bands_by_option(needed, names, descriptions, option, modality, not_joined)
        return indexes_by_option, f"option: --{modality}-bands {','.join(option)}."
    advice = f"specify the bands with --{modality}-bands (names or numbers in the order {','.join(needed)})"
    if not how:
        return _in_network_order(needed, names, conflict or not_joined, excluded, modality, advice)
    if len(names) < len(needed):
        advice = "use a file that has it"
    indexes = []
    for band in needed:
        places = _numbers_of(names, canonical_band(band) or band)
        if reason := not_joined if len(places) > 1 else conflict if not places else "":
            raise InputError(_with_advice(reason, advice))
        if len(places) != 1:
            found = ", ".join(str(name or description) for name, description in zip(names, descriptions, strict=True))
            advice = _choose_number(band, places, modality) if places else advice
            sensor = SENSORS[modality].name
            reason = f"The {sensor} file has {'several bands' if places else 'no band'} {band} among {found}"
            raise InputError(_with_advice(reason, advice))
        indexes += places
    return tuple(indexes), how


def _numbers_of(names: Sequence[str | None], band: str) -> list[int]:
    """Return the 1-based numbers of the bands with a name."""
    return [number for number, name in enumerate(names, 1) if name == band]


def _choose_number(band: str, places: Sequence[int], modality: str) -> str:
    """Return advice for choosing among bands with the same name."""
    numbers = f"{', '.join(map(str, places[:-1]))} and {places[-1]}"
    return f"give the number of the right one with --{modality}-bands ({band} is the name of bands {numbers})"


def _with_advice(reason: str, advice: str) -> str:
    """Append the advice to a reason; as an alternative if the reason already ends with advice."""
    if re.search(r"`$|\. Use", reason):
        return f"{reason}, or {advice}."
    return f"{reason}. {advice[0].upper()}{advice[1:]}."


def _in_network_order(
    needed: Sequence[str],
    names: Sequence[str | None],
    conflict: str,
    excluded: frozenset[int],
    modality: str,
    advice: str,
) -> tuple[tuple[int, ...], str]:
    """Read unnamed bands in the order of the network if their number matches."""
    places = [number for number in range(1, len(names) + 1) if number - 1 not in excluded]
    found = count(len(places), "unnamed band")
    if conflict:
        raise InputError(_with_advice(conflict, advice))
    if len(places) == len(needed):
        are = "is" if len(places) == 1 else "are"
        return tuple(places), (
            f"count: a guess, {found} {are} read in the order the network needs: {', '.join(needed)}."
        )
    if len(places) < len(needed):
        raise InputError(
            f"The {SENSORS[modality].name} file has {_tally(len(places), len(excluded))}, but {len(needed)} are needed "
            f"({', '.join(needed)}). Use a file that has them{_not_a_picture(len(names), modality)}."
        )
    reason = f"The {SENSORS[modality].name} file has {found}, so {', '.join(needed)} cannot be identified"
    raise InputError(_with_advice(reason, advice))


def _tally(possible: int, others: int) -> str:
    """Count the bands that may be of the sensor, and those that are something else, such as labels."""
    if not others:
        return count(possible, "band")
    return f"{count(others, 'band')} of another kind and {count(possible, 'band')} that may be of the sensor"


def _not_a_picture(bands: int, modality: str) -> str:
    return ": a picture in red, green and blue lacks the near infrared" if (bands, modality) == (3, "optical") else ""


def _bands_by_option(
    needed: Sequence[str],
    names: Sequence[str | None],
    descriptions: Sequence[str | None],
    option: Sequence[str],
    modality: str,
    not_joined: str,
) -> tuple[int, ...]:
    if len(option) != len(needed):
        raise OptionsError(
            f"--{modality}-bands names {count(len(option), 'band')}, but the network needs {len(needed)}: "
            f"{', '.join(needed)}."
        )
    indexes = []
    for item in option:
        band = canonical_band(item) or item
        places = [int(item)] if item.isdecimal() else _numbers_of(names, band)
        if len(places) > 1:
            places = [place for place in places if descriptions[place - 1] == item] or places
        if len(places) > 1:
            reason = not_joined or f"--{modality}-bands asks for {item}, but several bands have this name"
            raise OptionsError(_with_advice(reason, _choose_number(item, places, modality)))
        index = places[0] if places else 0
        if not 1 <= index <= len(names):
            known = ", ".join(name for name in names if name) or "all unnamed"
            raise OptionsError(
                f"--{modality}-bands asks for {item}, but the file has {count(len(names), 'band')} ({known}). "
                f"Use their names or numbers from 1 to {len(names)}."
            )
        indexes.append(index)
    if len(set(indexes)) < len(indexes):
        raise OptionsError(f"--{modality}-bands names a band twice: {','.join(option)}. Name each band once.")
    return tuple(indexes)
