"""Read-ahead and write-behind in a background thread: ordered, bounded, with errors passed on unchanged.

If an exception ends either (a signal's too), work that has not started is dropped, and running work is awaited.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")
_END: Any = object()


def read_ahead(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """Fetch an iterator's items in a thread, ahead of the consumer.

    Close it with ``contextlib.closing``, which always ends the thread.

    Parameters
    ----------
    items : iterator
        Runs in that thread only.
    depth : int
        Most items to hold, including the one in use and the one being produced.

    Yields
    ------
    object
        The items in order. An error of the iterator is raised at its item's position.

    Examples
    --------
    >>> list(read_ahead(iter("abc"), depth=2))
    ['a', 'b', 'c']
    """
    pool = ThreadPoolExecutor(1, "refnet-ahead")
    try:
        waiting = deque(pool.submit(next, items, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            yield item
            # Release the consumed item before the next one is produced, to hold no more than depth items.
            del item
            waiting.append(pool.submit(next, items, _END))
    finally:
        pool.shutdown(cancel_futures=True)


class WriteBehind:
    """Call functions in a thread, one after the other.

    On leaving its ``with`` statement it waits for all calls. The first error is raised at the next call, or on
    leaving; later calls are skipped.

    Parameters
    ----------
    depth : int
        How many calls may be queued; a further one blocks until the oldest has ended.

    Examples
    --------
    >>> done = []
    >>> with WriteBehind(depth=2) as behind:
    ...     for number in range(4):
    ...         behind.call(done.append, number)
    >>> done
    [0, 1, 2, 3]
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._pool = ThreadPoolExecutor(1, "refnet-behind")
        self._waiting: deque[Future[None]] = deque()
        self._failed = False

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Queue a function call."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= self._depth):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._run, function, *arguments))

    def _run(self, function: Callable[..., object], *arguments: object) -> None:
        if self._failed:
            return
        try:
            function(*arguments)
        except BaseException:
            self._failed = True
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)
