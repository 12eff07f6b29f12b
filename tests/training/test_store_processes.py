"""Processes that share a store: kills at any time, two that make the same entry, and entries that others use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from refnet_cli.tiles.window import Window
from refnet_cli.training.store import entries
from refnet_cli.training.store.entries import LOCK, TILES, Entries, New, NoRoomError
from refnet_cli.training.store.tiles import Layout, Tiles
from tests.helpers.programs import PATIENCE, ROOT
from tests.helpers.quick import few

LAYOUT = Layout(1000, 1100)
DTYPE = LAYOUT.dtype({"value": ("<i4", 0)})
CHILD = """
import os, sys, time
from pathlib import Path
from tests.training.test_store_processes import Entries, new_entry, entries

folder, key, waits = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def say(text):
    print(text, flush=True)

def pause(at):
    if at == waits:
        say(f"at {at}")
        time.sleep(600)

rename = os.rename
def slow_rename(*paths):
    pause("rename")
    rename(*paths)
    pause("renamed")
entries.os.rename = slow_rename
sync = entries.sync
def slow_sync(path):
    pause(f"sync {path.name}")
    sync(path)
entries.sync = slow_sync
reserve = entries._reserve
def slow_reserve(*given):
    pause("reserve")
    reserve(*given)
entries._reserve = slow_reserve
def note(number):
    say(f"tile {number}")
    pause(f"tile {number}")

entry = Entries(folder).obtain(key, lambda about: True, new_entry(note))
say("ready")
pause("ready")
say(int(entry.tiles["value"].sum()))
"""


def new_entry(note: object = None, layout: Layout = LAYOUT) -> New:
    """An entry whose pixels are numbered."""
    dtype = layout.dtype({"value": ("<i4", 0)})

    def tiles() -> Iterable[np.ndarray]:
        for number, window in enumerate(layout.windows()):
            if callable(note):
                note(number)
            tile = np.zeros(1, dtype)
            rows = np.arange(window.row, window.row + window.height, dtype=np.int32)[:, None] * layout.width
            tile["value"][0][: window.height, : window.width] = rows + np.arange(
                window.column, window.column + window.width, dtype=np.int32
            )
            yield tile

    return New(layout, dtype, tiles, lambda: {"about": "numbers"})


def is_right(entry: entries.Entry) -> bool:
    values = Tiles(LAYOUT, entry.tiles).read("value", Window(0, 0, *LAYOUT))
    return np.array_equal(values.ravel(), np.arange(values.size))


@contextmanager
def child(folder: Path, key: str = "numbers", waits: str = "") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), key, waits], stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE)


def wait_for(process: subprocess.Popen[str], text: str) -> list[str]:
    """Read lines up to this one."""
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if lines[-1] == text:
            return lines
    raise AssertionError(f"{text!r} was not said: {lines}")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


PLACES = ["reserve", "tile 0", "tile 7", "tile 19", "sync about.json", "rename", "renamed", "sync store", "ready"]


@pytest.mark.parametrize("at", few(PLACES, "tile 7"))
def test_what_a_killed_process_left_is_made_again(tmp_path: Path, at: str) -> None:
    folder = tmp_path / "store"
    with child(folder, waits=at) as process:
        wait_for(process, f"at {at}")
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
    again: list[int] = []
    entry = Entries(folder).obtain("numbers", lambda about: True, new_entry(again.append))
    assert is_right(entry)
    assert len(again) == (0 if at in ("renamed", "sync store", "ready") else 20)
    assert names(folder) == [LOCK, "numbers"]


@pytest.mark.long
def test_kills_at_any_time(tmp_path: Path) -> None:
    folder, random = tmp_path / "store", np.random.default_rng(0)
    for _ in range(25):
        with child(folder) as process:
            wait_for(process, "tile 0")
            time.sleep(float(random.uniform(0, 0.05)))
            process.kill()
        entry = Entries(folder).obtain("numbers", lambda about: True, new_entry())
        assert is_right(entry)
        del entry
        Entries(folder).remove()
        assert not folder.exists()


def test_two_processes_make_an_entry_once(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with child(folder) as first, child(folder) as second:
        said = [process.communicate(timeout=PATIENCE)[0].split("\n") for process in (first, second)]
    assert sorted(lines.count("tile 0") for lines in said) == [0, 1]
    assert said[0][-2] == said[1][-2] == str(sum(range(LAYOUT.height * LAYOUT.width)))


@pytest.mark.long
def test_many_processes_make_some_entries_once(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    started = [
        subprocess.Popen([sys.executable, "-c", CHILD, str(folder), f"key-{number % 3}", ""], stdout=subprocess.PIPE,
                         text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
        for number in range(9)
    ]  # fmt: skip
    said = [process.communicate(timeout=PATIENCE)[0] for process in started]
    assert [process.returncode for process in started] == [0] * 9
    assert sum("tile 0\n" in text for text in said) == 3
    assert names(folder) == ["key-0", "key-1", "key-2", LOCK]


def test_a_process_that_waits_takes_over(tmp_path: Path) -> None:
    """The one that writes is killed while the other waits for it."""
    folder = tmp_path / "store"
    with child(folder, waits="tile 7") as first:
        wait_for(first, "at tile 7")
        with child(folder, waits="ready") as second:
            time.sleep(1)
            assert names(folder) == [entries.UNFINISHED + "numbers", LOCK]
            first.kill()
            assert wait_for(second, "at ready").count("tile 0") == 1


def size_of(number: int) -> int:
    """A limit for this many entries."""
    return number * (new_entry().size + 4096)


def test_what_another_process_uses_is_not_removed(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with child(folder, "used", "ready") as process:
        wait_for(process, "at ready")
        with pytest.raises(NoRoomError):
            Entries(folder, size_of(1)).obtain("other", lambda about: True, new_entry())
        assert names(folder) == [LOCK, "used"]
    Entries(folder, size_of(1)).obtain("other", lambda about: True, new_entry())
    assert names(folder) == [LOCK, "other"]


def test_the_oldest_goes_first(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    stored = Entries(folder, size_of(3))
    for number, key in enumerate("abc"):
        stored.obtain(key, lambda about: True, new_entry())
        os.utime(folder / key / entries.ABOUT, (1000 + number,) * 2)
    assert stored.get("a", lambda about: True)  # which is not the oldest any more
    used = stored.get("b", lambda about: True)
    os.utime(folder / "b" / entries.ABOUT, (900,) * 2)
    stored.obtain("d", lambda about: True, new_entry())
    assert names(folder) == ["a", "b", "d", LOCK]
    assert used
    assert is_right(used)


def test_nothing_is_removed_for_what_cannot_fit(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    stored = Entries(folder, size_of(1))
    stored.obtain("a", lambda about: True, new_entry())
    with pytest.raises(NoRoomError, match="--cache-size"):
        stored.obtain("b", lambda about: True, new_entry(layout=Layout(2000, 1100)))
    assert names(folder) == ["a", LOCK]


def test_an_entry_holds_its_lock_as_long_as_its_array(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    stored = Entries(folder)
    entry = stored.obtain("a", lambda about: True, new_entry())
    part = entry.tiles["value"][2, 3, :5]
    del entry
    assert stored._in_use(folder / "a")
    del part
    assert not stored._in_use(folder / "a")


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "store"

    def fail(number: int) -> None:
        if number == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Entries(folder).obtain("a", lambda about: True, new_entry(fail))
    assert names(folder) == [LOCK]
    assert not any((folder / name / TILES).exists() for name in names(folder))
