"""Signals at any moment of a prediction, and surroundings that lack what programs take for granted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.helpers import (
    ROOT,
    Ended,
    Scene,
    child_command,
    child_environment,
    end,
    names,
    run_child,
    sha256_of,
    start,
    wait_for,
)
from tests.helpers.programs import Process
from tests.helpers.quick import few

SLOW = 0.12  # seconds for a batch, of which the scene has fifteen
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
WITHIN = 10
ONE_QUICK = [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]


def hold(ended: Ended, code: int, folder: Path, scene: Scene, old: bool) -> None:
    """The map is what it was or complete; only the hidden folder may be next to it, for the next run."""
    assert "Traceback" not in ended.err
    assert "bug" not in ended.err
    assert ended.seconds < WITHIN
    left = names(folder)
    assert set(left) <= {"map.tif", ".map.tif.refnet"}
    assert ended.code in (0, code), ended.err
    map_ = folder / "map.tif"
    if ended.code == 0:
        assert left == ["map.tif"]
        assert sha256_of(map_) == scene.sha256
    elif map_.exists() and sha256_of(map_) != scene.sha256:
        assert old
        assert map_.read_text() == "old"
    elif not map_.exists():
        assert not old


def some_seeds(quick: int, all_: int) -> list[Any]:
    return [pytest.param(seed, marks=() if seed < quick else pytest.mark.long) for seed in range(all_)]


@pytest.mark.parametrize("number", few(CODES, signal.SIGTERM), ids=lambda number: number.name)
@pytest.mark.parametrize("seed", some_seeds(1, 14))
def test_a_signal_at_any_moment(seed: int, number: signal.Signals, scene: Scene, tmp_path: Path) -> None:
    old, out, ready = bool(seed % 2), tmp_path / "out", tmp_path / "ready"
    out.mkdir()
    if old:
        (out / "map.tif").write_text("old")
    moment = np.random.default_rng([seed, number]).uniform(0, 15 * SLOW + 0.5)
    process = start({"sleep": SLOW, "ready": str(ready)}, scene.arguments(out / "map.tif"))
    wait_for(ready, process)
    time.sleep(0.05 + moment)  # the handlers are set by then
    process.send_signal(number)
    ended = end(process)
    hold(ended, CODES[number], out, scene, old)
    again = run_child({}, scene.arguments(out / "map.tif"))
    assert (again.code, again.err) == (0, "")
    assert names(out) == ["map.tif"]
    assert sha256_of(out / "map.tif") == scene.sha256


def interrupted(
    settings: dict[str, Any], scene: Scene, folder: Path, calls: int, number: signal.Signals = signal.SIGTERM
) -> Process:
    """Start a prediction and send a signal while the engine is in its n-th call."""
    notes = folder / "notes"
    process = start(settings | {"notes": str(notes)}, scene.arguments(folder / "out" / "map.tif"))
    wait_for(notes, process, calls)
    time.sleep(0.2)
    process.send_signal(number)
    return process


@pytest.mark.parametrize("number", ONE_QUICK, ids=lambda number: number.name)
def test_finished_rows_are_kept(number: signal.Signals, scene: Scene, tmp_path: Path) -> None:
    """A run after a signal goes on after the rows that were finished."""
    (tmp_path / "out").mkdir()
    ended = end(interrupted({"sleep": 0.2}, scene, tmp_path, 8, number))
    hold(ended, CODES[number], tmp_path / "out", scene, old=False)
    assert ended.code == CODES[number]
    assert "Finished rows are kept in " in ended.err
    again = run_child({"notes": str(tmp_path / "again")}, scene.arguments(tmp_path / "out" / "map.tif"))
    assert again.code == 0, again.err
    assert sha256_of(tmp_path / "out" / "map.tif") == scene.sha256
    assert names(tmp_path / "out") == ["map.tif"]
    assert sum(map(int, (tmp_path / "again").read_text().split())) <= scene.tiles - 3, "a whole row was finished before"


@pytest.mark.long
@pytest.mark.parametrize(
    "settings", [{"sleep": 4}, {"sleep": 15, "batch": 8}], ids=["a row takes long", "a batch takes long"]
)
def test_ten_seconds_are_enough(settings: dict[str, Any], scene: Scene, tmp_path: Path) -> None:
    """Also where the rows at hand would take longer."""
    (tmp_path / "out").mkdir()
    ended = end(interrupted(settings, scene, tmp_path, 1), began=time.monotonic())
    hold(ended, 143, tmp_path / "out", scene, old=False)
    assert ended.code == 143


@pytest.mark.parametrize("number", ONE_QUICK, ids=lambda number: number.name)
def test_the_second_signal_ends_at_once(number: signal.Signals, scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    process = interrupted({"sleep": 6}, scene, tmp_path, 1, number)
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(number)
    ended = end(process, began)
    assert ended.seconds < 2
    assert ended.code in (-number, CODES[number])
    assert "Traceback" not in ended.err
    assert "map.tif" not in names(tmp_path / "out")


def shell(script: str, command: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as "$@" of a script of the shell."""
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | more
    return subprocess.run(
        ["/bin/sh", "-c", script, "sh", *command], env=child_environment(), cwd=ROOT, text=True, timeout=120,
        check=False, **given,
    )  # fmt: skip


