"""Plans of batches: what is read of scenes, what templates make of it, and what tasks are told apart by."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from refnet_cli.batch.identity import identify
from refnet_cli.batch.plan import plan
from refnet_cli.batch.scene_list import read_scenes
from refnet_cli.batch.task import Task
from refnet_cli.batch.task_list import read_tasks
from refnet_cli.batch.templates import Templates
from refnet_cli.errors import ConfigError, OptionsError, RefnetError
from refnet_cli.model.config import REFNetConfig
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.system.options import names
from refnet_cli.system.urls import Remote
from refnet_cli.tiles.window import Window
from tests.helpers.batches import here, make_scene, plan_tasks, refnet, write_table
from tests.helpers.quick import few
from tests.helpers.scenes import CARD
from tests.helpers.small_models import write_model

SECRET = "https://user:word@example.com/a,b/B02.tif?signature=1,2&x=/3"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("weights") / "w.onnx")


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path]:
    return make_scene(tmp_path / "a", 40, 50)


def planned(text: str, folder: Path, weights: Path, **templates: Any) -> list[Task]:
    return list(plan(read_scenes(text, folder), Templates(**templates), {"weights": weights}, folder))


def places(tasks: list[Task]) -> list[tuple[Any, ...]]:
    return [(task.options.optical, task.options.sar, task.options.output) for task in tasks]


TABLE = "optical,sar,output\n"


@pytest.mark.parametrize(
    "text",
    [
        TABLE + "a/s2.tif,a/s1.tif,m.tif\n",
        "\ufeff" + TABLE + "a/s2.tif,a/s1.tif,m.tif\n",
        "\ufeff\n\noptical;sar;output\n\n \na/s2.tif;a/s1.tif;m.tif\n\n",
        "optical\tsar\toutput\r\na/s2.tif\ta/s1.tif\tm.tif\r\n",
        '"optical","sar","output"\n"a/s2.tif","a/s1.tif","m.tif"',
        ' optical , sar , output \n a/s2.tif , a/s1.tif , m.tif \n',
        "sar,output,optical,more\na/s1.tif,m.tif,a/s2.tif,\n",
    ],
    ids=["plain", "mark", "semicolons, empty lines", "tabs", "quotes", "spaces", "order"],
)  # fmt: skip
def test_tables_in_many_dresses(text: str, tmp_path: Path, weights: Path) -> None:
    found = places(planned(text, tmp_path, weights))
    assert found == [((tmp_path / "a/s2.tif",), (tmp_path / "a/s1.tif",), tmp_path / "m.tif")]


def test_several_files_in_one_quoted_cell(tmp_path: Path, weights: Path) -> None:
    text = TABLE + '"B02.tif, B03.tif",s1.tif,"maps, new/a, b.tif"\n'
    ((optical, _, output),) = places(planned(text, tmp_path, weights))
    assert optical == (tmp_path / "B02.tif", tmp_path / "B03.tif")
    assert output == tmp_path / "maps, new/a, b.tif"


@pytest.mark.parametrize("head", ["OPTICAL,SAR,Output", "Optical;sar;OUTPUT"])
def test_columns_in_capitals(head: str, tmp_path: Path, weights: Path) -> None:
    row = "a.tif;b.tif;c.tif" if ";" in head else "a.tif,b.tif,c.tif"
    (task,) = planned(f"{head}\n{row}\n", tmp_path, weights)
    assert task.options.output == tmp_path / "c.tif"
    assert read_scenes("OPTICAL\na.tif\n", tmp_path) == [{"optical": "a.tif"}]


def test_a_column_that_is_there_twice(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(ConfigError, match="two columns 'optical'"):
        planned("optical,Optical,sar,output\na.tif,b.tif,c.tif,d.tif\n", tmp_path, weights)


def test_a_list_in_another_folder_that_begins_with_a_comma_in_a_name(tmp_path: Path) -> None:
    (tmp_path / "a,b.tif").touch()
    assert read_scenes("a,b.tif\nc.tif\n", tmp_path) == [{"optical": "a,b.tif"}, {"optical": "c.tif"}]


def test_fields_of_several_files_are_those_of_the_first(tmp_path: Path, weights: Path) -> None:
    table = 'optical\n"a/B02.tif,a/B03.tif"\n'
    scenes = read_scenes(table, tmp_path)
    templates = Templates(sar=f"{tmp_path}/{{folder}}/s1.tif", output="{parent}/{stem}_map.tif")
    (task,) = plan(scenes, templates, {"weights": weights}, tmp_path)
    assert task.options.output == tmp_path / "a" / "B02_map.tif"


def test_commas_in_names_are_no_lists(tmp_path: Path, weights: Path) -> None:
    """Where the files are there, and always in that of a map; whether or not it has been made."""
    pair = make_scene(tmp_path / "site 1, north", 40, 50)
    maps = []
    for _ in range(2):
        (task,) = planned(f"{pair[0]}\n", tmp_path, weights, sar="{parent}/s1.tif", output="{parent}/lulc.tif")
        maps.append(task)
        task.options.output.touch()
    assert places(maps[:1]) == [((pair[0],), (pair[1],), pair[0].with_name("lulc.tif"))]
    assert maps[0].id == maps[1].id


def test_names_in_a_column_are_fields(tmp_path: Path, weights: Path) -> None:
    text = "optical,sar,site\nx/s2.TIF,x/s1.tif,north\n/y/s2.zip,/y/s1.tif,south\n"
    found = planned(text, tmp_path, weights, output=str(tmp_path / "{site}-{stem}-{folder}-{name}.tif"))
    names = [task.options.output.name for task in found]
    assert names == ["north-s2-x-s2.TIF.tif", "south-s2-y-s2.zip.tif"]


def test_columns_go_before_templates_and_each_has_its_folder(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    text = "optical,sar\ns2.tif,\nt2.tif,own.tif\n"
    found = places(planned(text, tmp_path / "list", weights, sar="{stem}_s1.tif", output="{stem}_map.tif"))
    work, folder = tmp_path / "work", tmp_path / "list"
    assert found == [
        ((folder / "s2.tif",), (work / "s2_s1.tif",), work / "s2_map.tif"),
        ((folder / "t2.tif",), (folder / "own.tif",), work / "t2_map.tif"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        (TABLE, "empty"),
        (TABLE + "a,b\n", "Line 2 .* not have the 3 columns"),
        (TABLE + "a,b,c\n\na,b,c,d\n", "Line 4 .* not have the 3 columns"),
        (TABLE + '"a,b,c\n', "cannot be read"),
        ("optical,sar,scheme\na,b,c\n", "column 'scheme', which is an option for all"),
        ("optical;sar;output;Smooth;smooth\na;b;c;1;1\n", "column 'smooth'"),
        ('{"type": "FeatureCollection"}', "neither a STAC"),
        ('{"type": "FeatureCollection", "features": [{"id": "a"}]}', "neither a STAC"),
        ("{", "neither a STAC"),
    ],
)
def test_lists_that_cannot_be_understood(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        read_scenes(text, tmp_path)


def test_unknown_fields_are_refused_naming_the_known(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(OptionsError) as refused:
        planned("a/s2.tif\n", tmp_path, weights, sar="{parent}/{orbit}.tif", output="{stem}.tif")
    for known in ("{orbit}", "{optical}", "{path}", "{name}", "{stem}", "{parent}", "{folder}"):
        assert known in str(refused.value)
    with pytest.raises(OptionsError, match="The scenes have no sar"):
        planned("a/s2.tif\n", tmp_path, weights, output="{stem}.tif")
    with pytest.raises(OptionsError, match=r"\{kind\}"):
        planned("a/s2.tif\n", tmp_path, weights, sar="b.tif", output="{stem}.tif", outputs=("preview={kind}.png",))


ITEMS = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature", "id": f"S2_{day}", "collection": "pairs",
            "properties": {"datetime": f"2020-07-0{day}T10:00:00Z"} if day < 3 else {
                "datetime": None, "start_datetime": "2020-07-03T09:00:00Z"},
            "assets": {
                "B02": {"href": f"./{day}/B02.tif"}, "B03": {"href": f"file:///data/{day}%20a/B03.tif"},
                "B04": {"href": f"/data/{day}/B04.tif"}, "vv": {"href": f"https://example.com/{day}.tif?key=1"},
            },
        }
        for day in (1, 2, 3)
    ],
}  # fmt: skip


@pytest.mark.parametrize("mark", ["", "\ufeff", "\n "])
def test_stac_items(mark: str, tmp_path: Path, weights: Path) -> None:
    text = mark + json.dumps(ITEMS)
    output = str(tmp_path / "{collection}/{id}_{date}.tif")
    found = planned(text, tmp_path, weights, optical="{B02},{B03},{B04}", sar="{vv}", output=output)
    assert [task.options.output for task in found] == [
        tmp_path / f"pairs/S2_{day}_2020-07-0{day}.tif" for day in (1, 2, 3)
    ]
    assert found[0].options.optical == (tmp_path / "1/B02.tif", Path("/data/1 a/B03.tif"), Path("/data/1/B04.tif"))
    (sar,) = found[0].options.sar
    assert isinstance(sar, Remote)
    assert sar.url == "https://example.com/1.tif?key=1"
    (one,) = read_scenes(json.dumps(ITEMS["features"][0]), tmp_path)
    assert one["id"] == "S2_1"


@pytest.mark.parametrize("how", few(["", "--workers 1"], ""))
def test_paths_of_find(tmp_path: Path, weights: Path, how: str) -> None:
    """Through a pipe, by lines or with zero bytes, with names that hold line breaks.

    Those that are no text, which rasterio cannot open, are told and do not stop the others.
    """
    folders = [tmp_path / "a b", tmp_path / "ä"]
    odd, no_text = tmp_path / "odd\n,", tmp_path / os.fsdecode(b"odd\xff")
    for number, folder in enumerate((*folders, odd)):
        make_scene(folder, 40, 50, number)
    shutil.copytree(odd, no_text)
    words = ["batch", "plan", "-", "--weights", weights, "--sar", "{parent}/s1.tif", "--map", "{parent}/lulc.tif"]

    def find(*more: str) -> bytes:
        return subprocess.run(["find", ".", "-name", "s2.tif", *more], cwd=tmp_path, capture_output=True).stdout

    lines = refnet(*words, cwd=tmp_path, stdin=find("-not", "-path", "./odd*"))
    zeros = refnet(*words, "-0", "-o", tmp_path / "tasks.jsonl", cwd=tmp_path, stdin=find("-print0"))
    assert (lines.code, zeros.code) == (0, 0), (lines.err, zeros.err)
    assert {Path(task["output"]) for task in lines.outcomes} == {folder / "lulc.tif" for folder in folders}
    tasks = read_tasks(tmp_path / "tasks.jsonl")
    assert {task.path for task in tasks} == {folder / "lulc.tif" for folder in (*folders, odd, no_text)}
    assert zeros.out == f"{tmp_path / 'tasks.jsonl'}\n"
    for status in ("done", "skipped"):
        ran = refnet("batch", "run", tmp_path / "tasks.jsonl", *how.split(), cwd=Path("/"))
        assert (ran.code, ran.statuses) == (1, {status: 3, "failed": 1}), ran.err
        (failed,) = (outcome for outcome in ran.outcomes if outcome["status"] == "failed")
        assert (failed["output"], failed["code"] in (65, 66)) == (str(no_text / "lulc.tif"), True), failed


def test_a_config_gives_options_and_the_command_line_wins(
    tmp_path: Path, weights: Path, scene: tuple[Path, Path], capfd: Any
) -> None:
    """Paths in it, that of a scheme too, are relative to it; what is each scene's own is refused."""
    table = write_table(tmp_path / "scenes.csv", [{"optical": scene[0], "sar": scene[1], "output": "m.tif"}])
    (tmp_path / "conf").mkdir()
    config = tmp_path / "conf" / "c.toml"
    shutil.copy(weights, config.parent / "own.onnx")
    options = 'weights = "own.onnx"\nscheme = "own.toml"\nsmooth = 2\nthreshold = 0.3\n'
    config.write_text(f'{options}outputs = ["areas", "report={{stem}}.html"]\n')

    def options_of(*more: object) -> PredictOptions:
        done = here(capfd, "batch", "plan", table, "--config", config, *more)
        assert done.code == 0, done.err
        return Task.from_line(done.out, tmp_path / "x").options

    made = options_of("--smooth", 1)
    assert made.weights == config.parent / "own.onnx"
    assert made.scheme == str(config.parent / "own.toml")
    assert (made.smooth, made.threshold) == (1, 0.3)
    assert made.outputs == ("areas", f"report={config.parent / 's2.html'}")
    assert options_of("--also", "preview").outputs == ("preview",)
    for own in ("optical", "sar", "output"):
        config.write_text(f'{own} = "x.tif"\n')
        refused = here(capfd, "batch", "plan", table, "--config", config)
        assert refused.code == 78
        assert own in refused.err


