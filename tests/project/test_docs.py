"""README and the pages of docs/ are true: their commands and programs run, as they are written there."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.transform import array_bounds
from rasterio.warp import transform_bounds
from rasterio.windows import Window, from_bounds

from refnet_cli.cli.main import commands
from refnet_cli.outputs import OUTPUTS
from tests.helpers import programs
from tests.helpers.pages import blocks_of, commands_of, page, pages, section_of
from tests.helpers.programs import run_python, write_command
from tests.prediction.test_predict import shift_tiles

ROOT = Path(__file__).resolve().parents[2]


def read_commands() -> list[list[str]]:
    commands = commands_of(section_of("## Train on the sample scene"))
    return [shlex.split(command)[1:] for command in commands]


def refnet(folder: Path, *arguments: str) -> str:
    done = programs.refnet(*arguments, cwd=folder, seconds=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.long
def test_the_walk_through_begins(tmp_path: Path) -> None:
    for name in ("sample_data", "weights"):
        (tmp_path / name).symlink_to(ROOT / name)
    dry_run, evaluating, training, predicting = read_commands()
    assert "Crops" in refnet(tmp_path, *dry_run)
    assert [command[0] for command in (evaluating, training, predicting)] == ["evaluate", "train", "predict"]


@pytest.mark.long
def test_the_walk_through_improves_on_the_weights_that_come_along(tmp_path: Path) -> None:
    for name in ("sample_data", "weights"):
        (tmp_path / name).symlink_to(ROOT / name)
    _, evaluating, training, predicting = read_commands()
    before = json.loads(refnet(tmp_path, *evaluating, "--json"))
    card = json.loads(refnet(tmp_path, *training, "--json"))
    assert (tmp_path / "runs" / "sample" / "sample.safetensors").is_file()
    after = card["scores"]["validation"]
    assert after["pixels"] == before["pixels"]  # the same ground
    assert after["overall_accuracy"] > before["overall_accuracy"]
    assert after["mean_iou"] > before["mean_iou"]
    refnet(tmp_path, *predicting)
    found = json.loads(refnet(tmp_path, "evaluate", "runs/sample/lulc.tif", "sample_data/labels.tif", "--json"))
    assert found["overall_accuracy"] >= 0.90
    changed, valid, _ = shift_tiles(tmp_path / "runs" / "sample" / "sample.safetensors")
    assert changed[valid].mean() < 0.02


def cut_holes(folder: Path, height: int = 300, width: int = 420) -> None:
    """Write a part of the sample scene that tiles do not divide, with holes in each sensor and in one band."""
    with rasterio.open(ROOT / "sample_data" / "s2.tif") as file:
        part = Window(301, 77, width, height)
        optical = file.read(window=part)
        optical[:, 100:130, 60:110] = optical[2, 10:30, 20:30] = 0
        place = file.transform @ Affine.translation(301, 77)
        profile = file.profile | {"height": height, "width": width, "transform": place}
    write_bands(folder / "s2.tif", optical, ("B02", "B03", "B04", "B08"), profile)
    with rasterio.open(ROOT / "sample_data" / "s1.tif") as file:
        around = transform_bounds(profile["crs"], file.crs, *array_bounds(height, width, place))
        part = from_bounds(*around, transform=file.transform).round_offsets().round_lengths(op="ceil")
        sar = file.read(window=part)
        place = file.transform @ Affine.translation(part.col_off, part.row_off)
        profile = file.profile | {"height": part.height, "width": part.width, "transform": place}
    sar[:, 60:80, 30:60] = np.nan
    write_bands(folder / "s1.tif", sar, ("VV", "VH"), profile)


def write_bands(path: Path, values: NDArray[Any], names: tuple[str, ...], profile: dict[str, Any]) -> None:
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)
        file.descriptions = names


@pytest.mark.long
@pytest.mark.parametrize("scene", ["part", pytest.param("whole", marks=pytest.mark.long)])
def test_the_program_without_refnet_gives_the_same_classes(tmp_path: Path, scene: str) -> None:
    (program,) = blocks_of(section_of("## A program without refnet"), "python")
    assert len([line for line in program.splitlines() if line.strip()]) <= 30
    (tmp_path / "model.onnx").symlink_to(ROOT / "weights" / "refnet-base.onnx")
    if scene == "part":
        cut_holes(tmp_path)
    else:
        for name in ("s1.tif", "s2.tif"):
            (tmp_path / name).symlink_to(ROOT / "sample_data" / name)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    command = "predict --optical s2.tif --sar s1.tif --weights model.onnx --overlap 0 -o own.tif -q"
    refnet(tmp_path, *command.split())
    with rasterio.open(tmp_path / "lulc.tif") as theirs, rasterio.open(tmp_path / "own.tif") as ours:
        assert theirs.transform == ours.transform
        classes = ours.read(1)
        assert 0.5 < (classes > 0).mean() < 1
        assert np.array_equal(theirs.read(1), classes)


def python_blocks() -> list[str]:
    return [block for text in pages().values() for block in blocks_of(text, "python")]


RAY = '''
"""Ray, as far as the program in docs/how-to/batches.md uses it: functions run in this process."""


def remote(**options):
    assert options == {"num_gpus": 1, "max_retries": 2, "retry_exceptions": True}

    def make(function):
        class Remote:
            remote = staticmethod(function)

        return Remote

    return make


def get(values):
    return values
'''


def run_block(program: str, folder: Path, begin: str = "") -> str:
    """Run a program in a process of its own, as somebody who copies it out of the page."""
    begin = f"import sys, warnings; warnings.simplefilter('error'); {begin}"
    done = run_python("-c", f"{begin}\n{program}", cwd=folder, seconds=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_python_block_is_run_here() -> None:
    """By the test of the program without refnet, and by those below.

    The programs of how-to/arrays and how-to/compare are run by the tests of what they use.
    """
    begins = [block.splitlines()[0] for block in python_blocks()]
    first = "from refnet_cli import PredictOptions, predict"
    elsewhere = ["import refnet_cli", "import odc.stac"], ["from pathlib import Path"]
    assert begins == [
        *elsewhere[0], "import ray", *elsewhere[1], "import json", first, "import logging", "from pathlib import Path",
    ]  # fmt: skip


def test_the_program_that_predicts(tmp_path: Path) -> None:
    (tmp_path / "sample_data").mkdir()
    cut_holes(tmp_path / "sample_data", 140, 150)
    program, *_ = blocks_of(page("tutorials/python"), "python")
    printed = ast.literal_eval(run_block(program, tmp_path))
    with rasterio.open(tmp_path / "lulc.tif") as file:
        codes, areas = file.read(1), abs(file.transform.determinant) / 10_000
        for code in set(codes[codes > 0].tolist()):
            share = (codes == code).sum() * areas
            assert printed[file.tags(1)[f"CLASS_{code}"]] == pytest.approx(share, rel=5e-3)


@pytest.mark.long
def test_the_program_for_notebooks(tmp_path: Path) -> None:
    (tmp_path / "sample_data").mkdir()
    cut_holes(tmp_path / "sample_data")
    _, logging, notebook = blocks_of(page("tutorials/python"), "python")
    run_block(f"{logging}\n{notebook}\nassert picture[1:4] == b'PNG'", tmp_path)


@pytest.mark.long
def test_the_program_for_ray(scenes: Path) -> None:
    (scenes / "libraries").mkdir()
    (scenes / "libraries" / "ray.py").write_text(RAY)
    shell(scenes, "refnet batch plan scenes.csv -o tasks.jsonl")
    (program,) = (block for block in python_blocks() if "import ray" in block)
    outcomes = ast.literal_eval(run_block(program, scenes, "sys.path.append('libraries')"))
    assert [outcome["status"] for outcome in outcomes] == ["done", "done"]
    assert (scenes / "north.tif").exists()


def shell(folder: Path, command: str, **environment: str) -> str:
    """Run a line of a page as a shell would, with refnet on its path."""
    place = folder / ".bin"
    place.mkdir(exist_ok=True)
    write_command(place / "refnet")
    path = {"PATH": f"{place}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=folder, capture_output=True, text=True, timeout=600,
        env=programs.environment(**path, **environment),
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_every_command_exists_with_its_options() -> None:
    """Those of all pages, which are parsed as refnet does, files aside."""
    count = 0
    for name, text in pages().items():
        for line in [*commands_of(text), *blocks_of(text, "bash")]:
            for words in refnet_commands(line):
                command: click.Command = commands
                context = click.Context(commands)
                while isinstance(command, click.Group):
                    found = command.get_command(context, words[0])
                    assert found, f"{name}: refnet has no command {words[0]}"
                    command, context = found, click.Context(found, parent=context)
                    words = words[1:]
                try:
                    command.make_parser(context).parse_args(words)
                except click.UsageError as error:
                    pytest.fail(f"{name}: {line}\n{error.format_message()}")
                count += 1
    assert count > 50


def refnet_commands(line: str) -> list[list[str]]:
    """Words of each refnet command of a line, without ``refnet``."""
    parts = re.split(r"[|;&\n]+ ?", re.sub(r"'[^']*'", lambda quoted: quoted[0].replace("|", "/"), line))
    found = [re.search(r"(?:^|-I\{\} |-j 2 )refnet (.+)$", part.split(" > ")[0].split(" ::: ")[0]) for part in parts]
    return [shlex.split(command[1], comments=True) for command in found if command]


def test_links_between_pages_lead_somewhere() -> None:
    for name, text in pages().items():
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)):
            if "://" in target or name == "docs/options.md":
                continue
            path, _, anchor = target.partition("#")
            file = (ROOT / name).parent / path if path else ROOT / name
            assert file.exists(), f"{name}: {target}"
            if anchor:
                titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
                assert anchor in anchors, f"{name}: {target}"


README = "README.md"
NOWHERE = "--source", "https://127.0.0.1:9/stac"


def test_the_readme_is_short() -> None:
    assert len(pages()[README].splitlines()) <= 150


def test_every_command_of_the_readme_is_run_here(tmp_path: Path) -> None:
    """Training runs in the walk-through, and pip where the package is built."""
    (tmp_path / "sample_data").mkdir()
    cut_holes(tmp_path / "sample_data", 140, 150)
    installing, predicting, fetching, training = commands_of(pages()[README])
    assert installing.endswith("&& pip install '.[torch,fetch]'")
    assert set(shell(tmp_path, predicting).split()) == {"lulc.tif", "lulc_preview.png"}
    assert training in commands_of(section_of("## Train on the sample scene"))
    assert fetching in commands_of(page("tutorials/your-region"))
    done = programs.refnet(*shlex.split(fetching)[1:], *NOWHERE, cwd=tmp_path)
    assert "searching 127.0.0.1:9" in done.stderr  # place and dates are good; no catalogue is there
    assert done.returncode == 65


def test_several_scenes_are_mapped_as_the_first_tutorial_says(tmp_path: Path) -> None:
    (tmp_path / "sample_data").mkdir()
    cut_holes(tmp_path / "sample_data", 140, 150)
    for command in commands_of(section_of("## Map several scenes")):
        shell(tmp_path, command)
    assert {path.name for path in (tmp_path / "maps").glob("*.tif")} == {"both.tif", "optical.tif"}


def test_the_scores_of_the_readme_are_those_of_the_weights() -> None:
    scores = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    for text in (section_of("## What accuracy to expect"), page("explanation/weights")):
        rows = re.findall(r"^\| ([\w ,-]+) \| (0\.\d+) \| (0\.\d+) \|$", text, re.MULTILINE)
        assert len(rows) == 4
        for name, overall, balanced in rows:
            assert f"| {name.removeprefix('random ')} | {overall} | {balanced} |" in scores
        for number in set(re.findall(r"0\.\d{3}", text)):
            assert number in scores, number


def test_the_outputs_that_are_told_of_are_made(tmp_path: Path) -> None:
    (tmp_path / "sample_data").mkdir()
    cut_holes(tmp_path / "sample_data", 140, 150)
    section = page("reference/outputs")
    (command,) = commands_of(section)
    printed = shell(tmp_path, command).split()
    told = set(re.findall(r"`(lulc[\w.]*)`", section)) | {"lulc.sld", "lulc_areas.json"}
    assert set(printed) == {path.name for path in tmp_path.glob("lulc*")}
    assert set(printed) <= told
    kinds = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert ["classes", *kinds] == list(OUTPUTS)
    assert {f"lulc{OUTPUTS[kind].ending}" for kind in kinds} <= told


MANY_SCENES = page("tutorials/cluster") + page("how-to/batches").split("\n## Batches of refnet 0.1")[0]


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Two parts of the sample scene, as the table of the tutorial has them, and a season."""
    for name, row in (("north", 0), ("south", 400)):
        (tmp_path / name).mkdir()
        with rasterio.open(ROOT / "sample_data" / "s2.tif") as file:
            window = Window(0, row, 200, 200)
            place = file.transform @ Affine.translation(0, row)
            profile = file.profile | {"height": 200, "width": 200, "transform": place}
            with rasterio.open(tmp_path / name / "s2.tif", "w", **profile) as part:
                part.write(file.read(window=window))
                part.descriptions = file.descriptions
        (tmp_path / name / "s1.tif").symlink_to(ROOT / "sample_data" / "s1.tif")
    (tmp_path / "places" / "berlin").mkdir(parents=True)
    for name in ("s2", "s1"):
        (tmp_path / "places" / "berlin" / f"{name}_2021-05-11.tif").symlink_to(ROOT / "sample_data" / f"{name}.tif")
    (table,) = blocks_of(page("tutorials/cluster"), "csv")
    (tmp_path / "scenes.csv").write_text(table)
    return tmp_path


