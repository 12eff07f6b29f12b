"""Reading ahead and writing behind: order, bounds, errors, and no thread left over."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from refnet_cli.errors import StorageError
from refnet_cli.system.prefetch import WriteBehind, read_ahead


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_items_come_in_order_and_no_more_than_the_depth_are_ahead() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    for number in read_ahead(items(), depth=3):
        time.sleep(0.002)
        assert number + 1 <= len(made) <= number + 3
    assert made == list(range(20))


def test_an_error_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise StorageError("full")

    taken = []
    with pytest.raises(StorageError, match="full"):
        taken.extend(read_ahead(items(), depth=2))
    assert taken == [1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_leaving_early_stops_the_reading(error: type[BaseException]) -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    def interrupted() -> None:
        with closing(read_ahead(items(), depth=2)) as numbers:
            for number in numbers:
                if number == 5:
                    raise error

    with pytest.raises(error):
        interrupted()
    assert len(made) <= 8


def test_calls_are_made_in_order_and_the_queue_is_bounded() -> None:
    done: list[int] = []
    with WriteBehind(depth=2) as behind:
        for number in range(20):
            behind.call(lambda number=number: (time.sleep(0.002), done.append(number)))
            assert number - len(done) <= 2
    assert done == list(range(20))


def test_an_error_stops_the_writing_and_comes_back() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number == 3:
            raise StorageError("full")
        done.append(number)

    def write(count: int, depth: int) -> None:
        with WriteBehind(depth) as behind:
            for number in range(count):
                behind.call(work, number)

    for count, depth in ((1000, 2), (5, 9)):  # at a call, and on leaving
        done.clear()
        with pytest.raises(StorageError, match="full"):
            write(count, depth)
        assert done == [0, 1, 2]


def test_an_error_of_the_user_drops_what_waits() -> None:
    begun = threading.Event()
    done: list[int] = []

    def slow(number: int) -> None:
        begun.set()
        time.sleep(0.05)
        done.append(number)

    def interrupted() -> None:
        with WriteBehind(depth=3) as behind:
            for number in range(3):
                behind.call(slow, number)
            begun.wait()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [0]
