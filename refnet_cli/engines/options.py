"""What a network is to run on and with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from refnet_cli.system.options import option

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class EngineOptions:
    """What a network is to run on and with."""

    device: str = option(
        "auto",
        help="auto, cpu, cuda or cuda:N; or several, in a process each, as cuda:0,1, which was not measured.",
        affects="run",
    )
    batch: int | None = option(None, help="Tiles at once on each device.", default_text="what suits it", affects="run")
    scan: str | None = option(
        None,
        help="Kernel of the selective scan: loop, torch, cpu, mamba, fla or triton; `refnet doctor` tells which can "
        "run.",
        default_text="what REFNET_SCAN names, else what suits the device",
        affects="run",
    )
    precision: Precision = option(
        "fp32", help="Number format of matrix products and convolutions; bf16 and fp16 on GPUs only.", affects="pixels"
    )
    compile: bool = option(
        False,
        help="Have torch.compile make kernels for the network, a minute's work before the first tile. On CPUs it "
        "gained nothing; on GPUs it was not measured.",
        affects="run",
    )
    deterministic: bool = option(
        False,
        help="On GPUs, use only algorithms that give the same bits each time. On CPUs all of them do.",
        affects="elsewhere",
    )
    provider: str | None = option(
        None,
        help="Execution provider of ONNX Runtime, for ONNX models.",
        default_text="the first of these that is there",
        affects="run",
    )
