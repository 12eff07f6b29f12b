"""Which band of a file is which, by everything that the file says of its bands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.bands import (
    band_evidence,
    band_of_wavelength,
    canonical_band,
    is_landsat_name,
    only_numbers,
)


class Said(NamedTuple):
    """What a file says of one of its bands."""

    description: str | None = None
    tags: tuple[str, ...] = ()
    """Values of the tags that name it."""
    colour: str = ""
    """GDAL's name of its colour interpretation."""

    @property
    def is_alpha(self) -> bool:
        """Whether it tells where there is data, and is no measurement."""
        return self.colour == "alpha" or re.fullmatch(
            r"(a|alpha)([ _-]?(band|channel))?", (self.description or "").strip(), re.IGNORECASE
        ) is not None  # fmt: skip


class Named(NamedTuple):
    """Names of the bands of some files."""

    names: tuple[str | None, ...]
    """Canonical names; None where a band is not known."""
    how: str
    """The evidence; empty if no band could be named."""
    doubt: str = ""
    """Why bands that are not known may not be guessed; empty if they may."""
    others: frozenset[int] = frozenset()
    """Indexes of bands that say that they are none of the sensor's."""
    apart: str = ""
    """Why files of the same bands are not read as one image; empty if they are, or if there are none."""
    alpha: str = ""
    """Which bands are left out as alpha, and what to do if they are none; empty if there are none."""


def band_names(bands: Sequence[Said | str | None], modality: str) -> Named:
    """Name the bands of a file by what it says of them, and those that say nothing by their number.

    Parameters
    ----------
    bands : sequence of Said, or of str or None
        One per band, without alpha bands; texts are descriptions.
    modality : str
        Key of `SENSORS`: only this sensor's products are considered.
    """
    said = [band if isinstance(band, Said) else Said(band) for band in bands]
    if any(is_landsat_name(band.description) for band in said) and modality == "optical":
        listed = ", ".join(str(band.description) for band in said)
        return Named((None,) * len(said), "", f"The file calls its bands {listed}, as Landsat's products do")
    said = _without_numbering(said)
    evidence = [_evidence(band, modality) for band in said]
    chosen = [_choose(band, found, modality) for band, found in zip(said, evidence, strict=True)]
    names = _narrow_next_to_broad(chosen, said)
    others = frozenset(number for number, found in enumerate(evidence) if found is not None and not found)
    doubt = _contradiction(said, evidence)
    if SENSORS[modality].named_by_number and not doubt:
        silent = [number for number, found in enumerate(evidence) if found is None]
        filled, how, doubt = _by_count(names, evidence, silent, others, modality)
        if how:
            return Named(filled, how, "", others)
    return Named(names, _how(said, names) if any(names) else "", doubt, others)


def _without_numbering(said: list[Said]) -> list[Said]:
    """Leave out texts that only number the bands, and complete those that number them as the sensor does."""
    texts = [band.description or "" for band in said]
    # Some writers call the bands of any file B1, B2, B3 ...; in a row, without B8A, they are no Sentinel-2 bands.
    if all(only_numbers(text, number) for number, text in enumerate(texts, 1)):
        said = [band._replace(description=None) for band in said]
    left = [tuple(text for text in band.tags if not only_numbers(text, n)) for n, band in enumerate(said, 1)]
    if all(len(tags) < len(band.tags) for tags, band in zip(left, said, strict=True)):
        said = [band._replace(tags=tags) for tags, band in zip(left, said, strict=True)]
    if all(re.fullmatch(r"BAND[ _-]*(8A|0?[1-9]|1[0-2])", text, re.I) for text in texts):
        return [band._replace(description=f"Sentinel-2 {band.description}") for band in said]
    return said


def _texts(band: Said) -> list[set[str] | None]:
    """Return what each text that a file has for a band can mean."""
    tags: list[set[str] | None] = []
    for text in band.tags:
        name = band_of_wavelength(text)
        tags.append({name} if name else band_evidence(text))
    return [band_evidence(band.description), *tags]


def _evidence(band: Said, modality: str) -> set[str] | None:
    """Return the bands that all evidence together allows; None where there is no evidence."""
    found = [bands for bands in _texts(band) if bands is not None]
    if band.colour in (colours := SENSORS[modality].words.colours):
        found.append(set(colours[band.colour]))
    return set.intersection(*found) if found else None


def _choose(band: Said, found: set[str] | None, modality: str) -> str | None:
    """Return the only band that the evidence allows, or the usual one of a colour."""
    if not found or len(found) == 1:
        return next(iter(found), None) if found else None
    words = SENSORS[modality].words
    usual = [canonical_band(text) for text in (band.description, *band.tags)]
    usual += words.colours.get(band.colour, ())[:1] if band.colour not in words.vague_colours else ()
    return next((name for name in usual if name in found), None)


