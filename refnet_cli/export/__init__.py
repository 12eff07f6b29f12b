"""Export of weights as ONNX models; the exporter is imported on first use, because it needs torch and onnx."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refnet_cli.system.lazy import public

if TYPE_CHECKING:
    from refnet_cli.export.onnx_model import INPUTS as INPUTS
    from refnet_cli.export.onnx_model import OUTPUTS as OUTPUTS
    from refnet_cli.export.onnx_model import PARITY as PARITY
    from refnet_cli.export.onnx_model import Exported as Exported
    from refnet_cli.export.onnx_model import Parity as Parity
    from refnet_cli.export.onnx_model import draw_tiles as draw_tiles
    from refnet_cli.export.onnx_model import export_onnx as export_onnx

_NAMES = ("INPUTS", "OUTPUTS", "PARITY", "Exported", "Parity", "draw_tiles", "export_onnx")


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return public(name, f"{__name__}.onnx_model")
