"""What refnet finds on this machine and what it will use: versions, devices, scan kernels, weights."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from refnet_cli import __version__
from refnet_cli.card import default_weights, verify
from refnet_cli.scan import available_scans, choose_scan, compiled_kernels
from refnet_cli.torch_engine import choose_device, devices

LIBRARIES = (
    "torch", "timm", "numba", "numpy", "rasterio", "pyproj", "odc-geo", "triton", "fla-core", "mamba-ssm"
)  # fmt: skip


@dataclass(frozen=True)
class Examination:
    """What was found; `to_dict` is what ``refnet doctor --json`` prints."""

    refnet: str
    python: str
    system: str
    libraries: dict[str, str | None]
    """Version by name of the distribution; None where it is not installed."""
    devices: dict[str, str]
    """Description by the name that ``--device`` takes; ``auto`` names what it stands for."""
    scans: dict[str, dict[str, Any]]
    """For each type of device: the scan kernel ``chosen``, the ``reason``, and ``missing``: why others cannot run."""
    kernels: str
    """Where the kernels compiled for this processor are kept."""
    weights: dict[str, str]
    """Name, path and checksum of the weights that are used by default; they were held against it."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a plain dict that JSON can hold."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return everything in lines for people."""
        found = [f"refnet {self.refnet}, Python {self.python}, {self.system}", "", "libraries"]
        found += [f"  {name:<10} {number or 'not installed'}" for name, number in self.libraries.items()]
        found += ["", "devices"]
        found += [f"  {name:<10} {description}" for name, description in self.devices.items()]
        for device, scan in self.scans.items():
            found += ["", f"selective scan on {device}: {scan['chosen']} ({scan['reason']})"]
            found += [f"  {name:<10} {reason or 'can run'}" for name, reason in scan["missing"].items()]
        found += ["", f"kernels compiled for this processor: {self.kernels}"]
        return [*found, f"weights by default: {self.weights['name']}, intact ({self.weights['path']})"]


def examine() -> Examination:
    """Look at the machine and at what is installed.

    Raises
    ------
    UnavailableError
        If the environment variable ``REFNET_SCAN`` names a kernel that cannot run here.
    WeightsError
        If the weights that come along are damaged.
    """
    found = devices()
    scans = {}
    for device in dict.fromkeys(name.partition(":")[0] for name in found):
        choice = choose_scan(device)
        scans[device] = {"chosen": choice.name, "reason": choice.reason, "missing": available_scans(device)}
    card = verify(default_weights())
    return Examination(
        refnet=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        libraries={name: _installed(name) for name in LIBRARIES},
        devices=found | {"auto": choose_device("auto")},
        scans=scans,
        kernels=compiled_kernels(),
        weights={"name": card.name, "path": str(default_weights()), "sha256": card.sha256},
    )


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
