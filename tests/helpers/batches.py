"""Batches of small scenes, the commands that run them, and what tells their results apart."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refnet_cli.batch.plan import plan
from refnet_cli.batch.task import Task
from refnet_cli.batch.task_list import read_tasks
from refnet_cli.batch.templates import Templates
from refnet_cli.cli.main import run
from tests.helpers import programs
from tests.helpers.programs import PATIENCE, ROOT
from tests.helpers.scenes import PlaceEngine, make_pair

ABOUT = (".tif.json", ".shard.json", ".failed.json")
"""Endings of files that say whether outputs are complete, and why not."""
DISTURBED = Path(__file__).resolve().parents[1] / "disturbed"
KINDS = ("probabilities", "confidence", "quality", "preview", "areas", "report")
"""Further outputs, one of each way in which they are made."""


class FreeEngine(PlaceEngine):
    """A free engine that notes what becomes of it."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def outcomes(self) -> list[dict[str, Any]]:
        """What ``batch run`` and ``batch merge`` print: all of it has to be lines of JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def statuses(self) -> dict[str, int]:
        return count(outcome["status"] for outcome in self.outcomes)


def count(things: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for thing in things:
        found[thing] = found.get(thing, 0) + 1
    return found


def environment(*, disturbed: bool = False, **more: object) -> dict[str, str]:
    """Of child processes, which run this checkout's code."""
    path = {"PYTHONPATH": os.pathsep.join([str(DISTURBED), str(ROOT)])} if disturbed else {}
    return programs.environment(**path, **more)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "refnet_cli", *map(str, arguments)]


def refnet(*arguments: object, **how: Any) -> Ended:
    """Run the tool in a process of its own; for ``how`` see `tests.helpers.programs.run_python`."""
    done = programs.refnet(*arguments, **how)
    return Ended(done.returncode, done.stdout, done.stderr)


def run_command(words: Sequence[str], cwd: Path = ROOT, env: dict[str, str] | None = None) -> Ended:
    done = subprocess.run(
        words, cwd=cwd, env=env or environment(), input="", capture_output=True, text=True, timeout=PATIENCE
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def here(capfd: Any, *arguments: object) -> Ended:
    """Run the tool in this process."""
    capfd.readouterr()
    try:
        code = run(list(map(str, arguments)))
    except SystemExit as leave:  # of a batch with failures
        code = int(leave.code or 0)
    streams = capfd.readouterr()
    return Ended(code, streams.out, streams.err)


def make_scene(folder: Path, height: int, width: int, number: int = 0, holes: Any = None) -> tuple[Path, Path]:
    """Write a pair like no other number's."""
    folder.mkdir(parents=True, exist_ok=True)

    def change(optical: np.ndarray, sar: np.ndarray) -> None:
        optical[:] = np.roll(optical, 7 * number + 1, (1, 2)) + number
        if holes:
            holes(optical, sar)

    return make_pair(folder, height, width, holes=change)


def punch(optical: np.ndarray, sar: np.ndarray) -> None:
    """Holes of each sensor, of both, at the edges of blocks and across them, and values that no ground has."""
    optical[:, 500:530, 100:700] = 0
    sar[:, 505:512, 300:1000] = np.nan
    optical[:, :40, :40] = 0
    sar[:, 20:60, :30] = np.nan
    sar[0, 700:703, 505:520] = np.inf
    sar[1, 508:516, 900:910] = 1e9
    optical[:, 1030:, 1020:1100] = 0
    sar[:, 900:, :] *= np.float32(1.5)


def write_table(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    return path


def table_of(folder: Path) -> Path:
    """Write a table of all scenes in folders of a folder."""
    scenes = sorted(path.parent for path in folder.glob("*/s2.tif"))
    rows = [{"optical": scene / "s2.tif", "sar": scene / "s1.tif", "name": scene.name} for scene in scenes]
    return write_table(folder / "scenes.csv", rows)


def plan_tasks(
    file: Path, scenes: Sequence[tuple[Path, Path]], out: Path, weights: Path, block: int | None = None,
    outputs: Sequence[str] = (), **options: Any,
) -> list[Task]:
    """Plan scenes whose maps go into a folder, and write the tasks down; in this process."""  # fmt: skip
    rows = [
        {"optical": str(optical), "sar": str(sar), "output": str(out / f"{optical.parent.name}.tif")}
        for optical, sar in scenes
    ]
    planned = plan(rows, Templates(outputs=tuple(outputs)), {"weights": weights} | options, file.parent, block)
    return rewrite(file, list(planned))


def rewrite(file: Path, tasks: Sequence[Task]) -> list[Task]:
    file.write_text("".join(task.to_line() + "\n" for task in tasks))
    return read_tasks(file)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each output in a folder; nothing but outputs and what tells of them may lie there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        assert not path.name.startswith("."), f"{name} was left behind"
        if path.is_file() and not name.endswith(ABOUT) and ".blocks/" not in name:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found
    return found


def children_of(pid: int) -> list[int]:
    """Processes that a process has started, in its order."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
