"""The file that is locked: its text stays, links are not followed, and that it exists locks nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from refnet_cli.errors import OutputError, TryAgainError
from refnet_cli.system import lock
from refnet_cli.system.lock import LOCK, WorkFolder

DIES = """
import errno, fcntl, os, sys
from pathlib import Path
from refnet_cli.system.lock import WorkFolder
def flock(descriptor, operation):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
fcntl.flock = flock
work = WorkFolder(Path(sys.argv[1]))
assert work.warnings
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("start", [0, 1])
def test_another_s_try_leaves_the_signature(start: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins behind the locked byte where that cannot be read."""
    monkeypatch.setattr(lock, "_OWNER_START", start)
    with WorkFolder(tmp_path / "map.tif") as work:
        text = (work.path / LOCK).read_text()
        with pytest.raises(TryAgainError, match=rf'another run \({{"host": .*"pid": {os.getpid()}, '):
            WorkFolder(tmp_path / "map.tif")
        assert (work.path / LOCK).read_text() == text
        assert text.index("{") == start
        assert json.loads(text)["pid"] == os.getpid()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".map.tif.refnet").mkdir()
    (tmp_path / ".map.tif.refnet" / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(OutputError):
        WorkFolder(tmp_path / "map.tif")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("locks", [True, False])
def test_what_a_killed_run_left_locks_nothing(locks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has no locks, that run had none either."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", DIES, tmp_path / "map.tif"], capture_output=True)
    assert (done.returncode, done.stderr) == (-9, b"")
    assert [path.name for path in (tmp_path / ".map.tif.refnet").iterdir()] == [LOCK]

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    if not locks:
        monkeypatch.setattr(fcntl, "flock", flock)
    with WorkFolder(tmp_path / "map.tif") as work:
        assert bool(work.warnings) == (not locks)
    assert not list(tmp_path.iterdir())
