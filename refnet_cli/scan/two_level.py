"""The selective scan in plain torch, in two levels: short scans in parallel, then one over their ends.

Exact, differentiable and on any device: the fallback where no other kernel runs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from refnet_cli.scan.loop import scan_orders


def linear_recurrence(decay: Tensor, x: Tensor) -> Tensor:
    """Return h_l = decay_l h_(l-1) + x_l from h = 0, along the second to last axis.

    The length L is split into about sqrt(L) chunks. All chunks are scanned in parallel from zero. A scan over the
    chunks' ends gives the states from which the chunks should have started. The products of the decays carry these
    states into each chunk.

    Parameters
    ----------
    decay, x : float32 tensor, shape (..., L, D)

    Returns
    -------
    float32 tensor, shape (..., L, D)
    """
    length = x.shape[-2]
    size = max(math.isqrt(length), 1)
    padding = -length % size
    decay = torch.unflatten(F.pad(decay, (0, 0, 0, padding)), -2, (-1, size))
    x = torch.unflatten(F.pad(x, (0, 0, 0, padding)), -2, (-1, size))

    state = torch.zeros_like(x[..., 0, :])
    product = torch.ones_like(state)
    states, products = [], []
    for decay_t, x_t in zip(decay.unbind(-2), x.unbind(-2), strict=True):
        state = decay_t * state + x_t
        product = decay_t * product
        states.append(state)
        products.append(product)

    carry = torch.zeros_like(state[..., 0, :])
    starts = []
    for product_end, state_end in zip(product.unbind(-2), state.unbind(-2), strict=True):
        starts.append(carry)
        carry = product_end * carry + state_end
    start = torch.stack(starts, dim=-2)

    h = torch.stack([state + product * start for state, product in zip(states, products, strict=True)], dim=-2)
    return h.flatten(-3, -2)[..., :length, :]


def selective_scan_two_level(
    u: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a_log: Tensor, d_skip: Tensor
) -> Tensor:
    """Run the four-direction selective scan in two levels; see `refnet_cli.scan.selective_scan`."""
    batch, height, width, channels = u.shape
    rank = dt_weight.shape[-1]
    states = a_log.shape[-1]
    u_flat = u.float().reshape(batch, -1, channels)
    projection = projection.float().reshape(batch, height * width, 4, rank + 2 * states)
    orders = scan_orders(height, width).to(u.device)
    a = -torch.exp(a_log.float())
    y = torch.zeros_like(u_flat)
    for k, order in enumerate(orders):
        u_k = u_flat[:, order]
        dt_low, b, c = torch.split(projection[:, order, k], [rank, states, states], dim=-1)
        dt = F.softplus(F.linear(dt_low, dt_weight[k].float(), dt_bias[k].float()))
        y_k = d_skip[k].float() * u_k
        for s in range(states):
            h = linear_recurrence(torch.exp(dt * a[k, :, s]), dt * b[..., s : s + 1] * u_k)
            y_k = y_k + c[..., s : s + 1] * h
        y = y.index_add(1, order, y_k)
    return y.view(u.shape).to(u.dtype)