def test_a_relative_scheme_is_found_from_anywhere(
    tmp_path: Path, weights: Path, scene: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (task,) = plan_tasks(tmp_path / "t.jsonl", [scene], tmp_path, weights, scheme="mine.toml")
    assert task.options.scheme == str(tmp_path / "mine.toml")


@pytest.mark.parametrize("outputs", [("preview=all.png",), ("confidence=maps/{collection}.tif",)])
def test_scenes_that_share_a_further_output(outputs: tuple[str, ...], tmp_path: Path, weights: Path) -> None:
    text = TABLE.replace("\n", ",collection\n") + "a.tif,b.tif,1.tif,x\nc.tif,d.tif,2.tif,x\n"
    with pytest.raises(ConfigError, match="Two tasks write"):
        planned(text, tmp_path, weights, outputs=outputs)


@pytest.mark.parametrize(
    ("rows", "outputs", "said"),
    [
        ("a.tif,b.tif,m.tif\nm.tif,b.tif,n.tif\n", (), ", which a task reads"),
        ("a.tif,b.tif,x/../b.tif\n", (), ", which a task reads"),
        ("scene,b.tif,scene/m.tif\n", (), "which a task reads. The new file"),
        ("scene,b.tif,m.tif\n", ("preview={optical}/m.png",), "which a task reads. The new file"),
        ("a.tif,b.tif,m.tif\n", ("stac=m.tif.json",), "needs for the state of a map"),
        ("a.tif,m.tif.json,m.tif\n", (), ", which a task reads"),
    ],
)
def test_what_is_read_is_not_written(
    rows: str, outputs: tuple[str, ...], said: str, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        planned(TABLE + rows, tmp_path, weights, outputs=outputs)


def test_tasks_do_not_take_the_place_of_their_list(tmp_path: Path, weights: Path, capfd: Any) -> None:
    (tmp_path / "scenes.txt").write_text(TABLE + "a.tif,b.tif,m.tif\n")
    words = ["batch", "plan", tmp_path / "scenes.txt", "-o", tmp_path / "scenes.txt", "--weights", weights]
    refused = here(capfd, *words)
    assert refused.code == 64
    assert "is the same file as" in refused.err
    assert (tmp_path / "scenes.txt").read_text().startswith(TABLE)


def test_scenes_that_share_a_map(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(ConfigError, match=r"Two tasks write .*m\.tif"):
        planned(TABLE + "a.tif,b.tif,m.tif\nc.tif,d.tif,./x/../m.tif\n", tmp_path, weights)
    (task,) = planned(TABLE + "a.tif,b.tif,m.tif\n", tmp_path, weights)
    file = tmp_path / "t.jsonl"
    file.write_text(f"{task.to_line()}\n{task.to_line()}\n")
    with pytest.raises(ConfigError, match="Two tasks write"):
        read_tasks(file)


@pytest.mark.parametrize(
    "line",
    ["x", "[]", "{}", '{"optical": ["a"], "sar": ["b"]}', '{"optical": ["a"], "sar": ["b"], "output": "c", "more": 1}',
     '{"optical": ["a"], "sar": ["b"], "output": "c", "block": [1, 2]}',
     '{"optical": ["a"], "sar": ["b"], "output": "c", "block": "no"}',
     '{"optical": ["a"], "sar": ["b"], "output": "c", "options": {"size": 1}}',
     '{"optical": ["a"], "sar": ["b"], "output": "c", "options": {"smooth": 99}}',
     '{"optical": ["a"], "sar": ["b"], "output": "c", "options": {"smooth": "2"}}',
     '{"optical": ["a"], "sar": ["b"], "output": "c", "options": [1]}'],
)  # fmt: skip
def test_lines_that_are_no_tasks(line: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(line + "\n")
    with pytest.raises(RefnetError):
        read_tasks(tmp_path / "t.jsonl")


def test_lines_with_other_blocks_or_options(tmp_path: Path) -> None:
    line = {"optical": ["a"], "sar": ["b"], "output": "c"}
    for more in (
        {"block": [0, 0, 0, 0]}, {"block": [0.5, 0, 512, 512]}, {"block": [True, 0, 512, 512]}, {"block": "0055"},
        {"block": [-512, 0, 512, 512]}, {"options": {"output": "d"}},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="not a task"):
            Task.from_line(json.dumps(line | more), tmp_path / "t.jsonl")


def test_a_missing_list_and_missing_tasks(tmp_path: Path, capfd: Any) -> None:
    for words in (("plan",), ("run",), ("status",), ("merge",)):
        done = here(capfd, "batch", *words, tmp_path / "none")
        assert done.code == 66, done.err
        assert "none" in done.err


ABSOLUTE = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=12).map(
    lambda name: Path("/f") / f"x{name}"
)
MAP = ABSOLUTE.map(lambda path: Path(f"{path}.tif"))
NAMES = st.lists(st.text(max_size=6), min_size=1, max_size=4).map(tuple)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "weights": ABSOLUTE, "grid": ABSOLUTE, "optical_bands": NAMES, "sar_bands": NAMES,
    "optical_offset": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-2000, 2000).map(float),
    "sar_scale": st.sampled_from(["db", "db100", "power", "amplitude"]),
    "optical_scale": st.sampled_from(["dn", "reflectance"]), "strict": st.booleans(), "mask_clouds": st.booleans(),
    "allow_gcps": st.booleans(), "allow_vrt": st.booleans(), "allow_remote": st.booleans(),
    "bounds": st.just(("1", "2", "3", "4.5", "EPSG:4326")),
    "coreg": st.sampled_from(["off", "check", "auto", "require"]),
    "on_read_error": st.sampled_from(["fail", "mask"]), "missing": st.sampled_from(["nodata", "use-other"]),
    "scheme": st.text(max_size=9), "resume": st.booleans(), "overwrite": st.booleans(),
    "tta": st.booleans(), "smooth": st.integers(0, 16),
    "threshold": st.floats(0, 1, exclude_max=True), "checksum": st.booleans(), "max_memory": st.text(max_size=4),
    "overlap": st.integers(), "device": st.text(max_size=9), "batch": st.integers(1, 99), "scan": st.text(max_size=9),
    "precision": st.sampled_from(["fp32", "bf16", "fp16"]), "compile": st.booleans(), "deterministic": st.booleans(),
    "provider": st.text(max_size=9), "read_threads": st.integers(1, 256),
    "outputs": st.sampled_from([(), ("areas", "confidence=/f/sure, ä.tif"), ("quality",)]),
    "stac": st.dictionaries(st.text(max_size=9), st.text(max_size=9), min_size=1, max_size=2),
}  # fmt: skip
INPUTS = st.lists(ABSOLUTE | st.just(Remote(SECRET)), min_size=1, max_size=3).map(tuple)
BLOCKS = st.none() | st.builds(Window, *[st.integers(0, 10**6)] * 2, *[st.integers(1, 10**6)] * 2)


@given(
    optical=INPUTS, sar=INPUTS, output=MAP, block=BLOCKS, id=st.text(max_size=16),
    options=st.fixed_dictionaries({}, optional=VALUES),
)  # fmt: skip
def test_a_task_comes_back_from_its_line(
    optical: Any, sar: Any, output: Path, block: Window | None, id: str, options: dict[str, Any]
) -> None:
    """Whole, with what is secret in a URL, and as the same options; the line is one line of ASCII."""
    task = Task(PredictOptions(optical, sar, output, **options), block, id)
    line = task.to_line()
    assert line.isascii()
    assert line.splitlines() == [line]
    back = Task.from_line(line, Path("/elsewhere/tasks.jsonl"))
    assert (back, back.id, back.path) == (task, id, task.path)
    for before, after in zip((*optical, *sar), (*back.options.optical, *back.options.sar), strict=True):
        assert type(before) is type(after)
        assert getattr(before, "url", None) == getattr(after, "url", None)


def test_ids_leave_out_what_is_secret(weights: Path, tmp_path: Path) -> None:
    """A signed URL is signed again each day."""
    sar, map = (tmp_path / "b",), tmp_path / "c.tif"
    given = [
        Task(PredictOptions((Remote(f"https://a.org/x.tif?sig={key}"),), sar, map, weights)) for key in (1, 2)
    ]
    assert identify(given[0]) == identify(given[1])


def test_paths_in_a_line_are_relative_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"optical": ["a.tif"], "sar": ["/b.tif"], "output": "maps/c.tif"}\n\n')
    (task,) = read_tasks(tmp_path / "t.jsonl")
    assert places([task]) == [((tmp_path / "a.tif",), (Path("/b.tif"),), tmp_path / "maps/c.tif")]