def test_many_scenes_are_planned_as_it_says(scenes: Path) -> None:
    """What it says of running them is for the long test below."""
    for command in commands_of(MANY_SCENES):
        if "batch plan" in command and "items.json" not in command:
            shell(scenes, command)
    assert len((scenes / "tasks.jsonl").read_text().splitlines()) == 2
    assert len((scenes / "blocks.jsonl").read_text().splitlines()) == 2
    assert "places/berlin" in json.loads((scenes / "seasons.jsonl").read_text())["season"]
    shell(scenes, "refnet batch status tasks.jsonl || [ $? = 1 ]")


@pytest.mark.long
def test_many_scenes_are_mapped_as_it_says(scenes: Path) -> None:
    assets = {name: {"href": f"https://example.com/{name}.tif"} for name in ["B02", "B03", "B04", "B08", "vv", "vh"]}
    item = {"type": "Feature", "id": "a", "properties": {"datetime": "2020-07-01T10:10:31Z"}, "assets": assets}
    ran = []
    for command in commands_of(MANY_SCENES):
        program = command.split(" -")[0]
        if "items.json" in command:
            (scenes / "stac").mkdir()
            (scenes / "stac" / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
            shell(scenes / "stac", command)
            (task,) = (scenes / "stac" / "tasks.jsonl").read_text().splitlines()
            assert json.loads(task)["optical"][3] == "https://example.com/B08.tif"
        elif "--dask" not in command and (shutil.which(command.split()[0]) or command.startswith("refnet")):
            if "| jq" in command and not shutil.which("jq"):
                continue
            shell(scenes, command)
        ran.append(program)
        if "--workers 2" in command:
            made = {name: (scenes / name).read_bytes() for name in ("north.tif", "south.tif")}
    assert len(ran) == 13
    assert {name: (scenes / name).read_bytes() for name in made} == made
    assert len(list((scenes / "north.tif.blocks").glob("*.shard"))) == 1
    for name in made:
        (scenes / name).unlink()
    (script,) = blocks_of(MANY_SCENES, "bash")
    (scenes / "refnet.slurm").write_text(script)
    for index in ("0", "1"):
        shell(
            scenes, "bash refnet.slurm tasks.jsonl", SLURM_ARRAY_TASK_ID=index, SLURM_ARRAY_TASK_COUNT="2"
        )  # fmt: skip
    assert {name: (scenes / name).read_bytes() for name in made} == made
