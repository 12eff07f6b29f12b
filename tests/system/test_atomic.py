"""Files appear whole or not at all, and never in the place of what is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from refnet_cli.errors import OptionsError, OutputError, StorageError
from refnet_cli.system.atomic import check_distinct_paths, replacing


def test_a_file_is_replaced_when_all_went_well(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OSError(28, "full"), StorageError), (PermissionError(13, "no"), OutputError), (KeyError(), KeyError)],
)
def test_a_failure_leaves_the_old_file(tmp_path: Path, error: Exception, kind: type[Exception]) -> None:
    target = tmp_path / "a"
    target.write_text("old")

    def fail() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(kind):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(OutputError, match="cannot be created"), replacing(tmp_path / "a" / "b") as temporary:
        temporary.write_text("y")


def test_places_are_told_apart_through_links(tmp_path: Path) -> None:
    source, other = tmp_path / "source", tmp_path / "other"
    source.write_text("x")
    (tmp_path / "soft").symlink_to(source)
    (tmp_path / "hard").hardlink_to(source)
    check_distinct_paths([other, None], [source, None])
    for output in (source, tmp_path / "soft", tmp_path / "hard", tmp_path / "none" / ".." / "source"):
        with pytest.raises(OptionsError, match="is the same file as"):
            check_distinct_paths([output], [source])
    with pytest.raises(OptionsError, match="is the same file as"):
        check_distinct_paths([other, tmp_path / "." / "other"], [])


def test_what_killed_runs_left_goes_after_an_hour(tmp_path: Path) -> None:
    target = tmp_path / "a[1].bin"
    others = [".a[1].bin.77.tmp", ".a[1].bin.78.tmp", ".a1.bin.77.tmp", ".a[1].bin.x.tmp", ".b.77.tmp"]
    for name in others:
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / others[1]).touch()  # at which another machine may be
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {target.name, *others[1:]}
