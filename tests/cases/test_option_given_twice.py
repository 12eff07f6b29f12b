"""Two images given by an option each are refused, and mapped together as the message says."""

from __future__ import annotations

from pathlib import Path

import pytest

from refnet_cli.cli.main import run


def test_the_first_of_two_is_not_lost(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shared / "cases" / "option-given-twice")
    out = tmp_path / "map.tif"
    rest = ["--sar", "s1.tif", "--coreg", "off", "-o", str(out)]
    assert run(["predict", "--optical", "west.tif", "--optical", "east.tif", *rest]) == 2
    assert "--optical west.tif,east.tif" in capfd.readouterr().err
    assert not out.exists()


def test_a_file_for_each_band(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shared / "cases" / "option-given-twice")
    files = ["B02.tif", "B03.tif", "B04.tif", "B08.tif"]
    assert run(["inspect", *(word for file in files for word in ("--optical", file)), "--sar", "s1.tif"]) == 2
    remedy = ",".join(files)
    assert f"--optical {remedy}\n" in capfd.readouterr().err
    assert run(["inspect", "--optical", remedy, "--sar", "s1.tif", "--coreg", "off"]) == 0