CHANGES: dict[str, Callable[[Task], Task]] = {
    name: lambda task, name=name, value=value: replace(task, options=replace(task.options, **{name: value}))
    for name, value in {
        "smooth": 1, "threshold": 0.2, "scheme": "worldcover", "missing": "use-other", "overlap": 32, "tta": True,
        "coreg": "off", "optical_offset": 5.0, "precision": "bf16", "outputs": ("areas",), "extent": "intersection",
        "output": Path("/other.tif"), "optical_bands": ("1", "2", "3", "4"), "checksum": True,
        "stac": {"s2:processing_baseline": "05.10"},
    }.items()
} | {"block": lambda task: replace(task, block=Window(0, 0, 512, 512))}  # type: ignore[misc]  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_ids_change_with_options(what: str, scene: tuple[Path, Path], tmp_path: Path, weights: Path) -> None:
    (task,) = plan_tasks(tmp_path / "t.jsonl", [scene], tmp_path, weights)
    assert identify(task) == task.id != identify(CHANGES[what](task))


def test_ids_do_not_change_with_how_it_is_run(scene: tuple[Path, Path], tmp_path: Path, weights: Path) -> None:
    values = {
        "device": "cuda:1", "batch": 7, "scan": "torch", "provider": "cpu", "compile": True, "read_threads": 3,
        "resume": False, "max_memory": "1G", "overwrite": True,
    }  # fmt: skip
    assert values.keys() == names(PredictOptions, "run")
    (task,) = plan_tasks(tmp_path / "t.jsonl", [scene], tmp_path, weights)
    for name, value in values.items():
        assert identify(replace(task, options=replace(task.options, **{name: value}))) == task.id, name


