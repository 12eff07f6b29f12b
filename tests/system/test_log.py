"""Messages as JSON: every line of stderr is an object that a machine can read."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import rasterio
from tqdm import tqdm

from refnet_cli.cli.main import run
from refnet_cli.system import log
from refnet_cli.tiles.window import Window
from tests.helpers.scenes import make_pair

LOG = logging.getLogger("refnet_cli.tests")


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
    assert (last["code"], last["scene"]) == (65, out)
    assert len(last["window"]) == 4


def test_lines_for_people_have_no_keys(capsys: pytest.CaptureFixture[str]) -> None:
    log.start()
    with log.context(fold="north"):
        LOG.warning("3 blocks cannot be read: 50 %s")
    LOG.error("no")
    assert capsys.readouterr().err.splitlines() == ["! fold north: 3 blocks cannot be read: 50 %s", "refnet: no"]


def test_levels_context_and_details_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    log.start(as_json=True)
    LOG.debug("hidden")
    with log.context(scene="a.tif"), log.context(fold="north"):
        LOG.warning("doubtful")
    with log.at_least(logging.ERROR):
        LOG.warning("hidden")
        LOG.error("wrong", extra={"event": "failed", "code": 65, "window": Window(0, 1, 2, 3)})
    LOG.info("")
    found = entries(capsys.readouterr().err)
    for entry in found:
        del entry["time"]
    assert found == [
        {"level": "warning", "event": "message", "scene": "a.tif", "fold": "north", "message": "doubtful"},
        {"level": "error", "event": "failed", "message": "wrong", "code": 65, "window": [0, 1, 2, 3]},
        {"level": "info", "event": "message"},
    ]


def test_a_program_that_uses_refnet_chooses_the_handlers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "refnet_cli"):
        LOG.info("decided")
    assert caplog.messages == ["decided"]


def test_messages_stand_above_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    log.start()
    with tqdm(total=2, file=sys.stderr) as bar:
        bar.update(1)
        LOG.info("between")
    assert "between" in [line.rstrip() for line in capsys.readouterr().err.replace("\r", "\n").split("\n")]


def test_a_closed_pipe_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            pass

        def isatty(self) -> bool:
            return False

    log.start()
    monkeypatch.setattr("sys.stderr", Closed())
    with pytest.raises(BrokenPipeError):
        LOG.info("nobody reads this")
