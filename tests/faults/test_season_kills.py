"""Runs of a season that are killed, or whose disk fills up: the map, its quality and the counts of every date."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.helpers import (
    check_refusal,
    end,
    make_weights,
    names,
    run_child,
    run_jobs,
    sha256_of,
    start,
    wait_for,
)
from tests.helpers.seasons import DAYS, make_season

pytestmark = pytest.mark.long
OUTPUTS = ("map.tif", "map_quality.tif")
SLEEP = 0.08  # seconds for a batch of three tiles
COMBINES = ("composite", "ensemble")


@dataclass(frozen=True)
class Season:
    """A season with weights, how it is combined, and what an undisturbed run makes of it."""

    folder: Path
    weights: Path
    combine: str
    sums: tuple[str, ...] = ()
    counts: str = ""
    calls: int = 0

    def arguments(self, out: Path, *more: str) -> list[str]:
        """The command that maps it."""
        given = ["--season", str(self.folder), "--combine", self.combine, "--weights", str(self.weights)]
        return ["predict", *given, "--mask-clouds", "-o", str(out / "map.tif"), "-o", "quality", "-q", "--json", *more]


def sums(folder: Path) -> tuple[str, ...]:
    return tuple(sha256_of(folder / name) for name in OUTPUTS)


def counts_of(out: str) -> str:
    counts = json.loads(out)["counts"]
    assert {f"seen_{day}" for day in DAYS[:3]} <= counts.keys()
    return json.dumps(counts)


@pytest.fixture(scope="module", params=COMBINES)
def season(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Season:
    folder = tmp_path_factory.mktemp("season")
    made = make_season(folder / "in", DAYS[:3], (1060, 300))
    plain = Season(made, make_weights(folder / "w.safetensors"), request.param)
    notes = folder / "notes"
    (folder / "out").mkdir()
    ended = run_child({"notes": str(notes)}, plain.arguments(folder / "out"))
    assert (ended.code, ended.err) == (0, "")
    calls = len(notes.read_text().split())
    assert calls > 20
    return Season(made, plain.weights, plain.combine, sums(folder / "out"), counts_of(ended.out), calls)


def hold_killed(out: Path, season: Season) -> None:
    """No output is there, or all of them and complete; but for the quality, which moves first."""
    assert {*names(out)} <= {*OUTPUTS, ".map.tif.refnet", ".map_quality.tif.refnet"}
    for name, whole in zip(OUTPUTS, season.sums, strict=True):
        assert not (out / name).exists() or sha256_of(out / name) == whole
    assert not (out / "map.tif").exists() or (out / "map_quality.tif").exists()


def hold_finished(out: Path, season: Season) -> None:
    """The same command makes the bytes of an undisturbed run, and reports the same counts of every date."""
    ended = run_child({}, season.arguments(out))
    assert (ended.code, ended.err) == (0, "")
    assert names(out) == [*OUTPUTS]
    assert sums(out) == season.sums
    assert counts_of(ended.out) == season.counts


@pytest.mark.parametrize("seed", range(6))
def test_a_kill_at_any_moment(seed: int, season: Season, tmp_path: Path) -> None:
    out, ready = tmp_path / "out", tmp_path / "ready"
    out.mkdir()
    moment = np.random.default_rng(seed).uniform(0, season.calls * SLEEP + 0.8)
    process = start({"sleep": SLEEP, "ready": str(ready)}, season.arguments(out))
    wait_for(ready, process)
    time.sleep(moment)
    process.kill()
    end(process)
    hold_killed(out, season)
    hold_finished(out, season)


@pytest.mark.parametrize("seed", range(2))
def test_kills_again_and_again(seed: int, season: Season, tmp_path: Path) -> None:
    """Each run gets further than the one before; the counts are gathered from all of them."""
    random = np.random.default_rng(seed)
    out = tmp_path / "out"
    out.mkdir()
    for _ in range(3):
        call = int(random.integers(season.calls // 8, season.calls // 4))
        ended = run_child({"kill_at_call": call, "sleep": 0.02}, season.arguments(out))
        assert ended.code == -signal.SIGKILL, ended.err
        hold_killed(out, season)
    hold_finished(out, season)


def test_a_run_that_starts_again_counts_once(season: Season, tmp_path: Path) -> None:
    """As one does whose dates changed meanwhile, or with --no-resume."""
    out = tmp_path / "out"
    out.mkdir()
    ended = run_child({"kill_at_call": season.calls * 3 // 4, "sleep": 0.02}, season.arguments(out))
    assert ended.code == -signal.SIGKILL, ended.err
    ended = run_child({}, season.arguments(out, "--no-resume"))
    assert (ended.code, ended.err) == (0, "")
    assert (sums(out), counts_of(ended.out)) == (season.sums, season.counts)


def test_a_full_disk(season: Season, tmp_path: Path) -> None:
    """At any byte: nothing is left but what the next run continues from, and it does so."""
    probe = tmp_path / "probe"
    probe.mkdir()
    assert run_child({}, season.arguments(probe)).code == 0
    size = (probe / "map.tif").stat().st_size
    limits = sorted({0, 200, *np.random.default_rng(3).integers(500, size, 8).tolist(), size - 1})
    jobs: list[dict[str, Any]] = []
    for limit in limits:
        (tmp_path / str(limit)).mkdir()
        jobs.append({"name": str(limit), "limit": limit, "arguments": season.arguments(tmp_path / str(limit))})
    for name, result in run_jobs(jobs, noisy=True).items():
        check_refusal(result["code"], result["err"], {74})
        assert not {*names(tmp_path / name)} & {*OUTPUTS}, name
    for limit in limits[::4]:
        hold_finished(tmp_path / str(limit), season)
