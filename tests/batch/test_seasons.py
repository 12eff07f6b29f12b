"""Seasons in batches: how lists name them, what identifies their tasks, blocks, and failures that name the date."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from refnet_cli.batch import run as batch
from refnet_cli.batch.failures import read_failure
from refnet_cli.batch.finished import missing
from refnet_cli.batch.identity import identify
from refnet_cli.batch.mosaic import merge_maps
from refnet_cli.batch.outcome import Outcome
from refnet_cli.batch.plan import plan
from refnet_cli.batch.run import run_here
from refnet_cli.batch.scene_list import read_scenes
from refnet_cli.batch.task import Task
from refnet_cli.batch.task_list import read_tasks
from refnet_cli.batch.templates import Templates
from refnet_cli.errors import ConfigError, InputError, OptionsError, RefnetError, WeightsError
from tests.helpers.batches import FreeEngine, digests, here, rewrite
from tests.helpers.quick import few
from tests.helpers.seasons import DAYS, make_season, write_season
from tests.helpers.small_models import write_model

ROWS = [("2021-06-01", "b/s2.tif", "b/s1.tif"), ("2021-05-02", "a/s2.tif", "a/s1.tif")]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("weights") / "w.onnx")


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_season(tmp_path_factory.mktemp("season"), DAYS[:2], (140, 150))


@pytest.fixture(autouse=True)
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "load", lambda options, weights: FreeEngine())


def planned(text: str, folder: Path, weights: Path, templates: Templates | None = None, **options: Any) -> list[Task]:
    return list(plan(read_scenes(text, folder), templates or Templates(), {"weights": weights} | options, folder))


def run_all(tasks: Sequence[Task]) -> list[Outcome]:
    return list(run_here(tasks, {}, pause=0))


def test_a_table_names_seasons_and_their_options(tmp_path: Path, weights: Path) -> None:
    write_season(tmp_path / "north.csv", ROWS)
    text = (
        "Season,optical,sar,output,combine,cloud_mask\n"
        "north.csv,,,n.tif,ensemble,omnicloudmask\n"
        "north.csv,,,m.tif,,\n"
        ",s2.tif,s1.tif,s.tif,,masks/clouds.tif:1\n"
        "# a comment, with commas\n"
        ",s2.tif,s1.tif,t.tif,,\n"
    )
    tasks = planned(text, tmp_path, weights, combine="composite", mask_clouds=True)
    options = [task.options for task in tasks]
    table, s2 = tmp_path / "north.csv", (tmp_path / "s2.tif",)
    assert [(one.season, one.optical) for one in options] == [(table, None), (table, None), (None, s2), (None, s2)]
    assert [one.combine for one in options] == ["ensemble", "composite", None, None]
    assert [one.cloud_mask for one in options] == ["omnicloudmask", None, tmp_path / "masks" / "clouds.tif:1", None]
    again = rewrite(tmp_path / "tasks.jsonl", tasks)
    assert again == tasks
    assert [identify(task) for task in again] == [task.id for task in tasks]


def test_templates_and_lists_of_seasons(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("north", "south.csv"):
        write_season(tmp_path / name, ROWS)
    monkeypatch.chdir(tmp_path)
    templates = Templates(season="{site}", output="maps/{stem}.tif")
    found = planned("site,other\nnorth,1\nsouth.csv,2\n", tmp_path / "elsewhere", weights, templates)
    listed = read_scenes(f"{tmp_path}/north\n{tmp_path}/south.csv\n", tmp_path, column="season")
    more = list(plan(listed, Templates("none", "none", output="maps/{stem}.tif"), {"weights": weights}, tmp_path))
    assert found == more
    assert [task.options.season for task in found] == [tmp_path / "north", tmp_path / "south.csv"]
    assert [task.options.output.name for task in found] == ["north.tif", "south.tif"]


def test_the_id_changes_with_every_date(tmp_path: Path, weights: Path) -> None:
    for place in "abc":
        (tmp_path / place).mkdir()
        for name in ("s2.tif", "s1.tif"):
            (tmp_path / place / name).write_text(place)
    table = write_season(tmp_path / "season.csv", ROWS)
    (task,) = planned("season,output\nseason.csv,m.tif\n", tmp_path, weights)
    ids = [task.id]
    os.utime(tmp_path / "b" / "s1.tif", ns=(1, 1))
    ids.append(identify(task))
    for rows in ([*ROWS, ("2021-07-01", "c/s2.tif", "")], ROWS[:1], [("2021-06-02", *ROWS[0][1:]), ROWS[1]]):
        write_season(table, rows)
        ids.append(identify(task))
    assert len({*ids}) == len(ids)
    write_season(table, [(*row, "a note") for row in ROWS], "date,optical,sar,note")  # type: ignore[misc]
    (tmp_path / "m.tif").write_text("the map")
    assert identify(task) == ids[1]
    table.unlink()
    assert identify(task) not in ids


REFUSED: dict[str, tuple[str, dict[str, Any], type[RefnetError], str]] = {
    "files too": ("season,sar,output\nx.csv,s1.tif,m.tif", {}, OptionsError, "has a season and sar"),
    "nothing": ("season,output\n,m.tif", {}, OptionsError, "neither files nor a season"),
    "combine": ("season,output,combine\nx.csv,m.tif,mean", {}, OptionsError, "combine 'mean'.*composite or ensemble"),
    "combine without": ("sar,output,combine\ns1.tif,m.tif,ensemble", {}, OptionsError, "has no season"),
    "combine for none": ("sar,output\ns1.tif,m.tif", {"combine": "ensemble"}, OptionsError, "needs several dates"),
    "mask": ("season,output,cloud_mask\nx.csv,m.tif,c.tif:1", {}, OptionsError, "c.tif:1 is of one date"),
    "mask for all": ("season,output\nx.csv,m.tif", {"cloud_mask": Path("c.tif")}, OptionsError, "is of one date"),
    "templates": ("site,output\nx,m.tif", {"templates": Templates("a", season="b")}, OptionsError, "Remove --opt"),
    "no table": ("season,output\nbad.csv,m.tif", {}, ConfigError, "needs date, optical, sar"),
    "twice": ("season,output\ntwice.csv,m.tif", {}, InputError, "two scenes of 2021-05-02"),
    "two regions": ("season,output\nplaces.csv,m.tif", {}, InputError, "several regions, north and south"),
    "an input": ("season,output\nx.csv,a/s2.tif", {}, ConfigError, ", which a task reads"),
    "the table": ("season,output\nx.csv,x.csv.json", {}, OptionsError, "json"),
    "one sensor": ("season,output,combine\ny.csv,m.tif,ensemble", {}, WeightsError, "of 2021-06-09 has no SAR files"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_contradicts_is_refused(what: str, tmp_path: Path, weights: Path) -> None:
    write_season(tmp_path / "x.csv", ROWS)
    write_season(tmp_path / "y.csv", [*ROWS, ("2021-06-09", "c.tif", "")])
    write_season(tmp_path / "bad.csv", [("1",)], "day")  # type: ignore[list-item]
    write_season(tmp_path / "twice.csv", [ROWS[1], ROWS[1]])
    places = [("2021-05-02", "a.tif", "south"), ("2021-06-02", "b.tif", "north")]
    write_season(tmp_path / "places.csv", places, "date,optical,region")
    text, options, error, match = REFUSED[what]
    with pytest.raises(error, match=match):
        planned(text, tmp_path, weights, **options)


def test_tasks_that_contradict_themselves(tmp_path: Path) -> None:
    for entries, match in (
        ({"season": "a", "optical": "b", "output": "m.tif"}, "it has a season"),
        ({"output": "m.tif"}, "neither optical nor sar"),
        ({"optical": "b", "output": "m.tif", "options": {"season": "a"}}, "season is not an option"),
    ):
        (tmp_path / "tasks.jsonl").write_text(json.dumps(entries))
        with pytest.raises(ConfigError, match=match):
            read_tasks(tmp_path / "tasks.jsonl")


def test_a_changed_date_makes_the_map_anew(season: Path, tmp_path: Path, weights: Path, capfd: Any) -> None:
    """A broken one is named in the outcome, in the record and by batch status; the next run makes the map."""
    place = Path(shutil.copytree(season, tmp_path / "place"))
    (tmp_path / "list.csv").write_text("season,output,combine\nplace,place/map.tif,ensemble\n")
    tasks = tmp_path / "tasks.jsonl"
    done = here(capfd, "batch", "plan", tmp_path / "list.csv", "--weights", weights, "--coreg", "off", "-o", tasks)
    assert done.code == 0, done.err
    (task,) = read_tasks(tasks)
    assert [one.status for one in run_all([task])] == ["done"]
    assert [one.status for one in run_all([task])] == ["skipped"]
    made = digests(place)
    second = place / f"place_{DAYS[1]}" / "s2.tif"
    stored = second.read_bytes()
    second.write_bytes(stored[:3000])
    (outcome,) = run_all([task])
    assert (outcome.status, outcome.message.startswith(f"{DAYS[1]}: ")) == ("failed", True), outcome.message
    failure = read_failure(task.path)
    assert failure is not None
    assert failure.message == outcome.message
    assert f"{DAYS[1]}: " in here(capfd, "batch", "status", tasks).err
    second.write_bytes(stored)
    assert [one.status for one in run_all([task])] == ["done"]
    assert digests(place) == made | {str(second.relative_to(place)): made[str(second.relative_to(place))]}
    shutil.rmtree(second.parent)
    assert missing([task]) == [task]
    assert [one.status for one in run_all([task])] == ["done"]
    assert digests(place)["map.tif"] != made["map.tif"]


def test_a_season_that_is_not_there_yet(tmp_path: Path, weights: Path) -> None:
    (task,) = planned("season,output\nlater,m.tif\n", tmp_path, weights)
    (outcome,) = run_all([task])
    assert (outcome.status, outcome.code) == ("failed", 66)
    assert "later does not exist" in outcome.message


@pytest.mark.parametrize("combine", few(["composite", "ensemble"], "ensemble"))
def test_blocks_make_the_map_of_a_single_run(combine: str, tmp_path: Path, weights: Path) -> None:
    place = make_season(tmp_path / "place", DAYS[:2], (530, 100))
    maps = []
    for block in (None, 512):
        rows = [{"season": str(place), "output": str(tmp_path / str(block) / "map.tif"), "combine": combine}]
        options = {"weights": weights, "mask_clouds": True, "coreg": "off"}
        tasks = list(plan(rows, Templates(outputs=("quality",)), options, tmp_path, block))
        assert [one.message for one in run_all(tasks) if one.failed] == []
        if block:
            assert len(tasks) == 2
            (outcome,) = merge_maps(tasks)
            assert outcome.status == "done", outcome.message
        maps.append(tmp_path / str(block))
    assert digests(maps[0]) == digests(maps[1])
    counts = [json.loads((folder / "map.tif.json").read_text())["report"]["counts"] for folder in maps]
    assert counts[0] == counts[1]
    assert f"seen_{DAYS[1]}" in counts[0]
