"""Messages as JSON: every line of stderr is an object that a machine can read."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import rasterio

from refnet_cli.cli.main import run
from refnet_cli.system.log import Log
from tests.helpers.scenes import make_pair


def entries(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    for entry in found:
        assert datetime.fromisoformat(entry["time"]).tzinfo
        assert entry["level"] in ("info", "warning", "error")
        assert entry["event"]
    return found


@pytest.mark.parametrize("place", [0, 1, 9])
def test_a_prediction_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], place: int) -> None:
    """Wherever the option stands; the result on stdout stays as it is."""
    optical, sar = make_pair(tmp_path, 64, 64)
    out = tmp_path / "lulc.tif"
    arguments = ["predict", "--optical", str(optical), "--sar", str(sar), "-o", str(out), "--coreg", "off"]
    arguments[place:place] = ["--log-format", "json"]
    assert run(arguments) == 0
    streams = capsys.readouterr()
    assert streams.out == f"{out}\n"
    found = entries(streams.err)
    assert {entry["scene"] for entry in found} == {str(out)}
    assert any(entry["event"] == "progress" and entry["done"] == entry["total"] for entry in found)
    assert any("sar.scale" in entry.get("message", "") for entry in found)


def test_errors_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    optical, sar = make_pair(tmp_path, 64, 64)
    (tmp_path / "file").touch()
    base = ["--log-format=json", "predict", "--optical", str(optical)]
    for arguments, code in (
        ([*base, "--sar", str(tmp_path / "none.tif"), "-o", str(tmp_path / "x.tif")], 66),
        ([*base, "--sar", str(sar), "-o", str(tmp_path / "file" / "x.tif")], 73),
        ([*base, "--sar", str(sar)], 2),
        ([*base, "--nonsense"], 2),
    ):
        assert run(arguments) == code
        *_, last = entries(capsys.readouterr().err)
        assert (last["level"], last["event"], last["code"]) == ("error", "failed", code)
        assert last["message"]


def test_a_damaged_block_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    optical, sar = make_pair(tmp_path, 600, 600)
    with rasterio.open(optical) as file:
        place = int(file.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    content = bytearray(optical.read_bytes())
    content[place : place + 64] = b"\xff" * 64
    optical.write_bytes(content)
    out = str(tmp_path / "x.tif")
    assert run(["predict", "--log-format", "json", "--optical", str(optical), "--sar", str(sar), "-o", out]) == 65
    *_, last = entries(capsys.readouterr().err)
    assert last["code"] == 65
    assert len(last["window"]) == 4


def test_lines_for_people_stay_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    log.say("warning: something")
    log.progress(1, 1, "tiles")
    log.as_json = True
    log.say("warning: something")
    plain, machine = capsys.readouterr().err.splitlines()
    assert plain == "warning: something"
    assert json.loads(machine)["level"] == "warning"
