"""Compare a scene with the data that the weights were trained on, and warn where it differs.

The comparison uses pixels of up to 16 blocks spread over the grid, and the distributions in the card; see
`refnet_cli.prediction.distribution`. The choice of pixels depends on the grid alone, so all parts of a map and a
resumed run give the same result.

The limit is a quarter of the pixels. It was tested on 117 real places, and on five places at both optical levels, each
compared with places in other countries. The limit is exceeded by 7% of the L2A images, 10% of the SAR images, 94% of
SAR images that are 10 dB too bright, all images of noise and, if training used L2A alone, 86% of hazy images. Images
that are twice as bright as they should be exceed it in a third of the cases: the others look like brighter ground.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import numpy as np

from refnet_cli.errors import InputError, WeightsError
from refnet_cli.model.card import Card
from refnet_cli.prediction.distribution import BandDrift, InputDistribution, thin
from refnet_cli.prediction.low_confidence import ADVICE
from refnet_cli.raster.raster import BLOCK
from refnet_cli.scene.blocks import Patch, Scene
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.decisions import Decision
from refnet_cli.system.config import read
from refnet_cli.tiles.window import Window

DISTRIBUTIONS = "seen"
"""Key in a card's ``training``: for each sensor, ``optical`` or ``sar``, the result of `InputDistribution.to_dict`."""
LEVELS = "levels"
"""Key in a card's ``training``: processing levels of the optical training images, including "unknown"."""
LARGEST_SHARE = 0.25
"""Limit for the share of a scene's pixels outside the training range."""
_BLOCKS, _MOST_READ = 16, 64  # blocks with data to compare; maximum number of blocks to read to find them
_PER_BLOCK = 4096  # approximate number of pixels
_NAMED = 3  # maximum number of bands that a warning describes in detail


def distributions_of(card: Card) -> dict[str, InputDistribution]:
    """Return the training distribution of each sensor in a card; empty if the card has none.

    Raises
    ------
    WeightsError
        If the card's entry is invalid.
    """
    where = f"The card's entry training.{DISTRIBUTIONS} is invalid"
    found: Any = read(_BySensor, card.training.get(DISTRIBUTIONS, {}), where, error=WeightsError)
    for name, distribution in found.items():
        if distribution.bands != getattr(card, name).bands:
            raise WeightsError(f"{where}: its {name} bands differ from the card's.")
    return dict(found)


class _BySensor(TypedDict, total=False):
    optical: InputDistribution
    sar: InputDistribution


def compare(card: Card, pair: Scene) -> dict[str, BandDrift]:
    """Compare a scene with the training data of the weights.

    Parameters
    ----------
    card : Card
        Of the weights.
    pair : Scene
        Nothing else may read from it during the call. Its read-ahead queue is cleared.

    Returns
    -------
    dict
        By band. Sensors with fewer than 100 valid pixels in the sample are left out. Empty if the card does not
        describe the training data.

    Raises
    ------
    WeightsError
        If the card's entry is invalid.
    """
    known = distributions_of(card)
    sample = _sample(pair) if known else None
    return {
        band: drift
        for name, distribution in known.items()
        for band, drift in distribution.compare(getattr(sample, name), name).items()
    }


def _sample(pair: Scene) -> Patch:
    """Read pixels of blocks spread over the grid, shapes (Bo, n) and (Bs, n); skip unreadable blocks."""
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
        except InputError:  # a prediction that needs the block raises it
            continue
        if np.isfinite(patch.optical).any() or np.isfinite(patch.sar).any():
            taken.append(Patch(*(thin(values, _PER_BLOCK) for values in patch)))
        if len(taken) == _BLOCKS:
            break
    pair.prefetch([])
    if not taken:
        return Patch(*np.empty((2, 0, 0), np.float32))
    return Patch(*(np.concatenate(arrays, axis=1) for arrays in zip(*taken, strict=True)))


def warn_of_band_drift(found: Mapping[str, BandDrift], weights: str) -> list[str]:
    """Warn which bands of a scene differ from the training data and by how much; empty if all are within the limit."""
    far = sorted((band for band in found if found[band].outside > LARGEST_SHARE), key=lambda b: -found[b].outside)
    if not far:
        return []
    named = [_describe(band, found[band]) for band in far[:_NAMED]]
    more = [f"also {', '.join(far[_NAMED:])}"] * (len(far) > _NAMED)
    # Offsets and haze affect optical bands only.
    numbers, cause = ("unit", "weather") if {*far} <= {*SENSORS["sar"].bands} else ("unit, the offset", "haze")
    return [
        f"the scene differs from the training data of the weights {weights} (limit {LARGEST_SHARE:.0%} of a band's "
        f"pixels): {'; '.join(named + more)}. Check the {numbers} and the band order (refnet inspect). If they are "
        f"correct, the weights do not know this {cause}, season or land cover. {ADVICE}"
    ]


def _describe(band: str, drift: BandDrift) -> str:
    low, middle, high = map(_number, drift.seen)
    texts = []
    if drift.below + drift.above > LARGEST_SHARE:
        parts = ((drift.below, f"below {low}"), (drift.above, f"above {high}"))
        texts += [f"{share:.0%} of the pixels are {where}" for share, where in parts if share >= 0.01]
        texts[-1] += f" (median {_number(drift.median)}, in training {middle})"
    if drift.lower + drift.higher > LARGEST_SHARE:
        parts = ((drift.lower, "lower"), (drift.higher, "higher"))
        listed = [f"{share:.0%} of the pixels are {word}" for share, word in parts if share >= 0.01]
        texts += [f"{text} than the other bands predict" for text in listed]
    return f"{band}: {', '.join(texts)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def warn_of_level(decisions: Iterable[Decision], card: Card) -> list[str]:
    """Warn if the optical image has a processing level that the weights were not trained on.

    Assume L2A for weights whose card names no level.
    """
    level = next((found.value for found in decisions if found.what == "optical.level"), None)
    learned = card.training.get(LEVELS, [])
    if level == "L1C" and "L1C" not in learned:
        known = "were trained on L2A only" if learned == ["L2A"] else "do not list L1C as training data"
        return [
            f"the optical image is L1C (top-of-atmosphere reflectance), but the weights {card.name} {known}. "
            "Haze may be classified as bright ground. Give an L2A image, or weights trained on L1C."
        ]
    if level == "L2A" and learned == ["L1C"]:
        return [
            f"the optical image is L2A (surface reflectance), but the weights {card.name} were trained on L1C only. "
            "Haze-free ground may be classified as dark ground. Give an L1C image, or weights trained on L2A."
        ]
    return []
