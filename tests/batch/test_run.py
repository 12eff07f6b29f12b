"""Batches: one result for any way of running them, whatever is killed on the way; bad scenes are told."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from refnet_cli.batch import clusters, workers
from refnet_cli.batch import run as batch
from refnet_cli.batch.clusters import run_remotely
from refnet_cli.batch.finished import missing
from refnet_cli.batch.identity import identify
from refnet_cli.batch.run import Runner, run_here, share
from refnet_cli.batch.sidecar import read_sidecar
from refnet_cli.batch.task import Task
from refnet_cli.batch.task_list import read_tasks
from refnet_cli.cli.main import run
from refnet_cli.errors import (
    ConfigError,
    InputError,
    InputMissingError,
    OptionsError,
    OutputError,
    StorageError,
    TryAgainError,
    UnavailableError,
)
from refnet_cli.system.lock import WorkFolder
from tests.helpers.batches import (
    KINDS,
    PATIENCE,
    ROOT,
    FreeEngine,
    children_of,
    command,
    count,
    digests,
    environment,
    here,
    make_scene,
    plan_tasks,
    refnet,
    run_command,
    table_of,
)
from tests.helpers.programs import write_command
from tests.helpers.quick import few
from tests.helpers.scenes import CARD, PLACE, write
from tests.helpers.small_models import write_model

SLOW = 0.25  # seconds for a batch of tiles, of which the large scene has six
ALSO = [word for kind in KINDS for word in ("--also", kind)]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("weights") / "w.onnx", card=replace(CARD, tile=128))


@dataclass(frozen=True)
class Many:
    """Some scenes, a large one among them, and what undisturbed runs make of each alone."""

    table: Path
    weights: Path
    sha256: dict[str, str]

    def plan(self, folder: Path) -> Path:
        """Plan them, their maps in a folder ``maps``."""
        folder.mkdir(exist_ok=True)
        words = ["--weights", self.weights, "--map", folder / "maps" / "{name}.tif", "--batch", 2, "--smooth", 1]
        words = ["batch", "plan", self.table, "-o", folder / "tasks.jsonl", *words, *ALSO]
        assert run(list(map(str, words))) == 0
        return folder / "tasks.jsonl"

    def hold(self, tasks: Path) -> None:
        """All is there, with the right bytes, and counts as done."""
        assert digests(tasks.parent / "maps") == self.sha256
        assert count(outcome.status for outcome in run_here(read_tasks(tasks), {})) == {"skipped": 4}
        assert run(["batch", "status", str(tasks)]) == 0


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Many:
    folder = tmp_path_factory.mktemp("many")
    for number in range(3):
        make_scene(folder / f"small{number}", 60 + number, 70, number)
    make_scene(folder / "large", 300, 280, 9)
    (folder / "maps").mkdir()
    for scene in folder.glob("*/s2.tif"):
        words = ["--optical", scene, "--sar", scene.with_name("s1.tif"), "--weights", weights, "--batch", 2]
        also = [word for kind in KINDS for word in ("--output", kind)]
        output = folder / "maps" / f"{scene.parent.name}.tif"
        assert run(list(map(str, ["predict", *words, "--smooth", 1, "-o", output, *also, "-q"]))) == 0
    return Many(table_of(folder), weights, digests(folder / "maps"))


def test_one_after_the_other(many: Many, tmp_path: Path, capfd: Any) -> None:
    """The bytes of as many runs of ``refnet predict``; lines of JSON go to stdout, lines for people to stderr."""
    tasks = many.plan(tmp_path)
    before = here(capfd, "batch", "status", tasks, "-0")
    assert (before.code, before.err) == (1, "0 of 4 scenes done, 4 to run\n")
    assert before.out.split("\0") == [*(outcome["output"] for outcome in _planned(tasks)), ""]
    done = here(capfd, "batch", "run", tasks)
    assert (done.code, done.statuses) == (0, {"done": 4}), done.err
    lines = [re.sub(r"[\d.:]+ (s|min)\b", "0 s", line) for line in done.err.splitlines()]
    names = [Path(task["output"]).name for task in _planned(tasks)]
    said = [f"[{number}/4] {name} done 0 s" for number, name in enumerate(names, 1)]
    assert [line.partition(", 1 warning")[0] for line in lines if line.startswith("[")] == said
    assert "4 done, in 0 s." in lines
    for outcome, task in zip(done.outcomes, _planned(tasks), strict=True):
        assert (outcome["id"], outcome["output"]) == (task["id"], task["output"])
        assert (outcome["code"], outcome["message"], outcome["tries"]) == (0, "", 1)
        assert len(outcome["files"]) == len(KINDS) + 2  # areas are two
        assert all(Path(file).stat().st_size for file in outcome["files"])
    many.hold(tasks)


def _planned(tasks: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in tasks.read_text().splitlines()]


def test_in_two_workers(many: Many, tmp_path: Path) -> None:
    """Each loads the network once."""
    tasks, loads = many.plan(tmp_path), tmp_path / "loads"
    env = environment(disturbed=True, REFNET_TEST_LOADS=loads, REFNET_TEST_SLEEP=0.2)
    done = refnet("batch", "run", tasks, "--workers", 2, env=env)
    assert (done.code, done.statuses) == (0, {"done": 4}), done.err
    many.hold(tasks)
    processes = loads.read_text().split()
    assert len(processes) == len(set(processes)) == 2


@pytest.mark.long
def test_with_xargs(many: Many, tmp_path: Path) -> None:
    tasks = many.plan(tmp_path)
    line = f"seq 0 3 | xargs -P 2 -I[] '{sys.executable}' -m refnet_cli batch run '{tasks}' --index [] --of 4"
    done = run_command(["sh", "-c", line], env=environment())
    assert done.code == 0, done.err
    many.hold(tasks)


@pytest.mark.long
def test_as_a_slurm_array_with_a_task_killed_and_requeued(many: Many, tmp_path: Path) -> None:
    """In mid-scene: it goes on after the rows that were finished."""
    tasks = many.plan(tmp_path)
    words = f"'{sys.executable}' -m refnet_cli batch run '{tasks}'"
    line = f"exec {words} --index $SLURM_ARRAY_TASK_ID --of $SLURM_ARRAY_TASK_COUNT"

    def job(number: int, **more: object) -> subprocess.Popen[bytes]:
        env = environment(SLURM_ARRAY_TASK_ID=number, SLURM_ARRAY_TASK_COUNT=3, **more)
        return subprocess.Popen(["sh", "-c", line], env=env, cwd=ROOT, stdout=subprocess.DEVNULL)

    largest = next(number for number, task in enumerate(_planned(tasks)) if task["output"].endswith("large.tif"))
    victim = job(largest % 3, disturbed=True, REFNET_TEST_SLEEP=SLOW)
    others = [job(number) for number in range(3) if number != largest % 3]
    with ended(victim, *others):
        wait_for_rows(tmp_path / "maps" / "large.tif", victim)
        victim.kill()
        assert victim.wait(PATIENCE) == -signal.SIGKILL
        assert not (tmp_path / "maps" / "large.tif").exists()
        assert [other.wait(PATIENCE) for other in others] == [0, 0]
    requeued = job(largest % 3)
    with ended(requeued):
        assert requeued.wait(PATIENCE) == 0
    sidecar = read_sidecar(tmp_path / "maps" / "large.tif.json")
    assert sidecar
    assert sidecar["report"]["resumed_rows"] > 0
    many.hold(tasks)


@contextmanager
def ended(*processes: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave none of the processes, nor of their children, in any case."""
    try:
        yield
    finally:
        for process in processes:
            for pid in (*children_of(process.pid), process.pid) if process.poll() is None else ():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()


