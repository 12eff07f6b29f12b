"""File systems that lack something, as a library in C that is loaded before the others."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def compile_shim(source: Path, folder: Path) -> Path:
    """Compile a library for LD_PRELOAD, or skip where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = folder / f"{source.stem}.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library

NO_POSIX_LOCKS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
static int answer(const char *name, int file, int command, void *given) {
    if (command == F_SETLK || command == F_SETLKW || command == F_GETLK) { errno = ENOLCK; return -1; }
    int (*real)(int, int, ...) = dlsym(RTLD_NEXT, name);
    return real(file, command, given);
}
#define WRAP(name) int name(int file, int command, ...) { \
    va_list more; va_start(more, command); void *given = va_arg(more, void *); va_end(more); \
    return answer(#name, file, command, given); }
WRAP(fcntl)
WRAP(fcntl64)
"""
"""A library in whose presence no file can be locked as POSIX has it."""