def test_ids_change_with_files(scene: tuple[Path, Path], tmp_path: Path, weights: Path) -> None:
    """With size or time of change of inputs, what lies in folders, the content of weights; not with names of these."""
    grid, scheme, own = tmp_path / "grid.tif", tmp_path / "s.toml", tmp_path / "own.onnx"
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (grid, scheme, folder / "x"):
        path.write_text("1")
    shutil.copy(weights, own)
    options = {"grid": grid, "scheme": str(scheme), "sar": (folder,)}
    base = Task(replace(PredictOptions(*scene, tmp_path / "m.tif", own), **options))
    seen = [identify(base)]
    assert seen[0] == identify(base) == identify(replace(base, options=replace(base.options, weights=weights)))
    for file in (scene[0], grid, scheme, folder / "x"):
        state = file.stat()
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        seen.append(identify(base))
        file.write_bytes(file.read_bytes() + b" ")
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        seen.append(identify(base))
    (folder / "y").touch()
    seen.append(identify(base))
    write_model(own, card=replace(CARD, name="another", network=REFNetConfig(
        encoder="test_resnet", optical_bands=4, sar_bands=2, classes=10, width=32, msie=False)))  # fmt: skip
    seen.append(identify(base))
    scene[0].unlink()
    seen.append(identify(base))
    assert len(set(seen)) == len(seen)