REFNET = [sys.executable, "-m", "refnet_cli"]


def into_closed_pipe(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command whose stdout nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return shell('exec "$@"', command, stdout=writing)
    finally:
        os.close(writing)


@pytest.mark.parametrize("words", [["weights", "info"], ["weights", "list"], ["--help"], ["--version"]], ids=" ".join)
def test_stdout_that_was_closed_early(words: list[str]) -> None:
    done = into_closed_pipe([*REFNET, *words])
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("words", [["-q"], pytest.param(["--json"], marks=pytest.mark.long)], ids=" ".join)
def test_stdout_that_was_closed_early_keeps_the_map(words: list[str], scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = into_closed_pipe(child_command({}, [*scene.arguments(tmp_path / "out" / "map.tif"), *words]))
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert names(tmp_path / "out") == ["map.tif"]
    assert sha256_of(tmp_path / "out" / "map.tif") == scene.sha256


@pytest.mark.long
@pytest.mark.parametrize(
    "closed", [">&-", *(pytest.param(words, marks=pytest.mark.long) for words in ("<&-", "2>&-", "<&- >&- 2>&-"))]
)
def test_streams_that_do_not_exist(closed: str, scene: Scene, tmp_path: Path) -> None:
    """Files get their numbers then, and nothing must be printed into them."""
    (tmp_path / "out").mkdir()
    command = child_command({}, scene.arguments(tmp_path / "out" / "map.tif"))
    done = shell(f'exec "$@" {closed}', command)
    assert (done.returncode, done.stderr) == (0, "")
    assert names(tmp_path / "out") == ["map.tif"]
    assert sha256_of(tmp_path / "out" / "map.tif") == scene.sha256
    refused = shell(f'exec "$@" {closed}', [*command, "--overlap", "1000"])
    assert refused.returncode == 64


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_stdout_on_a_full_disk() -> None:
    done = shell('exec "$@" > /dev/full', [*REFNET, "weights", "info"])
    assert done.returncode == 74
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("refnet: ")


@pytest.mark.long
def test_a_terminal_that_goes_away_is_ignored_under_nohup(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    settings = {"sleep": 0.05, "notes": str(tmp_path / "notes")}
    command = child_command(settings, scene.arguments(tmp_path / "out" / "map.tif"))
    with subprocess.Popen(
        ["/bin/sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command], env=child_environment(), cwd=ROOT, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        wait_for(tmp_path / "notes", process, 2)
        process.send_signal(signal.SIGHUP)
        ended = end(process)
    assert (ended.code, ended.err) == (0, "")
    assert sha256_of(tmp_path / "out" / "map.tif") == scene.sha256


@pytest.mark.long
def test_a_working_directory_that_is_read_only(scene: Scene, tmp_path: Path) -> None:
    here, out = tmp_path / "here", tmp_path / "out"
    here.mkdir()
    out.mkdir()
    here.chmod(0o500)
    ended = run_child({"permissions_hold": True}, scene.arguments(out / "map.tif"), cwd=here)
    here.chmod(0o700)
    assert names(here) == []
    assert (ended.code, ended.err) == (0, "")
    assert sha256_of(out / "map.tif") == scene.sha256
