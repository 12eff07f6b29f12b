"""Kills at any moment, two runs at once, outputs that are inputs: what is left, and what the next run does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.helpers import (
    PATIENCE,
    Scene,
    check_refusal,
    end,
    names,
    run_child,
    run_jobs,
    sha256_of,
    start,
    wait_for,
)
from tests.helpers.programs import Process
from tests.helpers.scenes import make_pair

SLOW = 0.12  # seconds for a batch, of which the scene has fifteen


def some_seeds(quick: int, all_: int) -> list[Any]:
    return [pytest.param(seed, marks=() if seed < quick else pytest.mark.long) for seed in range(all_)]


def tiles_of(notes: Path) -> int:
    return sum(map(int, notes.read_text().split())) if notes.exists() else 0


def hold_killed(folder: Path, scene: Scene, old: bool) -> None:
    """The map is what it was before, or complete."""
    map_ = folder / "map.tif"
    assert set(names(folder)) <= {"map.tif", ".map.tif.refnet"}
    if map_.exists():
        assert sha256_of(map_) == scene.sha256 or (old and map_.read_bytes() == b"old")
    else:
        assert not old


def hold_finished(folder: Path, scene: Scene, *more: str) -> int:
    """Run the same command again: it makes the map of an undisturbed run; how many tiles it computed."""
    notes = folder.parent / "notes-of-the-second"
    ended = run_child({"notes": str(notes)}, scene.arguments(folder / "map.tif", *more))
    assert (ended.code, ended.err) == (0, "")
    assert names(folder) == ["map.tif"]
    assert sha256_of(folder / "map.tif") == scene.sha256
    return tiles_of(notes)


def kill_at_call(scene: Scene, folder: Path, call: int, *more: str) -> None:
    """Map a scene in a run that dies in the n-th call of the engine."""
    folder.mkdir(exist_ok=True)
    ended = run_child({"kill_at_call": call, "sleep": 0.03}, scene.arguments(folder / "map.tif", *more))
    assert ended.code == -signal.SIGKILL, ended.err


@pytest.mark.parametrize("seed", some_seeds(1, 40))
def test_a_kill_at_any_moment(seed: int, scene: Scene, tmp_path: Path) -> None:
    old, out, ready = bool(seed % 2), tmp_path / "out", tmp_path / "ready"
    out.mkdir()
    if old:
        (out / "map.tif").write_bytes(b"old")
    moment = np.random.default_rng(seed).uniform(0, 15 * SLOW + 0.6)
    process = start({"sleep": SLOW, "ready": str(ready)}, scene.arguments(out / "map.tif"))
    wait_for(ready, process)
    time.sleep(moment)
    process.kill()
    end(process)
    hold_killed(out, scene, old)
    hold_finished(out, scene)


@pytest.mark.parametrize("seed", some_seeds(0, 10))
def test_kills_again_and_again(seed: int, scene: Scene, tmp_path: Path) -> None:
    """Each run gets some calls further than the one before; all rows come from somewhere, none twice."""
    random, out = np.random.default_rng(seed), tmp_path / "out"
    for _ in range(3):
        kill_at_call(scene, out, int(random.integers(2, 5)))
        hold_killed(out, scene, old=False)
    hold_finished(out, scene)


@pytest.mark.parametrize("call", [12, *(pytest.param(call, marks=pytest.mark.long) for call in (1, 4, 6, 9, 15))])
def test_finished_rows_are_not_computed_again(call: int, scene: Scene, tmp_path: Path) -> None:
    """A row of three tiles takes three calls; two batches may be on their way to the disk."""
    kill_at_call(scene, tmp_path / "out", call)
    computed = hold_finished(tmp_path / "out", scene)
    finished_rows = max((call - 1 - 3) // 3, 0)
    assert computed <= scene.tiles - 3 * finished_rows
    if call == 1:
        assert computed == scene.tiles


@pytest.mark.long
def test_without_resuming_all_is_computed_again(scene: Scene, tmp_path: Path) -> None:
    kill_at_call(scene, tmp_path / "out", 12)
    assert hold_finished(tmp_path / "out", scene, "--no-resume") == scene.tiles


def damage(kind: str, data: bytes, random: np.random.Generator) -> bytes:
    if kind == "cut":
        return data[: random.integers(len(data))]
    if kind == "lengthened":
        return data + random.bytes(100)
    if kind == "emptied":
        return b""
    changed = bytearray(data)
    changed[random.integers(len(data))] ^= 1 << int(random.integers(8))
    return bytes(changed)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        pytest.param(kind, seed, marks=() if kind == "flipped" and seed == 0 else pytest.mark.long)
        for kind in ("flipped", "cut", "lengthened", "emptied")
        for seed in range(6 if kind in ("flipped", "cut") else 1)
    ],
)
def test_a_damaged_journal_does_no_harm(kind: str, seed: int, scene: Scene, tmp_path: Path) -> None:
    kill_at_call(scene, tmp_path / "out", 13)
    random = np.random.default_rng(seed)
    files = [path for path in (tmp_path / "out" / ".map.tif.refnet").iterdir() if path.stat().st_size]
    assert files
    for path in files:
        path.write_bytes(damage(kind, path.read_bytes(), random))
    hold_finished(tmp_path / "out", scene)


def other_pixels(scene: Scene, folder: Path) -> None:
    def darker(optical: np.ndarray, sar: np.ndarray) -> None:
        optical[:] = optical[::-1] // 2

    (folder / "other").mkdir()
    made = make_pair(folder / "other", 416, 240, holes=darker)[0]
    shutil.copyfile(made, scene.optical)


OTHERS: dict[str, tuple[tuple[str, ...], Callable[[Scene, Path], None]]] = {
    "scheme": (("--scheme", "worldcover"), lambda scene, folder: None),
    "overlap": (("--overlap", "16"), lambda scene, folder: None),
    "missing": (("--missing", "use-other"), lambda scene, folder: None),
    "pixels": ((), other_pixels),
    "offset": (("--optical-offset", "90"), lambda scene, folder: None),
}


@pytest.mark.long
@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=() if what == "pixels" else pytest.mark.long) for what in OTHERS]
)
def test_rows_of_another_map_are_not_taken_over(what: str, scene: Scene, tmp_path: Path) -> None:
    """A run with other options, or for other files of the same names, makes its own map."""
    (tmp_path / "mine").mkdir()
    files = [shutil.copy2(path, tmp_path / "mine" / path.name) for path in (scene.optical, scene.sar, scene.weights)]
    mine = Scene(*map(Path, files))
    words, change = OTHERS[what]
    kill_at_call(mine, tmp_path / "out", 13)
    change(mine, tmp_path)
    (tmp_path / "fresh").mkdir()
    for folder in ("fresh", "out"):
        ended = run_child({}, mine.arguments(tmp_path / folder / "map.tif", *words))
        assert ended.code == 0, ended.err
        assert names(tmp_path / folder) == ["map.tif"]
    assert sha256_of(tmp_path / "out" / "map.tif") == sha256_of(tmp_path / "fresh" / "map.tif")
    assert sha256_of(tmp_path / "fresh" / "map.tif") != scene.sha256


def changes_of(scene: Scene, folder: Path, *more: str) -> list[str]:
    """What a run changes in its output's folder, one after the other."""
    folder.mkdir()
    report = folder.parent / "report.json"
    ended = run_child({"watched": str(folder), "report": str(report)}, scene.arguments(folder / "map.tif", *more))
    assert ended.code == 0, ended.err
    found: list[str] = json.loads(report.read_text())["changes"]
    return found


