"""Bad files, made here and those of ../shared/badfiles: refused in one line, quickly, or mapped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from tests.faults.bad_files import KINDS, OPTICAL, SAR, Kind, make_bad_files
from tests.faults.helpers import (
    ROOT,
    check_refusal,
    child_environment,
    names,
    network_trap,
    run_child,
    run_jobs,
    was_called,
)

NONE = pytest.param({}, id="none")
BADFILES = ROOT.parent / "shared" / "badfiles"
SECONDS, MEGABYTES = 10, 1024


def manifest() -> list[dict[str, Any]]:
    """What the folder next to the checkout says of its files; nothing where there is none."""
    path = BADFILES / "MANIFEST.json"
    return json.loads(path.read_text()) if path.exists() else []


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bad_files(tmp_path_factory.mktemp("bad"))


def words(command: str, folder: Path, name: str, kind: Kind) -> list[str]:
    """The command that uses a bad file in the place of a good one."""
    optical, sar = (name, SAR) if kind.used_as == "optical" else (OPTICAL, name)
    return [command, "--optical", str(folder / optical), "--sar", str(folder / sar)]


def test_every_kind_is_mapped_or_refused(bad_files: Path, tmp_path: Path) -> None:
    """In one process, without a word to the network, and without output where it is refused."""
    before, jobs = names(bad_files), []
    for name, kind in KINDS.items():
        jobs.append({"name": name, "arguments": [*words("predict", bad_files, name, kind), "-o"]})
        jobs[-1]["arguments"] += [str(tmp_path / name / "map.tif"), "-q"]
        jobs.append({"name": f"inspect {name}", "arguments": words("inspect", bad_files, name, kind)})
        (tmp_path / name).mkdir()
    with network_trap() as (proxies, server):
        done = run_jobs(jobs, **proxies)
        assert not was_called(server), "something went for the network"
    for name, kind in KINDS.items():
        for job in (done[name], done[f"inspect {name}"]):
            assert "Traceback" not in job["err"]
            assert job["seconds"] < SECONDS, name
            assert job["megabytes"] < MEGABYTES, name
        made, looked = done[name], done[f"inspect {name}"]
        if kind.expect == "reject":
            check_refusal(made["code"], made["err"], {64, 65, 66}, bad_files / name)
            assert names(tmp_path / name) == [], name
            if looked["code"]:
                check_refusal(looked["code"], looked["err"], {64, 65, 66}, bad_files / name)
        else:
            assert (made["code"], made["err"]) == (0, ""), name
            assert looked["code"] == 0, name
            check_map_of(bad_files, tmp_path / name / "map.tif", name)
    assert names(bad_files) == before


def check_map_of(folder: Path, map_: Path, name: str) -> None:
    with rasterio.open(map_) as made, rasterio.open(folder / OPTICAL) as optical:
        assert (made.shape, made.transform, made.crs) == (optical.shape, optical.transform, optical.crs)
        codes = made.read(1)
    assert codes.any(), name
    if name in ("one_pixel.tif", "inf_and_nan.tif"):
        assert (codes == 0).any(), "pixels that SAR did not see have a class"


def chosen(quick: int = 3) -> list[Any]:
    """All of the manifest, of which all but a sample of every kind are long."""
    entries = manifest()
    order = np.random.default_rng(5).permutation(len(entries))
    sample = {entries[index]["file"] for index in order[:quick]}
    return [
        pytest.param(entry, id=entry["file"], marks=() if entry["file"] in sample else pytest.mark.long)
        for entry in entries
    ] or [NONE]


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
@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry["file"]) for entry in manifest()] or [NONE])
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


@pytest.mark.long
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
