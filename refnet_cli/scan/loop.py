"""The selective scan step by step, as defined: slow and simple, the oracle for all other kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def scan_orders(height: int, width: int) -> Tensor:
    """Return pixel indices in the order in which each of the four directions visits them, shape (4, height * width).

    The directions are row by row, column by column, and both reversed.

    Examples
    --------
    >>> scan_orders(2, 2).tolist()
    [[0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0], [3, 1, 2, 0]]
    """
    rows = torch.arange(height * width)
    columns = rows.view(height, width).T.reshape(-1)
    return torch.stack([rows, columns, rows.flip(0), columns.flip(0)])


def selective_scan_loop(
    u: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a_log: Tensor, d_skip: Tensor
) -> Tensor:
    """Run the four-direction selective scan step by step; see `refnet_cli.scan.selective_scan`."""
    batch, height, width, channels = u.shape
    rank = dt_weight.shape[-1]
    states = a_log.shape[-1]
    u_flat = u.float().reshape(batch, -1, channels)
    projection = projection.float().reshape(batch, -1, 4, rank + 2 * states)
    dt_low, b, c = torch.split(projection, [rank, states, states], dim=-1)
    a = -torch.exp(a_log.float())
    y = torch.zeros_like(u_flat)
    for k, order in enumerate(scan_orders(height, width).to(u.device)):
        h = u_flat.new_zeros(batch, channels, states)
        outputs = []
        for position in order:
            u_l = u_flat[:, position]
            dt = F.softplus(dt_low[:, position, k] @ dt_weight[k].float().T + dt_bias[k].float())
            decay = torch.exp(dt[:, :, None] * a[k])
            h = decay * h + (dt * u_l)[:, :, None] * b[:, position, k, None, :]
            outputs.append((h * c[:, position, k, None, :]).sum(-1) + d_skip[k].float() * u_l)
        y = y.index_add(1, order, torch.stack(outputs, dim=1))
    return y.view(u.shape).to(u.dtype)