def kill_at_change(scene: Scene, folder: Path, change: int, old: bool) -> None:
    folder.mkdir()
    if old:
        (folder / "map.tif").write_bytes(b"old")
    settings = {"watched": str(folder), "kill_at_change": change}
    ended = run_child(settings, scene.arguments(folder / "map.tif"))
    assert ended.code == -signal.SIGKILL, ended.err
    hold_killed(folder, scene, old)


def test_a_kill_before_one_of_the_last_changes_of_files(scene: Scene, tmp_path: Path) -> None:
    """Where the map moves into place and the hidden folder goes."""
    count = len(changes_of(scene, tmp_path / "watched"))
    assert count > 10
    kill_at_change(scene, tmp_path / "killed", count - 3, old=True)
    hold_finished(tmp_path / "killed", scene)


@pytest.mark.long
@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_a_kill_before_every_change_of_files(old: bool, scene: Scene, tmp_path: Path) -> None:
    for change in range(1, len(changes_of(scene, tmp_path / "watched")) + 1):
        kill_at_change(scene, tmp_path / f"{change}", change, old)
        hold_finished(tmp_path / f"{change}", scene)


def test_the_second_of_two_runs_is_sent_away(scene: Scene, tmp_path: Path) -> None:
    """Within a moment, and without doing the first one any harm; through a link as well."""
    out, notes = tmp_path / "out", tmp_path / "notes"
    out.mkdir()
    (tmp_path / "link").symlink_to(out)
    release = tmp_path / "release"
    first = start({"release": str(release), "notes": str(notes)}, scene.arguments(out / "map.tif"))
    wait_for(notes, first, 1)
    for place in (out, tmp_path / "link"):
        second = run_child({}, scene.arguments(place / "map.tif"))
        assert first.poll() is None
        check_refusal(second.code, second.err, {75}, Path("map.tif"))
        assert str(first.pid) in second.err
    release.touch()
    ended = end(first)
    assert (ended.code, ended.err) == (0, "")
    assert names(out) == ["map.tif"]
    assert sha256_of(out / "map.tif") == scene.sha256


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
def test_of_runs_that_begin_together_one_wins(seed: int, scene: Scene, tmp_path: Path) -> None:
    out, release = tmp_path / "out", tmp_path / "release"
    out.mkdir()
    processes: list[Process] = []
    for delay in np.random.default_rng(seed).uniform(0, 0.1, 3):
        processes.append(start({"release": str(release)}, scene.arguments(out / "map.tif")))
        time.sleep(delay)
    until = time.monotonic() + PATIENCE
    while sum(process.poll() is None for process in processes) > 1 and time.monotonic() < until:
        time.sleep(0.01)
    release.touch()
    ended = [end(process) for process in processes]
    assert sorted(one.code for one in ended) == [0, 75, 75], [one.err for one in ended]
    assert names(out) == ["map.tif"]
    assert sha256_of(out / "map.tif") == scene.sha256


