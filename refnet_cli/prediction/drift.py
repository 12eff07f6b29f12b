"""Whether a scene is like what weights learned from: said before anyone trusts its map.

A scene is compared, by pixels of up to 16 blocks spread over its grid, with what the card keeps; see
`refnet_cli.prediction.seen`. The pixels depend on the grid alone, so that all parts of a map and a run that continues
say the same.

The limit is a quarter of the pixels. On 117 real places and five in both optical levels, each compared with those of
other countries, 7 % of the L2A images and 10 % of the SAR images exceed it, 94 % of SAR images that are 10 dB too
bright, all images of noise, and, where only L2A was learned from, 86 % of hazy images. Of images that are twice as
bright as they should be, a third does: the others look like brighter ground.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from refnet_cli.errors import InputError, WeightsError
from refnet_cli.model.card import Card
from refnet_cli.prediction.low_confidence import WHAT_TO_DO
from refnet_cli.prediction.seen import BandDrift, Seen, thin
from refnet_cli.raster.raster import BLOCK
from refnet_cli.scene.pair import Patch, ScenePair
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.decisions import Decision
from refnet_cli.tiles.window import Window

SEEN = "seen"
"""Entry of a card's ``training``: by sensor, ``optical`` or ``sar``, what `Seen.to_dict` returns."""
LEVELS = "levels"
"""Entry of a card's ``training``: processing levels of the optical images that were learned from, also "unknown"."""
LARGEST_SHARE = 0.25
"""Share of a scene's pixels that may lie outside a range."""
_BLOCKS, _MOST_READ = 16, 64  # blocks with measurements to compare, and blocks to read until these are found
_PER_BLOCK = 4096  # pixels, about
_NAMED = 3  # bands that a warning describes


def seen_by(card: Card) -> dict[str, Seen]:
    """Return what weights learned from, by sensor; empty where the card does not say.

    Raises
    ------
    WeightsError
        If the card's entry cannot be understood.
    """
    entries = card.training.get(SEEN, {})
    try:
        if not isinstance(entries, Mapping) or not set(entries) <= {"optical", "sar"}:
            raise WeightsError("it must be a table of optical, sar or both.")
        found = {name: Seen.from_dict(entry) for name, entry in entries.items()}
        for name, seen in found.items():
            if seen.bands != getattr(card, name).bands:
                raise WeightsError(f"its {name} bands are not those of the card.")
    except WeightsError as error:
        raise WeightsError(f"The card's entry training.{SEEN} cannot be understood: {error}") from error
    return found


def compare(card: Card, pair: ScenePair) -> dict[str, BandDrift]:
    """Compare a scene with what weights learned from.

    Parameters
    ----------
    card : Card
        Of the weights.
    pair : ScenePair
        Nothing else may read from it meanwhile; what it was told to expect is forgotten.

    Returns
    -------
    dict
        By band; without those of a sensor that measured fewer than 100 of the compared pixels, and empty where the card
        does not say what was learned from.

    Raises
    ------
    WeightsError
        If the card's entry cannot be understood.
    """
    known = seen_by(card)
    sample = _sample(pair) if known else None
    return {
        band: drift
        for name, seen in known.items()
        for band, drift in seen.compare(getattr(sample, name), name).items()
    }


def _sample(pair: ScenePair) -> Patch:
    """Read pixels of blocks spread over a pair's grid, shapes (Bo, n) and (Bs, n); what cannot be read is left out."""
    height, width = pair.grid.shape
    down, across = math.ceil(height / BLOCK), math.ceil(width / BLOCK)
    order = np.random.default_rng(0).permutation(down * across)[:_MOST_READ].tolist()
    corners = [(number // across * BLOCK, number % across * BLOCK) for number in order]
    windows = [Window(row, column, BLOCK, BLOCK).clip(height, width) for row, column in corners]
    pair.prefetch(windows)
    taken: list[Patch] = []
    for window in windows:
        try:
            patch = pair.read(window)
        except InputError:  # a prediction that needs the block says so
            continue
        if np.isfinite(patch.optical).any() or np.isfinite(patch.sar).any():
            taken.append(Patch(*(thin(values, _PER_BLOCK) for values in patch)))
        if len(taken) == _BLOCKS:
            break
    pair.prefetch([])
    if not taken:
        return Patch(*np.empty((2, 0, 0), np.float32))
    return Patch(*(np.concatenate(arrays, axis=1) for arrays in zip(*taken, strict=True)))


def warn_of_unlike(found: Mapping[str, BandDrift], weights: str) -> list[str]:
    """Say which bands of a scene are unlike what weights of a name learned from, how far, and what to do."""
    far = sorted((band for band in found if found[band].outside > LARGEST_SHARE), key=lambda b: -found[b].outside)
    if not far:
        return []
    named = [_describe(band, found[band]) for band in far[:_NAMED]]
    more = [f"also {', '.join(far[_NAMED:])}"] * (len(far) > _NAMED)
    # What SAR alone differs by is neither an offset nor haze.
    numbers, cause = ("unit", "weather") if {*far} <= {*SENSORS["sar"].bands} else ("unit, the offset", "haze")
    return [
        f"the scene is unlike those that the weights {weights} learned from (limit {LARGEST_SHARE:.0%} of a band's "
        f"pixels): {'; '.join(named + more)}. Check the {numbers} and the order of bands (refnet inspect). If they are "
        f"right, {cause}, season or kind of ground is new to the weights. {WHAT_TO_DO}"
    ]


def _describe(band: str, drift: BandDrift) -> str:
    low, middle, high = map(_number, drift.seen)
    said = []
    if drift.below + drift.above > LARGEST_SHARE:
        parts = ((drift.below, f"below {low}"), (drift.above, f"above {high}"))
        said += [f"{share:.0%} of the pixels are {where}" for share, where in parts if share >= 0.01]
        said[-1] += f" (median {_number(drift.median)}, in training {middle})"
    if drift.lower + drift.higher > LARGEST_SHARE:
        parts = ((drift.lower, "lower"), (drift.higher, "higher"))
        listed = [f"{share:.0%} of the pixels are {word}" for share, word in parts if share >= 0.01]
        said += [f"{text} than the other bands suggest" for text in listed]
    return f"{band}: {', '.join(said)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def warn_of_level(decisions: Iterable[Decision], card: Card) -> list[str]:
    """Warn of an optical image of a processing level that weights did not learn from.

    Weights whose card names no level are taken to have learned from L2A.
    """
    level = next((found.value for found in decisions if found.what == "optical.level"), None)
    learned = card.training.get(LEVELS, [])
    if level == "L1C" and "L1C" not in learned:
        known = "learned from L2A alone" if learned == ["L2A"] else "are not known to have learned from L1C"
        return [
            f"the optical image is L1C, reflectance at the top of the atmosphere, and the weights {card.name} {known}: "
            "haze may pass for bright ground. Give L2A, or weights that learned from L1C."
        ]
    if level == "L2A" and learned == ["L1C"]:
        return [
            f"the optical image is L2A, reflectance at the surface, and the weights {card.name} learned from L1C "
            "alone: ground without haze may pass for dark ground. Give L1C, or weights that learned from L2A."
        ]
    return []
