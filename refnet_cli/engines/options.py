"""Options of the engine: device, batch size, scan kernel, precision and so on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from refnet_cli.system.options import option

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class EngineOptions:
    """Device, batch size, scan kernel, precision and other settings of an engine."""

    device: str = option(
        "auto",
        help="auto, cpu, cuda or cuda:N. Several devices, as in cuda:0,1, run in one process each (not measured).",
        affects="run",
    )
    batch: int | None = option(
        None, help="Tiles per batch on each device.", default_text="depends on the device", affects="run"
    )
    scan: str | None = option(
        None,
        help="Kernel of the selective scan: loop, torch, cpu, mamba, fla or triton. `refnet doctor` lists those that "
        "can run.",
        default_text="REFNET_SCAN, else the preferred one of the device",
        affects="run",
    )
    precision: Precision = option(
        "fp32", help="Number format of matrix products and convolutions; bf16 and fp16 on GPUs only.", affects="pixels"
    )
    compile: bool = option(
        False,
        help="Compile the network with torch.compile, which takes about a minute before the first tile. No gain on "
        "CPUs; not measured on GPUs.",
        affects="run",
    )
    deterministic: bool = option(
        False,
        help="On GPUs, use only algorithms that give the same bits in every run. On CPUs all algorithms do.",
        affects="elsewhere",
    )
    provider: str | None = option(
        None,
        help="Execution provider of ONNX Runtime, for ONNX models.",
        default_text="the first available one",
        affects="run",
    )