def link_to(read: Path, link: str) -> Path:
    """Make another name of a file."""
    folder, output = read.parent, read.with_name("output.tif")
    if link == "itself":
        return read
    if link == "folder":
        (folder / "folder").symlink_to(folder)
        return folder / "folder" / read.name
    if link == "hardlink":
        os.link(read, output)
    elif link == "symlink":
        output.symlink_to(read.name)
    else:
        (folder / "between").symlink_to(read)
        output.symlink_to("between")
    return output


def test_an_output_that_is_an_input(scene: Scene, tmp_path: Path) -> None:
    jobs, before, outputs = [], {}, {}
    for which in ("optical", "sar", "weights"):
        for link in ("itself", "symlink", "symlink to a symlink", "hardlink", "folder"):
            folder = tmp_path / f"{which} {link}"
            folder.mkdir()
            mine = Scene(*(Path(shutil.copy(path, folder)) for path in (scene.optical, scene.sar, scene.weights)))
            outputs[folder.name] = link_to(getattr(mine, which), link)
            before[folder.name] = (names(folder), [sha256_of(file) for file in (mine.optical, mine.sar, mine.weights)])
            jobs.append({"name": folder.name, "arguments": mine.arguments(outputs[folder.name])})
    for name, result in run_jobs(jobs, forked=True).items():
        check_refusal(result["code"], result["err"], {64}, outputs[name])
        files = [tmp_path / name / path.name for path in (scene.optical, scene.sar, scene.weights)]
        assert (names(tmp_path / name), [sha256_of(file) for file in files]) == before[name]
