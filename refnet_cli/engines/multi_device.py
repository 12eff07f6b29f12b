"""One network on several devices: a process for each, which compute the parts of a batch side by side."""

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
from refnet_cli.system.process import collect_garbage_seldom, let_waiting_threads_sleep, usable_cores
from refnet_cli.types import Float32

Load = Callable[[str], Any]
"""Makes an engine, as `refnet_cli.engines.base.Engine` has it, on a device; must be picklable."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What a terminal or a scheduler sends to all processes at once, and only the parent is to act on."""
GRACE = 2.0  # seconds for idle processes to end by themselves
CONTEXT = multiprocessing.get_context("spawn")  # CUDA does not survive a fork, nor do threads


class SeveralEngines:
    """Engines in processes of their own, as one engine.

    Each batch is handed out in order, in parts as large as each process's own batches, so that the answer is to the
    last bit that of a single engine of the same kind of device and batch. The processes end when this is closed or
    collected, or when the program ends, however it does.

    A script that makes one must be importable, with its work under ``if __name__ == "__main__"``.

    Parameters
    ----------
    load : callable
        Makes an engine; called in each process with its device, in all at the same time.
    devices : sequence of str
        As `parse_devices` returns them. Those on the CPU share out its cores, unless OMP_NUM_THREADS is set.

    Raises
    ------
    TryAgainError
        If a process cannot be started, or is killed while it loads.
    RefnetError, MemoryError, OSError, RuntimeError
        What ``load`` raises in a process; RuntimeError in place of any other kind.
    """

    def __init__(self, load: Load, devices: Sequence[str]) -> None:
        self._children: list[_Child] = []
        # At exit, multiprocessing would wait for the processes; of this it takes care before.
        self._finish = util.Finalize(self, _end, (self._children,), exitpriority=0)
        cores = max(usable_cores() // len(devices), 1) if set(devices) == {"cpu"} else None
        try:
            with _holding_signals():
                for number, device in enumerate(devices, 1):
                    name = f"{device} (process {number} of {len(devices)})"
                    self._children.append(_Child(name, load, device, cores))
            loaded = _all_well([child.receive() for child in self._children])
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
            If a process was killed. Then, and where a signal interrupts this, all are ended.
        RefnetError, MemoryError, OSError, RuntimeError
            What the first engine that fails raises; RuntimeError in place of any other kind.
        """
        if not self._children:
            raise RuntimeError("The engine is closed.")
        parts = share_tiles(len(optical), self._batches, self.batch)
        busy = [(place, self._children[place], part) for place, part in enumerate(parts) if part.start < part.stop]
        try:
            for _, child, part in busy:
                child.send((optical[part], sar[part]))
            answers = [child.receive() for _, child, _ in busy]
        except BaseException:
            # An answer that is still to come would be taken for the next batch's.
            self.close()
            raise
        found = _all_well(answers)
        for (place, _, _), (_, batch) in zip(busy, found, strict=True):
            self._batches[place] = batch
        self.batch = min(self.batch, sum(self._batches))
        return np.concatenate([probabilities for probabilities, _ in found])


class _Child:
    """A process with an engine, seen from the parent."""

    def __init__(self, name: str, load: Load, device: str, cores: int | None) -> None:
        self.name = name
        self.busy = True
        self._pipe, theirs = CONTEXT.Pipe()
        arguments = (theirs, load, device, cores, sys.stderr is None)
        self.process = CONTEXT.Process(target=_serve, args=arguments, name=f"refnet-{device}")
        try:
            self.process.start()
        except OSError as error:
            raise TryAgainError(f"No process could be started for {name}: {error.strerror}.") from error
        finally:
            theirs.close()  # else its end would not be noticed

    def send(self, patches: tuple[Float32, Float32]) -> None:
        self.busy = True
        try:
            self._pipe.send(patches)
        except OSError as error:
            raise self._ended() from error

    def receive(self) -> Any:
        """Wait for an answer; an error that arose in the process is returned."""
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        self.busy = False
        return answer

    def release(self) -> None:
        """Let the process end, at once if it is at work."""
        self._pipe.close()
        if self.busy:
            self.process.kill()

    def _ended(self) -> TryAgainError:
        self.process.join(GRACE)
        code = self.process.exitcode
        how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return TryAgainError(
            f"The process that computed on {self.name} ended by itself ({how}), as it happens where memory runs out: "
            "close other programs, or use a smaller --batch or fewer devices, and run again."
        )


def _all_well(answers: list[Any]) -> list[Any]:
    """Raise the first error among answers."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _end(children: list[_Child]) -> None:
    """End processes, and take the list's entries."""
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
def _holding_signals() -> Iterator[None]:
    """Have processes begin with signals held back, until they ignore them, and with pipes that are no standard streams.

    Where a standard stream was closed, the next thing to be opened takes its number.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # which would let the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, load: Load, device: str, cores: int | None, mute: bool) -> None:
    """Load an engine and answer patches with probabilities until the parent closes the pipe: the process's whole life.

    Answers are (card, batch, about), then (probabilities, batch); or an error, after which an engine that was loaded
    goes on.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _leave_stdout(mute)
    if cores is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    let_waiting_threads_sleep()
    collect_garbage_seldom()
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
    """End this process as soon as its parent has ended, even in the midst of a batch."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _leave_stdout(mute: bool) -> None:
    """Send what libraries print to stderr, or nowhere: a stream that the parent lacks may be a file of its here."""
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
    """Call a function; an error is returned, as a kind that the parent knows without the libraries it came from."""
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
        known.add_note(f"In a process of its own:\n{traceback.format_exc()}")
        return known


def share_tiles(count: int, batches: Sequence[int], most: int) -> list[slice]:
    """Part a batch among processes.

    Parameters
    ----------
    count : int
        Tiles of the batch.
    batches : sequence of int
        Tiles that each process likes at once.
    most : int
        Tiles that all may have at once; if these are fewer than the processes like, all get fewer.

    Returns
    -------
    list of slice
        In order, some of them empty if the tiles are few: then the last processes have nothing to do, because smaller
        parts for all could change bits.

    Examples
    --------
    >>> [part.stop - part.start for part in share_tiles(7, [4, 4], 8)]
    [4, 3]
    >>> [part.stop - part.start for part in share_tiles(3, [4, 4], 8)], [
    ...     part.stop - part.start for part in share_tiles(5, [4, 4], 5)
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
    """Read a device or several, which commas part; of one, whether there is such a device is left open.

    Raises
    ------
    OptionsError
        If one of several is none that can be named, or the same GPU comes twice, or GPUs and CPUs are mixed: each batch
        would wait for the slowest.

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
            raise OptionsError(f"There is no device {name!r} in {text!r}; name several as cuda:0,1 or cpu,cpu.")
        found.append(f"cuda:{int(on_cuda[1] or 0)}" if on_cuda else name)
    gpus = [name for name in found if name != "cpu"]
    if len(set(gpus)) < len(gpus):
        raise OptionsError(f"--device {text} names a GPU twice, but each computes in one process: name it once.")
    if 0 < len(gpus) < len(found):
        raise OptionsError(f"--device {text} mixes GPUs and CPUs, for which GPUs would wait: leave out the CPUs.")
    return found
