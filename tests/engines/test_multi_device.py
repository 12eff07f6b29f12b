"""Several engines in processes of their own: the answer of one, errors as one raises them, and no process left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from refnet_cli.cli import main as cli
from refnet_cli.engines import load as engine
from refnet_cli.engines.multi_device import MultiDeviceEngine, parse_devices, split_batch
from refnet_cli.errors import (
    OptionsError,
    RefnetError,
    StorageError,
    TryAgainError,
    UnavailableError,
    WeightsError,
    as_known,
)
from refnet_cli.model.weight_files import default_weights
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from tests.helpers import multi_device_engines
from tests.helpers.multi_device_engines import (
    BUG,
    FULL_DISK,
    HALVE,
    KILL,
    NO_MEMORY,
    SLEEP,
    WEIGHTS,
    EchoEngine,
    load,
)
from tests.helpers.programs import Process, environment, start
from tests.helpers.quick import few
from tests.helpers.scenes import make_pair

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "sample_data"
STRIP = ("239040", "6202220", "246720", "6204780")
"""Of the sample, 768 x 256 pixels."""
WITHIN = 10  # seconds for processes to go


@pytest.fixture(scope="module")
def two() -> Iterator[MultiDeviceEngine]:
    engines = MultiDeviceEngine(load, ["cpu", "cpu"])
    yield engines
    engines.close()


def patches(count: int, first: float = 5) -> tuple[np.ndarray, np.ndarray]:
    optical = np.random.default_rng(0).uniform(1, 9, (count, 4, 8, 8)).astype(np.float32)
    optical[:, 0, 0, 0] = first
    return optical, np.zeros((count, 2, 8, 8), np.float32)


def processes_of(engines: MultiDeviceEngine) -> list[int]:
    return [child.process.pid for child in engines._children]


def is_there(process: int) -> bool:
    """Whether a process is there; one that nobody has waited for counts, but for those whose parent is gone."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state[0] != "Z" or int(state[1]) == os.getpid()


def all_go(processes: list[int]) -> bool:
    until = time.monotonic() + WITHIN
    while any(map(is_there, processes)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(is_there, processes))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_answer_is_that_of_one_engine_with_the_same_batch(two: MultiDeviceEngine, count: int) -> None:
    """More than the batch as well, in larger parts."""
    optical, sar = patches(count)
    one, step = EchoEngine("cpu", 2), 2 if count <= 4 else 3
    expected = [one.predict(optical[i : i + step], sar[i : i + step]) for i in range(0, count, step)]
    assert np.array_equal(two.predict(optical, sar), np.concatenate(expected))


def test_what_several_engines_are(two: MultiDeviceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert two.batch == 4
    assert two.card == EchoEngine("cpu", 2).card
    assert (two.about["device"], two.about["process"]) == ("cpu, cpu", str(processes_of(two)[0]))
    assert two.about["threads"] == os.environ["OMP_NUM_THREADS"]
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("refnet_cli.engines.multi_device.usable_cores", lambda: 7)
    engines = MultiDeviceEngine(load, ["cpu", "cpu"])
    assert engines.about["threads"] == "3"
    engines.close()


def test_the_processes_never_print_to_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    engines = MultiDeviceEngine(load, ["cpu", "cpu"])
    engines.predict(*patches(4))
    engines.close()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("what libraries print") == err.count("what their children print") == 2


@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [
        (WEIGHTS, WeightsError, "These are damaged."),
        (NO_MEMORY, MemoryError, "Unable to allocate 4.00 EiB for an array"),
        (FULL_DISK, OSError, "[Errno 28] No space left on device: 'cache'"),
        (BUG, RuntimeError, "OddError: odd 3"),
    ],
)
@pytest.mark.parametrize("culprit", [0, 1])
def test_errors_are_raised_as_their_kind_and_the_next_batch_is_right(
    two: MultiDeviceEngine, act: float, kind: type[Exception], message: str, culprit: int
) -> None:
    optical, sar = patches(4)
    expected = two.predict(optical, sar)
    optical[2 * culprit, 0, 0, 0] = act
    with pytest.raises(kind) as caught:
        two.predict(optical, sar)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(message)
    assert "multi_device_engines.py" in caught.value.__notes__[0], "where it arose"
    assert np.array_equal(two.predict(*patches(4)), expected)


def test_what_the_command_line_makes_of_them() -> None:
    assert isinstance(as_known(OSError(28, "No space left on device", "cache")), StorageError)
    assert isinstance(as_known(MemoryError("")), TryAgainError)


def test_each_engine_lowers_its_own_batch() -> None:
    engines = MultiDeviceEngine(partial(load, batch=3), ["cpu", "cpu"])
    optical, sar = patches(6)
    optical[3, 0, 0, 0] = HALVE
    engines.predict(optical, sar)
    assert engines.batch == 4
    answer = engines.predict(*patches(4))[:, :2, 0, 0]
    assert answer[:, 0] / answer[:, 1] * 15 == pytest.approx([3, 3, 3, 1])
    engines.batch = 2  # as predict() does where memory is short
    assert len(engines.predict(*patches(2))) == 2
    assert engines.batch == 2
    engines.close()


