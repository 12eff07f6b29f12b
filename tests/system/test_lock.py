"""The hidden folder next to an output: one run at a time has it, and it is swept."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from refnet_cli.errors import OutputError, StorageError, TryAgainError
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.system.lock import LOCK, WorkFolder
from tests.helpers.scenes import PlaceEngine, make_pair


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with WorkFolder(tmp_path / "map.tif") as work:
        owner = json.loads((work.path / LOCK).read_text())
        assert owner["pid"] == os.getpid()
        assert {"host", "started"} < set(owner)
        with pytest.raises(TryAgainError, match=rf"another run .*{os.getpid()}"):
            WorkFolder(tmp_path / "map.tif")
        WorkFolder(tmp_path / "other.tif").close()
    assert not list(tmp_path.iterdir())
    WorkFolder(tmp_path / "map.tif").close()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_owner_leaves_the_place_to_the_next(tmp_path: Path, end: signal.Signals) -> None:
    script = (
        "import sys, time; from pathlib import Path; from refnet_cli.system.lock import WorkFolder\n"
        "work = WorkFolder(Path(sys.argv[1])); (work.path / 'half').write_text('x')\n"
        "print('has it', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script, tmp_path / "map.tif"], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "has it\n"
    with pytest.raises(TryAgainError, match=f"{child.pid}"):
        WorkFolder(tmp_path / "map.tif")
    child.send_signal(end)
    child.wait()
    child.stdout.close()
    with WorkFolder(tmp_path / "map.tif") as work:
        assert (work.path / "half").exists()
        work.remove_leftovers()
        assert [path.name for path in work.path.iterdir()] == [LOCK]
    assert not list(tmp_path.iterdir())


def test_what_is_kept_stays_and_the_rest_goes(tmp_path: Path) -> None:
    for kept in (("journal",), ("none",)):
        with WorkFolder(tmp_path / "map.tif") as work:
            for name in ("journal", "working.tif"):
                (work.path / name).write_text("x")
            (work.path / "folder").mkdir()
            work.keep_for_next_run(*kept)
        left = sorted(path.name for path in work.path.iterdir()) if work.path.exists() else []
        assert left == (["journal", LOCK] if kept == ("journal",) else [])


def test_many_at_once_and_never_two(tmp_path: Path) -> None:
    """Each takes the folder as soon as it can, notes that it is there, and leaves; nobody is there with another."""
    script = """
import os, sys, time
from pathlib import Path
from refnet_cli.errors import TryAgainError
from refnet_cli.system.lock import WorkFolder
folder, done = Path(sys.argv[1]), 0
while done < 15:
    try:
        with WorkFolder(folder / "map.tif"):
            os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
            time.sleep(0.001)
            os.unlink(folder / "inside")
            done += 1
    except TryAgainError:
        time.sleep(0.0005)
"""
    children = [subprocess.Popen([sys.executable, "-c", script, tmp_path]) for _ in range(3)]
    deadline = time.monotonic() + 60
    assert [child.wait(deadline - time.monotonic()) for child in children] == [0, 0, 0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a" * 250 + ".tif", "ü" * 120 + ".tif", "with\nnew line.tif", "-o.tif"])
def test_names_of_any_length_and_kind(tmp_path: Path, name: str) -> None:
    with WorkFolder(tmp_path / name) as work:
        assert work.path.is_dir()
        with pytest.raises(TryAgainError):
            WorkFolder(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_lasts_as_long_as_something_lies_in_it(tmp_path: Path) -> None:
    output = tmp_path / "new" / "deep" / "map.tif"
    with WorkFolder(output) as first, WorkFolder(output.with_name("other.tif")):
        assert first.path.is_dir()
    assert not list(tmp_path.iterdir())
    with WorkFolder(output):
        output.write_text("x")
    assert [path.name for path in output.parent.iterdir()] == ["map.tif"]


def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        WorkFolder(tmp_path / "file" / "map.tif")
    with pytest.raises(OutputError):
        WorkFolder(tmp_path / "none" / ("x" * 300) / "map.tif")
    assert not (tmp_path / "none").exists()
    (tmp_path / ".map.tif.refnet").write_text("in the way")
    with pytest.raises(OutputError):
        WorkFolder(tmp_path / "map.tif")


NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOTTY,
            errno.EPERM, errno.ENODEV)  # fmt: skip


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_file_system_without_locks_is_worked_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    without_locks(monkeypatch, number)
    with WorkFolder(tmp_path / "map.tif") as work:
        (warning,) = work.warnings
        assert os.strerror(number) in warning
        assert str(tmp_path) in warning
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    with WorkFolder(tmp_path / "map.tif") as work:
        assert work.warnings == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EINTR])
def test_a_lock_that_fails_is_no_other_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    without_locks(monkeypatch, number)
    with pytest.raises(StorageError, match=os.strerror(number)) as refusal:
        WorkFolder(tmp_path / "map.tif")
    assert "another run" not in str(refusal.value)
    assert "full" not in str(refusal.value)


def test_without_locks_a_process_that_runs_here_still_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch, errno.ENOSYS)
    child = subprocess.Popen(["sleep", "60"])
    folder = tmp_path / ".map.tif.refnet"
    folder.mkdir()
    owner = {"host": socket.gethostname(), "pid": child.pid, "started": "2020"}
    (folder / LOCK).write_text(json.dumps(owner))
    with pytest.raises(TryAgainError, match=rf"process {child.pid} .*remove {folder}"):
        WorkFolder(tmp_path / "map.tif")
    child.kill()
    child.wait()
    with WorkFolder(tmp_path / "map.tif") as work:
        assert work.warnings
    for other in ('{"host": "elsewhere", "pid": 1}', "[]", "half", '{"host": 1}', '{"pid": "x"}', ""):
        folder.mkdir()
        (folder / LOCK).write_text(other)
        WorkFolder(tmp_path / "map.tif").close()
        assert not list(tmp_path.iterdir())


def test_a_prediction_without_locks_warns_once_and_its_files_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair(tmp_path, 64, 64)
    outputs = ("confidence", "report", "stac", "polygons")
    chosen = PredictOptions(*pair, tmp_path / "a" / "map.tif", outputs=outputs, date="2020-07-01", coreg="off")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    with_locks = predict(chosen, PlaceEngine())
    without_locks(monkeypatch, errno.ENOLCK)
    report = predict(replace(chosen, output=tmp_path / "b" / "map.tif"), PlaceEngine())
    new = [warning for warning in report.warnings if warning not in with_locks.warnings]
    assert new == report.warnings_of_run
    (warning,) = new
    assert "no file locks" in warning
    made = [{path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in ("a", "b")]
    assert made[0] == made[1]
    assert len(made[0]) == 5
