"""Blocks of a map put together: the bytes of a single run, and what is said where they do not fit."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from refnet_cli.batch import run as batch
from refnet_cli.batch.finished import missing
from refnet_cli.batch.mosaic import _cover, _in_step, merge, merge_maps
from refnet_cli.batch.run import run_here
from refnet_cli.batch.task import Task
from refnet_cli.batch.task_list import read_tasks
from refnet_cli.outputs.journal import FinishedRows
from refnet_cli.tiles.window import Window
from tests.helpers.batches import (
    KINDS,
    ROOT,
    FreeEngine,
    digests,
    environment,
    here,
    make_scene,
    plan_tasks,
    punch,
    refnet,
    write_table,
)
from tests.helpers.quick import few
from tests.helpers.scenes import CARD
from tests.helpers.small_models import write_model

Pair = tuple[Path, Path]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("weights") / "w.onnx", card=replace(CARD, tile=128))


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "load", lambda options, weights: FreeEngine())


def run_all(tasks: list[Task]) -> None:
    outcomes = list(run_here(tasks, {}, pause=0))
    assert [outcome.message for outcome in outcomes if outcome.failed] == []


def merged(tasks: list[Task]) -> str:
    """Merge blocks of one map; what was said if it failed, else its status."""
    steps: list[tuple[int, int]] = []
    (outcome,) = merge_maps(tasks, progress=lambda done, total: steps.append((done, total)))
    assert steps == sorted(steps)
    assert steps[-1] == (len(tasks), len(tasks))
    assert outcome.output == str(tasks[0].options.output)
    return outcome.message if outcome.failed else outcome.status


def single(folder: Path, scene: Pair, weights: Path, **how: Any) -> dict[str, str]:
    """What a single run makes."""
    run_all(plan_tasks(folder / "single.jsonl", [scene], folder / "single", weights, **how))
    return digests(folder / "single")


def in_blocks(folder: Path, scene: Pair, weights: Path, block: int = 512, **how: Any) -> list[Task]:
    return plan_tasks(folder / "blocks.jsonl", [scene], folder / "blocks", weights, block, **how)


ALL: dict[str, Any] = {"outputs": KINDS, "smooth": 2, "threshold": 0.27, "missing": "use-other", "coreg": "off"}
CORNER: dict[str, Any] = ALL | {"outputs": ("probabilities", "quality")}
LESS: dict[str, Any] = {"outputs": ("confidence", "report"), "coreg": "off"}
CASES = {
    "everything": (530, 60, 512, ALL),
    "a corner": (530, 530, 512, CORNER),
    "everything of nine": (1100, 1300, 512, ALL),
    "plain": (600, 1100, 512, {"coreg": "off"}),
    "smooth": (530, 1100, 512, LESS | {"smooth": 2}),
    "threshold": (530, 60, 512, LESS | {"threshold": 0.3, "checksum": True}),
    "another scheme": (530, 600, 512, LESS | {"scheme": "worldcover"}),
    "symmetries": (513, 520, 512, {"tta": True, "outputs": ("probabilities",)}),
    "one block": (60, 512, 512, LESS),
    "a column": (513, 5, 512, {}),
    "a row": (5, 1025, 512, {"smooth": 1}),
    "larger blocks": (1100, 1300, 1024, LESS | {"missing": "use-other"}),
}


@pytest.mark.parametrize("case", few(CASES, "everything", "a corner", "one block", "a column", "a row"))
def test_blocks_are_the_single_run_byte_for_byte(case: str, tmp_path: Path, weights: Path, free: None) -> None:
    """In any order they were run; and merging has done all that the single run had to do."""
    height, width, block, how = CASES[case]
    scene = make_scene(tmp_path / "scene", height, width, 1, punch if height > 20 and width > 20 else None)
    tasks = in_blocks(tmp_path, scene, weights, block, **how)
    assert len(tasks) == -(-height // block) * -(-width // block)
    run_all(tasks[::-1])
    assert merged(tasks) == "done"
    assert digests(tmp_path / "blocks") == single(tmp_path, scene, weights, **how)
    whole = plan_tasks(tmp_path / "whole.jsonl", [scene], tmp_path / "blocks", weights, **how)
    assert [outcome.status for outcome in run_here(whole, {})] == ["skipped"]


@pytest.fixture(scope="module")
def of_four(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> tuple[list[Task], Path]:
    """Four blocks of a map, and a copy of the folder in which they were run."""
    folder = tmp_path_factory.mktemp("blocks") / "here"
    scene = make_scene(folder / "scene", 1540, 24, 1, punch)
    tasks = in_blocks(folder, scene, weights, outputs=("report",), coreg="off")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "load", lambda options, weights: FreeEngine())
        run_all(tasks)
    return tasks, shutil.copytree(folder, folder.with_name("copy"))


@pytest.fixture
def blocks(of_four: tuple[list[Task], Path], free: None) -> list[Task]:
    """Of a map of four, as they were run."""
    tasks, copy = of_four
    shutil.rmtree(copy.with_name("here"))
    shutil.copytree(copy, copy.with_name("here"))
    return tasks


@pytest.mark.long
def test_merging_twice(blocks: list[Task]) -> None:
    """Is passed over, and makes the same bytes where it is not."""
    assert merged(blocks) == "done"
    first = digests(blocks[0].options.output.parent)
    assert merged(blocks) == "skipped"
    whole = replace(blocks[0], block=None)
    whole.sidecar.unlink()
    assert merged(blocks[::-1]) == "done"
    whole.path.unlink()
    assert merged(blocks) == "done"
    assert digests(whole.path.parent) == first
    shutil.rmtree(blocks[0].path.parent)
    assert merged(blocks) == "skipped"


def test_blocks_may_go_when_the_map_is_there(blocks: list[Task]) -> None:
    assert merged(blocks) == "done"
    shutil.rmtree(blocks[0].path.parent)
    assert missing(blocks) == []
    assert {outcome.status for outcome in run_here(blocks, {})} == {"skipped"}
    assert not blocks[0].path.exists()
    blocks[0].options.output.unlink()
    assert missing(blocks) == blocks


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 4
    path.write_bytes(bytes(data))


def quicklook_path(task: Task) -> Path:
    return task.path.with_name(f"{task.path.name}.npz")


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


SPOILT: dict[str, tuple[Callable[[list[Task]], object], str]] = {
    "no sidecar": (lambda tasks: tasks[2].sidecar.unlink(), "is missing. Run the batch first"),
    "no shard": (lambda tasks: tasks[2].path.unlink(), "Run the batch again"),
    "no quicklook": (lambda tasks: quicklook_path(tasks[2]).unlink(), "Run the batch again"),
    "head of a shard": (lambda tasks: flip(tasks[2].path, 0), "damaged"),
    "middle of a shard": (lambda tasks: flip(tasks[2].path, 0.5), "damaged"),
    "end of a shard": (lambda tasks: flip(tasks[2].path, 1), "damaged"),
    "short shard": (lambda tasks: os.truncate(tasks[2].path, tasks[2].path.stat().st_size // 2), "damaged"),
    "empty shard": (lambda tasks: os.truncate(tasks[2].path, 0), "damaged"),
    "longer shard": (lambda tasks: tasks[2].path.write_bytes(tasks[2].path.read_bytes() + b"x"), "damaged"),
    "quicklook": (lambda tasks: flip(quicklook_path(tasks[2]), 0.5), "damaged"),
    "swapped shards": (lambda tasks: swap(tasks[0].path, tasks[1].path), "damaged"),
}


SIDECARS: dict[str, Callable[[dict[str, Any]], object]] = {
    "newer": lambda sidecar: sidecar["report"].update(news=1),
    "no report": lambda sidecar: sidecar.update(report=3),
    "no grid": lambda sidecar: sidecar["report"].update(grid=None),
    "no options": lambda sidecar: sidecar["report"].update(options={}),
    "no files": lambda sidecar: sidecar.update(files=[]),
    "other files": lambda sidecar: sidecar.update(files={"a": 1}),
    "nothing of files": lambda sidecar: sidecar.pop("files"),
}


@pytest.mark.parametrize("what", few(SIDECARS, "newer", "other files"))
def test_sidecars_that_say_something_else(what: str, blocks: list[Task]) -> None:
    """Are told by name; what merging asks for repairs it."""
    sidecar = json.loads(blocks[1].sidecar.read_text())
    SIDECARS[what](sidecar)
    blocks[1].sidecar.write_text(json.dumps(sidecar))
    message = merged(blocks)
    assert f"{blocks[1].sidecar} is damaged" in message
    assert "Remove it and run the batch again" in message
    assert ("files" in what) == bool(missing(blocks))
    blocks[1].sidecar.unlink()
    run_all(blocks)
    assert merged(blocks) == "done"


@pytest.mark.parametrize("what", few(SPOILT, "no shard", "middle of a shard", "quicklook", "swapped shards"))
def test_blocks_that_are_missing_or_damaged(what: str, blocks: list[Task]) -> None:
    """Are told by name, and no map is made; what merging asks for repairs it."""
    SPOILT[what][0](blocks)
    message = merged(blocks)
    assert SPOILT[what][1] in message
    assert any(str(task.path) in message for task in blocks)
    output = blocks[0].options.output
    assert {path.name for path in output.parent.iterdir()} == {f"{output.name}.blocks", f"{output.name}.failed.json"}
    if "Remove it" in message:
        for task in blocks[:2] if "swapped" in what else blocks[2:3]:
            task.path.unlink()
    run_all(blocks)
    assert merged(blocks) == "done"


def test_a_block_that_is_not_planned(blocks: list[Task]) -> None:
    assert "do not cover" in merged(blocks[:3])
    assert "do not cover" in merged([*blocks[:2], blocks[3], blocks[3]])


@pytest.mark.parametrize(
    ("blocks", "whole"),
    [
        ([(0, 0, 5, 6), (0, 6, 5, 7), (5, 0, 2, 13)], True),
        ([(0, 0, 7, 6), (0, 5, 7, 7)], False),  # as many pixels, one column twice and one not at all
        ([(0, 0, 4, 13), (3, 0, 3, 13)], False),
        ([(0, 0, 5, 6), (0, 6, 7, 7), (5, 0, 2, 6)], False),
        ([(0, 0, 7, 12)], False),
        ([(1, 0, 6, 13)], False),
        ([], False),
    ],
)
def test_blocks_have_to_leave_out_and_share_nothing(blocks: list[tuple[int, int, int, int]], whole: bool) -> None:
    assert _cover([Window(*block) for block in blocks], 7, 13) is whole


@pytest.mark.parametrize(
    "block",
    [
        (2048, 0, 512, 24),
        pytest.param((0, 512, 512, 24), marks=pytest.mark.long),
        pytest.param((1536, 0, 512, 24), marks=pytest.mark.long),
        (0, 0, 512, 30),
    ],
)
def test_a_block_beyond_the_map(block: tuple[int, int, int, int], tmp_path: Path, weights: Path, free: None) -> None:
    scene = make_scene(tmp_path / "scene", 1540, 24)
    blocks = in_blocks(tmp_path, scene, weights, outputs=("report",), coreg="off")
    (outcome,) = run_here([replace(blocks[0], block=Window(*block))], {})
    assert (outcome.status, outcome.code) == ("failed", 65)
    assert "batch plan again" in outcome.message


@pytest.mark.long
def test_shards_of_other_inputs_are_refused(blocks: list[Task], tmp_path: Path, weights: Path) -> None:
    """Also where all are of the same ones: an input that changed since makes a map of its own, once they are run."""
    assert merged(blocks) == "done"
    old = digests(blocks[0].options.output.parent)
    scene = make_scene(blocks[0].options.output.parents[1] / "scene", 1540, 24, 5, punch)
    assert "from other inputs" in merged(blocks)
    run_all(blocks[:2])
    assert "from other inputs" in merged(blocks)
    assert digests(blocks[0].options.output.parent) == old
    run_all(blocks)
    assert merged(blocks) == "done"
    new = digests(blocks[0].options.output.parent)
    assert new == single(tmp_path, scene, weights, outputs=("report",), coreg="off") != old


def test_shards_of_other_options_or_another_scene_are_refused(
    blocks: list[Task], tmp_path: Path, weights: Path
) -> None:
    others = [replace(task, options=replace(task.options, smooth=1)) for task in blocks]
    run_all(others[1:2])
    assert "from other inputs, weights or options" in merged(blocks)
    run_all(blocks)
    neighbour = make_scene(tmp_path / "neighbour", 1540, 24, 6, punch)
    theirs = plan_tasks(tmp_path / "n.jsonl", [neighbour], tmp_path / "n", weights, 512, outputs=("report",),
                        coreg="off")  # fmt: skip
    run_all(theirs)
    for own, foreign in ((blocks[1].path, theirs[1].path), (blocks[1].sidecar, theirs[1].sidecar)):
        shutil.copy(foreign, own)
    assert "from other inputs" in merged(blocks)


def test_another_size_of_blocks_makes_them_anew(tmp_path: Path, weights: Path, free: None) -> None:
    scene = make_scene(tmp_path / "scene", 20, 1040)
    small = in_blocks(tmp_path, scene, weights, 512, coreg="off")
    run_all(small)
    large = in_blocks(tmp_path, scene, weights, 1024, coreg="off")
    assert [outcome.status for outcome in run_here(large, {})] == ["done", "skipped"]  # the last is as it was
    assert merged(large) == "done"
    assert digests(tmp_path / "blocks") == single(tmp_path, scene, weights, coreg="off")


class Interrupted(FreeEngine):
    """Ends the run in its n-th call."""

    left = 0

    def predict(self, optical: Any, sar: Any) -> Any:
        type(self).left -= 1
        if type(self).left < 0:
            raise KeyboardInterrupt
        return super().predict(optical, sar)


@pytest.mark.long
def test_blocks_that_are_interrupted_again_and_again(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Go on after their finished rows."""
    how = {"outputs": ("probabilities", "report"), "smooth": 2, "coreg": "off"}
    scene = make_scene(tmp_path / "scene", 520, 140, 2, punch)
    monkeypatch.setattr(batch, "load", lambda options, weights: Interrupted())
    tasks, runs = in_blocks(tmp_path, scene, weights, **how), 0
    while missing(tasks):
        Interrupted.left, runs = 2, runs + 1
        assert runs < 40
        with suppress(KeyboardInterrupt):
            run_all(tasks)
    assert runs > 2
    assert merged(tasks) == "done"
    Interrupted.left = 1000
    assert digests(tmp_path / "blocks") == single(tmp_path, scene, weights, **how)


