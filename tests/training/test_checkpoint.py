"""Checkpoints: whole or not at all, the last two, of one training only; damaged ones are passed over."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from refnet_cli.errors import InputError, OptionsError, OutputError, StorageError
from refnet_cli.training.checkpoint import Checkpoints


class Number:
    """A part whose state is a tensor of one number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": torch.full((50_000,), self.value)}

    def load_state_dict(self, state: Any) -> None:
        self.value = float(state["value"][0])


def make(folder: Path, value: float, **settings: str) -> tuple[Checkpoints, Number]:
    part = Number(value)
    return Checkpoints(folder, {"seed": "0"} | settings, {"part": part}), part


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_two_are_kept_and_the_newest_is_taken(tmp_path: Path) -> None:
    assert make(tmp_path, 0)[0].load() == 0
    for step in (5, 90, 1000):
        make(tmp_path, step)[0].save(step)
    assert names(tmp_path) == ["step-000000090.pt", "step-000001000.pt"]
    checkpoints, part = make(tmp_path, 0)
    assert checkpoints.load() == 1000
    assert part.value == 1000


def test_a_damaged_one_is_skipped_with_a_warning(tmp_path: Path, said: list[str]) -> None:
    for step in (1, 2):
        make(tmp_path, step)[0].save(step)
    newest = tmp_path / "step-000000002.pt"
    newest.write_bytes(newest.read_bytes()[:5000])
    checkpoints, part = make(tmp_path, 0)
    assert checkpoints.load() == 1
    assert part.value == 1
    assert said == [f"! checkpoint {newest} is damaged and skipped"]
    (tmp_path / "step-000000001.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"are damaged\. Remove the folder to start again"):
        checkpoints.load()


def test_one_of_another_training_is_refused(tmp_path: Path) -> None:
    make(tmp_path, 1)[0].save(1)
    with pytest.raises(OptionsError, match=r"different settings \(colour, seed\)"):
        make(tmp_path, 1, seed="1", colour="red")[0].load()


def test_a_full_disk_leaves_the_old_ones(tmp_path: Path) -> None:
    make(tmp_path, 3)[0].save(3)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(StorageError):
            make(tmp_path, 4)[0].save(4)
        with pytest.raises(StorageError):
            make(tmp_path, 4)[0].save_best({"weight": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert make(tmp_path, 0)[0].load() == 3
    assert names(tmp_path) == ["step-000000003.pt"]


def test_the_best_network(tmp_path: Path) -> None:
    checkpoints, _ = make(tmp_path, 0)
    with pytest.raises(InputError, match="missing or damaged"):
        checkpoints.load_best()
    for value in (1.0, 2.0):
        checkpoints.save_best({"weight": torch.tensor(value)})
    assert checkpoints.load_best() == {"weight": torch.tensor(2.0)}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot create the folder"):
        make(tmp_path / "file" / "folder", 0)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"part": Evil(), "settings": {"seed": "0"}, "step": 1}, tmp_path / "step-000000001.pt")
    with pytest.raises(InputError, match="are damaged"):
        make(tmp_path, 0)[0].load()
    assert not (tmp_path / "harm").exists()
