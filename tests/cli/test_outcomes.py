"""What people see of a batch."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from refnet_cli.batch.outcome import Outcome
from refnet_cli.batch.task import Task
from refnet_cli.cli.outcomes import Follow, noun_for, short_names
from refnet_cli.cli.terminal import describe_stop
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.system import log
from refnet_cli.tiles.window import Window


def task(path: str, block: Window | None = None) -> Task:
    return Task(PredictOptions(Path("s2.tif"), Path("s1.tif"), Path(path)), block)


NAMES = [*"abcdefgh"]
TASKS = [task(f"/maps/{name}.tif") for name in NAMES]


def outcomes(*statuses: str, **more: Any) -> Generator[Outcome]:
    for name, status in zip(NAMES, statuses, strict=False):
        about = {"code": 65, "message": "no edges"} if status == "failed" else {}
        yield Outcome("id", f"/maps/{name}.tif", status, seconds=0.84, **about, **more)  # type: ignore[arg-type]


def follow(found: Generator[Outcome], tasks: Sequence[Task] | None) -> int:
    """Show outcomes, and return the exit code."""
    shown = Follow("scene", tasks, as_json=False)
    shown(found)
    try:
        shown.finish()
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0


def test_lines(said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(outcomes("done", "failed", "done"), TASKS[:3]) == 1
    *lines, last = said
    assert lines == ["[1/3] a.tif done 0.8 s", "! [2/3] b.tif failed, code 65: no edges", "[3/3] c.tif done 0.8 s"]
    assert last.startswith("2 done, 1 failed, in 0.0 s. The same command tries")
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]  # which is no terminal
    assert [outcome["status"] for outcome in printed] == ["done", "failed", "done"]


def test_warnings_and_tries(said: list[str]) -> None:
    assert follow(outcomes("done", warnings=["a"], tries=2), TASKS[:1]) == 0
    assert follow(outcomes("done", warnings=["a", "b"]), TASKS[:1]) == 0
    assert [line for line in said if line[0] == "["] == [
        "[1/1] a.tif done 0.8 s, 2 tries, 1 warning", "[1/1] a.tif done 0.8 s, 2 warnings",
    ]  # fmt: skip


def test_what_was_done_before_is_one_line(said: list[str]) -> None:
    assert follow(outcomes("skipped", "skipped", "done", "skipped"), TASKS[:4]) == 0
    assert said == [
        "[2/4] 2 scenes done before", "[3/4] c.tif done 0.8 s", "[4/4] 1 scene done before",
        "1 done, 3 done before, in 0.0 s.",
    ]  # fmt: skip


def test_made_by_another_version(said: list[str]) -> None:
    assert follow(outcomes("skipped", warnings=["by refnet 0.1.0"]), TASKS[:1]) == 0
    assert said[0] == "[1/1] a.tif done before, 1 warning"


def test_from_stdin(said: list[str]) -> None:
    assert follow(outcomes("done", "done"), None) == 0
    assert said[:2] == ["[1] /maps/a.tif done 0.8 s", "[2] /maps/b.tif done 0.8 s"]


def test_nothing_to_do(said: list[str]) -> None:
    assert follow(outcomes(), []) == 0
    assert said == ["nothing to do, in 0.0 s."]


def test_what_a_signal_makes_it_say() -> None:
    """Of those that failed, none is done."""
    follow(outcomes("skipped", "done", "failed"), TASKS)
    assert describe_stop() == "Stopped. 2 of 8 scenes are done. The same command continues with the others."


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    log.start(as_json=True)
    try:
        follow(outcomes("done", "failed"), TASKS[:2])
    finally:
        log.start()
    done, failed, *_ = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (done["event"], done["scene"], done["done"], done["total"]) == ("done", "/maps/a.tif", 1, 2)
    assert (failed["event"], failed["level"], failed["code"]) == ("failed", "error", 65)


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    log.start()
    with log.at_least(logging.ERROR):
        follow(outcomes("done", "failed"), TASKS[:2])
    assert capsys.readouterr().err == "! [2/2] b.tif failed, code 65: no edges\n"


def test_names_are_as_short_as_they_tell_apart() -> None:
    paths = ["maps/a/lulc.tif", "maps/b/lulc.tif"]
    assert list(short_names([task(path) for path in paths]).values()) == ["a/lulc.tif", "b/lulc.tif"]
    assert list(short_names([task("maps/a/lulc.tif")]).values()) == ["lulc.tif"]
    blocks = [task("a.tif", Window(0, 0, 512, 512)), task("b.tif", Window(0, 512, 512, 512))]
    shards = ["a.tif.blocks/000000-000000.shard", "b.tif.blocks/000000-000512.shard"]
    assert list(short_names(blocks).values()) == shards
    assert (noun_for(blocks), noun_for([task("a.tif")])) == ("block", "scene")