@pytest.mark.parametrize("batches", [[1], [2, 2], [4, 1, 3], [1, 16]])
def test_parts_are_the_whole_in_order(batches: list[int]) -> None:
    for most in range(1, sum(batches) + 1):
        for count in range(1, 2 * sum(batches)):
            parts = split_batch(count, batches, most)
            assert [i for part in parts for i in range(count)[part]] == list(range(count))
            if count <= most == sum(batches):
                assert all(part.stop - part.start <= batch for part, batch in zip(parts, batches, strict=True))


@pytest.mark.parametrize("culprit", few([0, 1], 1))
def test_a_killed_process_is_told(culprit: int) -> None:
    engines = MultiDeviceEngine(load, ["cpu", "cpu"])
    processes = processes_of(engines)
    optical, sar = patches(4)
    optical[2 * culprit, 0, 0, 0] = KILL
    with pytest.raises(TryAgainError, match=rf"on cpu \(process {culprit + 1} of 2\).*SIGKILL"):
        engines.predict(optical, sar)
    assert not any(map(is_there, processes))
    with pytest.raises(RuntimeError, match="closed"):
        engines.predict(*patches(1))


def test_a_process_that_was_killed_between_batches() -> None:
    engines = MultiDeviceEngine(load, ["cpu", "cpu"])
    os.kill(processes_of(engines)[1], signal.SIGKILL)
    with pytest.raises(TryAgainError, match="process 2 of 2"):
        engines.predict(np.zeros((4, 4, 512, 512), np.float32), np.zeros((4, 2, 512, 512), np.float32))


@pytest.mark.parametrize(
    ("device", "kind", "message"),
    [("missing", UnavailableError, "no such device"), ("deadly", TryAgainError, "deadly .process 2 of 2.*SIGKILL")],
)
def test_what_goes_wrong_on_loading(device: str, kind: type[RefnetError], message: str) -> None:
    before = children_of_this()
    with pytest.raises(kind, match=message):
        MultiDeviceEngine(load, ["cpu", device])
    assert children_of_this() == before


