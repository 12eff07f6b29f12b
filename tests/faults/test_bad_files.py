"""Every file of ../shared/badfiles does what its manifest says: refused in one line, quickly, or mapped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from tests.faults.helpers import (
    ROOT,
    check_refusal,
    child_environment,
    names,
    network_trap,
    run_child,
    was_called,
)

BADFILES = ROOT.parent / "shared" / "badfiles"
SECONDS, MEGABYTES = 10, 1024


def manifest() -> list[dict[str, Any]]:
    path = BADFILES / "MANIFEST.json"
    return json.loads(path.read_text()) if path.exists() else []


def chosen(quick: int = 8) -> list[Any]:
    """All of the manifest, of which all but a sample of every kind are long."""
    entries = manifest()
    order = np.random.default_rng(5).permutation(len(entries))
    sample = {entries[index]["file"] for index in order[:quick]}
    return [
        pytest.param(entry, id=entry["file"], marks=() if entry["file"] in sample else pytest.mark.long)
        for entry in entries
    ]


def run_pair(
    entry: dict[str, Any], folder: Path, command: str, free: bool
) -> tuple[int, str, float, dict[str, Any], list[str]]:
    """Run a command on a file of the manifest and its partner; nothing may be written but in the output folder."""
    files = {entry["used_as"]: entry["file"], {"optical": "sar", "sar": "optical"}[entry["used_as"]]: entry["partner"]}
    arguments = [command, *(word for kind, name in files.items() for word in (f"--{kind}", str(BADFILES / name)))]
    here, out = folder / "here", folder / "out"
    here.mkdir()
    out.mkdir()
    if command == "predict":
        arguments += ["-o", str(out / "map.tif"), "-q"]
    before = names(BADFILES)
    report = folder / "report.json"
    with network_trap() as (proxies, server):
        settings = {"free": free, "report": str(report)}
        ended = run_child(settings, arguments, cwd=here, env=child_environment(**proxies))
        assert not was_called(server), "something went for the network"
    assert "Traceback" not in ended.err
    found = json.loads(report.read_text())
    assert found["network"] == []
    assert names(BADFILES) == before
    assert names(here) == []
    return ended.code, ended.err, ended.seconds, found, names(out)


@pytest.mark.parametrize("entry", chosen())
def test_predict(entry: dict[str, Any], shared: Path, tmp_path: Path) -> None:
    refused = entry["expect"] == "reject"
    code, err, seconds, report, left = run_pair(entry, tmp_path, "predict", free=not refused)
    if refused:
        check_refusal(code, err, {64, 65, 66}, BADFILES / entry["file"])
        assert left == []
        assert seconds < SECONDS
        assert report["megabytes"] < MEGABYTES
        # What can be told without reading all pixels is told before the network is loaded.
        assert not report["torch"] or entry["file"].startswith("badblock")
        return
    if entry["expect"] == "reject-only-with-checksum" and code == 65:
        check_refusal(code, err, {65}, BADFILES / entry["file"])
        assert left == []
        return
    assert (code, err) == (0, "")
    assert left == ["map.tif"]
    partner = BADFILES / (entry["file"] if entry["used_as"] == "optical" else entry["partner"])
    with rasterio.open(tmp_path / "out" / "map.tif") as made, rasterio.open(partner) as optical:
        assert (made.shape, made.transform, made.crs) == (optical.shape, optical.transform, optical.crs)
        codes = made.read(1)
    assert codes.any()
    if entry["file"] in ("s1_1px.tif", "s1_inf_nan_undeclared.tif"):
        assert (codes == 0).any(), "pixels that SAR did not see have a class"


@pytest.mark.long
@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry["file"]) for entry in manifest()])
def test_inspect(entry: dict[str, Any], shared: Path, tmp_path: Path) -> None:
    """Refuses what can be told from a sample of the pixels, and never says more than a line about it."""
    code, err, seconds, report, left = run_pair(entry, tmp_path, "inspect", free=True)
    assert left == []
    assert seconds < SECONDS
    assert report["megabytes"] < MEGABYTES
    assert not report["torch"]
    if entry["expect"] == "accept":
        assert (code, err) == (0, "")
    elif entry["expect"] == "reject" and code:
        check_refusal(code, err, {64, 65, 66}, BADFILES / entry["file"])
    else:
        assert code in (0, 65), err


def test_the_trap_catches_who_goes_for_the_network() -> None:
    """By the way that GDAL would take."""
    code = "import rasterio, sys\ntry: rasterio.open(sys.argv[1])\nexcept rasterio.errors.RasterioError: pass"
    with network_trap() as (proxies, server):
        command = [sys.executable, "-c", code, "/vsicurl/http://refnet.invalid/s2.tif"]
        environment = child_environment(**proxies, GDAL_HTTP_TIMEOUT="1")
        subprocess.run(command, env=environment, timeout=60, check=True, capture_output=True)
        assert was_called(server)


def test_the_sample_is_of_every_kind(shared: Path) -> None:
    expected = {entry.values[0]["expect"] for entry in chosen() if not entry.marks}
    assert {"reject", "accept"} <= expected
    assert len(manifest()) >= 37
