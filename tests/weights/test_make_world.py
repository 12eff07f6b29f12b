"""Weights for the world: the whole command at simulated places, and its parts that need no server."""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from pyproj import Geod
from safetensors import safe_open

from tests.helpers.programs import ROOT
from tests.helpers.stac_servers import RUSTAC

FOLDER = ROOT / "weights" / "world"
PLACES = 24
OPTIONS = (
    "--encoder", "resnet18", "--encoder-weights", "", "--width", "16", "--tile", "64", "--batch", "4",
    "--train-steps", "60", "--workers", "2",
)  # fmt: skip


def load(name: str) -> Any:
    """Import a module of the folder as its scripts do."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    return importlib.import_module(name)


def test_places_are_squares_of_their_side() -> None:
    scenes = load("world_scenes")
    place = scenes.Place("one", 25.0, 61.0, "Dfc Europe", "Europe", False)
    x, y = place.outline(2560.0).exterior.xy
    _, _, sides = Geod(ellps="WGS84").inv(x[:-1], y[:-1], x[1:], y[1:])
    np.testing.assert_allclose(sides, 2560, atol=0.5)


def test_seasons_follow_the_sun(tmp_path: Path) -> None:
    scenes = load("world_scenes")
    fetcher = scenes.Fetcher(
        tmp_path, tuple(scenes.read_places(FOLDER / "places.csv", small=True)), ("planetary-computer",), 2021, 2560.0
    )
    by_name = {place.name: place for place in fetcher.places}
    seen = []
    for _, _, dates, places in fetcher.parts():
        months = {int(month) for month in re.findall(r"2021-(\d\d)-\d\d", dates)}
        for place in places:
            seen.append(place.name)
            if place.latitude > 45 and len(seen) == len(set(seen)):  # the first season
                assert months <= {5, 6, 7, 8, 9}
    assert sorted(seen) == sorted([*by_name, *by_name])
    assert len({scene.name for scene in fetcher.scenes()}) == 2 * len(by_name)


def test_a_regions_file_scores_only_where_both_maps_agree(tmp_path: Path) -> None:
    make, scenes = load("make_world"), load("world_scenes")
    scene = scenes.Scene(scenes.Place("one", 0, 0, "a", "b", True), tmp_path / "scenes" / "1-tropics-1" / "one")
    learned, scored = (make.scene_table(scene, tmp_path, split) for split in ("train", "validation"))
    assert "confidence_band" not in learned
    assert "confidence_band = 2" in scored
    assert 'optical = "scenes/1-tropics-1/one/s2.tif"' in learned
    assert "optical" not in make.scene_table(scene, tmp_path, "validation", ("sar",))


def command(folder: Path, source: Path, places: Path, *more: str) -> list[str]:
    side = load_side()
    return [
        sys.executable, str(FOLDER / "make_world.py"), str(folder), "--places", str(places), "--side", side,
        "--source", str(source), "--allow-host", "127.0.0.1", *OPTIONS, *more,
    ]  # fmt: skip


def load_side() -> str:
    from tests.weights.simulated_world import SIDE

    return str(SIDE)


def run(words: list[str]) -> str:
    paths = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, env=paths)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr + done.stdout


def kill_when(words: list[str], reached: Any) -> None:
    """Run a command and kill it as soon as something is so."""
    running = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    until = time.monotonic() + 300
    while not reached():
        assert running.poll() is None, "it ended too early"
        assert time.monotonic() < until
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()


def contents(folder: Path) -> dict[str, str]:
    """Checksums of what a run makes; trainings record when and where they ran."""
    kept = [*folder.rglob("*.tif"), *folder.rglob("*.csv"), folder / "scores.json", folder / "scores.md"]
    kept = [path for path in kept if "trained" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.mark.long
def test_simulated_places_become_weights_with_a_card_and_kills_change_nothing(tmp_path: Path) -> None:
    if not RUSTAC:
        pytest.skip("rustac is not installed")
    from tests.weights.simulated_world import choose_places, draw_sample, serving, write_places

    rows = choose_places(PLACES)
    places = write_places(tmp_path / "places.csv", rows)
    with serving(tmp_path / "server", rows) as (_, files, source):
        said = run(command(whole := tmp_path / "whole", source, places, "--dry-run"))
        assert "24 places, 48 scenes" in said
        assert "\nhours on a GPU: not known, because this training was never measured on one\n" in said
        files.reset()
        run(command(whole, source, places, "fetch", "check"))
        truth = draw_sample(whole, rows, 60, drawn := tmp_path / "sample.csv")
        run(command(whole, source, places, "--sample", str(drawn)))
        halfway, broken = len(files.requests) // 2, tmp_path / "broken"
        files.reset()
        again = command(broken, source, places)
        kill_when(again, lambda: len(files.requests) > halfway)
        run([*again, "fetch"])
        run([*again, "check"])
        kill_when([*again, "train"], lambda: list((broken / "trained" / "checkpoints").glob("*.pt*")))
        run([*again, "--sample", str(drawn)])
    assert contents(broken) == contents(whole)
    check_results(whole, rows)
    check_sample(whole, truth)


def check_results(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "checked.csv").open(newline="") as file:
        assert all(row["kept"] == "1" for row in csv.DictReader(file))
    scene = next(folder.glob("scenes/*/*/agreement.tif"))
    with rasterio.open(scene) as file:
        agreement, agreed = file.read()
    with rasterio.open(scene.with_name("labels.tif")) as file:
        labels = file.read(1)
    assert set(np.unique(agreement[labels > 0])) == {40, 100}
    np.testing.assert_array_equal(agreed == 100, agreement == 100)
    done = subprocess.run(
        [sys.executable, "-m", "refnet_cli", "weights", "info", str(folder / "refnet-world.safetensors"), "--json"],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    card = json.loads(done.stdout)
    assert "Copernicus" in json.dumps(card)
    scores = json.loads((folder / "scores.json").read_text())
    held_out = {row["continent"] for row in rows if row["role"] == "held-out"}
    assert set(scores["both"]["continents"]) == held_out
    assert scores["both"]["pooled"]["pixels"] == sum(
        found["pixels"] for found in scores["both"]["continents"].values()
    )
    assert (folder / "refnet-world.onnx").is_file()
    assert "| Africa |" in (folder / "scores.md").read_text()


def check_sample(folder: Path, truth: dict[str, float]) -> None:
    """Estimated areas are near the true ones, whatever is mapped, and the pages have them."""
    scores = json.loads((folder / "scores.json").read_text())
    page = (folder / "scores.md").read_text()
    for used in ("both", "optical", "sar"):
        found = scores[used]["sample"]
        assert (found["points"], found["without_map"], len(found["strata"])) == (360, 0, 6)
        area = found["estimates"]["area"]
        assert {name for name, one in area.items() if one["value"] > 0} <= {*truth}
        assert sum(one["value"] for one in area.values()) == pytest.approx(sum(truth.values()), rel=0.01)
        off = [abs(area[name]["value"] - true) / area[name]["margin"] for name, true in truth.items()]
        assert np.mean(np.array(off) < 1) > 0.7
        assert max(off) < 2
        assert 0.05 * sum(truth.values()) > max(area[name]["margin"] for name in truth)
        overall = found["estimates"]["overall_accuracy"]
        assert f"overall accuracy {overall['value']:.3f} ± {overall['margin']:.3f}." in page
    assert page.count("| class | mapped, ha | estimated, ha |") == 3
    with safe_open(folder / "refnet-world.safetensors", "pt") as file:
        assert "probability sample" in json.dumps(file.metadata())


@pytest.mark.long
def test_a_second_source_gives_scenes_of_level_1c(tmp_path: Path) -> None:
    if not RUSTAC:
        pytest.skip("rustac is not installed")
    from tests.helpers.stac_servers import catalogue, store, write_source
    from tests.weights.simulated_world import choose_places, simulate, write_places

    rows = [row for row in choose_places(4) if row["role"] == "train"][:1]
    places = write_places(tmp_path / "places.csv", rows)
    with store(tmp_path / "files") as files:
        items = simulate(tmp_path / "files", files.url, rows).items
        text = json.dumps([one for one in items if one["collection"] == "sentinel-2-l2a"])
        for old, new in (("sentinel-2-l2a", "sentinel-2-l1c"), ("MSIL2A", "MSIL1C"), ("S2MSI2A", "S2MSI1C")):
            text = text.replace(old, new)
        made = json.loads(text)
        for one, original in zip(made, (one for one in items if one["collection"] == "sentinel-2-l2a"), strict=True):
            one["assets"] = original["assets"]  # the files are those of the other level
        with catalogue([*items, *made], tmp_path / "items") as front:
            sources = [write_source(tmp_path / f"{name}.toml", front.url, [files.host]) for name in ("l2a", "l1c")]
            with sources[1].open("a") as file:
                file.write('[optical]\ncollection = "sentinel-2-l1c"\nlevel = "L1C"\n')
            words = command(tmp_path / "out", sources[0], places, "--source", str(sources[1]))
            run([*words, "fetch", "check"])
            sources[1].write_text(sources[1].read_text().replace('level = "L1C"\n', ""))
            words[2] = str(tmp_path / "other")
            done = subprocess.run([*words, "fetch"], capture_output=True, text=True, timeout=300,
                                  env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
            assert done.returncode != 0
            assert "is of level L1C, but its collection of level L2A" in done.stderr
    levels = {}
    for path in (tmp_path / "out").glob("scenes/*/*/s2.tif"):
        with rasterio.open(path) as file:
            levels[path.parents[1].name[0]] = file.tags()["PROCESSING_LEVEL"]
    assert levels == {"1": "L2A", "2": "L1C"}
    with (tmp_path / "out" / "checked.csv").open(newline="") as file:
        assert [row["kept"] for row in csv.DictReader(file)] == ["1"] * 4