def _narrow_next_to_broad(names: Sequence[str | None], said: Sequence[Said]) -> tuple[str | None, ...]:
    """Take the near infrared next to a broad one for the narrow one, as FORCE's BROADNIR and NIR are named."""
    infrared = [number for number, name in enumerate(names) if name == "B08"]
    plain = [number for number in infrared if not re.search("broad", said[number].description or "", re.IGNORECASE)]
    if len(infrared) == 2 and len(plain) == 1 and "B8A" in (band_evidence(said[plain[0]].description) or ()):
        return tuple("B8A" if number == plain[0] else name for number, name in enumerate(names))
    return tuple(names)


def _contradiction(said: Sequence[Said], evidence: Sequence[set[str] | None]) -> str:
    """Say which band is two by its own words; nothing if none is."""
    colours = {colour for sensor in SENSORS.values() for colour, bands in sensor.words.colours.items() if bands}
    for number, (band, found) in enumerate(zip(said, evidence, strict=True), 1):
        words = [text for text in (band.description, *band.tags) if text and band_evidence(text)]
        words += [f"the colour interpretation {band.colour}"] if band.colour in colours else []
        if found is not None and not found and len(words) > 1:
            return f"What the file says of band {number} contradicts itself ({', '.join(words)})"
    return ""


def _by_count(
    names: tuple[str | None, ...],
    evidence: Sequence[set[str] | None],
    silent: list[int],
    others: frozenset[int],
    modality: str,
) -> tuple[tuple[str | None, ...], str, str]:
    """Name the bands that say nothing by their number, if no other contradicts it: names, evidence, doubt."""
    real = [number for number in range(len(names)) if number not in others]
    if not silent:
        return names, "", ""
    known = {names[number] for number in real if evidence[number] is not None}
    if len(real) == 4 and len(silent) == 1 and known == {"B02", "B03", "B04"}:
        filled = tuple("B08" if number == silent[0] else name for number, name in enumerate(names))
        how = f"count: a guess, band {silent[0] + 1} says nothing and is taken as B08, next to red, green and blue."
        return filled, how, ""
    for product in SENSORS[modality].products:
        if len(product.bands) != len(real):
            continue
        usual = dict(zip(real, product.bands, strict=True))
        wrong = [n for n, band in usual.items() if (found := evidence[n]) is not None and band not in found]
        if wrong:
            return names, "", (
                f"Band {wrong[0] + 1} is not {usual[wrong[0]]} by what the file says of it, so its {len(real)} bands "
                f"are not {product.name} in its usual order"
            )
        how = f"count: {len(real)} bands without names are taken as {product.name} in its usual order."
        return tuple(usual.get(number) for number in range(len(names))), how, ""
    return names, "", ""


def _how(said: Sequence[Said], names: Sequence[str | None]) -> str:
    """Say what named the bands."""
    if any(canonical_band(band.description) for band in said):
        listed = ", ".join(str(band.description).removeprefix("Sentinel-2 ") for band in said)
        return f"description: the file calls its bands {listed}."
    if any(band.tags for band in said):
        return f"tag: the tags of the file's bands say {', '.join(' '.join(band.tags) or 'nothing' for band in said)}."
    return f"tag: the colour interpretation of the file's bands is {', '.join(band.colour for band in said)}."


def choose_bands(
    needed: Sequence[str],
    descriptions: Sequence[str | None],
    modality: str,
    option: Sequence[str] | None = None,
    named: Named | None = None,
) -> tuple[tuple[int, ...], str]:
    """Find the needed bands in a file, or in several that count as one.

    Parameters
    ----------
    needed : sequence of str
        Bands of the network, in its order.
    descriptions : sequence of str or None
        Descriptions of the file's bands.
    modality : str
        Which sensor's file it is, a key of `SENSORS`.
    option : sequence of str, optional
        Names or 1-based numbers of the file's bands in the order of ``needed``, as the user gave them.
    named : Named, optional
        Canonical names and evidence where something else than the descriptions tells them; see `band_names`.

    Returns
    -------
    indexes : tuple of int
        1-based band numbers in the order of ``needed``.
    how : str
        The evidence.

    Raises
    ------
    InputError
        If the bands cannot be found without guessing.
    OptionsError
        If the option does not fit the file.

    Examples
    --------
    >>> choose_bands(["B04", "B02"], ["blue", "green", "red"], "optical")
    ((3, 1), 'description: the file calls its bands blue, green, red.')
    """
    named = named or band_names(descriptions, modality)
    try:
        return _choose_bands(needed, descriptions, modality, option, named)
    except (InputError, OptionsError) as refusal:
        if not named.alpha:
            raise
        raise type(refusal)(f"{refusal} {named.alpha}") from None


