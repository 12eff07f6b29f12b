"""GPU benchmarks: scan kernels, precisions, compilation, ONNX Runtime, several devices, full predictions.

Each measurement runs in its own process, so that a crash, or an error that leaves CUDA unusable, costs one row only;
that row then states what ``failed``. Engines return arrays on the host, so the device has finished when a time is
taken; the scan benchmark synchronizes explicitly. This has not run on a GPU yet; it was tested on CPUs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch

from benchmarks import scan, scene
from benchmarks.measure import ROOT, Row, compare, medians
from benchmarks.memory import NETWORKS
from benchmarks.networks import PUBLISHED, finish
from refnet_cli.engines.base import Engine
from refnet_cli.engines.load import load_engine
from refnet_cli.engines.options import EngineOptions
from refnet_cli.export import draw_tiles, export_onnx
from refnet_cli.model.refnet import LEVELS
from refnet_cli.scan import SCANS, available_scans
from refnet_cli.system.process import keep_freed_memory

PLAIN = "fp32"
"""The variant that others are compared with."""
VARIANTS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    **{f"scan {name}": {"scan": name} for name in SCANS if name not in ("loop", "cpu")},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "compiled": {"compile": True},
    "bf16 compiled": {"precision": "bf16", "compile": True},
    "fp16 compiled": {"precision": "fp16", "compile": True},
    "deterministic": {"deterministic": True},
    **{f"onnx {name}": {"provider": name} for name in ("cuda", "tensorrt", "cpu")},
}
"""Arguments of `EngineOptions` for each variant; ``provider`` selects the ONNX model."""
BATCHES = (1, 4, 16, 64)
SIZE = 4096


def measure_kernel(kernel: str, device: str, levels: Sequence[int], repeats: int) -> list[Row]:
    """Measure one scan kernel at some levels of the network."""
    if missing := available_scans(torch.device(device).type, PUBLISHED.states)[kernel]:
        raise RuntimeError(missing)
    keep_freed_memory()
    scan.measure_level(LEVELS, 1, device, only=[kernel])  # compiles
    return [row for level in levels for row in scan.measure_level(level, repeats, device, only=[kernel])]


def measure_tiles(network: str, variant: str, device: str, batch: int, repeats: int) -> list[Row]:
    """Measure a variant on tiles, compared with the plain one on the same device."""
    with tempfile.TemporaryDirectory() as folder:
        weights, options = _prepare(network, variant, Path(folder))
        plain = load_engine(NETWORKS[network](Path(folder)), EngineOptions(device, batch))
        engine = load_engine(weights, EngineOptions(device, batch, **options))
        row = _compare_engines(engine, plain, batch, device, repeats)
    side = engine.card.tile
    return [row | {"what": f"tile, {network}, {side} x {side}, batch {batch}, {variant}"}]


def measure_devices(network: str, devices: str, batch: int, repeats: int) -> list[Row]:
    """Measure several devices, each with the given batch size, compared with the first device alone."""
    with tempfile.TemporaryDirectory() as folder:
        weights = NETWORKS[network](Path(folder))
        first = devices.partition(",")[0]
        plain = load_engine(weights, EngineOptions(first, batch))
        several = load_engine(weights, EngineOptions(devices, batch))
        row = _compare_engines(several, plain, several.batch, first, repeats)
        several.close()
    return [row | {"what": f"tile, {network}, batch {batch} on each of {devices}"}]


def _prepare(network: str, variant: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the weights and engine options of a variant; export an ONNX model if needed."""
    weights, options = NETWORKS[network](folder), VARIANTS[variant]
    if "provider" not in options:
        return weights, options
    model = weights.with_suffix(".onnx")
    if not model.exists():
        export_onnx(weights, model)
    return model, options


def _compare_engines(engine: Engine, plain: Engine, count: int, device: str, repeats: int) -> Row:
    """Predict the same tiles with two engines in turn, and return the first one's times and the differences."""
    tiles = draw_tiles(plain.card, count)
    started = time.perf_counter()
    found = _predict(engine, tiles, device)
    first = time.perf_counter() - started
    expected = _predict(plain, tiles, device)
    if on_cuda := torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    ways = {"engine": engine, "plain": plain}
    taken = medians({way: partial(_predict, runner, tiles, device) for way, runner in ways.items()}, repeats)
    return compare("", taken["engine"] / count, PLAIN, taken["plain"] / count) | {
        "first_seconds": first,
        "batch_held": min(engine.batch, count),
        "apart": float(np.abs(found - expected).max()),
        "same_class": float((found.argmax(1) == expected.argmax(1)).mean()),
        "peak_mb": torch.cuda.max_memory_allocated(device) / 2**20 if on_cuda else None,
        "about": engine.about,
    }


def _predict(engine: Engine, tiles: tuple[Any, Any], device: str) -> Any:
    """Predict in batches of the engine's current size, which may have been reduced, and wait for the device."""
    parts = [np.s_[start : start + engine.batch] for start in range(0, len(tiles[0]), engine.batch)]
    found = [engine.predict(tiles[0][part], tiles[1][part]) for part in parts]
    finish(device)
    return np.concatenate(found)


