"""The four-direction selective scan: one signature, an oracle and fast kernels behind it.

Source: Mamba (arXiv 2312.00752) for the recurrence, VMamba (arXiv 2401.10166) for the four directions.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from refnet_cli.errors import UnavailableError
from refnet_cli.scan.cpu import compiled_kernels as compiled_kernels
from refnet_cli.scan.cpu import missing_for_cpu, selective_scan_cpu
from refnet_cli.scan.fla import missing_for_fla, selective_scan_fla
from refnet_cli.scan.loop import selective_scan_loop
from refnet_cli.scan.mamba import missing_for_mamba, selective_scan_mamba
from refnet_cli.scan.triton import missing_for_triton, selective_scan_triton
from refnet_cli.scan.two_level import selective_scan_two_level


class Kernel(NamedTuple):
    """A kernel of the selective scan."""

    run: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    """Function of the first six arguments of `selective_scan`."""
    missing: Callable[[str, int], str | None] = lambda device, states: None
    """Returns why the kernel cannot run on a device type with a state size, or None if it can; may be slow."""


SCANS: dict[str, Kernel] = {
    "loop": Kernel(selective_scan_loop),
    "torch": Kernel(selective_scan_two_level),
    "cpu": Kernel(selective_scan_cpu, missing_for_cpu),
    "mamba": Kernel(selective_scan_mamba, missing_for_mamba),
    "fla": Kernel(selective_scan_fla, missing_for_fla),
    "triton": Kernel(selective_scan_triton, missing_for_triton),
}
_PREFERRED = {
    "cpu": {"cpu": "the fastest on CPUs"},
    "cuda": {
        "mamba": "mamba-ssm, which provides this CUDA kernel, is installed",
        "fla": "fla-core is installed, and mamba-ssm cannot be used",
    },
}
"""Preferred kernels by device type, with the reason; the first one that can run is the default."""


class Choice(NamedTuple):
    """A scan kernel, and the reason for choosing it."""

    name: str
    reason: str
    warning: str | None = None
    """Set if a faster kernel is installed but fails."""


_found: dict[tuple[str, str, int], str | None] = {}


def _missing(name: str, device: str, states: int) -> str | None:
    """Return why a kernel cannot run on a device type, or None if it can; compiles or imports the kernel once."""
    # Not functools.cache: torch.compile warns about it.
    key = name, device, states
    if key not in _found:
        _found[key] = SCANS[name].missing(device, states)
    return _found[key]


def available_scans(device: str, states: int = 1) -> dict[str, str | None]:
    """Return, for each kernel, whether it can run on a torch device type.

    Parameters
    ----------
    device : str
        A torch device type, such as ``"cpu"`` or ``"cuda"``.
    states : int
        State size S of the network's scans.

    Returns
    -------
    dict
        For each name in ``SCANS``: None, or why it cannot run and what to install.

    Examples
    --------
    >>> available_scans("cuda")["cpu"]
    "it runs on CPUs only, not on 'cuda'"
    """
    return {name: _missing(name, device, states) for name in SCANS}


def choose_scan(device: str, states: int = 1, asked: str | None = None) -> Choice:
    """Return the requested kernel, else that of the environment variable ``REFNET_SCAN``, else the device's default.

    Parameters
    ----------
    device : str
        A torch device type, such as ``"cpu"`` or ``"cuda"``.
    states : int
        State size S.
    asked : str, optional
        A name from ``SCANS``.

    Returns
    -------
    Choice

    Raises
    ------
    UnavailableError
        If the kernel is unknown or cannot run here.

    Examples
    --------
    >>> choose_scan("cpu", asked="torch")
    Choice(name='torch', reason='requested', warning=None)
    """
    if asked:
        return _check(Choice(asked, "requested"), device, states)
    named = os.environ.get("REFNET_SCAN")
    if named:
        return _check(Choice(named, "set by the environment variable REFNET_SCAN"), device, states)
    passed: dict[str, str] = {}
    for name, why in _PREFERRED.get(device, {}).items():
        reason = _missing(name, device, states)
        if reason is None:
            return Choice(name, why, _warning(passed, name))
        passed[name] = reason
    if passed:
        return Choice("torch", f"it runs on any device, and for {name}: {passed[name]}", _warning(passed, "torch"))
    return Choice("torch", f"it runs on any device, and no faster kernel is known for {device!r}")


def _warning(passed: dict[str, str], chosen: str) -> str | None:
    """Return a warning about kernels that should run here but fail; kernels that are not installed do not count."""
    failed = [
        f"the scan kernel {name!r} cannot be used: {reason}"
        for name, reason in passed.items()
        if name == "cpu" or "cannot be imported" in reason
    ]
    return f"{'; '.join(failed)}. The slower kernel {chosen!r} is used instead" if failed else None


def _check(choice: Choice, device: str, states: int) -> Choice:
    if choice.name not in SCANS:
        raise UnavailableError(f"Unknown scan kernel {choice.name!r}. Use one of {', '.join(SCANS)}.")
    reason = _missing(choice.name, device, states)
    if reason is not None:
        other = "" if choice.name == "torch" else ", or use another kernel, such as --scan torch"
        raise UnavailableError(f"The scan kernel {choice.name!r} cannot be used: {reason}{other}.")
    return choice


def selective_scan(
    u: Tensor,
    projection: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    a_log: Tensor,
    d_skip: Tensor,
    scan: str | None = None,
) -> Tensor:
    """Scan an image in four directions, and return the sum of the four results at each pixel.

    Direction 0 goes row by row, 1 column by column, 2 and 3 are 0 and 1 reversed. For direction k and position l, with
    (dt', b, c) from ``projection``: dt = softplus(W_dt[k] dt' + b_dt[k]); h_l = exp(dt A[k]) h_(l-1) + dt b u_l from
    h = 0, with A = -exp(a_log); y_l = c h_l + d_skip[k] u_l. Softplus and recurrence run in float32 for u of any dtype.

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
        A name from ``SCANS``; by default that of `choose_scan`.

    Returns
    -------
    tensor, shape (N, H, W, D), of u's dtype

    Raises
    ------
    UnavailableError
        If the kernel is unknown or cannot run here.
    """
    if torch.compiler.is_exporting():  # exporters trace the operator without running it
        return selective_scan_cpu(u, projection, dt_weight, dt_bias, a_log, d_skip)
    choice = choose_scan(u.device.type, a_log.shape[-1], scan)
    return SCANS[choice.name].run(u, projection, dt_weight, dt_bias, a_log, d_skip)
