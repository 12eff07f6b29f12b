"""Memory of a season's map, as the system counts it: flat in the height, and by a stated amount in the dates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from refnet_cli.prediction.memory import Demand
from refnet_cli.scene.options import Combine
from tests.helpers.programs import ROOT, environment
from tests.helpers.seasons import make_season

pytestmark = pytest.mark.long
DAYS = tuple(f"2021-06-{day:02}" for day in range(1, 10))
WIDTH = 500
PEAK = """
import re, sys
from pathlib import Path
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from tests.helpers.scenes import PlaceEngine

season, output, combine = sys.argv[1:]
given = {"combine": combine, "mask_clouds": True, "coreg": "off", "read_threads": 1}
predict(PredictOptions(season=Path(season), output=Path(output), **given), PlaceEngine())
print(int(re.search(r"VmHWM:\\\\s+(\\\\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024)
"""


def peak(season: Path, combine: Combine) -> int:
    """Most bytes that a process holds while it maps a season."""
    output = season.with_name(f"{season.name}.tif")
    words = [sys.executable, "-c", PEAK.replace("\\\\", "\\"), str(season), str(output), combine]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("combine", ["composite", "ensemble"])
def test_memory_is_flat_in_height_and_bounded_in_dates(combine: Combine, tmp_path: Path) -> None:
    """GDAL's cache, 64 MB for all files, is full in each of them."""
    orbits = (22,) * len(DAYS)
    few = make_season(tmp_path / "few", DAYS[:2], (3600, WIDTH), orbits)
    tall = make_season(tmp_path / "tall", DAYS[:2], (7200, WIDTH), orbits)
    many = make_season(tmp_path / "many", DAYS, (3600, WIDTH), orbits)
    small, taller, more = (peak(place, combine) for place in (few, tall, many))
    found = f"{small >> 20} MB, {taller >> 20} MB twice as tall, {more >> 20} MB with {len(DAYS)} dates"
    assert taller < small + 40e6, found
    counted = [Demand(128, 6, 10, 16, 0, WIDTH, dates=dates, combine=combine).total(1, 1) for dates in (2, len(DAYS))]
    assert more - small < counted[1] - counted[0], found