def measure_scene(variant: str, device: str, size: int | None, repeats: int) -> list[Row]:
    """Measure full calls of ``refnet predict``, on the sample scene or on one of ``size`` x ``size`` pixels."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = ROOT / "sample_data"
        optical, sar = scene.make_pair(folder, size) if size else (sample / "s2.tif", sample / "s1.tif")
        calls = {}
        for way, options in {PLAIN: {}, variant: VARIANTS[variant]}.items():
            output = folder / f"{way.replace(' ', '-')}.tif"
            calls[way] = output, partial(_call, optical, sar, output, device, way, options)
        for _, call in calls.values():
            call()  # warm-up: compiles kernels and fills the file cache
        taken = medians({way: call for way, (_, call) in calls.items()}, repeats)
        codes = [_read(output) for output, _ in calls.values()]
    what = f"predict, {f'{size} x {size}' if size else 'sample scene'}, {variant}"
    same = float((codes[0] == codes[-1]).mean())
    return [compare(what, taken[variant], PLAIN, taken[PLAIN]) | {"same_class": same}]


def _read(path: Path) -> Any:
    with rasterio.open(path) as file:
        return file.read(1)


def _call(optical: Path, sar: Path, output: Path, device: str, variant: str, options: dict[str, Any]) -> None:
    from refnet_cli.model.weight_files import default_weights

    given = {name: value for name, value in options.items() if value is not True}
    weights = default_weights().with_suffix(".onnx") if "provider" in options else default_weights()
    command = [
        sys.executable, "-m", "refnet_cli", "predict", "--optical", optical, "--sar", sar, "--output", output,
        "--device", device, "--weights", weights, "--quiet", "--no-resume",
        *(word for name, value in given.items() for word in (f"--{name}", value)),
        *(f"--{name}" for name, value in options.items() if value is True),
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"refnet predict ({variant}) ended with {done.returncode}: {done.stderr.strip()[-500:]}")


MEASURES: dict[str, Callable[..., list[Row]]] = {
    "kernel": measure_kernel,
    "tiles": measure_tiles,
    "devices": measure_devices,
    "scene": measure_scene,
}


def measure_in_child(measure: str, **settings: Any) -> list[Row]:
    """Run a measurement in its own process; if it fails, return one row with the error."""
    command = [sys.executable, "-m", "benchmarks.gpu", measure, json.dumps(settings)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        rows: list[Row] = json.loads(done.stdout.splitlines()[-1])
        return rows
    last = (done.stderr.strip().splitlines() or ["no error message"])[-1]
    name = ", ".join(str(value) for value in settings.values())
    return [{"what": f"{measure}: {name}", "failed": f"exit code {done.returncode}: {last[:500]}"}]


def run(
    repeats: int = 5,
    device: str = "cuda",
    devices: str | None = None,
    batches: Sequence[int] = BATCHES,
    networks: Sequence[str] = tuple(NETWORKS),
    variants: Sequence[str] = tuple(VARIANTS),
    levels: Sequence[int] = range(1, LEVELS + 1),
    size: int = SIZE,
) -> list[Row]:
    """Run all measurements.

    Parameters
    ----------
    repeats : int
        Runs per time measurement; medians are reported.
    device : str
        A torch device.
    devices : str, optional
        Several devices, as for ``refnet predict --device``; by default all GPUs if there are several.
    batches : sequence of int
        Batch sizes in tiles.
    networks, variants : sequence of str
        From ``NETWORKS`` and ``VARIANTS``.
    levels : sequence of int
        Levels of the network at which the scan kernels are measured.
    size : int
        Size of the larger scene in pixels.
    """
    if devices is None and torch.cuda.device_count() > 1:
        devices = ",".join(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    plans: list[dict[str, Any]] = []
    if levels:
        kernels = [name for name in SCANS if _fits(name, device)]
        plans += [{"measure": "kernel", "kernel": name, "device": device, "levels": list(levels)} for name in kernels]
    fitting = [
        name for name in variants
        if _fits(VARIANTS[name].get("scan"), device) and (VARIANTS[name].get("provider") != "cpu" or device == "cpu")
    ]  # fmt: skip
    for network in networks:
        for batch in batches:
            # "deterministic" changes torch for the whole process, and with it the plain engine.
            plans += [
                {"measure": "tiles", "network": network, "variant": name, "device": device, "batch": batch}
                for name in fitting
                if name != "deterministic"
            ]
            plans += [{"measure": "devices", "network": network, "devices": devices, "batch": batch}] * bool(devices)
    plans += [
        {"measure": "scene", "variant": name, "device": device, "size": whole}
        for whole in (None, size)
        for name in fitting
    ]
    rows = []
    for number, plan in enumerate(plans, 1):
        done = measure_in_child(**plan, repeats=repeats)
        rows += done
        for row in done:
            told = row.get("failed") or f"{row.get('seconds', 0):.4g} s"
            print(f"[{number}/{len(plans)}] {row['what']}: {told}", file=sys.stderr, flush=True)
    return rows


def _fits(kernel: str | None, device: str) -> bool:
    """Return whether a scan kernel can run on a device; the doctor's output states why others cannot."""
    return kernel is None or available_scans(torch.device(device).type, PUBLISHED.states)[kernel] is None


def describe_environment() -> dict[str, Any]:
    """Return the output of ``nvidia-smi`` and ``refnet doctor``, and the installed distributions."""
    return {
        "nvidia_smi": _run_command("nvidia-smi") if shutil.which("nvidia-smi") else None,
        "doctor": _run_command(sys.executable, "-m", "refnet_cli", "doctor", "--json"),
        "installed": {found.metadata["Name"]: found.version for found in distributions()},
    }


def _run_command(*command: str) -> dict[str, Any]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    try:
        said = json.loads(done.stdout)
    except ValueError:
        said = done.stdout.splitlines()
    return {"exit_code": done.returncode, "stdout": said, "stderr": done.stderr.splitlines()[-20:]}


if __name__ == "__main__":
    print(json.dumps(MEASURES[sys.argv[1]](**json.loads(sys.argv[2]))))
