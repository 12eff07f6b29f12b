"""How much memory a run may use: the least that the machine, its cgroups and its limits leave.

Own code because ``/proc/meminfo``, which libraries such as psutil report, ignores the limits of cgroups and of
``ulimit -v``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from refnet_cli.errors import OptionsError

MB = 2**20
GB = 2**30
_UNITS = {"": 1, "K": 2**10, "M": MB, "G": GB, "T": 2**40}
_RESERVED = 3200 * MB  # address space that libraries reserve without using it, measured with torch's CUDA build
_UNLIMITED = 2**60  # cgroups v1 states "no limit" as a large number
TORCH_LAYERS, ONNX_LAYERS = 6, 30  # arrays (tile size x decoder width) that the network holds at once
_MARGIN = 0.1  # share of the machine's and the cgroup's free memory that is left to others


def parse_size(text: str) -> int:
    """Return a size such as "4G" or "800M" in bytes.

    Raises
    ------
    OptionsError
        If the text is not a size.

    Examples
    --------
    >>> parse_size("1.5G"), parse_size("800m"), parse_size("2GiB")
    (1610612736, 838860800, 2147483648)
    """
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not found or float(found.group(1)) <= 0:
        raise OptionsError(f"{text!r} is not a memory size. Write it as 800M or 4G.")
    return int(float(found.group(1)) * _UNITS[found.group(2).upper()])


def free_memory() -> int | None:
    """Return how many more bytes this process may use: the least that machine, cgroups and limits leave.

    A tenth of the machine's and the cgroup's free memory is left to others. None if unknown, as on systems without
    ``/proc``.
    """
    shared = [int(free * (1 - _MARGIN)) for free in (_free_by_machine(), _free_by_cgroup()) if free is not None]
    own = _free_by_limits()
    found = shared if own is None else [*shared, own]
    return max(min(found), 0) if found else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")  # cgroup names may hold any bytes
    except OSError:
        return ""


def _free_by_machine() -> int | None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _free_by_cgroup() -> int | None:
    """Return what the process's cgroups (v1 or v2) leave; the page cache counts as free, as it can be reclaimed."""
    left = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, group = (*line.split(":", 2), "", "")[:3]
        if ":" in line and controllers == "":
            root, used, prefix = "/sys/fs/cgroup", "memory.current", ""
            # Above memory.high a process is not killed, but throttled until it hardly runs.
            limits = ["memory.max", "memory.high"]
        elif "memory" in controllers.split(","):
            root, used, prefix = "/sys/fs/cgroup/memory", "memory.usage_in_bytes", "total_"
            limits = ["memory.limit_in_bytes"]
        else:
            continue
        # Parent groups limit too. In a container the group's own path may be absent: the root is then the group.
        names = [name for name in group.split("/") if name]
        for depth in range(len(names), -1, -1):
            folder = "/".join([root, *names[:depth]])
            stated = [_read(f"{folder}/{name}").strip() for name in limits]
            most = min((int(limit) for limit in stated if limit.isdecimal()), default=_UNLIMITED)
            usage = _read(f"{folder}/{used}").strip()
            if usage.isdecimal() and most < _UNLIMITED:
                pages = re.findall(rf"^{prefix}(?:in)?active_file (\d+)$", _read(f"{folder}/memory.stat"), re.MULTILINE)
                left.append(most - int(usage) + sum(map(int, pages)))
    return min(left) if left else None


def _free_by_limits() -> int | None:
    """Return what the limit on address space (ulimit -v) leaves, less the space that torch will reserve on import."""
    most, used = address_space_limit(), _status("VmSize")
    return None if most is None or used is None else most - used - ("torch" not in sys.modules) * _RESERVED


def address_space_limit() -> int | None:
    """Return the limit on address space (`ulimit -v`) in bytes, or None if there is no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if most == resource.RLIM_INFINITY else most


def _status(entry: str) -> int | None:
    """Return the bytes of an entry of ``/proc/self/status``."""
    found = re.search(rf"^{entry}:\s+(\d+) kB", _read("/proc/self/status"), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def memory_limit(given: str | None) -> int | None:
    """Return how many bytes a run may use in total: the given size, else the memory in use plus the free memory.

    None if unknown.

    Raises
    ------
    OptionsError
        If the given text is not a size.
    """
    if given is not None:
        return parse_size(given)
    left = free_memory()
    return None if left is None else left + (_status("VmRSS") or 0)
