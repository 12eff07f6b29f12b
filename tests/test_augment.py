"""Augmentation: turned crops stay what they are, and each effect is the one that was asked for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from refnet_cli.augment import Crop, augment


def make_crop() -> Crop:
    """Pixels that carry their own places."""
    rows, columns = np.indices((64, 64))
    places = np.stack([rows, columns]).astype(np.float32) + 1
    return Crop(places, np.stack([-rows - 1.0, -columns - 1.0]).astype(np.float32), (rows % 7).astype(np.uint8))


def test_the_eight_symmetries_and_no_others() -> None:
    seen = set()
    for seed in range(100):
        crop = augment(make_crop(), np.random.default_rng(seed))
        assert np.array_equal(crop.optical, -crop.sar)
        assert np.array_equal(crop.labels, (crop.optical[0] - 1) % 7)
        seen.add(crop.optical[:, [0, 0, -1], [0, -1, 0]].tobytes())
    assert len(seen) == 8


def test_jitter_scales_reflectance_and_shifts_decibels() -> None:
    plain, spread = make_crop(), []
    for seed in range(300):
        crop = augment(plain, np.random.default_rng(seed), jitter=0.1)
        same = augment(plain, np.random.default_rng(seed))
        factors, shifts = crop.optical / same.optical, crop.sar - same.sar
        assert np.ptp(factors, axis=(1, 2)).max() < 1e-4
        assert np.ptp(shifts, axis=(1, 2)).max() < 1e-4
        spread.append([*np.log(factors[:, 0, 0]), *shifts[:, 0, 0]])
    wanted = [0.1 * 1.25**0.5] * 2 + [1.25**0.5] * 2
    assert np.std(spread, axis=0) == pytest.approx(wanted, rel=0.15)
    assert np.array_equal(plain.optical, make_crop().optical)


def test_modality_dropout_blanks_one_sensor_as_often_as_the_other() -> None:
    missing: Counter[tuple[bool, bool]] = Counter()
    for seed in range(600):
        crop = augment(make_crop(), np.random.default_rng(seed), modality_dropout=0.5)
        missing[bool(np.isnan(crop.optical).all()), bool(np.isnan(crop.sar).all())] += 1
    assert missing[True, True] == 0
    assert missing[True, False] == pytest.approx(150, abs=45)
    assert missing[False, True] == pytest.approx(150, abs=45)
