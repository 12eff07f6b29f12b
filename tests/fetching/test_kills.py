"""Kills at any moment: nothing half under a final name, and the next run ends in the same bytes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fetching.harness import FEW, RASTERS, Fetched, Site, left_behind
from tests.helpers.programs import refnet, start
from tests.helpers.stac_items import EPSG, Bounds, Optical, Sar, World
from tests.helpers.stac_servers import Fault, catalogue, store, write_source

WORDS = (*FEW, "--labels", "none")
WIDE: Bounds = (602_400, 5_389_800, 626_400, 5_393_400)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A place of three blocks next to each other."""
    folder = tmp_path_factory.mktemp("wide")
    with store(folder / "files") as files:
        world = World(folder / "files", files.url)
        common: dict[str, Any] = {"bounds": WIDE, "epsg": EPSG, "folder": folder / "files", "url": files.url}
        world.add(Optical(**common, number=0, time=datetime(2021, 6, 15, 10, 20, 21)))
        world.add(Sar(**common, number=0))
        with catalogue(world.items, folder / "items") as front:
            source = write_source(folder / "s.toml", front.url, [files.host])
            yield Site(world, files, front, source, folder)


def wide_words(site: Site, out: Path) -> list[str]:
    return site.words(out, *WORDS, area=(602_700, 5_390_100, 626_100, 5_393_100))


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=() if seed < 1 else pytest.mark.long) for seed in range(23)])
def test_a_kill_at_any_moment(seed: int, site: Site, few: Fetched, tmp_path: Path) -> None:
    """The moment is a number of requests, from the first search to the last block, and a little later."""
    random, out = np.random.default_rng(seed), tmp_path / "place"
    site.files.faults = [Fault("", "slow", seconds=0.005)]
    process = start("-m", "refnet_cli", *site.words(out, *WORDS))
    count, until = int(random.integers(0, 60)), time.monotonic() + 60
    while process.poll() is None and len(site.files.requests) < count and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.15))
    process.kill()
    process.communicate()
    for name in left_behind(out):
        if name in RASTERS:
            assert Fetched(out).hashes([name]) == few.hashes([name])
    site.files.reset()
    site.fetch(out, *WORDS)
    assert Fetched(out).hashes(RASTERS) == few.hashes(RASTERS)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal(number: signal.Signals, site: Site, few: Fetched, tmp_path: Path) -> None:
    out = tmp_path / "place"
    site.files.faults = [Fault("_B08_", "slow", seconds=1)]
    process = start("-m", "refnet_cli", *site.words(out, *WORDS))
    while process.poll() is None and len(site.files.requests) < 15:
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(30)
    assert process.returncode in (128 + number, -number), err
    assert left_behind(out) == []
    site.files.reset()
    site.fetch(out, *WORDS)
    assert Fetched(out).hashes(RASTERS) == few.hashes(RASTERS)


@pytest.mark.long
def test_what_was_fetched_is_not_fetched_again(wide: Site, tmp_path: Path) -> None:
    """A fetch that dies in its last block reads about one block in its next run."""
    done = refnet(*wide_words(wide, tmp_path / "whole"))
    assert done.returncode == 0, done.stderr
    Fetched(tmp_path / "whole").match(wide.world.optical.values())
    all_ = sum(wide.files.served("_B0[2348]_|iw-").values())
    wide.files.reset()
    process = start("-m", "refnet_cli", *wide_words(wide, tmp_path / "place"))
    while process.poll() is None and sum(wide.files.served("_B0[2348]_|iw-").values()) < 0.75 * all_:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    wide.files.reset()
    done = refnet(*wide_words(wide, tmp_path / "place"))
    assert done.returncode == 0, done.stderr
    again = sum(wide.files.served("_B0[2348]_|iw-").values())
    assert Fetched(tmp_path / "place").hashes(RASTERS) == Fetched(tmp_path / "whole").hashes(RASTERS)
    assert again < 0.8 * all_, f"{again / all_:.0%} of the bytes were fetched again"


@pytest.mark.long
def test_other_options_do_not_go_on_with_it(site: Site, few: Fetched, tmp_path: Path) -> None:
    """Blocks of a killed fetch of other dates are not taken over."""
    out = tmp_path / "place"
    site.files.faults = [Fault("iw-", "503")]
    done = refnet(*site.words(out, *WORDS, "--min-clear", "0.5", dates="2021-07-01/2021-07-31"))
    assert done.returncode == 75
    site.files.reset()
    site.fetch(out, *WORDS)
    assert Fetched(out).hashes(RASTERS) == few.hashes(RASTERS)


@pytest.mark.long
def test_the_second_of_two_fetches_is_sent_away(site: Site, few: Fetched, tmp_path: Path) -> None:
    out = tmp_path / "place"
    site.files.faults = [Fault("_B08_", "slow", seconds=2)]
    first = start("-m", "refnet_cli", *site.words(out, *WORDS))
    while first.poll() is None and len(site.files.requests) < 10:
        time.sleep(0.005)
    second = refnet(*site.words(out, *WORDS))
    assert second.returncode == 75, second.stderr
    first.communicate(60)
    assert first.returncode == 0
    assert Fetched(out).hashes(RASTERS) == few.hashes(RASTERS)