def _choose_bands(
    needed: Sequence[str],
    descriptions: Sequence[str | None],
    modality: str,
    option: Sequence[str] | None,
    named: Named,
) -> tuple[tuple[int, ...], str]:
    names, how, doubt, others, apart, _ = named
    if option is not None:
        indexes_by_option = _bands_by_option(needed, names, descriptions, option, modality, apart)
        return indexes_by_option, f"option: --{modality}-bands {','.join(option)}."
    advice = f"name them with --{modality}-bands (names or numbers in the order {','.join(needed)})"
    if not how:
        return _by_number(needed, names, doubt or apart, others, modality, advice)
    if len(names) < len(needed):
        advice = "give a file that has it"
    indexes = []
    for band in needed:
        places = _places(names, canonical_band(band) or band)
        if reason := apart if len(places) > 1 else doubt if not places else "":
            raise InputError(_with_advice(reason, advice))
        if len(places) != 1:
            found = ", ".join(str(name or description) for name, description in zip(names, descriptions, strict=True))
            raise InputError(
                f"The {modality} file has {'no' if not places else 'several'} band{'s' * (len(places) > 1)} {band} "
                f"among {found}: {_numbers_instead(band, places, modality) if places else advice}."
            )
        indexes += places
    return tuple(indexes), how


def _places(names: Sequence[str | None], band: str) -> list[int]:
    """Return the numbers of the bands of a name."""
    return [number for number, name in enumerate(names, 1) if name == band]


def _numbers_instead(band: str, places: Sequence[int], modality: str) -> str:
    """Say how to choose among bands of one name."""
    numbers = f"{', '.join(map(str, places[:-1]))} and {places[-1]}"
    return f"give the number of the one you mean with --{modality}-bands ({band} is the name of bands {numbers})"


def _with_advice(reason: str, advice: str) -> str:
    """Put the advice behind a reason, which may hold another one."""
    return f"{reason}, or {advice}." if re.search(r"`$|\. Give", reason) else f"{reason}: {advice}."


def _by_number(
    needed: Sequence[str],
    names: Sequence[str | None],
    doubt: str,
    others: frozenset[int],
    modality: str,
    advice: str,
) -> tuple[tuple[int, ...], str]:
    """Take bands that say nothing in the order of the network, if there are as many."""
    places = [number for number in range(1, len(names) + 1) if number - 1 not in others]
    count = len(places)
    if doubt:
        raise InputError(_with_advice(doubt, advice))
    if count == len(needed):
        return tuple(places), (
            f"count: a guess, {count} bands without known names are taken in the wanted order: {', '.join(needed)}."
        )
    if count < len(needed):
        raise InputError(
            f"The {modality} file has {count} band{'s' * (count != 1)}, but {len(needed)} are needed "
            f"({', '.join(needed)}): give a file that has them."
        )
    raise InputError(
        f"The {modality} file has {count} bands without names that say which are {', '.join(needed)}: {advice}."
    )


def _bands_by_option(
    needed: Sequence[str],
    names: Sequence[str | None],
    descriptions: Sequence[str | None],
    option: Sequence[str],
    modality: str,
    apart: str,
) -> tuple[int, ...]:
    if len(option) != len(needed):
        raise OptionsError(
            f"--{modality}-bands names {len(option)} bands, but the network needs {len(needed)}: {', '.join(needed)}."
        )
    indexes = []
    for item in option:
        band = canonical_band(item) or item
        places = [int(item)] if item.isdecimal() else _places(names, band)
        if len(places) > 1:
            places = [place for place in places if descriptions[place - 1] == item] or places
        if len(places) > 1:
            advice = _numbers_instead(item, places, modality)
            raise OptionsError(_with_advice(apart or f"--{modality}-bands asks for {item}, a name of several", advice))
        index = places[0] if places else 0
        if not 1 <= index <= len(names):
            known = ", ".join(name for name in names if name) or "none that are named"
            raise OptionsError(
                f"--{modality}-bands asks for {item}, but the file has {len(names)} bands ({known}): "
                f"give names it has or numbers from 1 to {len(names)}."
            )
        indexes.append(index)
    if len(set(indexes)) < len(indexes):
        raise OptionsError(f"--{modality}-bands names a band twice: {','.join(option)}.")
    return tuple(indexes)