def children_of_this() -> list[int]:
    """Processes of engines that this one has, those among them that nobody has waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if path.read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
                command = path.with_name("cmdline").read_text()
                found += [int(path.parent.name)] if "resource_tracker" not in command else []
    return sorted(found)


def test_processes_end_when_closed_and_when_collected() -> None:
    engines = MultiDeviceEngine(load, ["cpu", "cpu"])
    processes = processes_of(engines)
    assert all(map(is_there, processes))
    engines.close()
    engines.close()
    assert not any(map(is_there, processes)), "none may be left, not even to be waited for"
    engines = MultiDeviceEngine(load, ["cpu"])
    processes = processes_of(engines)
    del engines
    assert all_go(processes)


@pytest.mark.parametrize(
    "closing",
    few(["pass", "engines.close()", "import os; os._exit(3)", "raise SystemExit(3)"], "pass", "import os; os._exit(3)"),
)
def test_the_end_of_the_program_is_not_held_up(closing: str, tmp_path: Path) -> None:
    code = (
        "from tests.helpers.multi_device_engines import *\nengines = MultiDeviceEngine(load, ['cpu', 'cpu'])\n"
        f"print(*(child.process.pid for child in engines._children), flush=True)\n{closing}"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True,
                          timeout=60, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (3 if "3" in closing else 0, "")
    assert time.monotonic() - began < 30
    assert all_go([int(process) for process in done.stdout.split()])


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_processes_go_with_their_parent_in_the_midst_of_a_batch(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.multi_device_engines"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        processes = [int(process) for process in parent.stdout.readline().split()]
        time.sleep(0.3)
        assert len(processes) == 2
        assert all(map(is_there, processes))
        parent.send_signal(number)
        assert parent.wait(WITHIN) == -number
        assert all_go(processes)


COMMAND = """
import os
import sys
from refnet_cli.cli import main as cli
from refnet_cli.engines import load as engine
from tests.helpers.multi_device_engines import load_as_torch
os.setsid()
engine.ENGINES["torch"] = load_as_torch
cli.main()
"""


def command_on_two_devices(folder: Path, act: float) -> tuple[list[str], dict[str, str]]:
    """Words and environment of Python for `refnet predict` on two devices, whose processes do as told at a batch.

    It leads a process group of its own.
    """
    optical, sar = make_pair(folder, 64, 64)
    (folder / "processes").mkdir()
    arguments = ["predict", "--optical", optical, "--sar", sar, "-o", folder / "map.tif", "--device", "cpu,cpu", "-q"]
    return ["-c", COMMAND, *map(str, arguments)], environment(TEST_ACT=act, TEST_PROCESSES=folder / "processes")


def loaded(folder: Path, command: Process) -> list[int]:
    """Wait until both engines are loaded, and a bit; their processes."""
    until = time.monotonic() + 60
    while len(found := os.listdir(folder / "processes")) < 2 and time.monotonic() < until:
        assert command.poll() is None
        time.sleep(0.02)
    time.sleep(1)
    return [int(process) for process in found]


@pytest.mark.parametrize(
    ("number", "code"), few([(signal.SIGINT, 130), (signal.SIGTERM, 143)], (signal.SIGTERM, 143))
)
def test_a_signal_to_all_processes_is_the_parents_to_act_on(tmp_path: Path, number: int, code: int) -> None:
    words, env = command_on_two_devices(tmp_path, SLEEP)
    command = start(*words, env=env)
    processes = loaded(tmp_path, command)
    os.killpg(command.pid, number)
    began = time.monotonic()
    out, err = command.communicate(timeout=60)
    assert (command.returncode, out) == (code, "")
    assert "Traceback" not in err
    assert time.monotonic() - began < WITHIN
    assert all_go(processes)
    assert "map.tif" not in os.listdir(tmp_path)


def test_a_signal_to_the_processes_alone_is_ignored(two: MultiDeviceEngine) -> None:
    for process in processes_of(two):
        os.kill(process, signal.SIGINT)
        os.kill(process, signal.SIGTERM)
    time.sleep(0.1)
    assert len(two.predict(*patches(4))) == 4


@pytest.mark.long
def test_streams_that_do_not_exist(tmp_path: Path) -> None:
    """Pipes and files get their numbers then, and nothing must be printed into them."""
    words, env = command_on_two_devices(tmp_path, 0)
    shell = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable]
    assert subprocess.run([*shell, *words], cwd=ROOT, env=env, timeout=60, check=False).returncode == 0
    assert (tmp_path / "map.tif").exists()


def test_exit_code_of_a_killed_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = children_of_this()
    optical, sar = make_pair(tmp_path, 64, 64)
    monkeypatch.setitem(engine.ENGINES, "torch", multi_device_engines.load_as_torch)
    monkeypatch.setenv("TEST_ACT", str(KILL))
    arguments = ["predict", "--optical", optical, "--sar", sar, "-o", tmp_path / "map.tif", "--device", "cpu,cpu", "-q"]
    assert cli.run([str(argument) for argument in arguments]) == 75
    out, err = capfd.readouterr()
    assert out == ""
    assert "refnet: The process on cpu (process 1 of 2) ended unexpectedly (killed by SIGKILL)" in err
    assert "Traceback" not in err
    assert children_of_this() == before
    assert "map.tif" not in os.listdir(tmp_path)


@pytest.mark.long
def test_the_map_is_that_of_one_process_byte_for_byte(tmp_path: Path) -> None:
    """With the network itself; predict() ends the processes that it began."""
    before = children_of_this()
    files = SAMPLE / "s2.tif", SAMPLE / "s1.tif"
    maps = []
    for device in ("cpu", "cpu,cpu"):
        output = tmp_path / f"{len(device)}.tif"
        options = PredictOptions(*files, output=output, device=device, batch=1, overlap=0, coreg="off", bounds=STRIP)
        report = predict(options)
        assert report.tiles == {"run": 3, "skipped": 0}
        maps.append(output.read_bytes())
    assert report.engine["device"] == "cpu, cpu"
    assert maps[0] == maps[1]
    assert children_of_this() == before


def test_memory_is_shared_out_among_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def fit_to_memory(demand: object, batch: int, threads: int, most: int | None) -> tuple[int, int]:
        given.append((demand.processes, batch))  # type: ignore[attr-defined]
        return (3 if batch == 6 else batch), threads

    monkeypatch.setattr("refnet_cli.prediction.job.fit_to_memory", fit_to_memory)
    monkeypatch.setitem(engine.ENGINES, "torch", multi_device_engines.load_as_torch)
    pair = make_pair(tmp_path, 64, 800)
    predict(PredictOptions(*pair, output=tmp_path / "map.tif", device="cpu,cpu", batch=3))
    assert given[-1] == (2, 6)
    assert {processes for processes, _ in given[:-1]} == {1}


def test_what_the_real_loader_refuses() -> None:
    """In the processes, before they load torch."""
    options = engine.EngineOptions(device="cpu,cpu", provider="cuda")
    with pytest.raises(OptionsError, match="--provider is for ONNX"):
        engine.load_engine(default_weights(), options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuda:0,0", "twice"),
        ("cuda,cuda:00", "twice"),
        ("cpu,cuda:0", "mixes"),
        ("cpu,1", "Unknown device '1'"),
        ("0,1", "Unknown device '0'"),
        ("auto,cpu", "Unknown device 'auto'"),
        ("cuda:0,", "Unknown device ''"),
        ("cuda:0,abacus", "Unknown device 'abacus'"),
    ],
)
def test_devices_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        parse_devices(text)
    with pytest.raises(OptionsError, match=message):
        engine.load_engine(default_weights(), engine.EngineOptions(device=text))


def test_one_device_is_left_to_its_engine() -> None:
    assert parse_devices(" cuda:3") == ["cuda:3"]
    assert parse_devices("abacus") == ["abacus"]
    assert parse_devices("cuda:2, 0,cuda:1,3") == ["cuda:2", "cuda:0", "cuda:1", "cuda:3"]
