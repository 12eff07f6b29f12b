"""Seeded damage to scenes, labels, weights and maps: no crash, no hang, no bug, and no damage that a checksum misses.

A batch of damaged files is worked on in one child process, which names the file on which it dies.
"""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from refnet_cli.errors import InputError, InputMissingError
from refnet_cli.model.weight_files import default_weights
from refnet_cli.outputs.verify import verify_map
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from tests.faults.helpers import Scene, check_refusal, names, run_jobs, sha256_of
from tests.faults.mutate import OF_TIFF, OF_WEIGHTS, mutate
from tests.helpers.quick import few
from tests.helpers.scenes import PlaceEngine, make_pair, write

MEGABYTES = 1024


def batches(seeds: int, quick: int, size: int) -> list[Any]:
    """A short batch of the first seeds, and long ones of all the others."""
    starts = range(quick, seeds, size)
    return [
        pytest.param(range(quick), id="quick"),
        *(pytest.param(range(at, min(at + size, seeds)), id=str(at), marks=pytest.mark.long) for at in starts),
    ]


def damaged(folder: Path, source: Path, seeds: range, kinds: Any) -> dict[str, Path]:
    """Write damaged copies of a file, by a name that tells seed and kind of the damage."""
    data, made = source.read_bytes(), {}
    for seed in seeds:
        changed, kind = mutate(data, seed, kinds)
        made[f"{source.stem}-{seed}-{kind}"] = folder / f"{source.stem}-{seed}-{kind}{source.suffix}"
        made[f"{source.stem}-{seed}-{kind}"].write_bytes(changed)
    return made


def hold(results: dict[str, dict[str, Any]], allowed: set[int], paths: dict[str, Path]) -> None:
    """Hold all results against the rules and tell of all that break one."""
    broken = []
    for name, result in results.items():
        try:
            assert result["megabytes"] < MEGABYTES
            if result["code"] == 0:
                assert result["err"] == ""
            else:
                check_refusal(result["code"], result["err"], allowed, paths[name])
        except AssertionError as error:
            broken.append(f"{name}, exit code {result['code']}: {result['err'] or error}")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("sensor", few(["optical", "sar"], "optical"))
@pytest.mark.parametrize("seeds", batches(130, 8, 61))
def test_damaged_scenes(sensor: str, seeds: range, small: Scene, tmp_path: Path) -> None:
    paths = damaged(tmp_path, getattr(small, sensor), seeds, OF_TIFF)
    jobs = []
    for name, path in paths.items():
        (tmp_path / name).mkdir()
        files = {"optical": small.optical, "sar": small.sar} | {sensor: path}
        words = [word for kind, file in files.items() for word in (f"--{kind}", str(file))]
        output = ["-o", str(tmp_path / name / "map.tif"), "--weights", str(small.weights), "-q"]
        jobs.append({"name": name, "arguments": ["predict", *words, *output]})
    results = run_jobs(jobs)
    assert len(results) == len(seeds)
    for name, result in results.items():
        if result["code"] == 0:
            assert names(tmp_path / name) == ["map.tif"]
            verify_map(tmp_path / name / "map.tif")
        else:
            assert names(tmp_path / name) == [], name
    hold(results, {64, 65, 66}, paths)


@pytest.mark.parametrize("seeds", batches(120, 8, 56))
def test_damaged_labels(seeds: range, small: Scene, tmp_path: Path) -> None:
    with rasterio.open(small.optical.with_name("undisturbed.tif")) as file:
        codes = file.read()
    labels = write(tmp_path / "labels.tif", codes, ("labels",))
    paths = damaged(tmp_path, labels, seeds, OF_TIFF)
    map_ = str(small.optical.with_name("undisturbed.tif"))
    results = run_jobs([{"name": n, "arguments": ["evaluate", map_, str(path)]} for n, path in paths.items()])
    for result in results.values():  # damaged or not, the codes may fit another scheme as well
        result["err"] = re.sub(r"^! the codes of the labels are read as.*\n", "", result["err"], flags=re.M)
    hold(results, {64, 65, 66}, paths)


@pytest.mark.parametrize("shipped", few([False, True], False))
@pytest.mark.parametrize("seeds", batches(60, 8, 52))
def test_damaged_weights(shipped: bool, seeds: range, small: Scene, tmp_path: Path) -> None:
    """What differs in any byte is told; `refnet predict` tells it too, before it makes anything."""
    source = default_weights() if shipped else small.weights
    paths = damaged(tmp_path, source, seeds, OF_WEIGHTS)
    results = run_jobs([
        {"name": name, "arguments": ["weights", what, str(path)]}
        for name, path in paths.items() for what in ("info", "verify")
    ])  # fmt: skip
    hold(results, {66, 78}, paths)
    assert {name: result["code"] for name, result in results.items() if result["code"] != 78} == {}


def shown(path: Path) -> tuple[list[np.ndarray], list[object]] | None:
    """What viewers would show of a map at any scale, and where on Earth; None if they cannot."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, driver="GTiff") as file:
                layers, place = [file.read()], [file.shape, file.transform, file.crs]
                levels = len(file.overviews(1))
            for level in range(levels):
                with rasterio.open(path, driver="GTiff", overview_level=level) as file:
                    layers.append(file.read())
    except RasterioError:
        return None
    return layers, place


@pytest.mark.parametrize("seeds", batches(120, 8, 56))
def test_damaged_maps(seeds: range, tmp_path: Path) -> None:
    """Other pixels are told by the checksum inside, any other byte by the one that lies next to the map."""
    whole = tmp_path / "whole.tif"
    predict(PredictOptions(*make_pair(tmp_path, 120, 560), whole, coreg="off"), PlaceEngine())
    intact = shown(whole)
    assert intact is not None
    assert len(intact[0]) > 1, "the map has no overviews"
    paths = damaged(tmp_path, whole, seeds, OF_TIFF)
    (tmp_path / "beside").mkdir()
    jobs = [{"name": "whole", "arguments": ["verify", str(whole)]}]
    for name, path in paths.items():
        beside = tmp_path / "beside" / path.name
        shutil.copyfile(path, beside)
        beside.with_name(f"{path.name}.sha256").write_text(f"{sha256_of(whole)}  {path.name}\n")
        jobs.append({"name": name, "arguments": ["verify", str(path)]})
        jobs.append({"name": f"{name} beside", "arguments": ["verify", str(beside)]})
    results = run_jobs(jobs)
    assert results.pop("whole")["code"] == 0
    assert [name for name, result in results.items() if name.endswith("beside") and result["code"] != 65] == []
    missed = []
    for name, path in paths.items():
        if results[name]["code"] == 0:
            found = shown(path)
            if found is None:
                missed.append(f"{name}: unreadable")
            elif len(found[0]) != len(intact[0]):
                missed.append(f"{name}: {len(found[0]) - 1} overviews of {len(intact[0]) - 1}")
            elif not all(map(np.array_equal, found[0], intact[0])):
                missed.append(f"{name}: other pixels")
            elif found[1] != intact[1]:
                missed.append(f"{name}: another place, {str(found[1])[:100]}")
    assert not missed, "damaged maps are said to be intact:\n" + "\n".join(missed)
    hold(results, {65}, paths | {f"{name} beside": path for name, path in paths.items()})


def test_a_map_without_a_checksum_and_no_map(small: Scene, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        verify_map(small.optical)
    with pytest.raises(InputMissingError):
        verify_map(tmp_path / "nothing.tif")
