"""The selective scan on mamba-ssm's CUDA kernel, with the four directions as four groups of channels.

Source: https://github.com/state-spaces/mamba, ``mamba_ssm/ops/selective_scan_interface.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from refnet_cli.errors import UnavailableError
from refnet_cli.scan.directions import in_place, in_scan_order, is_installed


def missing_for_mamba(device: str, states: int = 1) -> str | None:
    """Return why this kernel cannot run S states on a torch device type, or None if it can."""
    if device != "cuda":
        return f"mamba-ssm's kernel runs on CUDA devices only, not on {device!r}"
    if states > 256:
        return f"mamba-ssm's kernel supports up to 256 states, not {states}"
    if not is_installed("mamba_ssm"):
        return "mamba-ssm is not installed: pip install 'refnet-cli[mamba]' (it compiles against the installed torch)"
    try:
        _kernel()
    except UnavailableError as error:
        return str(error).removesuffix(".")
    return None


@cache
def _kernel() -> Callable[..., Tensor]:
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except (ImportError, OSError) as error:
        raise UnavailableError(
            f"mamba-ssm cannot be imported ({error}). Rebuild it for the installed torch, or use another scan kernel, "
            "for example with REFNET_SCAN=torch."
        ) from error
    kernel: Callable[..., Tensor] = selective_scan_fn
    return kernel


def selective_scan_mamba(
    u: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a_log: Tensor, d_skip: Tensor
) -> Tensor:
    """Run the four-direction selective scan in mamba-ssm; see `refnet_cli.scan.selective_scan`.

    All inputs are float32, so the kernel computes in float32. u exists four times in memory.
    """
    kernel = _kernel()
    _, height, width, _ = u.shape
    rank, states = dt_weight.shape[-1], a_log.shape[-1]
    # Autocast would compute the matrix product for dt in half precision.
    with torch.autocast(u.device.type, enabled=False):
        sequences = [in_scan_order(u.float(), k).mT for k in range(4)]
        values = torch.stack([in_scan_order(projection[..., k, :].float(), k).mT for k in range(4)], dim=1)
        dt_low, b, c = torch.split(values, [rank, states, states], dim=2)
        y = kernel(
            torch.cat(sequences, dim=1),
            (dt_weight.float() @ dt_low).flatten(1, 2),
            -torch.exp(a_log.float()).flatten(0, 1),
            b.contiguous(),
            c.contiguous(),
            d_skip.float().flatten(),
            delta_bias=dt_bias.float().flatten(),
            delta_softplus=True,
        )
        images = [in_place(part.mT, k, height, width) for k, part in enumerate(y.chunk(4, dim=1))]
        return torch.stack(images).sum(0).to(u.dtype)
