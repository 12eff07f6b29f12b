"""Work that a background thread does ahead of its user, or behind: in order, bounded, errors passing unchanged.

Leaving either by an exception, a signal's among them, drops what has not begun and waits for what has.
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
    """Take items from an iterator in a thread, before they are asked for.

    Best closed with ``contextlib.closing``, which ends the thread in any case.

    Parameters
    ----------
    items : iterator
        Runs in the thread alone.
    depth : int
        How many items to hold at most, among them the one in use and the one that is being made.

    Yields
    ------
    object
        The items in their order; an error of the iterator arises where its item would have come.

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
            # Let go first: what the user has finished with must not count next to what is read meanwhile.
            del item
            waiting.append(pool.submit(next, items, _END))
    finally:
        pool.shutdown(cancel_futures=True)


class WriteBehind:
    """Calls functions in a thread, one after the other.

    As a context manager it waits on leaving until all are done. The first error arises at the next call, or on leaving;
    nothing is called after it.

    Parameters
    ----------
    depth : int
        How many calls may wait; a further one has to wait for the oldest to be done.

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
        """Have a function called when all before it have been."""
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