def wait_for_rows(output: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a run that is at a map has finished some of its rows."""
    journal, until = output.parent / f".{output.name}.refnet" / "journal", time.monotonic() + PATIENCE
    while not (journal.exists() and journal.stat().st_size > 100):
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < until
        time.sleep(0.01)


CLUSTER = """
import sys
from dask.distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@pytest.mark.long
def test_on_a_dask_cluster(many: Many, tmp_path: Path) -> None:
    """Of two processes, which may be given several scenes at once; failures are told as elsewhere."""
    tasks = many.plan(tmp_path)
    lines = tasks.read_text()
    bad = lines.splitlines()[0].replace("s2.tif", "none.tif").replace("maps/", "bad/")
    tasks.write_text(f"{bad}\n{lines}")
    (tmp_path / "cluster.py").write_text(CLUSTER)
    cluster = subprocess.Popen(
        [sys.executable, tmp_path / "cluster.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path,
        stderr=subprocess.DEVNULL, env=environment(),
    )  # fmt: skip
    with ended(cluster):
        assert cluster.stdout
        address = cluster.stdout.readline().decode().strip()
        assert address.startswith("tcp://")
        done = refnet("batch", "run", tasks, "--dask", address)
        assert (done.code, done.statuses) == (1, {"done": 4, "failed": 1}), done.err
        (failed,) = (outcome for outcome in done.outcomes if outcome["status"] == "failed")
        assert (failed["code"], failed["tries"]) == (66, 1)
        cluster.communicate(timeout=PATIENCE)
        assert cluster.returncode == 0
    tasks.write_text(lines)
    many.hold(tasks)


@pytest.mark.long
def test_without_a_dask_scheduler(many: Many, tmp_path: Path) -> None:
    tasks = many.plan(tmp_path)
    done = refnet("batch", "run", tasks, "--dask", "tcp://127.0.0.1:1")
    assert done.code == 69
    assert "tcp://127.0.0.1:1" in done.err


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_a_random_worker_killed_again_and_again(seed: int, many: Many, tmp_path: Path) -> None:
    """The batch is run until all is done. A worker is killed at a random moment after a file has grown."""
    tasks, random, kills = many.plan(tmp_path), np.random.default_rng(seed), 0
    env, until = environment(disturbed=True, REFNET_TEST_SLEEP=0.2), time.monotonic() + PATIENCE
    code: int | None = None
    while code != 0:
        assert code in (None, 1)
        process = subprocess.Popen(
            command("batch", "run", tasks, "--workers", 2), env=env, cwd=ROOT, stdout=subprocess.DEVNULL
        )
        with ended(process):
            before = sizes_in(tmp_path / "maps")
            while (code := process.poll()) is None:
                assert time.monotonic() < until, f"not done after {kills} kills"
                time.sleep(0.05)
                if any(size > before.get(path, -1) for path, size in sizes_in(tmp_path / "maps").items()):
                    time.sleep(random.uniform(0, 1))
                    if workers := children_of(process.pid):
                        with suppress(ProcessLookupError):
                            os.kill(int(random.choice(workers)), signal.SIGKILL)
                            kills += 1
                    before = sizes_in(tmp_path / "maps")
    assert kills >= 2
    many.hold(tasks)


def sizes_in(folder: Path) -> dict[Path, int]:
    """Return the sizes of all files in a folder, some of which may disappear meanwhile."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(OSError):
            found[path] = path.stat().st_size
    return found


ENDS = few([signal.SIGTERM, signal.SIGINT, signal.SIGKILL], signal.SIGTERM)


@pytest.mark.long
@pytest.mark.parametrize("how", ENDS)
def test_a_batch_that_is_ended_with_its_workers(how: signal.Signals, many: Many, tmp_path: Path) -> None:
    """None of them goes on for long by itself, and the next run goes on where it was."""
    tasks = many.plan(tmp_path)
    env = environment(disturbed=True, REFNET_TEST_SLEEP=SLOW)
    process = subprocess.Popen(
        command("batch", "run", tasks, "--workers", 2), env=env, cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    with ended(process):
        wait_for_rows(tmp_path / "maps" / "large.tif", process)
        workers, began = children_of(process.pid), time.monotonic()
        assert len(workers) == 2
        process.send_signal(how)
        assert process.wait(PATIENCE) == {signal.SIGTERM: 143, signal.SIGINT: 130}.get(how, -how)
        while any(Path(f"/proc/{pid}/cmdline").exists() and not is_zombie(pid) for pid in workers):
            assert time.monotonic() < began + 20, "workers live on"
            time.sleep(0.02)
        assert process.stderr
        said = process.stderr.read().decode()
        assert "Traceback" not in said
        stops = re.findall(r"Stopped\. \d of 4 scenes are done\. The same command continues with the others\.", said)
        assert len(stops) == said.count("Stopped") == (how != signal.SIGKILL)
        assert not list(tmp_path.rglob("*.failed.json"))
    done = refnet("batch", "run", tasks, "--workers", 2)
    assert done.code == 0, done.err
    many.hold(tasks)


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="needs poll")
def test_workers_do_not_outlive_what_started_them(tmp_path: Path, weights: Path) -> None:
    """Not even in the midst of a scene that takes long; and it can be gone on with."""
    tasks = tmp_path / "t.jsonl"
    plan_tasks(tasks, [make_scene(tmp_path / "a", 300, 280)], tmp_path / "maps", weights, batch=1)
    process = subprocess.Popen(
        command("batch", "run", tasks, "--workers", 1), env=environment(disturbed=True, REFNET_TEST_SLEEP=1), cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with ended(process):
        wait_for_rows(tmp_path / "maps" / "a.tif", process)
        (worker,), began = children_of(process.pid), time.monotonic()
        process.kill()
        process.wait(PATIENCE)
        while not is_zombie(worker):
            assert time.monotonic() < began + 4, "the worker lives on"
            time.sleep(0.02)
    done = refnet("batch", "run", tasks)
    assert (done.code, done.statuses) == (0, {"done": 1}), done.err


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.long
def test_more_workers_than_scenes_take_no_memory_from_them(tmp_path: Path, weights: Path) -> None:
    tasks = tmp_path / "t.jsonl"
    plan_tasks(tasks, [make_scene(tmp_path / "a", 40, 50)], tmp_path, weights)
    done = refnet("batch", "run", tasks, "--workers", 500)
    assert (done.code, done.statuses) == (0, {"done": 1}), done.err


WORKER = "import runpy, tests.disturbed.sitecustomize; runpy.run_module('refnet_cli', run_name='__main__')"
"""A program that the fork server can run, with networks that may die."""


def test_a_scene_that_kills_its_workers(
    tmp_path: Path, weights: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up after three tries, with the code of what may pass; the others are done, and it is when it can."""

    def shine(optical: np.ndarray, sar: np.ndarray) -> None:
        optical[:, 5, 5] = 9000

    for number in range(3):
        make_scene(tmp_path / "in" / f"{number}", 40, 50, number, shine if number == 1 else None)
    tasks = tmp_path / "t.jsonl"
    map_ = ["--map", tmp_path / "maps" / "{name}.tif"]
    assert here(capfd, "batch", "plan", table_of(tmp_path / "in"), "-o", tasks, "--weights", weights, *map_).code == 0
    write_command(tmp_path / "worker", "-c", WORKER)
    begin = workers._Worker.__init__

    def begin_quickly(worker: Any, *given: Any) -> None:
        begin(worker, *given)
        worker._command = [tmp_path / "worker", *worker._command[worker._command.index("batch") :]]

    monkeypatch.setattr(workers._Worker, "__init__", begin_quickly)
    monkeypatch.setattr(workers, "PAUSE", 0.1)
    monkeypatch.setenv("REFNET_TEST_DEADLY", "8500")
    done = here(capfd, "batch", "run", tasks, "--workers", 1)
    assert (done.code, done.statuses) == (1, {"done": 2, "failed": 1}), done.err
    (failed,) = (outcome for outcome in done.outcomes if outcome["status"] == "failed")
    assert failed["output"] == str(tmp_path / "maps" / "1.tif")
    assert (failed["code"], failed["tries"]) == (75, 3)
    assert "exit code 9" in failed["message"]
    again = here(capfd, "batch", "run", tasks)
    assert (again.code, again.statuses) == (0, {"done": 1, "skipped": 2})


@pytest.mark.long
def test_workers_take_no_modules_from_the_working_directory(tmp_path: Path, weights: Path) -> None:
    """As the program does not that is installed as ``refnet``."""
    tasks = tmp_path / "t.jsonl"
    plan_tasks(tasks, [make_scene(tmp_path / "a", 40, 50)], tmp_path, weights)
    (tmp_path / "zipfile.py").write_text("raise RuntimeError")
    words = [sys.executable, "-P", *command("batch", "run", tasks, "--workers", 1)[1:]]
    done = run_command(words, cwd=tmp_path)
    assert (done.code, done.statuses) == (0, {"done": 1}), done.err


@pytest.mark.long
def test_workers_whose_libraries_print(tmp_path: Path, weights: Path) -> None:
    tasks = tmp_path / "t.jsonl"
    plan_tasks(tasks, [make_scene(tmp_path / "a", 40, 50)], tmp_path, weights)
    env = environment(disturbed=True, REFNET_TEST_CHATTER='{"loading": 1}\nhello\n3')
    done = refnet("batch", "run", tasks, "--workers", 1, env=env, seconds=30)
    assert (done.code, done.statuses) == (0, {"done": 1})


# Bad scenes


def truncated(scene: Path) -> None:
    data = (scene / "s2.tif").read_bytes()
    (scene / "s2.tif").write_bytes(data[: len(data) // 2])


def elsewhere(scene: Path) -> None:
    far = PLACE @ PLACE.translation(40_000, 90_000)
    write(scene / "s1.tif", np.full((2, 60, 60), 0.1, np.float32), ("VV", "VH"), far, nodata=None)


def all_nan(scene: Path) -> None:
    write(scene / "s1.tif", np.full((2, 60, 60), np.nan, np.float32), ("VV", "VH"), nodata=None)


def picture(scene: Path) -> None:
    values = np.random.default_rng(0).integers(1, 255, (4, 60, 60)).astype(np.uint8)
    write(scene / "s2.tif", values, ("B02", "B03", "B04", "B08"))


BAD: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "missing": (lambda scene: (scene / "s2.tif").unlink(), 66, "s2.tif does not exist"),
    "truncated": (truncated, 65, "s2.tif"),
    "no tiff": (lambda scene: (scene / "s2.tif").write_text("Not found\n" * 50), 65, "s2.tif"),
    "elsewhere": (elsewhere, 65, "not overlap"),
    "all nan": (all_nan, 65, "s1.tif"),
    "picture": (picture, 65, "8-bit"),
    "empty": (lambda scene: (scene / "s1.tif").write_bytes(b""), 65, "s1.tif"),
}


@pytest.mark.parametrize("scenes", [15, pytest.param(200, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "workers", [pytest.param((), id="here"), pytest.param(("--workers", 2), id="workers", marks=pytest.mark.long)]
)
def test_bad_scenes_among_good_ones(
    scenes: int, workers: tuple[object, ...], tmp_path: Path, weights: Path, capfd: Any
) -> None:
    bad = {f"{2 * number + 1:03d}": name for number, name in enumerate(BAD)}
    for number in range(scenes):
        make_scene(tmp_path / "in" / f"{number:03d}", 60, 60, number)
    table, tasks = table_of(tmp_path / "in"), tmp_path / "t.jsonl"
    for scene, name in bad.items():
        BAD[name][0](tmp_path / "in" / scene)
    map_ = ["--map", tmp_path / "maps" / "{name}.tif"]
    assert here(capfd, "batch", "plan", table, "-o", tasks, "--weights", weights, *map_).code == 0
    good = scenes - len(BAD)

    def hold(statuses: dict[str, int]) -> None:
        done = here(capfd, "batch", "run", tasks, *workers)
        assert (done.code, done.statuses) == (1, statuses)
        failed = {Path(line["output"]).stem: line for line in done.outcomes if line["status"] == "failed"}
        assert failed.keys() == bad.keys()
        for scene, line in failed.items():
            _, code, said = BAD[bad[scene]]
            assert (line["code"], line["tries"]) == (code, 1), line
            assert said in line["message"], line
            assert "Error" not in line["message"], line
            assert done.err.count(f" {scene}.tif failed, code {code}: {line['message']}\n") == 1
        assert len(list((tmp_path / "maps").glob("*.tif"))) == good
        assert len(digests(tmp_path / "maps")) == good

    hold({"done": good, "failed": 7})
    hold({"skipped": good, "failed": 7})
    status = here(capfd, "batch", "status", tasks, "--json")
    assert status.code == 1
    told = json.loads(status.out)
    assert (told["tasks"], told["done"]) == (scenes, good)
    assert told["missing"] == [str(tmp_path / "maps" / f"{scene}.tif") for scene in bad]
    assert {Path(path).stem: failure["code"] for path, failure in told["failed"].items()} == {
        scene: BAD[name][1] for scene, name in bad.items()
    }
    assert f"! {next(iter(bad))}.tif failed, code 66: " in status.err


# What is done again, and what is not


@dataclass
class Loads:
    """The free engines that were loaded in this process, and with which options."""

    engines: list[FreeEngine]
    devices: list[str]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    seen = Loads([], [])

    def load(options: Any, weights: Path | None) -> FreeEngine:
        seen.engines.append(FreeEngine())
        seen.devices.append(options.device)
        return seen.engines[-1]

    monkeypatch.setattr(batch, "load", load)
    return seen


@pytest.fixture
def tasks(tmp_path: Path, weights: Path) -> list[Task]:
    own = tmp_path / "own.onnx"
    shutil.copy(weights, own)
    scenes = [make_scene(tmp_path / f"{number}", 40, 50 + number, number) for number in range(3)]
    return plan_tasks(tmp_path / "t.jsonl", scenes, tmp_path / "maps", own, outputs=("preview",))


def statuses(tasks: list[Task], **overrides: Any) -> list[str]:
    found = {outcome.output: outcome.status for outcome in run_here(tasks, overrides, pause=0)}
    return [found[str(task.path)] for task in tasks]


CHANGES: dict[str, Callable[[Task], object]] = {
    "newer input": lambda task: os.utime(task.options.optical[0]),  # type: ignore[index]
    "other input": lambda task: make_scene(task.options.sar[0].parent, 41, 50, 8),  # type: ignore[index]
    "no map": lambda task: task.path.unlink(),
    "no preview": lambda task: task.options.output_paths["preview"].unlink(),
    "shorter map": lambda task: task.path.write_bytes(task.path.read_bytes()[:-1]),
    "no sidecar": lambda task: task.sidecar.unlink(),
    "empty sidecar": lambda task: task.sidecar.write_text(""),
    "half a sidecar": lambda task: task.sidecar.write_bytes(task.sidecar.read_bytes()[:300]),
    "sidecar of a neighbour": lambda task: shutil.copy(task.sidecar.with_name("0.tif.json"), task.sidecar),
}


@pytest.mark.parametrize("what", few(CHANGES, "other input", "shorter map", "half a sidecar"))
def test_what_is_not_as_it_was_is_made_anew(what: str, tasks: list[Task], loads: Loads) -> None:
    """And nothing else."""
    assert statuses(tasks) == ["done"] * 3
    assert statuses(tasks) == ["skipped"] * 3
    before = digests(tasks[0].path.parent)
    CHANGES[what](tasks[1])
    assert missing(tasks) == [tasks[1]]
    assert statuses(tasks) == ["skipped", "done", "skipped"]
    assert statuses(tasks) == ["skipped"] * 3
    if "input" not in what:
        assert digests(tasks[0].path.parent) == before


@pytest.mark.parametrize("content", few(["[1]", '{"id": "0123456789abcdef"}', "notes"], "[1]"))
def test_what_lies_in_the_place_of_a_sidecar_stays(content: str, tasks: list[Task], loads: Loads) -> None:
    tasks[1].sidecar.parent.mkdir()
    tasks[1].sidecar.write_text(content)
    assert statuses(tasks) == ["done", "failed", "done"]
    assert tasks[1].sidecar.read_text() == content
    assert statuses(tasks, overwrite=True) == ["skipped", "done", "skipped"]
    assert statuses(tasks) == ["skipped"] * 3


def test_other_options_and_weights_make_maps_anew(tasks: list[Task], loads: Loads) -> None:
    assert statuses(tasks) == ["done"] * 3
    others = [replace(task, options=replace(task.options, smooth=1)) for task in tasks]
    assert statuses(others) == ["done"] * 3
    how = [replace(task, options=replace(task.options, batch=1, read_threads=1, smooth=1)) for task in tasks]
    assert statuses(how) == ["skipped"] * 3
    assert statuses(tasks) == ["done"] * 3


def test_a_folder_that_cannot_be_made_is_no_bug(tasks: list[Task]) -> None:
    tasks[0].path.parent.touch()
    (outcome,) = run_here(tasks[:1], {})
    assert outcome.code == 73
    assert "Choose a folder" in outcome.message


def test_a_failed_run_leaves_no_sidecar(tasks: list[Task], loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one whose sidecar is all that is missing count: it comes last."""
    order = []
    real = batch.write_sidecar

    def noted(path: Path, *more: Any) -> None:
        order.append([path.exists(), (path.parent / f"{path.stem}_preview.png").exists()])
        real(path, *more)

    monkeypatch.setattr(batch, "write_sidecar", noted)
    assert statuses(tasks) == ["done"] * 3
    assert order == [[True, True]] * 3
    make_scene(tmp := tasks[1].options.sar[0].parent, 40, 50, 3)  # type: ignore[index]
    (tmp / "s1.tif").write_text("no tiff")
    assert statuses(tasks) == ["skipped", "failed", "skipped"]
    assert missing(tasks) == [tasks[1]]


def test_a_network_is_loaded_once(tasks: list[Task], loads: Loads) -> None:
    assert statuses(tasks) == ["done"] * 3
    assert [engine.closed for engine in loads.engines] == [1]
    others = [replace(task, options=replace(task.options, device="cuda:1" if n else "cpu", smooth=1)) for n, task in
              enumerate(tasks)]  # fmt: skip
    assert statuses(others) == ["done"] * 3
    assert loads.devices == ["auto", "cpu", "cuda:1"]
    assert [engine.closed for engine in loads.engines] == [1, 1, 1]


def test_nothing_is_loaded_for_what_is_done(tasks: list[Task], loads: Loads) -> None:
    statuses(tasks)
    statuses(tasks)
    assert len(loads.engines) == 1


def test_overrides_hold_in_place_of_the_tasks_own(tasks: list[Task], loads: Loads) -> None:
    """And change nothing about what is done."""
    assert statuses(tasks[:1], device="cuda:3", max_memory="2G") == ["done"]
    assert loads.devices == ["cuda:3"]
    assert statuses(tasks[:1], device="cpu") == ["skipped"]


def test_weights_that_are_replaced_are_loaded_anew(tasks: list[Task], loads: Loads, weights: Path) -> None:
    """Where a process outlives its batch, as those of a cluster do."""
    runner = Runner()
    assert runner.run(tasks[0]).status == "done"
    write_model(tasks[0].options.weights or weights, card=replace(CARD, name="renamed", tile=512))
    again = runner.run(tasks[0])
    assert again.status == "done"
    assert again.id != tasks[0].id
    assert len(loads.engines) == 2


def test_each_scene_begins_with_the_whole_batch(
    tasks: list[Task], loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far the one before had to lower it."""
    seen, real = [], batch.predict

    def predict(options: Any, engine: Any, **more: Any) -> Any:
        seen.append(engine.batch)
        report = real(options, engine, **more)
        engine.batch = 1
        return report

    monkeypatch.setattr(batch, "predict", predict)
    assert statuses(tasks) == ["done"] * 3
    assert seen == [FreeEngine.batch] * 3


ERRORS = [
    (StorageError("full"), 74, 3), (TryAgainError("locked"), 75, 3), (MemoryError(), 75, 3),
    (OSError(28, "full"), 74, 3),
    (OptionsError("no"), 64, 1), (InputError("no"), 65, 1), (InputMissingError("no"), 66, 1),
    (UnavailableError("no"), 69, 1), (OutputError("no"), 73, 1), (ConfigError("no"), 78, 1), (ValueError("no"), 70, 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code", "tries"), few(ERRORS, *ERRORS[1:5], ERRORS[-1]), ids=[type(e[0]).__name__ for e in ERRORS]
)
def test_only_what_may_pass_is_tried_again(
    error: Exception, code: int, tries: int, tasks: list[Task], loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the other scenes, three times in all; and once it has passed the scene is done."""
    made, real, passes = [], batch.predict, False

    def predict(options: Any, engine: Any, **more: Any) -> Any:
        made.append(options.output.stem)
        if options.output.stem == "1" and not (passes and made.count("1") == 3):
            raise error
        return real(options, engine, **more)

    monkeypatch.setattr(batch, "predict", predict)
    outcomes = list(run_here(tasks, {}, pause=0))
    assert [(line.status, line.code, line.tries) for line in outcomes] == [
        *([("done", 0, 1)] * 2 if tries > 1 else [("done", 0, 1)]), ("failed", code, tries),
        *([] if tries > 1 else [("done", 0, 1)]),
    ]  # fmt: skip
    assert made == ["0", "1", "2", *["1"] * (tries - 1)]
    made.clear()
    passes = True
    last = next(line for line in run_here(tasks, {}, pause=0) if line.output.endswith("1.tif"))
    assert (last.status, last.tries) == (("done", 3) if tries > 1 else ("failed", 1))


def test_a_lock_is_waited_for(tasks: list[Task], loads: Loads) -> None:
    """A map that another run is at fails as what may pass, and is left alone."""
    tasks[1].path.parent.mkdir()
    with WorkFolder(tasks[1].path):
        outcome = [line for line in run_here(tasks, {}, pause=0) if line.failed]
        assert [(line.code, line.tries) for line in outcome] == [(75, 3)]
    assert statuses(tasks) == ["skipped", "done", "skipped"]


def test_threads_of_a_cluster_take_turns(tasks: list[Task], loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most, real = [], [], batch.predict

    def predict(options: Any, engine: Any, **more: Any) -> Any:
        inside.append(options.output)
        time.sleep(0.05)
        most.append(len(inside))
        report = real(options, engine, **more)
        inside.remove(options.output)
        return report

    monkeypatch.setattr(batch, "predict", predict)
    monkeypatch.setattr(clusters, "_RUNNERS", {})
    threads = [Thread(target=run_remotely, args=(task.to_line(), {})) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
    assert len(loads.engines) == 1
    assert missing(tasks) == []


def test_a_cluster_is_told_of_what_may_pass(tasks: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    """By an error, for it to try elsewhere; of all else by an outcome."""
    monkeypatch.setattr(clusters, "_RUNNERS", {})
    for error, raised in ((TryAgainError("locked"), True), (StorageError("full"), True), (InputError("no"), False)):

        def load(options: Any, weights: Any, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(batch, "load", load)
        if raised:
            with pytest.raises(TryAgainError, match=str(error)):
                run_remotely(tasks[0].to_line(), {})
        else:
            assert run_remotely(tasks[0].to_line(), {})["code"] == 65


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_shares_are_everything_once(of: int) -> None:
    tasks: Any = list(range(20))
    parts = [share(tasks, index, of) for index in range(of)]
    assert sorted(task for part in parts for task in part) == tasks
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    "words",
    [("--index", 2, "--of", 2), ("--index", -1), ("--of", 0), ("--workers", 0), ("--workers", 1, "--dask", "tcp://x:1")],
)
def test_wrong_calls(words: tuple[object, ...], tasks: list[Task], tmp_path: Path, capfd: Any) -> None:
    assert here(capfd, "batch", "run", tmp_path / "t.jsonl", *words).code == 2


@pytest.mark.parametrize("words", [("--workers", 2), ("--of", 2), ("--index", 1, "--of", 2), ("--dask", "tcp://x:1")])
def test_tasks_from_stdin_are_not_shared_out(words: tuple[object, ...], capfd: Any) -> None:
    refused = here(capfd, "batch", "run", "-", *words)
    assert refused.code == 2
    assert "need a file" in refused.err


@pytest.mark.long
def test_tasks_come_from_stdin_too(tasks: list[Task]) -> None:
    lines = "".join(task.to_line() + "\n\n" for task in tasks).encode()
    for status in ("done", "skipped"):
        done = refnet("batch", "run", "-", stdin=lines)
        assert (done.code, done.statuses) == (0, {status: 3}), done.err


def test_ids_are_those_of_now(tasks: list[Task], loads: Loads) -> None:
    """Not of when it was planned: an input that changed in between makes a map of its own."""
    os.utime(tasks[0].options.optical[0])  # type: ignore[index]
    (outcome,) = run_here(tasks[:1], {})
    assert outcome.id == identify(tasks[0]) != tasks[0].id
    assert count(line.status for line in run_here(tasks, {})) == {"skipped": 1, "done": 2}


# refnet predict, as it is used in pipes


def test_a_map_cannot_go_to_stdout(tmp_path: Path, weights: Path, capfd: Any) -> None:
    optical, sar = make_scene(tmp_path, 40, 50)
    words = ["predict", "--optical", optical, "--sar", sar, "--weights", weights]
    for output in (["-o", "-"], ["-o", tmp_path / "a.tif", "--output", "preview=-"], ["-o", "classes=-"]):
        done = here(capfd, *words, *output)
        assert (done.code, done.out) == (2, "")
        assert "cannot go to stdout" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s1.tif", "s2.tif"]


def test_paths_may_end_with_zero_bytes(tmp_path: Path, weights: Path, capfd: Any) -> None:
    optical, sar = make_scene(tmp_path, 40, 50)
    output = tmp_path / "a\nb.tif"
    words = ["predict", "--optical", optical, "--sar", sar, "--weights", weights, "-o", output, "--output", "preview"]
    done = here(capfd, *words, "-q", "-0")
    assert (done.code, done.out) == (0, f"{output}\0{tmp_path}/a\nb_preview.png\0"), done.err
