"""The four-direction selective scan: one signature, an oracle and fast kernels behind it.

Source: Mamba (arXiv 2312.00752) for the recurrence, VMamba (arXiv 2401.10166) for the four directions.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from refnet_cli.errors import UnavailableError
from refnet_cli.scan.cpu import selective_scan_cpu
from refnet_cli.scan.loop import selective_scan_loop
from refnet_cli.scan.two_level import selective_scan_two_level

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

SCANS: dict[str, Scan] = {
    "loop": selective_scan_loop,
    "torch": selective_scan_two_level,
    "cpu": selective_scan_cpu,
}


def choose_scan(device: str) -> str:
    """Name of the kernel that suits a torch device type such as ``"cpu"`` or ``"cuda"``.

    Examples
    --------
    >>> choose_scan("cpu")
    'cpu'
    """
    return "cpu" if device == "cpu" else "torch"


def selective_scan(
    u: Tensor,
    projection: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    a_log: Tensor,
    d_skip: Tensor,
    scan: str | None = None,
) -> Tensor:
    """Scan an image in four directions and sum the results, each put back in place.

    Direction 0 goes row by row, 1 column by column, 2 and 3 are 0 and 1 reversed. For direction k and position l, with
    (dt', b, c) from ``projection``: dt = softplus(W_dt[k] dt' + b_dt[k]); h_l = exp(dt A[k]) h_(l-1) + dt b u_l from
    h = 0, with A = -exp(a_log); y_l = c h_l + d_skip[k] u_l. Softplus and recurrence run in float32, whatever u is.

    Parameters
    ----------
    u : tensor, shape (N, H, W, D)
    projection : tensor, shape (N, H, W, 4, R + 2S)
        dt' (R numbers), b (S) and c (S) of each direction at each pixel.
    dt_weight : tensor, shape (4, D, R)
    dt_bias : tensor, shape (4, D)
    a_log : tensor, shape (4, D, S)
    d_skip : tensor, shape (4, D)
    scan : str, optional
        A name from ``SCANS``; by default what suits the device.

    Returns
    -------
    tensor, shape (N, H, W, D), of u's dtype

    Raises
    ------
    UnavailableError
        If there is no kernel of that name.
    """
    name = scan or choose_scan(u.device.type)
    if name not in SCANS:
        raise UnavailableError(f"There is no scan kernel {name!r}; choose one of {', '.join(SCANS)}.")
    return SCANS[name](u, projection, dt_weight, dt_bias, a_log, d_skip)
