"""Programs that begin with the libraries loaded: a process that has imported them forks one for each command.

To import torch and timm takes five seconds of a processor. ``python -m tests.helpers.fork_server DESCRIPTOR`` does it
once, with a single thread and no file of GDAL open, and forks a child for each request on the Unix socket that it is
given. The child becomes what was asked for: arguments, environment, folder and streams are the caller's.
`tests.helpers.programs` starts it and asks.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

LOADED = (
    "cattrs", "numba", "pyogrio", "safetensors.torch", "scipy.fft", "scipy.ndimage", "timm", "torch",
    "refnet_cli.cli.main", "refnet_cli.engines.torch_engine", "refnet_cli.fetching.fetch",
    "refnet_cli.prediction.predict", "refnet_cli.scan.cpu_kernels", "refnet_cli.training.fit",
)  # fmt: skip
"""None of them starts a thread, as onnxruntime does, which is left to the children."""
PID = 8
"""Characters of a child's number, which is sent before how it ended."""
Request = dict[str, Any]


def load() -> None:
    """Import `LOADED`, and let numba load what networks compute with.

    In a new checkout it compiles that, while the workers collect tests. They find it in numba's cache later.

    Raises
    ------
    RuntimeError
        If that started a thread, which no child would have.
    """
    for name in LOADED:
        importlib.import_module(name)
    _load_kernels()
    if (count := len(os.listdir("/proc/self/task"))) != 1:
        raise RuntimeError(f"the fork server has {count} threads")
    gc.collect()
    gc.freeze()  # else each child would look through all that is shared, and so copy it, when it collects and ends


def _load_kernels() -> None:
    """Run each kernel on a few pixels; without torch's autograd, which starts threads."""
    import numpy as np
    import torch

    from refnet_cli.model.vss_cpu import can_compile
    from refnet_cli.scan import cpu

    if cpu.missing_for_cpu("cpu") is None and can_compile():
        shapes = ((1, 2, 3, 5), (1, 2, 3, 4, 4), (4, 5, 2), (4, 5), (4, 5, 1), (4, 5))
        problem = cpu._Problem(*(torch.ones(shape) for shape in shapes))
        y, kept = cpu._scan_forward(problem, keep=True)
        cpu._scan_backward(problem, kept, np.ones_like(y))


def serve(listener: socket.socket) -> tuple[Request, list[int]] | None:
    """Fork a child for each request, and send its number and how it ended, as `os.waitpid` says it.

    A child whose caller hangs up is killed. All are, and the server ends, when its own stdin ends.

    Returns
    -------
    tuple or None
        In a child, its request and the descriptors of its streams. In the server, nothing, when it ends.
    """
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(listener, selectors.EVENT_READ)
    callers: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor that tells of a child's end
    while True:
        (key, _), *_ = selector.select()
        if key.fileobj is listener:
            caller, _ = listener.accept()
            request, streams = _receive(caller)
            pid = os.fork()
            if pid == 0:
                _close(selector, caller)
                return request, streams
            with contextlib.suppress(OSError):  # of a caller who is gone
                caller.sendall(b"%*d" % (PID, pid))
            for stream in streams:
                os.close(stream)
            ended = os.pidfd_open(pid)
            callers[ended] = pid, caller
            selector.register(ended, selectors.EVENT_READ)
            selector.register(caller, selectors.EVENT_READ, pid)
        elif key.data:  # the child's caller hung up
            selector.unregister(key.fileobj)
            os.kill(key.data, signal.SIGKILL)
        elif key.fd:
            selector.unregister(key.fd)
            os.close(key.fd)
            _answer(selector, *callers.pop(key.fd))
        else:
            for pid, _ in callers.values():
                os.kill(pid, signal.SIGKILL)
            return None


def _receive(caller: socket.socket) -> tuple[Request, list[int]]:
    """Read a line of JSON and the three streams that come with its beginning."""
    text, streams, _, _ = socket.recv_fds(caller, 1 << 16, 3)
    while not text.endswith(b"\n"):
        text += caller.recv(1 << 16)
    return json.loads(text), streams


def _close(selector: selectors.BaseSelector, caller: socket.socket) -> None:
    """Close what is the server's, in a child."""
    caller.close()
    for key in list(selector.get_map().values()):
        if isinstance(key.fileobj, socket.socket):
            key.fileobj.close()
        elif key.fd:
            os.close(key.fd)
    selector.close()


def _answer(selector: selectors.BaseSelector, pid: int, caller: socket.socket) -> None:
    """Say how a child ended, and forget it."""
    _, status = os.waitpid(pid, 0)
    if caller in selector.get_map():
        selector.unregister(caller)
    with caller, contextlib.suppress(OSError):  # of a caller who is gone
        caller.sendall(b"%d" % os.waitstatus_to_exitcode(status))


def become(request: Request, streams: list[int]) -> None:
    """Run a module or a program, as ``python -m`` and ``python -c`` do."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    if os.isatty(1) and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    how, what, *arguments = request["arguments"]
    sys.argv = [how, *arguments]
    sys.path[0] = os.getcwd() if how == "-m" else ""
    try:
        if how == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.modules["__main__"] = program = ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), program.__dict__)
    except Exception as error:  # which the interpreter would show with the frames above
        below = error.__traceback__ and error.__traceback__.tb_next
        sys.excepthook(type(error), error.with_traceback(below), below)
        sys.exit(1)


def leave(code: Any) -> NoReturn:
    """End as the interpreter does, but for taking apart what `load` loaded, which takes a second of copies.

    What libraries do at the end that the child loaded itself is done, and GDAL closes what was left open.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if not isinstance(code, int | None):
        sys.stderr.write(f"{code}\n")
        code = 1
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    import rasterio._base

    ctypes.PyDLL(rasterio._base.__file__).GDALDestroy()
    ctypes.CDLL(None).fflush(None)
    ctypes.PyDLL(None).exit(code or 0)
    raise AssertionError


def main() -> None:
    """Load the libraries, serve, and become what a request says in each child.

    The folder of the socket goes with the server.
    """
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        load()
        libc = ctypes.CDLL(None)
        libc.on_exit(libc._exit, None)  # comes after what is loaded later, and before all that was loaded so far
        folder = Path(listener.getsockname()).parent
        child = serve(listener)
    if child:
        code: Any = 0
        try:
            become(*child)
        except SystemExit as ended:
            code = ended.code
        leave(code)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