def test_a_map_that_shows_nothing_is_refused_by_merging(tmp_path: Path, weights: Path, free: None) -> None:
    """A block alone may show nothing; and a map of no pixel fails as in a single run."""

    def west_only(optical: np.ndarray, sar: np.ndarray) -> None:
        optical[:, :, 500:] = 0
        sar[:, :, :510] = np.nan

    scene = make_scene(tmp_path / "scene", 60, 600, holes=west_only)
    tasks = in_blocks(tmp_path, scene, weights, coreg="off")
    run_all(tasks)
    assert "nothing to map" in merged(tasks)
    (alone,) = run_here(plan_tasks(tmp_path / "s.jsonl", [scene], tmp_path / "s", weights, coreg="off"), {})
    assert alone.message == merged(tasks)


def test_merged_blocks_count_pixels_below_the_threshold_as_no_data(tmp_path: Path, weights: Path, free: None) -> None:
    scene = make_scene(tmp_path / "scene", 60, 600)
    how = {"coreg": "off", "threshold": 0.57}
    tasks = in_blocks(tmp_path, scene, weights, **how)
    run_all(tasks)
    report = merge(tasks)
    with rasterio.open(tasks[0].options.output) as file:
        share = (file.read(1) > 0).mean()
    assert 0.1 < share < 0.9
    assert report.valid_share == pytest.approx(share)


