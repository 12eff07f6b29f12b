"""Limits that a test puts on its own process."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

_VERSION = 0x20080522  # of Linux' capget and capset
_PASSING_PERMISSIONS = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """What a full disk does, as far as a process can ask for it: writes beyond ``size`` bytes fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def permissions_hold() -> Iterator[None]:
    """Give up what lets root pass over the permissions of files, in this thread and those that it starts."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice

    def call(function: str) -> None:
        if getattr(libc, function)(header, sets):
            raise OSError(ctypes.get_errno(), function)

    call("capget")
    effective = sets[0]
    sets[0] = effective & ~_PASSING_PERMISSIONS
    call("capset")
    try:
        yield
    finally:
        sets[0] = effective
        call("capset")
