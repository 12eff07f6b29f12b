"""Report of ``refnet doctor``: what is installed, what refnet will use, and whether it works.

This module runs without torch and ONNX Runtime; the report states what is missing and how to install it.
"""

from __future__ import annotations

import importlib
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from refnet_cli.doctor.selftest import Run, Trial, plan_runs, run_self_test
from refnet_cli.engines.onnx_engine import choose_providers, import_runtime
from refnet_cli.engines.providers import DISTRIBUTIONS, INSTALL, PROVIDERS
from refnet_cli.errors import RefnetError, UnavailableError
from refnet_cli.fetching.availability import ask_catalogues, missing_for_fetch
from refnet_cli.model.weight_files import bundled_weights, default_weights, verify
from refnet_cli.outputs.cog import describe_gdal
from refnet_cli.system.memory import free_memory
from refnet_cli.system.process import usable_cores
from refnet_cli.system.words import count
from refnet_cli.types import Progress
from refnet_cli.version import __version__

LIBRARIES = (
    "torch", "timm", "numba", "numpy", "rasterio", "pyproj", "odc-geo", *DISTRIBUTIONS, "onnx", "triton", "fla-core",
    "mamba-ssm", "pystac-client",
)  # fmt: skip
SKIPPED = ("loop", "tensorrt")
"""Skipped by the self-test: a scan kernel with one Python step per pixel, and a provider that compiles for minutes."""
GIB = 2**30


