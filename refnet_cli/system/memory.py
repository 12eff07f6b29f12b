"""How much memory a run may take, and how it is shared out: tiles at once, tiles in waiting, blocks kept."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from refnet_cli.errors import OptionsError

MB = 2**20
GB = 2**30
_UNITS = {"": 1, "K": 2**10, "M": MB, "G": GB, "T": 2**40}
_RESERVED = 3200 * MB  # address space beyond what is used, measured with torch's CUDA build
_UNLIMITED = 2**60  # version 1 of cgroups has no word for it but a great number
TORCH_LAYERS, ONNX_LAYERS = 6, 30
_MARGIN = 0.1  # of what machine and control group have free, left to others


def parse_size(text: str) -> int:
    """Turn a size such as "4G" or "800M" into bytes.

    Raises
    ------
    OptionsError
        If it is no size.

    Examples
    --------
    >>> parse_size("1.5G"), parse_size("800m"), parse_size("2GiB")
    (1610612736, 838860800, 2147483648)
    """
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not found or float(found.group(1)) <= 0:
        raise OptionsError(f"{text!r} is no size of memory; write it as 800M or 4G.")
    return int(float(found.group(1)) * _UNITS[found.group(2).upper()])


def free_memory() -> int | None:
    """Return how many bytes this process may still take: the least that machine, cgroup and limits leave.

    Of what machine and cgroup have, a tenth is left to others. None where nothing tells, as on systems without
    ``/proc``.
    """
    shared = [int(left * (1 - _MARGIN)) for tell in (_left_by_machine, _left_by_cgroup) if (left := tell()) is not None]
    own = _left_by_limits()
    found = shared if own is None else [*shared, own]
    return max(min(found), 0) if found else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")  # names of groups may be anything
    except OSError:
        return ""


def _left_by_machine() -> int | None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _left_by_cgroup() -> int | None:
    """What the process's control groups leave, in either version; pages of files do not count, for they can go."""
    left = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, group = (*line.split(":", 2), "", "")[:3]
        if ":" in line and controllers == "":
            root, used, prefix = "/sys/fs/cgroup", "memory.current", ""
            # Beyond memory.high a process is not killed, but slowed down until it hardly runs.
            limits = ["memory.max", "memory.high"]
        elif "memory" in controllers.split(","):
            root, used, prefix = "/sys/fs/cgroup/memory", "memory.usage_in_bytes", "total_"
            limits = ["memory.limit_in_bytes"]
        else:
            continue
        # Each group above limits too. Inside a container the group's own path may not be there: its root is the group.
        names = [name for name in group.split("/") if name]
        for depth in range(len(names), -1, -1):
            folder = "/".join([root, *names[:depth]])
            said = [_read(f"{folder}/{name}").strip() for name in limits]
            most = min((int(limit) for limit in said if limit.isdecimal()), default=_UNLIMITED)
            usage = _read(f"{folder}/{used}").strip()
            if usage.isdecimal() and most < _UNLIMITED:
                pages = re.findall(rf"^{prefix}(?:in)?active_file (\d+)$", _read(f"{folder}/memory.stat"), re.MULTILINE)
                left.append(most - int(usage) + sum(map(int, pages)))
    return min(left) if left else None


def _left_by_limits() -> int | None:
    """What a limit on address space (ulimit -v) leaves in addition to what libraries reserve without using it."""
    most, used = most_addresses(), _status("VmSize")
    return None if most is None or used is None else most - used - ("torch" not in sys.modules) * _RESERVED


def most_addresses() -> int | None:
    """Return the limit of the address space in bytes (`ulimit -v`), None without one."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if most == resource.RLIM_INFINITY else most


def _status(entry: str) -> int | None:
    """Bytes by an entry of ``/proc/self/status``."""
    found = re.search(rf"^{entry}:\s+(\d+) kB", _read("/proc/self/status"), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def may_use(given: str | None) -> int | None:
    """Return how many bytes a run may take in all: as given, else what it has and what is free.

    None if nothing tells.

    Raises
    ------
    OptionsError
        If what is given is no size.
    """
    if given is not None:
        return parse_size(given)
    left = free_memory()
    return None if left is None else left + (_status("VmRSS") or 0)
