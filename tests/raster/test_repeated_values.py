"""The most common values of a band, against a plain count."""

from __future__ import annotations

import numpy as np
import pytest

from refnet_cli.raster.fills import _MAX_FILLS, _repeated


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["integers", "halves", "beyond 16 bits", "continuous", "continuous with a fill value"])
def test_repeated_values_are_those_of_a_plain_count(kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    size = int(random.integers(0, 4000))
    numbers = random.integers(0, 300, size) if kind in ("integers", "halves") else random.normal(0, 70_000, size)
    values = {"halves": numbers / 2 - 20, "beyond 16 bits": np.round(numbers, -3)}.get(kind, numbers).astype(np.float32)
    if kind.endswith("value"):
        values[random.random(size) < 0.1] = -32768
    values[random.random(size) < 0.1] = np.nan
    values[random.random(size) < 0.01] = np.inf
    found, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    most = np.argsort(-counts)[:_MAX_FILLS]
    for least in (1, 20, 60):
        assert _repeated(values, least) == found[most][counts[most] >= least].tolist()