@dataclass(frozen=True)
class DoctorReport:
    """Findings about the machine; ``refnet doctor --json`` prints `to_dict`."""

    refnet: str
    python: str
    system: str
    libraries: dict[str, str | None]
    """Version of each distribution; None if it is not installed."""
    gdal: dict[str, Any]
    """GDAL's ``version``, and ``missing``: for each driver None, or what does not work because it is missing."""
    memory: int | None
    """Bytes that a run may use."""
    folders: dict[str, str]
    """Folders of temporary files and compiled kernels."""
    devices: dict[str, str]
    """Description of each value of ``--device``; ``auto`` states the device that it resolves to."""
    engines: dict[str, str | None]
    """None for an engine that can run; otherwise why not, and what to install."""
    providers: dict[str, str | None]
    """The same for each value of ``--provider``."""
    scans: dict[str, dict[str, Any]]
    """For each device type: the scan kernel ``chosen``, the ``reason``, and ``missing``: why others cannot run."""
    weights: list[dict[str, Any]]
    """The bundled weights: ``name``, ``path``, ``sha256``, ``damage``, and whether they are the ``default``."""
    fetching: str | None = None
    """None if `refnet fetch` can run; otherwise why not, and what to install."""
    catalogues: dict[str, str | None] = field(default_factory=dict)
    """None for each catalogue that answers, otherwise why not; empty if none was asked."""
    self_test: list[Trial] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def problems(self) -> list[str]:
        """Problems that prevent predictions, or correct ones."""
        found = [str(weights["damage"]) for weights in self.weights if weights["damage"]]
        if not self.weights:
            found.append("the bundled weights are missing from this installation")
        found += [scan["reason"] for scan in self.scans.values() if scan["chosen"] is None]
        found += [f"the self-test of {trial.name} {trial.says}" for trial in self.self_test if trial.passed is False]
        if all(self.engines.values()):
            found.append(f"no engine can run. {' '.join(map(str, self.engines.values()))}")
        elif not any(trial.passed for trial in self.self_test) and not found:
            found.append("no engine could be tested")
        return found

    def check(self) -> None:
        """Raise an error if refnet does not work on this machine.

        Raises
        ------
        UnavailableError
            The message lists the problems.
        """
        if self.problems:
            raise UnavailableError("refnet does not work here: " + "; ".join(self.problems))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a plain dict for JSON."""
        return asdict(self) | {"problems": self.problems}

    def lines(self) -> list[str]:
        """Return everything as lines of text."""
        lines = [f"refnet {self.refnet}, Python {self.python}, {self.system}"]
        found = [f"{name} {number}" for name, number in self.libraries.items() if number]
        absent = [name for name, number in self.libraries.items() if not number]
        lines += [f"libraries: {', '.join(found)}", f"not installed: {', '.join(absent) or 'none'}"]
        lines.append(f"GDAL {self.gdal['version']}: {_list_missing(self.gdal['missing'])}")
        left = "unknown" if self.memory is None else f"{self.memory / GIB:.1f} GiB"
        lines += [f"memory for a run: {left}", *(f"{name}: {text}" for name, text in self.folders.items())]
        lines += ["", "devices", *_table(self.devices)]
        lines += ["", "engines", *_table(_can_run(self.engines))]
        if not self.engines["onnx"]:
            lines += ["", "providers of ONNX Runtime", *_table(_can_run(self.providers))]
        for device, scan in self.scans.items():
            lines += ["", f"selective scan on {device}: {scan['chosen'] or 'none'} ({scan['reason']})"]
            lines += _table(_can_run(scan["missing"]))
        lines += ["", f"fetching: {self.fetching or 'can run'}"]
        lines += _table({name: why or "answers" for name, why in self.catalogues.items()})
        lines += ["", "weights", *(_describe_weights(weights) for weights in self.weights)]
        return lines + self._self_test_lines()

    def _self_test_lines(self) -> list[str]:
        if not self.self_test:
            return ["", "self-test: nothing could be tested"]
        verdict = "passed" if not any(trial.passed is False for trial in self.self_test) else "FAILED"
        width = max(len(trial.name) for trial in self.self_test)
        return ["", f"self-test: {verdict} (total time {self.seconds:.1f} s)"] + [
            f"  {trial.name:<{width}}  {trial.seconds:4.1f} s  {trial.says}" for trial in self.self_test
        ]


def _table(entries: dict[str, str]) -> list[str]:
    return [f"  {name:<10} {text}" for name, text in entries.items()]


def _can_run(entries: dict[str, str | None]) -> dict[str, str]:
    return {name: why or "can run" for name, why in entries.items()}


def _list_missing(entries: dict[str, str | None]) -> str:
    there = [name for name, why in entries.items() if not why]
    return "; ".join([", ".join(there), *(f"without {name} {why}" for name, why in entries.items() if why)])


def _describe_weights(weights: dict[str, Any]) -> str:
    state = weights["damage"] or f"intact, sha256 {weights['sha256'][:12]}..., {weights['path']}"
    return f"  {Path(weights['path']).name}: {state}{', used by default' * weights['default']}"


def inspect_machine(progress: Progress | None = None, online: bool = False) -> DoctorReport:
    """Inspect the machine and its installation, run the self-test, and return the findings.

    Parameters
    ----------
    progress : callable, optional
        See `run_self_test`.
    online : bool
        Whether to ask each catalogue of `refnet fetch` for an answer.
    """
    started = time.monotonic()
    engines = {"torch": missing_for_torch(), "onnx": missing_for_onnx()}
    version_of_gdal, missing_drivers = describe_gdal()
    scans = {} if engines["torch"] else _inspect_scans()
    providers = {} if engines["onnx"] else _inspect_providers()
    weights = _inspect_weights()
    folders, devices = _inspect_folders(engines["torch"] is None), _inspect_devices(engines)
    fetching = missing_for_fetch()
    catalogues = ask_catalogues() if online and fetching is None else {}
    trials = run_self_test(list(_plan(engines, devices, scans, providers, weights)), progress)
    return DoctorReport(
        refnet=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        libraries={name: _installed(name) for name in LIBRARIES},
        gdal={"version": version_of_gdal, "missing": missing_drivers},
        memory=free_memory(),
        folders=folders,
        devices=devices,
        engines=engines,
        providers=providers,
        scans=scans,
        weights=weights,
        fetching=fetching,
        catalogues=catalogues,
        self_test=trials,
        seconds=time.monotonic() - started,
    )


def missing_for_torch() -> str | None:
    """Return why the torch engine cannot run, or None if it can."""
    try:
        importlib.import_module("refnet_cli.engines.torch_engine")
    except (ImportError, OSError) as error:  # OSError from libraries that cannot be loaded
        return f"torch or one of its requirements is missing ({error}): pip install 'refnet-cli[torch]'"
    return None


def missing_for_onnx() -> str | None:
    """Return why the ONNX Runtime engine cannot run, or None if it can."""
    try:
        import_runtime()
    except UnavailableError as error:
        return str(error)
    return None


def _inspect_devices(engines: dict[str, str | None]) -> dict[str, str]:
    if engines["torch"] is None:
        from refnet_cli.engines.torch_engine import choose_device, devices, explain_missing_gpu

        gpu = explain_missing_gpu()
        return devices() | ({"cuda": f"not available: {gpu}"} if gpu else {}) | {"auto": choose_device("auto")}
    found = {"cpu": count(usable_cores(), "core")}
    if engines["onnx"] is None:
        found["auto"] = choose_providers(import_runtime().get_available_providers())[0]
    return found


def _inspect_scans() -> dict[str, dict[str, Any]]:
    from refnet_cli.engines.torch_engine import devices
    from refnet_cli.scan import available_scans, choose_scan

    found = {}
    for device in dict.fromkeys(name.partition(":")[0] for name in devices()):
        try:
            chosen: tuple[str | None, str] = choose_scan(device)[:2]
        except UnavailableError as error:
            chosen = None, str(error)
        found[device] = {"chosen": chosen[0], "reason": chosen[1], "missing": available_scans(device)}
    return found


def _inspect_providers() -> dict[str, str | None]:
    there = import_runtime().get_available_providers()
    return {
        name: None if theirs in there else f"needs {INSTALL.get(name, 'onnxruntime')}"
        for name, theirs in PROVIDERS.items()
    }


def _inspect_folders(with_torch: bool) -> dict[str, str]:
    found = {}
    try:
        place = tempfile.gettempdir()
        found["temporary files"] = f"{place}, {shutil.disk_usage(place).free / GIB:.1f} GiB free"
    except OSError as error:
        found["temporary files"] = f"no writable folder ({error.strerror})"
    if with_torch:
        from refnet_cli.scan import compiled_kernels

        found["kernels compiled by numba"] = compiled_kernels()
    return found


def _inspect_weights() -> list[dict[str, Any]]:
    try:
        default, paths = default_weights(), bundled_weights()
    except (RefnetError, OSError):
        return []
    found = []
    for path in paths:
        try:
            card = verify(path)
            name, sha256, damage = card.name, card.sha256, ""
        except RefnetError as error:
            name, sha256, damage = path.stem, "", str(error)
        entry = {"name": name, "path": str(path), "sha256": sha256, "damage": damage, "default": path == default}
        found.append(entry)
    return found


def _plan(
    engines: dict[str, str | None],
    devices: dict[str, str],
    scans: dict[str, dict[str, Any]],
    providers: dict[str, str | None],
    weights: list[dict[str, Any]],
) -> Iterator[Run]:
    """Yield the runs of the self-test: everything that can run, the default first."""
    path = {Path(entry["path"]).suffix: Path(entry["path"]) for entry in weights if not entry["damage"]}
    kernels = {}
    for device in devices:
        kind, _, number = device.partition(":")
        if kind in scans and (number or kind == "cpu"):
            scan = scans[kind]
            kernels[device] = _order(scan["missing"], scan["chosen"])
    return plan_runs(path.get(".safetensors"), kernels, path.get(".onnx"), _order(providers, "cpu"))


def _order(missing: dict[str, str | None], first: str | None) -> list[str]:
    names = [name for name, why in missing.items() if not why and name not in SKIPPED]
    return sorted(names, key=lambda name: name != first)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
