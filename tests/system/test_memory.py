"""How much memory a run may take, and what is made of it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import refnet_cli.prediction.predict as predicting
from refnet_cli.cli.main import run
from refnet_cli.engines.torch_engine import TorchEngine, load_torch_engine
from refnet_cli.errors import OptionsError, TryAgainError
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weight_files import default_weights, read_card
from refnet_cli.model.weights import save_weights
from refnet_cli.prediction.memory import Demand, demand_of, fit_to_memory
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.scene.pair import ScenePair
from refnet_cli.system import memory
from refnet_cli.system.memory import GB, MB, parse_size
from tests.helpers.scenes import CARD, make_pair

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("text", ["", "4 X", "-1G", "0", "G", "1e9", "many"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(OptionsError, match="not a memory size"):
        parse_size(text)


@given(st.integers(1, 16), st.integers(1, 16), st.integers(1, 20 * GB), st.integers(1, 40_000))
def test_what_is_shared_out_fits_and_is_no_more_than_asked_for(batch: int, threads: int, most: int, width: int) -> None:
    demand = Demand(tile=256, bands=6, classes=10, decoder=128, weights=240 * MB, width=width)
    try:
        tiles, readers = fit_to_memory(demand, batch, threads, most)
    except TryAgainError:
        assert demand.total(1, 1) > most
    else:
        assert 1 <= tiles <= batch
        assert 1 <= readers <= threads
        assert demand.total(tiles, readers) <= most
        assert tiles == batch or demand.total(tiles + 1, 1) > most
        assert readers == threads or demand.total(tiles, readers + 1) > most


@pytest.mark.long
def test_tiles_and_threads_of_a_prediction_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optical, sar = make_pair(tmp_path, 300, 300)
    demand = demand_of(read_card(default_weights()), default_weights(), 300)
    load, use_threads = predicting.load, ScenePair.use_threads
    engines, threads = [], []

    def loading(*given: Any) -> Any:
        engines.append(load(*given))
        return engines[-1]

    def using(self: ScenePair, count: int) -> None:
        threads.append(count)
        use_threads(self, count)

    monkeypatch.setattr(predicting, "load", loading)
    monkeypatch.setattr(ScenePair, "use_threads", using)
    most = str(demand.total(3, 2))
    chosen = PredictOptions(optical, sar, tmp_path / "x.tif", device="cpu", batch=4, read_threads=6, max_memory=most)
    predict(chosen)
    assert engines[0].batch == 3
    assert threads[-1] == 2


def test_each_process_takes_memory_for_itself() -> None:
    """Two whose batches are one tile together take what one of them does, and libraries and weights once more."""
    one, two = (Demand(256, 6, 10, 128, 240 * MB, 10_980, processes=count) for count in (1, 2))
    assert two.total(1, 1) - one.total(1, 1) == 1350 * MB
    assert fit_to_memory(two, 8, 1, one.total(8, 1))[0] < 8


V1 = "4:memory:/slice/run\n3:cpu,cpuacct:/\n0::/\n"
SIZE = f"{4 * GB}\n"


@pytest.mark.parametrize(
    ("groups", "root", "limits", "usage", "stat"),
    [
        ("0::/slice/run\n", "", {"run/memory.max": "max\n", "memory.max": SIZE}, "memory.current", ""),
        ("0::/slice/run\n", "", {"memory.max": "max\n", "memory.high": SIZE}, "memory.current", ""),
        (V1, "memory/", {"memory.limit_in_bytes": SIZE}, "memory.usage_in_bytes", f"active_file {5 * GB}\ntotal_"),
    ],
)
def test_a_control_group_limits(
    monkeypatch: pytest.MonkeyPatch, groups: str, root: str, limits: dict[str, str], usage: str, stat: str
) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 64000000 kB\nMemAvailable:   32000000 kB\n",
        "/proc/self/cgroup": groups,
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",  # as version 1 says none
        "/sys/fs/cgroup/memory/memory.usage_in_bytes": f"{30 * GB}\n",
        f"/sys/fs/cgroup/{root}slice/{usage}": f"{GB}\n",
        f"/sys/fs/cgroup/{root}slice/memory.stat": f"{stat}inactive_file {GB // 2}\n",
        f"/sys/fs/cgroup/{root}slice/run/{usage}": f"{GB // 4}\n",
    } | {f"/sys/fs/cgroup/{root}slice/{name}": limit for name, limit in limits.items()}
    monkeypatch.setattr(memory, "_read", lambda path: files.get(str(path), ""))
    left = memory.free_memory()
    assert left is not None
    assert left == pytest.approx(0.9 * 3.5 * GB)


def test_too_little_is_refused_before_torch_is_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    optical, sar = make_pair(tmp_path, 64, 64)
    arguments = ["predict", "--optical", str(optical), "--sar", str(sar), "-o", str(tmp_path / "x.tif")]
    assert run([*arguments, "--max-memory", "100M"]) == 75
    assert "only 100 MB can be used" in capsys.readouterr().err
    assert run([*arguments, "--max-memory", "nonsense"]) == 64


@pytest.mark.parametrize("fits", [1, *(pytest.param(fits, marks=pytest.mark.long) for fits in (2, 3, 4))])
def test_an_engine_that_runs_out_of_memory_makes_the_same_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    optical, sar = make_pair(tmp_path, *((70, 80) if fits == 1 else (400, 500)))
    options = PredictOptions(optical, sar, tmp_path / "lulc.tif", coreg="off", batch=6)
    weights = default_weights()
    if fits == 1:
        save_weights(REFNet(CARD.network), replace(CARD, tile=64), weights := tmp_path / "w.safetensors")
    predict(options, load_torch_engine(weights, "cpu", 6))
    wanted = options.output.read_bytes()
    whole = TorchEngine._logits

    def limited(self: TorchEngine, optical: np.ndarray, sar: np.ndarray) -> torch.Tensor:
        if len(optical) > fits:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return whole(self, optical, sar)

    monkeypatch.setattr(TorchEngine, "_logits", limited)
    predict(options, load_torch_engine(weights, "cpu", 6))
    assert options.output.read_bytes() == wanted


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits on address space are Linux's")
@pytest.mark.parametrize("share", [0.8, pytest.param(0.5, marks=pytest.mark.long)])
def test_a_limit_on_address_space_ends_well(tmp_path: Path, share: float) -> None:
    """With the map, or with 75 and the need; the network alone reserves nearly 4 GB."""
    optical, sar = make_pair(tmp_path, 300, 300)
    command = [sys.executable, "-m", "refnet_cli", "predict", "--optical", str(optical), "--sar", str(sar)]
    most = int(4300 * MB * share)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    out = tmp_path / "x.tif"
    done = subprocess.run(
        [*command, "-o", str(out), "-q"], cwd=ROOT, capture_output=True, text=True, preexec_fn=limit, timeout=120,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode in (0, 75), done.stderr
    assert out.exists() == (done.returncode == 0)
    if done.returncode:
        assert done.stderr.startswith("refnet: ")
        assert done.stderr.count("\n") == 1
        assert "The prediction needs about" in done.stderr


def test_names_of_control_groups_may_be_anything(tmp_path: Path) -> None:
    (tmp_path / "gruppe-é").write_text("1")
    (tmp_path / "cgroup").write_bytes("0::/gruppe-é\n".encode() + b"1:x:/\xff\n")
    first = memory._read(str(tmp_path / "cgroup")).splitlines()[0]
    assert memory._read(f"{tmp_path}/{first.removeprefix('0::/')}") == "1"