@pytest.mark.long
def test_warnings_of_the_runs_that_made_blocks_are_not_the_maps(
    tmp_path: Path, weights: Path, free: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map that is merged where files can be locked has the bytes of any other, wherever its blocks were made."""
    scene = make_scene(tmp_path / "scene", 60, 600)
    wanted = single(tmp_path, scene, weights, outputs=("report",), coreg="off")

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as without:
        without.setattr(fcntl, "flock", flock)
        tasks = in_blocks(tmp_path, scene, weights, outputs=("report",), coreg="off")
        outcomes = list(run_here(tasks, {}, pause=0))
        assert all(any("no file locks" in warning for warning in outcome.warnings) for outcome in outcomes)
    assert merge(tasks).warnings_of_run == []
    assert digests(tmp_path / "blocks") == wanted


@pytest.mark.long
def test_by_the_command_line(tmp_path: Path, weights: Path, capfd: Any) -> None:
    """Two mosaics, and a scene without blocks among them: the bytes of ``refnet predict``."""
    rows = []
    for name, shape in (("a", (530, 530)), ("b", (40, 520))):
        optical, sar = make_scene(tmp_path / name, *shape, len(rows), punch if name == "a" else None)
        rows.append({"optical": optical, "sar": sar, "output": tmp_path / "out" / f"{name}.tif"})
    table, tasks = write_table(tmp_path / "s.csv", rows), tmp_path / "t.jsonl"
    how = ["--weights", weights, "--smooth", 1, "--coreg", "off"]
    planned = here(capfd, "batch", "plan", table, "-o", tasks, "--blocks", 512, "--also", "areas", *how)
    assert (planned.code, planned.err) == (0, "6 tasks\n")
    with tasks.open("a") as file:
        write_table(table, [{"optical": rows[1]["optical"], "sar": rows[1]["sar"], "output": tmp_path / "out/c.tif"}])
        file.write(here(capfd, "batch", "plan", table, *how).out)
    early = here(capfd, "batch", "merge", tasks)
    assert (early.code, early.statuses) == (1, {"failed": 2})
    assert "is missing. Run the batch first" in early.err
    ran = refnet("batch", "run", tasks, "--workers", 2)
    assert (ran.code, ran.statuses) == (0, {"done": 7}), ran.err
    done = here(capfd, "batch", "merge", tasks)
    assert (done.code, done.statuses) == (0, {"done": 2}), done.err
    lines = [re.sub(r"[\d.:]+ (s|min)\b", "0 s", line) for line in done.err.splitlines()]
    assert lines == ["[1/2] a.tif done 0 s", "[2/2] b.tif done 0 s", "2 done, in 0 s."]
    again = here(capfd, "batch", "merge", tasks)
    assert (again.code, again.statuses) == (0, {"skipped": 2})
    assert here(capfd, "batch", "status", tasks).code == 0
    for name, row in zip("ab", rows, strict=True):
        words = ["--optical", row["optical"], "--sar", row["sar"], "-o", tmp_path / "single" / f"{name}.tif"]
        (tmp_path / "single").mkdir(exist_ok=True)
        assert here(capfd, "predict", *words, *how, "--output", "areas", "-q").code == 0
    found = digests(tmp_path / "out")
    found.pop("c.tif")
    assert found == digests(tmp_path / "single")


CUTS = st.sets(st.integers(1, 11), max_size=11).map(lambda cuts: [0, *sorted(cuts), 12])


@given(cuts=st.lists(CUTS, min_size=1, max_size=4))
def test_shards_that_are_cut_otherwise_come_in_step(cuts: list[list[int]]) -> None:
    """As those of blocks may be that were run with other batches, or went on after an interruption."""
    whole = np.arange(2 * 12 * 3, dtype=np.uint8).reshape(2, 12, 3)

    def shard(number: int) -> Iterator[FinishedRows]:
        for top, bottom in pairwise(cuts[number]):
            layers = {"codes": whole[0, top:bottom] + number, "both": whole[:, top:bottom] + number}
            yield FinishedRows(top, layers)

    found = list(_in_step([shard(number) for number in range(len(cuts))]))
    for parts in found:
        assert len({(part.row, part.rows) for part in parts}) == 1
    for number, column in enumerate(zip(*found, strict=True)):
        assert np.array_equal(np.concatenate([part.layers["codes"] for part in column]), whole[0] + number)
        assert np.array_equal(np.concatenate([part.layers["both"] for part in column], 1), whole + number)
        assert [part.row for part in column] == np.cumsum([0, *(part.rows for part in column)])[:-1].tolist()


# Large ones


def repeat(source: Path, path: Path, height: int, width: int) -> Path:
    """Write a mosaic of a file, shifted from piece to piece so that none is like its neighbours."""
    with rasterio.open(source) as file:
        piece, profile, names = file.read(), file.profile, file.descriptions
    side = piece.shape[1]
    profile.update(height=height, width=width, blockxsize=512, blockysize=512, compress="zstd", zstd_level=1)
    with rasterio.open(path, "w", **profile) as file:
        file.descriptions = names
        for row in range(0, height, side):
            for column in range(0, width, side):
                rows, columns = min(side, height - row), min(side, width - column)
                shifted = np.roll(piece, (row // side * 37, column // side * 53), (1, 2))
                window = rasterio.windows.Window(column, row, columns, rows)
                file.write(shifted[:, :rows, :columns], window=window)
    return path


@pytest.mark.long
def test_a_mosaic_of_a_hundred_megapixels(tmp_path: Path, weights: Path, free: None) -> None:
    def some_holes(optical: np.ndarray, sar: np.ndarray) -> None:
        optical[:, 100:140, 900:] = 0
        sar[:, 700:760, 200:700] = np.nan

    piece = make_scene(tmp_path / "piece", 1024, 1024, 1, some_holes)
    (tmp_path / "scene").mkdir()
    scene = tuple(repeat(file, tmp_path / "scene" / file.name, 9_000, 12_000) for file in piece)
    how: dict[str, Any] = {"outputs": ("confidence", "report"), "coreg": "off"}
    tasks = in_blocks(tmp_path, scene, weights, 4096, **how)  # type: ignore[arg-type]
    assert len(tasks) == 9
    run_all(tasks)
    assert merged(tasks) == "done"
    assert digests(tmp_path / "blocks") == single(tmp_path, scene, weights, **how)  # type: ignore[arg-type]


@pytest.mark.long
def test_the_weights_that_come_along_on_a_mosaic(tmp_path: Path) -> None:
    """Batches of a block are others than those of the whole, so that last bits may differ: 99.99 % of pixels do not."""
    for name in ("s2.tif", "s1.tif"):
        with rasterio.open(ROOT / "sample_data" / name) as file:
            values, profile, names, tags = file.read(), file.profile, file.descriptions, file.tags()
            scale = 1200 / file.height
        more = [max(round(1200 * size / values.shape[1]) - size, 0) for size in values.shape[1:]]
        values = np.pad(values, ((0, 0), (0, more[0]), (0, more[1])), mode="symmetric")
        profile.update(height=values.shape[1], width=values.shape[2])
        with rasterio.open(tmp_path / name, "w", **profile) as file:
            file.write(values)
            file.descriptions = names
            file.update_tags(**tags)
        assert scale > 1
    rows = [{"optical": tmp_path / "s2.tif", "sar": tmp_path / "s1.tif", "output": tmp_path / "blocks.tif"}]
    table, tasks = write_table(tmp_path / "s.csv", rows), tmp_path / "t.jsonl"
    for words in (
        ("batch", "plan", table, "-o", tasks, "--blocks", 512, "--coreg", "off"), ("batch", "run", tasks),
        ("batch", "merge", tasks),
        ("predict", "--optical", tmp_path / "s2.tif", "--sar", tmp_path / "s1.tif", "-o", tmp_path / "single.tif",
         "--coreg", "off"),
    ):  # fmt: skip
        done = refnet(*words, env=environment(), seconds=1200)
        assert done.code == 0, done.err
    assert len(read_tasks(tasks)) >= 4
    with rasterio.open(tmp_path / "blocks.tif") as one, rasterio.open(tmp_path / "single.tif") as other:
        assert (one.shape, one.transform, one.tags()) == (other.shape, other.transform, other.tags())
        equal = np.mean(one.read(1) == other.read(1))
    assert equal >= 0.9999
