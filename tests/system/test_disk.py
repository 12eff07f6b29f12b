"""What file systems cannot do is tolerated; what fails is named, and a full disk only where one is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from refnet_cli.errors import OutputError, StorageError
from refnet_cli.system import disk
from refnet_cli.system.atomic import explain, replacing
from refnet_cli.system.disk import FULL, is_full, short_reason, sync
from tests.helpers.limits import file_size_limit

FULL_TEXT = "The disk may be full"


def failing(number: int, folders: bool) -> object:
    """Stand in for os.fsync on a file system where it fails for folders, or for files."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}") == folders:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    return fsync


@pytest.mark.parametrize(
    "number",
    [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EISDIR, errno.EPERM, errno.EROFS],
)
def test_folders_that_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "fsync", failing(number, folders=True))
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_files_that_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    (tmp_path / "a").write_text("x")
    monkeypatch.setattr(os, "fsync", failing(number, folders=False))
    sync(tmp_path / "a")


@pytest.mark.parametrize("folders", [False, True])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_is_no_missing_feature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, folders: bool
) -> None:
    monkeypatch.setattr(os, "fsync", failing(number, folders))
    with pytest.raises(StorageError) as refusal, replacing(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert (FULL_TEXT in str(refusal.value)) == (number == errno.ENOSPC)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
def test_a_folder_that_may_not_be_listed(tmp_path: Path) -> None:
    tmp_path.chmod(0o300)
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("new")
    tmp_path.chmod(0o700)
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_only_a_full_disk_is_called_full(tmp_path: Path, number: int) -> None:
    error = explain(tmp_path / "map.tif", OSError(number, os.strerror(number)), tmp_path)
    assert isinstance(error, OutputError | StorageError)
    assert (FULL_TEXT in str(error)) == (number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
    assert os.strerror(number) in str(error)
    assert not list(tmp_path.iterdir())


def test_messages_of_libraries_that_hold_the_reason() -> None:
    assert is_full(RuntimeError("_tiffWriteProc:No space left on device"))
    assert is_full(RuntimeError("sqlite3_step() failed: database or disk is full"))
    cause = RuntimeError(f"block: {os.strerror(errno.EFBIG)}")
    error = RuntimeError("Write failed. See previous exception for details.")
    error.__cause__ = cause
    assert is_full(error)
    assert short_reason(error) == str(cause)
    assert not is_full(RuntimeError("database is locked"))


@pytest.mark.parametrize(("limit", "full"), [(1000, True), (3 << 20, True), (64 << 20, False)])
def test_a_trial_where_no_message_says_it(tmp_path: Path, limit: int, full: bool) -> None:
    with open(tmp_path / "working.tif", "wb") as file:
        file.truncate(min(limit, 3 << 20))
    with file_size_limit(limit):
        assert is_full(RuntimeError("it failed"), tmp_path) == full
    assert [path.name for path in tmp_path.iterdir()] == ["working.tif"]


@pytest.mark.parametrize("number", sorted(FULL))
def test_a_trial_that_meets_the_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(descriptor: int, is_folder: bool = False) -> None:
        raise OSError(number, "no room")

    monkeypatch.setattr(disk, "sync_descriptor", full)
    assert is_full(RuntimeError("it failed"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [10, 6000])
def test_messages_are_cut_to_their_point(length: int) -> None:
    script = f"sqlite3_exec(CREATE TABLE a ({'x' * length});\nCREATE TABLE b) failed: database is locked"
    assert short_reason(OSError(script)) == "database is locked"
    endless = short_reason(OSError("a" * length + " what went wrong " + "b" * length))
    assert len(endless) < 320
    advice = "'x.gpkg' not recognized; It might help to specify the correct driver explicitly by prefixing"
    assert short_reason(OSError(advice)) == "'x.gpkg' not recognized"
