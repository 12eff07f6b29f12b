"""A STAC item says that the offset has been removed; the files do not, and their values look as if it had not been."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rasterio

from refnet_cli.batch.task_list import read_tasks
from refnet_cli.cli.main import run
from refnet_cli.scene.pair import ScenePair

NAMING = ["--optical", "{B02},{B03},{B04},{B08}", "--sar", "{vv},{vh}"]


def test_the_plan_hands_on_what_the_item_says(shared: Path, tmp_path: Path) -> None:
    tasks = tmp_path / "t.jsonl"
    words = ["batch", "plan", str(shared / "cases" / "stac-offset-ignored" / "item.json"), *NAMING]
    assert run([*words, "--map", str(tmp_path / "{id}.tif"), "-o", str(tasks)]) == 0
    (task,) = read_tasks(tasks)
    options = task.options
    bands = ("B02", "B03", "B04", "B08"), ("VV", "VH")
    with ScenePair.open(options.optical, options.sar, *bands, options.scene) as pair:
        (offset,) = (decision for decision in pair.decisions if decision.what == "optical.offset")
    assert offset.value == 0
    assert offset.how == "stac: earthsearch:boa_offset_applied=true."


@pytest.mark.long
def test_the_map_is_that_of_the_option(shared: Path, tmp_path: Path) -> None:
    case = shared / "cases" / "stac-offset-ignored"
    maps = {}
    for name, more in (("stac", []), ("option", ["--optical-offset", "0"])):
        tasks = tmp_path / f"{name}.jsonl"
        words = ["batch", "plan", str(case / "item.json"), *NAMING, "--map", str(tmp_path / f"{name}.tif"), *more]
        assert run([*words, "-o", str(tasks)]) == 0
        assert run(["batch", "run", str(tasks)]) == 0
        with rasterio.open(tmp_path / f"{name}.tif") as file:
            maps[name] = file.read()
            decisions = json.loads(file.tags()["REFNET_DECISIONS"])
        assert [item["value"] for item in decisions if item["what"] == "optical.offset"] == [0]
    assert (maps["stac"] == maps["option"]).all()
