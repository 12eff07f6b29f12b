"""The reason of a failure is kept next to the output until that is made, and changes nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refnet_cli.batch import run as batch
from refnet_cli.batch.failures import Failure, failure_path, forget_failure, read_failure, record_failure
from refnet_cli.batch.finished import missing
from refnet_cli.batch.identity import identify
from refnet_cli.batch.mosaic import merge_maps
from refnet_cli.batch.run import run_here
from refnet_cli.batch.task import Task
from refnet_cli.batch.task_list import read_tasks
from refnet_cli.errors import ConfigError, InputError
from refnet_cli.system.marks import is_refnet_output
from tests.helpers.batches import FreeEngine, here, make_scene, plan_tasks
from tests.helpers.small_models import write_model

UNREADABLE = InputError("7 % of s2.tif is unreadable")
UNREADABLE.window = (0, 512, 256, 256)


class Fails:
    """Stands for `predict` where it fails for some maps."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self._real = real
        self.errors: dict[str, Exception] = {}

    def __call__(self, options: Any, *more: Any, **named: Any) -> Any:
        if error := self.errors.get(options.output.stem):
            raise error
        return self._real(options, *more, **named)


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Fails:
    made = Fails(batch.predict)
    monkeypatch.setattr(batch, "predict", made)
    monkeypatch.setattr(batch, "load", lambda options, weights: FreeEngine())
    return made


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    weights = write_model(tmp_path / "w.onnx")
    scenes = [make_scene(tmp_path / "in" / f"{number}", 40, 50 + number, number) for number in range(3)]
    return plan_tasks(tmp_path / "t.jsonl", scenes, tmp_path / "maps", weights)


def statuses(tasks: list[Task]) -> list[str]:
    return [outcome.status for outcome in run_here(tasks, {}, pause=0)]


def test_a_reason_stays_until_the_map_is_made(tasks: list[Task], fails: Fails) -> None:
    identities = [identify(task) for task in tasks]
    fails.errors = {"1": UNREADABLE}
    assert statuses(tasks) == ["done", "failed", "done"]
    assert read_failure(tasks[1].path) == Failure(65, str(UNREADABLE), (0, 512, 256, 256))
    assert [read_failure(task.path) for task in tasks[::2]] == [None, None]
    assert is_refnet_output(failure_path(tasks[1].path))
    assert missing(tasks) == [tasks[1]]
    assert [identify(task) for task in tasks] == identities
    fails.errors = {"1": InputError("no edges")}
    assert statuses(tasks) == ["skipped", "failed", "skipped"]
    assert read_failure(tasks[1].path) == Failure(65, "no edges")
    fails.errors = {}
    assert statuses(tasks) == ["skipped", "done", "skipped"]
    assert not failure_path(tasks[1].path).exists()
    assert missing(tasks) == []


def test_a_map_that_is_done_is_done(tasks: list[Task], fails: Fails) -> None:
    """As where a run was killed before it removed the reason; the next run does."""
    assert statuses(tasks) == ["done"] * 3
    record_failure(tasks[0].path, Failure(75, "killed"))
    assert missing(tasks) == []
    assert statuses(tasks) == ["skipped"] * 3
    assert read_failure(tasks[0].path) is None


@pytest.mark.parametrize("content", ["notes", '{"code": 1}', "[1]"])
def test_a_file_of_others_stays(content: str, tasks: list[Task], fails: Fails) -> None:
    place = failure_path(tasks[1].path)
    place.parent.mkdir()
    place.write_text(content)
    fails.errors = {"1": UNREADABLE}
    assert statuses(tasks) == ["done", "failed", "done"]
    assert read_failure(tasks[1].path) is None
    fails.errors = {}
    assert statuses(tasks) == ["skipped", "done", "skipped"]
    assert place.read_text() == content


def test_where_it_cannot_be_written_the_failure_is_still_told(tasks: list[Task], fails: Fails) -> None:
    tasks[0].path.parent.touch()
    (outcome,) = run_here(tasks[:1], {})
    assert (outcome.status, outcome.code) == ("failed", 73)
    assert read_failure(tasks[0].path) is None
    forget_failure(tasks[0].path)


def test_half_a_reason_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    record_failure(path, Failure(65, "bad"))
    text = failure_path(path).read_text()
    failure_path(path).write_text(text[: len(text) // 2])
    assert read_failure(path) is None


def test_no_output_may_lie_in_its_place(tasks: list[Task], tmp_path: Path) -> None:
    entry = json.loads(tasks[0].to_line())
    entry["options"]["outputs"] = [f"stac={tmp_path}/maps/0.tif.failed.json"]
    (tmp_path / "t.jsonl").write_text(json.dumps(entry))
    with pytest.raises(ConfigError, match="needs for the state of a map"):
        read_tasks(tmp_path / "t.jsonl")


def test_status_repeats_the_reasons(tasks: list[Task], fails: Fails, tmp_path: Path, capfd: Any) -> None:
    fails.errors = {"1": UNREADABLE}
    assert statuses(tasks[:2]) == ["done", "failed"]
    status = here(capfd, "batch", "status", tmp_path / "t.jsonl")
    assert (status.code, status.out) == (1, f"{tasks[1].path}\n{tasks[2].path}\n")
    assert status.err.splitlines() == [
        f"! 1.tif failed, code 65: {UNREADABLE}",
        "1 of 3 scenes done, 1 failed, 1 to run",
    ]
    found = json.loads(here(capfd, "batch", "status", tmp_path / "t.jsonl", "--json").out)
    assert found == {
        "tasks": 3, "done": 1, "missing": [str(task.path) for task in tasks[1:]],
        "failed": {str(tasks[1].path): {"code": 65, "message": str(UNREADABLE), "window": [0, 512, 256, 256]}},
    }  # fmt: skip
    assert here(capfd, "batch", "status", tmp_path / "t.jsonl", "-q").err == ""


def test_of_a_mosaic(tmp_path: Path, fails: Fails) -> None:
    """Each block has its own reason, and the map one why it cannot be put together."""
    scene = make_scene(tmp_path / "in" / "a", 530, 40)
    tasks = plan_tasks(tmp_path / "t.jsonl", [scene], tmp_path / "out", write_model(tmp_path / "w.onnx"), block=512)
    fails.errors = {"a": UNREADABLE}
    assert statuses(tasks[1:]) == ["failed"]
    assert [bool(read_failure(task.path)) for task in tasks] == [False, True]
    (outcome,) = merge_maps(tasks)
    assert read_failure(tasks[0].options.output) == Failure(outcome.code, outcome.message)
    fails.errors = {}
    assert statuses(tasks) == ["done", "done"]
    assert [outcome.status for outcome in merge_maps(tasks)] == ["done"]
    assert not list((tmp_path / "out").rglob("*.failed.json"))
