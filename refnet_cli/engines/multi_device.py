"""One network on several devices: one process per device, each computing part of a batch in parallel."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import util
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from refnet_cli.errors import OptionsError, RefnetError, TryAgainError
from refnet_cli.system.process import limit_openmp_spinning, reduce_garbage_collection, usable_cores
from refnet_cli.types import Float32

Load = Callable[[str], Any]
"""Returns an engine (see `refnet_cli.engines.base.Engine`) on a device; must be picklable."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that a terminal or scheduler sends to all processes at once, and that only the parent handles."""
GRACE = 2.0  # seconds for idle processes to exit
CONTEXT = multiprocessing.get_context("spawn")  # CUDA does not survive a fork, nor do threads


class MultiDeviceEngine:
    """Several engines, each in its own process, behind the interface of one engine.

    Each batch is split in order, into parts as large as each process's own batch size. The result therefore equals that
    of a single engine with the same device type and batch size to the last bit. The processes end when this object is
    closed or garbage-collected, or when the program ends for any reason.

    A script that creates one must be importable, with its work under ``if __name__ == "__main__"``.

    Parameters
    ----------
    load : callable
        Returns an engine; called with its device in each process, in all processes at the same time.
    devices : sequence of str
        Devices from `parse_devices`. Processes on the CPU share its cores, unless OMP_NUM_THREADS is set.

    Raises
    ------
    TryAgainError
        If a process cannot be started, or is killed while it loads.
    RefnetError, MemoryError, OSError, RuntimeError
        Errors of ``load`` in a process; errors of other types become RuntimeError.
    """

    def __init__(self, load: Load, devices: Sequence[str]) -> None:
        self._children: list[_Child] = []
        # Runs before multiprocessing's own exit handler, which would wait for the processes.
        self._finish = util.Finalize(self, _end, (self._children,), exitpriority=0)
        cores = max(usable_cores() // len(devices), 1) if set(devices) == {"cpu"} else None
        try:
            with _signals_blocked():
                for number, device in enumerate(devices, 1):
                    name = f"{device} (process {number} of {len(devices)})"
                    self._children.append(_Child(name, load, device, cores))
            loaded = _check_answers([child.receive() for child in self._children])
        except BaseException:
            self.close()
            raise
        cards, batches, abouts = zip(*loaded, strict=True)
        self.card = cards[0]
        self._batches: list[int] = list(batches)
        self.batch = sum(batches)
        self.about: dict[str, str] = abouts[0] | {"device": ", ".join(about["device"] for about in abouts)}

    def close(self) -> None:
        """End the processes; may be called again."""
        self._finish()

    def predict(self, optical: Float32, sar: Float32) -> Float32:
        """Classify a batch of patches; see `refnet_cli.engines.base.Engine.predict`.

        Raises
        ------
        TryAgainError
            If a process was killed. All processes are then ended, as they are when a signal interrupts this call.
        RefnetError, MemoryError, OSError, RuntimeError
            The error of the first engine that fails; errors of other types become RuntimeError.
        """
        if not self._children:
            raise RuntimeError("The engine is closed.")
        parts = split_batch(len(optical), self._batches, self.batch)
        busy = [(place, self._children[place], part) for place, part in enumerate(parts) if part.start < part.stop]
        try:
            for _, child, part in busy:
                child.send((optical[part], sar[part]))
            answers = [child.receive() for _, child, _ in busy]
        except BaseException:
            # A late answer would be mistaken for the next batch's.
            self.close()
            raise
        found = _check_answers(answers)
        for (place, _, _), (_, batch) in zip(busy, found, strict=True):
            self._batches[place] = batch
        self.batch = min(self.batch, sum(self._batches))
        return np.concatenate([probabilities for probabilities, _ in found])


class _Child:
    """The parent's handle of a process with an engine."""

    def __init__(self, name: str, load: Load, device: str, cores: int | None) -> None:
        self.name = name
        self.busy = True
        self._pipe, theirs = CONTEXT.Pipe()
        arguments = (theirs, load, device, cores, sys.stderr is None)
        self.process = CONTEXT.Process(target=_serve, args=arguments, name=f"refnet-{device}")
        try:
            self.process.start()
        except OSError as error:
            raise TryAgainError(f"Cannot start a process for {name}: {error.strerror}.") from error
        finally:
            theirs.close()  # otherwise the process's exit would not be noticed

    def send(self, patches: tuple[Float32, Float32]) -> None:
        self.busy = True
        try:
            self._pipe.send(patches)
        except OSError as error:
            raise self._ended() from error

    def receive(self) -> Any:
        """Wait for an answer and return it; an error of the process is returned, not raised."""
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        self.busy = False
        return answer

    def release(self) -> None:
        """Let the process exit; kill it if it is busy."""
        self._pipe.close()
        if self.busy:
            self.process.kill()

    def _ended(self) -> TryAgainError:
        self.process.join(GRACE)
        code = self.process.exitcode
        how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return TryAgainError(
            f"The process on {self.name} ended unexpectedly ({how}), probably because memory ran out. Close other "
            "programs, or use a smaller --batch or fewer devices, and run again."
        )


def _check_answers(answers: list[Any]) -> list[Any]:
    """Return the answers, or raise the first error among them."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _end(children: list[_Child]) -> None:
    """End the processes and empty the list."""
    for child in children:
        child.release()
    until = time.monotonic() + GRACE
    while children:
        process = children.pop().process
        process.join(max(until - time.monotonic(), 0))
        if process.is_alive():
            process.kill()
            process.join(GRACE)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block signals while processes start, until they ignore them, and occupy descriptors of closed standard streams.

    If a standard stream is closed, the next file that is opened, such as a pipe, takes its descriptor.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # started now, because starting it unblocks the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, load: Load, device: str, cores: int | None, mute: bool) -> None:
    """Main function of a process: load an engine and answer patches until the parent closes the pipe.

    The first answer is (card, batch, about), later ones are (probabilities, batch). An answer may also be an error; a
    loaded engine then continues to serve.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _redirect_stdout(mute)
    if cores is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    limit_openmp_spinning()
    reduce_garbage_collection()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        engine = _attempt(load, device)
        if isinstance(engine, Exception):
            pipe.send(engine)
            return
        pipe.send((engine.card, engine.batch, engine.about))
        while True:
            answer = _attempt(engine.predict, *pipe.recv())
            pipe.send(answer if isinstance(answer, Exception) else (answer, engine.batch))


def _end_with_parent() -> None:
    """End this process as soon as its parent has ended, even in the middle of a batch."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _redirect_stdout(mute: bool) -> None:
    """Redirect stdout to stderr, or to nowhere: if the parent lacks a stream, its descriptor may be a file here."""
    null = os.open(os.devnull, os.O_RDWR)
    if mute:
        os.dup2(null, 2)
    try:
        os.dup2(2, 1)
    except OSError:
        os.dup2(null, 1)
    os.close(null)
    sys.stdout = sys.stderr


def _attempt(function: Callable[..., Any], *given: Any) -> Any:
    """Call a function and return its result or its error, as a type that the parent knows without other libraries."""
    try:
        return function(*given)
    except Exception as error:
        known: Exception
        if isinstance(error, RefnetError):
            known = error
        elif isinstance(error, MemoryError):
            known = MemoryError(str(error))
        elif isinstance(error, OSError) and error.errno is not None:
            known = OSError(error.errno, error.strerror, error.filename)
        else:
            known = RuntimeError(f"{type(error).__name__}: {error}")
        known.add_note(f"In a child process:\n{traceback.format_exc()}")
        return known


def split_batch(count: int, batches: Sequence[int], most: int) -> list[slice]:
    """Split a batch among processes.

    Parameters
    ----------
    count : int
        Tiles in the batch.
    batches : sequence of int
        Preferred batch size of each process.
    most : int
        Tiles that all processes may have at once; if it is below the sum of ``batches``, each gets fewer.

    Returns
    -------
    list of slice
        One slice per process, in order. With few tiles the last ones are empty: smaller parts for all processes could
        change the last bits.

    Examples
    --------
    >>> [part.stop - part.start for part in split_batch(7, [4, 4], 8)]
    [4, 3]
    >>> [part.stop - part.start for part in split_batch(3, [4, 4], 8)], [
    ...     part.stop - part.start for part in split_batch(5, [4, 4], 5)
    ... ]
    ([3, 0], [3, 2])
    """
    limit, liked = max(count, most), sum(batches)
    parts, start = [], 0
    for batch in batches:
        stop = min(start + -(-limit * batch // liked), count)
        parts.append(slice(start, stop))
        start = stop
    return parts


def parse_devices(text: str) -> list[str]:
    """Parse a comma-separated list of devices; a single device is returned unchecked.

    Raises
    ------
    OptionsError
        If one of several devices is unknown, a GPU is listed twice, or GPUs and CPUs are mixed: each batch would wait
        for the slowest device.

    Examples
    --------
    >>> parse_devices("cuda:0,1"), parse_devices("cuda,cuda:1"), parse_devices("cpu,cpu"), parse_devices("auto")
    (['cuda:0', 'cuda:1'], ['cuda:0', 'cuda:1'], ['cpu', 'cpu'], ['auto'])
    """
    names = [name.strip() for name in text.split(",")]
    if len(names) == 1:
        return names
    found: list[str] = []
    for name in names:
        on_cuda = re.fullmatch(r"cuda(?::(\d+))?", name) or (
            re.fullmatch(r"(\d+)", name) if found and found[-1] != "cpu" else None
        )
        if not on_cuda and name != "cpu":
            raise OptionsError(f"Unknown device {name!r} in {text!r}. Write several devices as cuda:0,1 or cpu,cpu.")
        found.append(f"cuda:{int(on_cuda[1] or 0)}" if on_cuda else name)
    gpus = [name for name in found if name != "cpu"]
    if len(set(gpus)) < len(gpus):
        raise OptionsError(f"--device {text} lists a GPU twice. List each GPU once.")
    if 0 < len(gpus) < len(found):
        raise OptionsError(f"--device {text} mixes GPUs and CPUs. Leave out the CPUs: the GPUs would wait for them.")
    return found
