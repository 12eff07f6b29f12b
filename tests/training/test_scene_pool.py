"""Regions stay open between crops, as many as open files and memory allow, and no two threads have the same one."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from refnet_cli.system.memory import MB
from refnet_cli.training.scene_pool import HANDLES, KEPT_BLOCKS, SHARE, ScenePool, choose_pool_size


class Opened:
    """A region that knows whether it is open, and that notices when two threads have it."""

    def __init__(self, number: int) -> None:
        self.number, self.closed, self.lock = number, 0, threading.Lock()

    def close(self) -> None:
        assert not self.lock.locked()
        self.closed += 1


class Opener:
    """Opens regions, and keeps them."""

    def __init__(self) -> None:
        self.opened: list[Opened] = []

    def __call__(self, number: int) -> Opened:
        self.opened.append(Opened(number))
        return self.opened[-1]

    @property
    def left_open(self) -> list[int]:
        return sorted(region.number for region in self.opened if not region.closed)


def test_regions_that_fit_are_opened_once() -> None:
    opener = Opener()
    pool = ScenePool(opener, 5)
    for number in [*range(5)] * 3:
        with pool.borrow(number) as region:
            assert (region.number, region.closed) == (number, 0)
    assert len(opener.opened) == pool.count == 5
    pool.close()
    assert [region.closed for region in opener.opened] == [1] * 5


def test_the_longest_unused_is_closed_where_more_are_needed() -> None:
    opener = Opener()
    pool = ScenePool(opener, 2)
    for number in (0, 1, 0, 2):
        with pool.borrow(number):
            assert pool.count <= 2
    assert opener.left_open == [0, 2]


def test_a_region_that_is_lent_is_opened_again_for_another_thread() -> None:
    opener = Opener()
    pool = ScenePool(opener, 1)
    with pool.borrow(7) as first, pool.borrow(7) as second:
        assert first is not second
        assert pool.count == 2
    assert len(opener.left_open) == pool.count == 1


def test_a_region_that_comes_back_to_a_closed_pool_is_closed() -> None:
    opener = Opener()
    pool = ScenePool(opener, 3)
    with pool.borrow(0) as region:
        pool.close()
        assert not region.closed
    assert region.closed == 1
    assert pool.count == 0


def test_what_cannot_be_opened_takes_no_place() -> None:
    def fail(number: int) -> Opened:
        raise OSError("the file is gone")

    pool = ScenePool(fail, 1)
    for _ in range(3):
        with pytest.raises(OSError, match="the file is gone"), pool.borrow(0):
            pass
    assert pool.count == 0


def test_threads_share_regions_and_never_hold_the_same_one() -> None:
    opener = Opener()
    pool = ScenePool(opener, 6)

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for number in random.integers(0, 9, 500).tolist():
            with pool.borrow(number) as region:
                assert region.number == number
                assert region.lock.acquire(blocking=False)
                assert not region.closed
                region.lock.release()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert len(opener.left_open) == pool.count <= 6
    pool.close()
    assert [region.closed for region in opener.opened] == [1] * len(opener.opened)


def test_memory_bounds_what_is_open() -> None:
    """What is kept takes no more than the share of memory that is for it, unless a single region is more."""
    for free in (0, 50 * MB, 500 * MB, 4000 * MB, 64_000 * MB):
        for block in (10_000, 2 * MB, 7 * MB):
            regions, blocks = choose_pool_size(400, 3, block, free=free)
            assert 1 <= regions <= 400
            assert 1 <= blocks <= KEPT_BLOCKS
            assert regions == 1 or regions * (HANDLES + blocks * block) <= free // SHARE
    assert choose_pool_size(400, 3, 2 * MB, free=64_000 * MB) == (400, KEPT_BLOCKS)
    assert choose_pool_size(400, 3, 2 * MB, 4, free=8000 * MB) == choose_pool_size(400, 3, 2 * MB, free=2000 * MB)


@pytest.mark.parametrize(("soft", "hard", "least", "most"), [(1024, 4096, 402, 402), (512, 512, 50, 100)])
def test_the_limit_of_open_files_is_raised_as_far_as_the_system_allows(
    soft: int, hard: int, least: int, most: int
) -> None:
    """In a process of its own, since a limit cannot be raised again."""
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("the system allows fewer open files")
    code = (
        "import resource; from refnet_cli.training.scene_pool import choose_pool_size\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "print(choose_pool_size(402, 3, 100_000, free=2**34)[0], resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    regions, limit = map(int, done.stdout.split())
    assert least <= regions <= most
    assert soft <= limit <= hard
    assert 3 * regions < limit