def test_a_plan_is_the_same_twice(tmp_path: Path, weights: Path, scene: tuple[Path, Path], capfd: Any) -> None:
    table = write_table(tmp_path / "s.csv", [{"optical": scene[0], "sar": scene[1], "output": tmp_path / "m.tif"}])
    once, again = (here(capfd, "batch", "plan", table, "--weights", weights) for _ in range(2))
    assert once == again
    assert once.code == 0


def test_blocks_have_to_be_whole_tiles_of_the_map(
    tmp_path: Path, weights: Path, scene: tuple[Path, Path], capfd: Any
) -> None:
    table = write_table(tmp_path / "s.csv", [{"optical": scene[0], "sar": scene[1], "output": tmp_path / "m.tif"}])
    for side in (0, -512, 256, 500, 513):
        done = here(capfd, "batch", "plan", table, "--weights", weights, "--blocks", side)
        assert done.code == 64
        assert "multiple of 512" in done.err


def repeat_the_first_row(*images: NDArray[Any]) -> None:
    """So that they take less time to compress."""
    for image in images:
        image[:] = image[:, :1]


def test_blocks_cover_the_grid_once(tmp_path: Path, weights: Path) -> None:
    scene = make_scene(tmp_path / "a", 530, 1100, holes=repeat_the_first_row)
    tasks = plan_tasks(tmp_path / "t.jsonl", [scene], tmp_path, weights, block=512)
    assert [tuple(task.block or ()) for task in tasks] == [
        (0, 0, 512, 512), (0, 512, 512, 512), (0, 1024, 512, 76),
        (512, 0, 18, 512), (512, 512, 18, 512), (512, 1024, 18, 76),
    ]  # fmt: skip
    assert len({task.id for task in tasks}) == 6
    assert {task.options.output for task in tasks} == {tmp_path / "a.tif"}


