"""What another version of refnet has made is used, or refused with what to do; nothing of it is lost."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refnet_cli.batch import run as batch
from refnet_cli.batch import workers
from refnet_cli.batch.finished import missing
from refnet_cli.batch.identity import identify
from refnet_cli.batch.mosaic import merge_maps
from refnet_cli.batch.run import run_here
from refnet_cli.batch.task import Task
from refnet_cli.errors import ConfigError, OptionsError
from refnet_cli.outputs.base import JOURNAL
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.system.lock import work_folder_of
from refnet_cli.training.checkpoint import Checkpoints
from refnet_cli.version import __version__
from tests.helpers.batches import FreeEngine, digests, make_scene, plan_tasks
from tests.helpers.scenes import CARD, PlaceEngine, make_pair
from tests.helpers.small_models import write_model


@pytest.fixture(autouse=True)
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "load", lambda options, weights: FreeEngine())


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., list[Task]]:
    """Plan the map ``out/a.tif`` of a scene, perhaps in blocks."""
    weights = write_model(tmp_path / "w.onnx", card=replace(CARD, tile=128))
    scene = make_scene(tmp_path / "in" / "a", 530, 60)
    return lambda *outputs, block=None: plan_tasks(
        tmp_path / "tasks.jsonl", [scene], tmp_path / "out", weights, block, outputs
    )


def age(sidecar: Path, version: str = "0.1.0", **changes: Any) -> None:
    """Have a sidecar tell of another version."""
    found = json.loads(sidecar.read_text())
    found["report"]["version"] = version
    sidecar.write_text(json.dumps(found | changes))


def outcomes(tasks: list[Task], **overrides: Any) -> list[tuple[str, int]]:
    return [(outcome.status, outcome.code) for outcome in run_here(tasks, overrides, pause=0)]


def state(folder: Path) -> dict[str, bytes]:
    """Bytes of each file, but of those that say why a task failed."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".failed.json"))
    return {str(path): path.read_bytes() for path in files}


def test_a_map_that_is_done_stays(plan: Callable[..., list[Task]], tmp_path: Path) -> None:
    tasks = plan()
    assert outcomes(tasks) == [("done", 0)]
    age(tasks[0].sidecar)
    before = state(tmp_path)
    (outcome,) = run_here(tasks, {}, pause=0)
    assert (outcome.status, len(outcome.warnings)) == ("skipped", 1)
    assert "refnet 0.1.0 and is kept; --overwrite" in outcome.warnings[0]
    assert missing(tasks) == []
    assert state(tmp_path) == before
    assert outcomes(tasks, overwrite=True) == [("done", 0)]
    assert outcomes(tasks) == [("skipped", 0)]
    assert next(iter(run_here(tasks, {}, pause=0))).warnings == []


def test_a_map_that_would_be_made_again_is_not_replaced_unasked(
    plan: Callable[..., list[Task]], tmp_path: Path
) -> None:
    tasks = plan()
    assert outcomes(tasks) == [("done", 0)]
    age(tasks[0].sidecar, id="of other weights")
    before = state(tmp_path)
    (outcome,) = run_here(tasks, {}, pause=0)
    assert outcome.code == 64
    assert "refnet batch run TASKS --overwrite" in outcome.message
    assert state(tmp_path) == before
    assert outcomes(tasks, overwrite=True) == [("done", 0)]
    assert outcomes(tasks) == [("skipped", 0)]


NEXT = ".".join([*__version__.split(".")[:2], "99"])
"""A version that makes the same maps as this one."""


def test_a_map_of_a_version_that_makes_the_same_is_done(plan: Callable[..., list[Task]]) -> None:
    tasks = plan()
    assert outcomes(tasks) == [("done", 0)]
    age(tasks[0].sidecar, NEXT)
    (outcome,) = run_here(tasks, {"overwrite": True}, pause=0)
    assert (outcome.status, outcome.warnings) == ("skipped", [])


@pytest.mark.long
@pytest.mark.parametrize("version", ["0.1.0", NEXT])
def test_blocks_of_two_versions_make_no_map(version: str, plan: Callable[..., list[Task]], tmp_path: Path) -> None:
    tasks = plan("report", block=512)
    assert set(outcomes(tasks)) == {("done", 0)}
    (whole,) = merge_maps(tasks)
    assert whole.status == "done"
    wanted = digests(tmp_path / "out")
    for file in (tmp_path / "out").glob("a*"):
        if file.is_file():
            file.unlink()
    age(tasks[1].sidecar, version)
    before = state(tmp_path)
    (refused,) = merge_maps(tasks)
    assert (refused.code, "refnet batch run TASKS --overwrite" in refused.message) == (65, True)
    assert sorted(outcomes(tasks)) == [("failed", 64), *[("skipped", 0)] * (len(tasks) - 1)]
    assert state(tmp_path) == before
    assert ("done", 0) in outcomes(tasks, overwrite=True)
    (merged,) = merge_maps(tasks)
    assert merged.status == "done"
    assert digests(tmp_path / "out") == wanted
    age(tasks[1].sidecar, NEXT)  # of a map that is done, and needs its blocks no more
    assert set(outcomes(tasks)) == {("skipped", 0)}


@pytest.mark.parametrize("name", ["a.tif", "a.tif.json"])
def test_tasks_replace_nothing_of_others(name: str, plan: Callable[..., list[Task]], tmp_path: Path) -> None:
    tasks = plan()
    file = tmp_path / "out" / name
    file.parent.mkdir()
    file.write_text('{"mine": 1}')
    (outcome,) = run_here(tasks, {}, pause=0)
    assert (outcome.code, outcome.tries, "--overwrite" in outcome.message) == (73, 1, True)
    assert file.read_text() == '{"mine": 1}'
    assert outcomes(tasks, overwrite=True) == [("done", 0)]
    assert outcomes(tasks) == [("skipped", 0)]


