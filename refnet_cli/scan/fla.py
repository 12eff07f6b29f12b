"""The selective scan with one state, on fla-core's ``chunk_hgrn`` (Triton kernels for GPUs of several vendors).

Its recurrence h = exp(g) h + x equals the scan's with g = dt A and x = dt b u. It scans chunks of 128 steps in parallel
in float32. Source: https://github.com/fla-org/flash-linear-attention, ``fla/ops/hgrn/chunk.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from refnet_cli.errors import UnavailableError
from refnet_cli.scan.directions import in_place, in_scan_order, is_installed


def missing_for_fla(device: str, states: int = 1) -> str | None:
    """Return why this kernel cannot run S states on a torch device type, or None if it can."""
    if device in ("cpu", "mps"):
        return f"fla-core's kernels run on GPUs that Triton supports, not on {device!r}"
    if states != 1:
        return f"fla-core's chunk_hgrn has one state, not {states}"
    if not is_installed("fla"):
        return "fla-core is not installed: pip install 'refnet-cli[gpu]'"
    try:
        _kernel()
    except UnavailableError as error:
        return str(error).removesuffix(".")
    return None


@cache
def _kernel() -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]:
    try:
        from fla.ops.hgrn import chunk_hgrn
    except (ImportError, OSError) as error:
        raise UnavailableError(
            f"fla-core cannot be imported ({error}). Reinstall it with its requirements (einops, triton), or use "
            "another scan kernel, for example with REFNET_SCAN=torch."
        ) from error
    kernel: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]] = chunk_hgrn
    return kernel


def selective_scan_fla(
    u: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a_log: Tensor, d_skip: Tensor
) -> Tensor:
    """Run the four-direction selective scan in fla-core; see `refnet_cli.scan.selective_scan`.

    The directions run in parallel as a batch of 4N sequences, so u exists four times in memory.

    Raises
    ------
    UnavailableError
        If there is more than one state, or fla-core cannot be imported.
    """
    _, height, width, _ = u.shape
    rank, states = dt_weight.shape[-1], a_log.shape[-1]
    if states != 1:
        raise UnavailableError(f"The scan kernel 'fla' has one state, not {states}. Use another, such as 'torch'.")
    # Autocast would compute the matrix product for dt in half precision.
    with torch.autocast(u.device.type, enabled=False):
        x = torch.stack([in_scan_order(u.float(), k) for k in range(4)])
        values = torch.stack([in_scan_order(projection[..., k, :].float(), k) for k in range(4)])
        dt_low, b, c = torch.split(values, [rank, 1, 1], dim=-1)
        dt = F.softplus(dt_low @ dt_weight.float().mT[:, None] + dt_bias.float()[:, None, None])
        a = -torch.exp(a_log.float())[:, None, None, :, 0]
        h, _ = _kernel()((dt * b * x).flatten(0, 1), (dt * a).flatten(0, 1))
        y = c * h.view(x.shape) + d_skip.float()[:, None, None] * x
        return torch.stack([in_place(y[k], k, height, width) for k in range(4)]).sum(0).to(u.dtype)