def test_lists_of_0_1_with_its_codes_are_refused_with_the_command(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    line = {"id": "a", "optical": ["/a.tif"], "sar": ["/b.tif"], "output": "/c.tif", "options": {"scheme": "esri-io"}}
    tasks.write_text(json.dumps(line))
    with pytest.raises(ConfigError, match=rf"refnet batch plan SCENES -o {tasks}"):
        read_tasks(tasks)


@pytest.mark.parametrize("name", ["own.toml", "OWN.TOML"])
def test_a_scheme_of_ones_own_becomes_an_absolute_path(
    name: str, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scenes = read_scenes(TABLE + "a.tif,b.tif,m.tif\n", tmp_path)
    (task,) = plan(scenes, Templates(), {"weights": weights, "scheme": name}, tmp_path)
    assert task.options.scheme == str(tmp_path / name)


def test_files_that_are_not_there_are_named(
    tmp_path: Path, weights: Path, scene: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    optical, sar = scene
    table = f"optical,sar,output\n{optical},{sar},a.tif\n"
    planned(table, tmp_path, weights)
    assert "does not exist" not in caplog.text
    planned(f"{table}{optical},gone.tif,b.tif\n", tmp_path, weights)
    assert "1 scene of 2 without all files" in caplog.text
    assert "gone.tif does not exist" in caplog.text