def test_blocks_are_not_merged_over_files_of_others(plan: Callable[..., list[Task]], tmp_path: Path) -> None:
    tasks = plan(block=512)
    assert set(outcomes(tasks)) == {("done", 0)}
    file = tmp_path / "out" / "a.tif"
    file.write_text("mine")
    (outcome,) = merge_maps(tasks)
    assert (outcome.code, file.read_text()) == (73, "mine")
    (outcome,) = merge_maps(tasks, overwrite=True)
    assert outcome.status == "done"
    (outcome,) = merge_maps(tasks)
    assert outcome.status == "skipped"


def test_workers_are_told_to_overwrite() -> None:
    words = workers._Worker({"overwrite": True, "device": "cpu"}, {})._command
    assert words[words.index("--as-worker") + 1 :] == ["--overwrite", "--device", "cpu"]


def test_whether_to_overwrite_is_no_part_of_a_task(plan: Callable[..., list[Task]]) -> None:
    (task,) = plan()
    other = replace(task, options=replace(task.options, overwrite=True))
    assert identify(task) == identify(other)
    assert Task.from_line(other.to_line(), Path("tasks.jsonl").absolute()).options.overwrite


def test_a_scheme_of_a_list_of_0_1_that_has_other_codes_now(plan: Callable[..., list[Task]]) -> None:
    (task,) = plan()
    line = json.loads(replace(task, options=replace(task.options, scheme="esri-io")).to_line())
    source = Path("tasks.jsonl").absolute()
    assert Task.from_line(json.dumps(line), source).options.scheme == "esri-io"
    del line["refnet"]
    with pytest.raises(ConfigError, match=r"refnet 0\.1.*terramesh"):
        Task.from_line(json.dumps(line), source)
    line["options"]["scheme"] = "worldcover"
    assert Task.from_line(json.dumps(line), source).options.scheme == "worldcover"


class Stopping(PlaceEngine):
    """Is interrupted after some batches."""

    def predict(self, optical: np.ndarray, sar: np.ndarray) -> np.ndarray:
        if self.calls > 8:
            raise KeyboardInterrupt
        return super().predict(optical, sar)


OLD_HEADS = {"0.1": b"0123456789abcdef" * 4 + b"\n", "0.1.9": b"refnet journal 0.1.9\n" + b"0" * 64 + b"\n"}


@pytest.mark.parametrize("version", OLD_HEADS)
def test_an_interrupted_run_of_another_version_waits_for_it(version: str, tmp_path: Path) -> None:
    options = PredictOptions(*make_pair(tmp_path, 600, 140), tmp_path / "map.tif", coreg="off")
    folder = work_folder_of(options.output)
    with pytest.raises(KeyboardInterrupt):
        predict(options, Stopping())
    journal = (folder / JOURNAL).read_bytes()
    _head, _, rows = journal.split(b"\n", 2)
    assert rows
    (folder / JOURNAL).write_bytes(OLD_HEADS[version] + rows)
    (folder / "working.tif").write_bytes(b"half")
    before = state(tmp_path)
    with pytest.raises(OptionsError, match=f"interrupted run of refnet {re.escape(version)},.*--no-resume") as refused:
        predict(options, PlaceEngine())
    assert state(tmp_path) == before
    # Either remedy leads to the map.
    copy = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}_copy"))
    assert not predict(replace(options, resume=False), PlaceEngine()).resumed_rows
    assert not folder.exists()
    (named,) = re.findall(r"remove the folder (\S+)\.$", str(refused.value))
    assert named == str(folder)
    shutil.rmtree(copy / folder.name)
    made = predict(
        PredictOptions(copy / "s2.tif", copy / "s1.tif", copy / "map.tif", coreg="off"), PlaceEngine()
    ).output
    assert Path(made).read_bytes() == options.output.read_bytes()


def test_an_interrupted_run_of_this_version_goes_on_and_that_of_other_options_is_given_up(tmp_path: Path) -> None:
    options = PredictOptions(*make_pair(tmp_path, 600, 140), tmp_path / "map.tif", coreg="off")
    for threshold, renewed in ((0.0, False), (0.5, True)):
        with pytest.raises(KeyboardInterrupt):
            predict(options, Stopping())
        report = predict(replace(options, threshold=threshold), PlaceEngine())
        assert (report.resumed_rows > 0, report.renewed) == (not renewed, renewed)


class Number:
    """A part of a training that is a number."""

    def __init__(self) -> None:
        self.value = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, found: dict[str, Any]) -> None:
        self.value = found["value"]


def test_checkpoints_of_0_1_are_gone_on_with_and_those_of_others_refused(tmp_path: Path, said: list[str]) -> None:
    part = Number()
    checkpoints = Checkpoints(tmp_path, {"seed": "0"}, {"part": part})
    path = tmp_path / "step-000000003.pt"
    torch.save({"part": {"value": 2.0}, "settings": {"seed": "0"}, "step": 3}, path)
    assert (checkpoints.load(), part.value) == (3, 2.0)
    assert said[0].startswith("! refnet 0.1 wrote ")
    torch.save({"state_dict": {"a": torch.ones(2)}}, path)
    with pytest.raises(OptionsError, match="is not a checkpoint of refnet"):
        checkpoints.load()
    assert path.exists()


def test_files_of_others_among_checkpoints_stay(tmp_path: Path) -> None:
    for name in (".step-000000001.pt.77.tmp", ".best.pt.8.tmp", ".other.tmp"):
        (tmp_path / name).write_text("x")
    Checkpoints(tmp_path, {}, {}).remove_unfinished()
    assert [path.name for path in tmp_path.iterdir()] == [".other.tmp"]
