"""Disks that fill up at any byte: exit code 74 and nothing left, or a complete file; never a short one.

A limit on the size of files stands for the disk. Many runs share one child process.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.helpers import Scene, check_refusal, names, run_jobs, sha256_of
from tests.helpers.limits import file_size_limit
from tests.helpers.quick import few

NOT_FULL = 1 << 40


def run_limited(scene: Scene, folder: Path, limits: list[int], old: bool, *more: str) -> dict[int, dict[str, Any]]:
    """Map a scene once under each limit, each in its own folder, where an older map may lie."""
    jobs = []
    for limit in limits:
        (folder / str(limit)).mkdir()
        if old:
            (folder / str(limit) / "map.tif").write_text("old")
        more_here = [word.replace("FOLDER", str(folder / str(limit))) for word in more]
        arguments = scene.arguments(folder / str(limit) / "map.tif", *more_here)
        jobs.append({"name": str(limit), "limit": limit, "arguments": arguments})
    return {int(name): result for name, result in run_jobs(jobs, noisy=True, forked=True).items()}


def hold(scene: Scene, folder: Path, results: dict[int, dict[str, Any]], old: bool) -> None:
    """Each run left the map that an undisturbed one makes, or what was there before and the reason."""
    broken = []
    for limit, result in results.items():
        left = names(folder / str(limit))
        try:
            if result["code"] == 0:
                assert result["err"] == ""
                assert left == ["map.tif"]
                assert sha256_of(folder / str(limit) / "map.tif") == scene.sha256
            else:
                check_refusal(result["code"], result["err"], {74}, Path("map.tif"))
                assert left == (["map.tif"] if old else []), result["err"]
                assert not old or (folder / str(limit) / "map.tif").read_text() == "old"
        except AssertionError as error:
            broken.append(f"limit {limit}, exit code {result['code']}, left {left}: {error}")
    assert not broken, "\n".join(broken)


def size_of(scene: Scene) -> int:
    return scene.optical.with_name("undisturbed.tif").stat().st_size


@pytest.mark.parametrize("old", few([False, True], True))
def test_anywhere(old: bool, small: Scene, tmp_path: Path) -> None:
    size = size_of(small)
    random = np.random.default_rng(int(old))
    limits = {0, 100, size - 8, size - 1, size, *random.integers(0, size, 3).tolist(), NOT_FULL}
    results = run_limited(small, tmp_path, sorted(limits), old)
    hold(small, tmp_path, results, old)
    assert results[NOT_FULL]["code"] == 0
    assert all(results[limit]["code"] == 74 for limit in limits if limit < size)


@pytest.mark.long
@pytest.mark.parametrize("part", range(4))
def test_everywhere(part: int, scene: Scene, tmp_path: Path) -> None:
    """In steps up to what no file of a run exceeds."""
    limits = np.linspace(0, 1.5 * size_of(scene), 200).astype(int)[part::4].tolist()
    hold(scene, tmp_path, run_limited(scene, tmp_path, limits, old=bool(part % 2)), old=bool(part % 2))


@pytest.mark.long
@pytest.mark.parametrize("part", range(8))
def test_the_last_two_kilobytes(part: int, small: Scene, tmp_path: Path) -> None:
    """Byte by byte, where GDAL itself says nothing of what it could not write."""
    size = size_of(small)
    limits = list(range(max(size - 2048, 0) + part, size + 8, 8))
    results = run_limited(small, tmp_path, limits, old=False)
    hold(small, tmp_path, results, old=False)
    assert all(results[limit]["code"] == 74 for limit in limits if limit < size)


@pytest.mark.long
def test_the_files_beside_the_map(scene: Scene, tmp_path: Path) -> None:
    """A picture and a checksum are whole or not there as well, and never without their map."""
    (tmp_path / "whole").mkdir()
    extras = ["-o", "preview=FOLDER/map.png", "--checksum"]
    results = run_limited(scene, tmp_path, [NOT_FULL], False, *extras)
    assert results[NOT_FULL]["code"] == 0, results[NOT_FULL]["err"]
    whole = {path.name: path.read_bytes() for path in (tmp_path / str(NOT_FULL)).iterdir()}
    assert sorted(whole) == ["map.png", "map.tif", "map.tif.sha256"]
    sizes = sorted(len(data) for data in whole.values())
    limits = [10, sizes[0] - 1, sizes[0], sizes[1] - 1, sizes[1], sizes[2] - 1, (sizes[1] + sizes[2]) // 2]
    for limit, result in run_limited(scene, tmp_path, sorted(set(limits)), False, *extras).items():
        check_refusal(result["code"], result["err"], {74})
        left = {path.name: path.read_bytes() for path in (tmp_path / str(limit)).iterdir()}
        assert left.items() <= whole.items(), f"limit {limit} left {sorted(left)}"
        assert not left or "map.tif" in left, f"limit {limit} left {sorted(left)}"


def some_sizes(size: int, long: bool) -> list[int]:
    step = 16 if long else 500
    return sorted({0, 1, size // 3, size // 2, size - 1, *range(max(size - 2048, 0), size, step)})


how_many = pytest.mark.parametrize("long", [False, pytest.param(True, marks=pytest.mark.long)], ids=["few", "many"])


@how_many
def test_checkpoints(long: bool, tmp_path: Path) -> None:
    """A training's state is whole or the one before stays, whichever byte is the last that fits."""
    import torch

    from refnet_cli.errors import StorageError
    from refnet_cli.training.checkpoint import Checkpoints

    class Part:
        value = 1.0

        def state_dict(self) -> dict[str, Any]:
            return {"value": torch.full((500,), self.value)}

        def load_state_dict(self, state: Any) -> None:
            self.value = float(state["value"].mean())

    part = Part()
    checkpoints = Checkpoints(tmp_path, {"seed": "0"}, {"part": part})
    checkpoints.save(1)
    checkpoints.save_best({"weight": torch.zeros(900)})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name, act in (
        ("step-000000001.pt", lambda: checkpoints.save(2)),
        ("best.pt", lambda: checkpoints.save_best({"weight": torch.ones(900)})),
    ):
        for limit in some_sizes(len(before[name]), long):
            part.value = 2.0
            with pytest.raises(StorageError), file_size_limit(limit):
                act()
            assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert Checkpoints(tmp_path, {"seed": "0"}, {"part": part}).load() == 1
    assert part.value == 1.0
    checkpoints.save(2)
    assert checkpoints.load() == 2


@how_many
def test_weights(long: bool, tmp_path: Path) -> None:
    from refnet_cli.errors import StorageError
    from refnet_cli.model.refnet import REFNet
    from refnet_cli.model.weights import save_weights
    from tests.helpers.scenes import CARD

    net, path = REFNet(CARD.network), tmp_path / "w.safetensors"
    save_weights(net, CARD, path)
    old = path.read_bytes()
    for limit in some_sizes(len(old), long):
        with pytest.raises(StorageError), file_size_limit(limit):
            save_weights(net, replace(CARD, name="new"), path)
        assert names(tmp_path) == ["w.safetensors"]
        assert path.read_bytes() == old
