"""The training store: it gives what the files give, notices when they change, and leaves no training without scenes."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from refnet_cli.errors import InputError
from refnet_cli.scene.pair import ScenePair
from refnet_cli.system.memory import GB
from refnet_cli.tiles.window import Window
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.dataset import SceneFiles, SceneReader
from refnet_cli.training.fit import fit
from refnet_cli.training.run import Progress
from refnet_cli.training.sampler import Sampler
from refnet_cli.training.store import entries
from refnet_cli.training.store.entries import ABOUT, LOCK, TILES
from refnet_cli.training.store.store import Store, open_scene
from refnet_cli.training.store.tiles import Layout
from refnet_cli.training.survey import survey
from tests.helpers.limits import file_size_limit, permissions_hold
from tests.helpers.messages import messages
from tests.helpers.quick import examples, few
from tests.helpers.scenes import PLACE, make_labelled_scene, make_pair, write

pytestmark = pytest.mark.usefixtures("short_trainings")


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    scenes = make_labelled_scene(tmp_path / "north"), make_labelled_scene(tmp_path / "south", seed=1)
    return TrainConfig(
        scenes=scenes, scheme="esri-io", encoder="test_resnet", width=16, steps=2, batch=2, crop=64, tile=64,
        split="none", device="cpu", checkpoint_every=1,
    )  # fmt: skip


@pytest.fixture
def one(config: TrainConfig) -> TrainConfig:
    return replace(config, scenes=config.scenes[:1], steps=1)


def drill(optical: np.ndarray, sar: np.ndarray) -> None:
    """Holes in both sensors, and in one band only."""
    optical[:, 30:50, 40:90] = 0
    optical[1, 200:210, 10:30] = 0
    sar[:, 100:140, 20:60] = np.nan
    sar[0, :7] = np.nan


def make_scene(folder: Path, height: int, width: int, sar_pixel: float, **options: Any) -> TrainScene:
    """A scene whose labels and confidence lie on grids of their own."""
    optical, sar = make_pair(folder, height, width, sar_pixel, drill)
    random = np.random.default_rng(5)
    place = PLACE @ Affine.translation(3.3, -4.1) @ Affine.scale(1.7)
    labels = random.choice(np.array([0, 1, 2, 11], np.uint8), (1, height, width))
    sure = random.integers(0, 101, (1, height, width)).astype(np.uint8)
    return TrainScene(
        optical, sar, write(folder / "labels.tif", labels, ("labels",), place), name="scene", label_weight=0.7,
        confidence=write(folder / "sure.tif", sure, ("sure",), place, nodata=None), **options,
    )  # fmt: skip


CASES: dict[str, Callable[[Path], TrainScene]] = {
    "tiled": lambda folder: make_scene(folder, 700, 530, 10.0),
    "whole": lambda folder: make_scene(folder, 240, 500, 14.0, missing="use-other"),
    "narrow": lambda folder: make_scene(folder, 1100, 100, 23.0),
    "shifted": lambda folder: make_scene(folder, 600, 600, 9.0, coreg="auto"),
    "optical": lambda folder: replace(make_scene(folder, 530, 260, 10.0), sar=None),
    "sar": lambda folder: replace(make_scene(folder, 260, 530, 10.0), optical=None),
    "cut": lambda folder: make_scene(folder, 900, 900, 20.0, bounds=("500500", "5294000", "506000", "5299000")),
}  # fmt: skip


@pytest.mark.parametrize("case", few(list(CASES), "whole"))
def test_it_gives_what_the_files_give(tmp_path: Path, case: str) -> None:
    """Windows of any place and size, also beyond the edges."""
    entry = CASES[case](tmp_path)
    config = TrainConfig(scenes=(entry,), scheme="esri-io", crop=128)
    for _ in range(2):  # when it is made, and when it is found
        store = Store(tmp_path / "store")
        with open_scene(entry, config, store) as stored, SceneFiles.open(entry, config) as files:
            assert not isinstance(stored, SceneFiles)
            compare(stored, files, config)
    assert len(names(tmp_path / "store")) == 3


def compare(stored: SceneReader, files: SceneFiles, config: TrainConfig) -> None:
    assert (stored.grid, stored.decisions, stored.warnings) == (files.grid, files.decisions, files.warnings)
    assert str(stored.grid.crs) == str(files.grid.crs)
    random = np.random.default_rng(1)
    height, width = files.grid.shape
    for number in range(examples(80)):
        tall, wide = random.integers(1, 300, 2).tolist() if number % 2 else (config.crop,) * 2
        row, column = int(random.integers(1 - tall, height)), int(random.integers(1 - wide, width))
        window = Window(row, column, tall, wide)
        (ours, our_labels), (theirs, their_labels) = stored.read(window), files.read(window)
        assert type(ours) is type(theirs)
        for mine, other in ((ours.optical, theirs.optical), (ours.sar, theirs.sar), (our_labels, their_labels),
                            (stored.read_weights(window), files.read_weights(window))):  # fmt: skip
            assert mine.dtype == other.dtype
            assert mine.flags.writeable
            assert np.array_equal(mine, other, equal_nan=mine.dtype.kind == "f")
        inside = window.clip(height, width)
        assert np.array_equal(stored.read_labels(inside), files.read_labels(inside))


@pytest.mark.parametrize("size", [(1, 1), (512, 513), (256, 1024), (700, 300)])
def test_parts_are_all_of_a_window_once(size: tuple[int, int]) -> None:
    layout, random = Layout(*size), np.random.default_rng(2)
    whole = np.arange(size[0] * size[1]).reshape(size)
    (rows, columns), (tall, wide) = layout.shape, layout.tile
    cut = np.full((rows * tall, columns * wide), -1)
    cut[: size[0], : size[1]] = whole
    assert sum(window.height * window.width for window in layout.windows()) == whole.size
    for _ in range(30):
        starts = [int(random.integers(length)) for length in size]
        sides = [int(random.integers(1, length - start + 1)) for length, start in zip(size, starts, strict=True)]
        window = Window(*starts, *sides)
        made = np.full((window.height, window.width), -1)
        for (down, right), there, here in layout.parts(window):
            assert (made[here] == -1).all()
            made[here] = cut[down * tall : (down + 1) * tall, right * wide : (right + 1) * wide][there]
        assert np.array_equal(made, whole[window.slices_in(Window(0, 0, *size))])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def made(config: TrainConfig, folder: Path) -> set[str]:
    """Survey into a store, hold crops against those of the files, and return the names of the entries."""
    store = Store(folder)
    stored, streamed = Sampler(survey(config, store), config, store), Sampler(survey(config), config)
    for number in range(6):
        for ours, theirs in zip(stored.draw(0, number), streamed.draw(0, number), strict=True):
            assert (ours is theirs is None) or np.array_equal(ours, theirs, equal_nan=True)
    return {name for name in names(folder) if name != LOCK}


class PulledPlugError(Exception):
    pass


def test_losses_are_the_same_without_it(config: TrainConfig, tmp_path: Path) -> None:
    """Whether scenes are brought into it or, by a resumed training, found there, and however many threads read.

    That in a run's folder stays next to checkpoints, and goes with the end of the training.
    """

    def pull(progress: Progress) -> None:
        if progress.step == 2:
            raise PulledPlugError

    config = replace(config, jitter=0.1, gaps=0.3, mix=0.3, shift=1.0)
    store, own = tmp_path / "store", tmp_path / "run" / "store"
    without = fit(replace(config, cache_size=0, cache=store), tmp_path / "without")
    assert not store.exists()
    brought = fit(replace(config, cache=store, workers=1), tmp_path / "brought")
    with pytest.raises(PulledPlugError):
        fit(replace(config, workers=3), tmp_path / "run", pull)
    assert len(names(own)) == len(names(store)) == 5
    resumed = fit(replace(config, workers=3), tmp_path / "run")
    assert not own.exists()
    for result in (brought, resumed):
        assert result.history == without.history
        assert result.card == without.card


def test_a_second_survey_opens_no_file(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = survey(config, Store(tmp_path / "store"))

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(ScenePair, "open", refuse)
    monkeypatch.setattr("refnet_cli.training.store.store.open_scene_labels", refuse)
    monkeypatch.setattr("refnet_cli.training.survey._count_window", refuse)
    again = survey(config, Store(tmp_path / "store"))
    for ours, theirs in zip(again, first, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(ours.training, theirs.training, strict=True))


def replaced(path: Path) -> None:
    """Other pixels under the same name, size and time, as by ``cp -p``."""
    about = path.stat()
    data = bytearray(path.read_bytes())
    with rasterio.open(path) as file:
        values, profile, bands = file.read(), file.profile, file.descriptions
    with rasterio.open(path.with_name("other.tif"), "w", **profile) as file:
        file.write(np.roll(values, 1, axis=-1))
        file.descriptions = bands
    other = path.with_name("other.tif").read_bytes()[: len(data)]
    os.replace(path.with_name("other.tif"), path)
    if len(other) == len(data):
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda scene: os.utime(scene.optical), {"images"}),
        (lambda scene: replaced(scene.sar), {"images"}),
        (lambda scene: replaced(scene.labels), {"labels"}),
        (lambda scene: scene.optical.with_suffix(".tif.aux.xml").write_text("<PAMDataset/>"), {"images"}),
        (lambda scene: shutil.copy2(scene.labels, scene.labels.with_name("new.tif")), set()),
    ],
    ids=["touched", "replaced", "labels", "sidecar", "nothing"],
)  # fmt: skip
def test_files_that_change_are_read_again(
    one: TrainConfig, tmp_path: Path, change: Callable[[TrainScene], object], kinds: set[str]
) -> None:
    before = made(one, tmp_path / "store")
    change(one.scenes[0])
    new = made(one, tmp_path / "store") - before
    assert {name.partition("-")[0] for name in new} == kinds
    assert len(new) == len(kinds)


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"sar_scale": "power"}, {"images"}),
        ({"missing": "use-other"}, {"images"}),
        ({"label_codes": {"1": "2", "2": "1", "11": "0"}}, {"labels"}),
        ({"bounds": ("500200", "5298700", "501000", "5299800")}, {"images", "labels"}),
        ({"name": "other", "label_weight": 0.5, "region": "alps"}, set()),
    ],
    ids=lambda value: "" if isinstance(value, set) else str(value),
)
def test_other_options_are_other_entries(
    one: TrainConfig, tmp_path: Path, options: dict[str, Any], kinds: set[str]
) -> None:
    before = made(one, tmp_path / "store")
    changed = replace(one, scenes=(replace(one.scenes[0], **options),))
    assert {name.partition("-")[0] for name in made(changed, tmp_path / "store") - before} == kinds


def test_other_bands_are_other_entries(one: TrainConfig, tmp_path: Path) -> None:
    made(one, tmp_path / "store")
    assert len(made(replace(one, optical_bands=("B04", "B03")), tmp_path / "store")) == 3
    assert len(made(replace(one, block=300.0, crop=96, seed=2), tmp_path / "store")) == 3


def damage(path: Path, how: str) -> None:
    data = bytearray((path / TILES).read_bytes())
    if how == "cut":
        (path / TILES).write_bytes(data[:-1])
    elif how == "flipped":
        data[len(data) // 2] ^= 1
        (path / TILES).write_bytes(data)
    elif how == "header":
        data[3] ^= 1
        (path / TILES).write_bytes(data)
    elif how == "garbled":
        (path / ABOUT).write_text((path / ABOUT).read_text().replace("1", "2", 1))
    elif how == "counts":
        for counts in path.glob("counts-*"):
            counts.write_bytes(counts.read_bytes()[:100])
    else:
        (path / how).unlink()


@pytest.mark.parametrize("how", ["cut", "flipped", "header", "garbled", "counts", TILES, ABOUT])
def test_what_is_damaged_is_made_again(one: TrainConfig, tmp_path: Path, how: str) -> None:
    before = made(one, tmp_path / "store")
    for name in before:
        damage(tmp_path / "store" / name, how)
    assert made(one, tmp_path / "store") == before
    for name in before:
        assert entries.Entries(tmp_path / "store").get(name, lambda about: True)


def test_a_copy_of_the_store_is_used(one: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the times of its files, which are then read once to see that they are whole."""
    before = made(one, tmp_path / "store")
    shutil.copytree(tmp_path / "store", tmp_path / "copy", copy_function=shutil.copy)
    monkeypatch.setattr(entries.Entries, "obtain", None)
    store = Store(tmp_path / "copy")
    survey(one, store)
    assert made(one, tmp_path / "copy") == before


def test_files_that_change_while_they_are_read_are_not_stored(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ScenePair.read

    def touch(pair: ScenePair, window: Window) -> object:
        os.utime(config.scenes[0].optical)  # type: ignore[arg-type]
        return read(pair, window)

    monkeypatch.setattr(ScenePair, "read", touch)
    store = Store(tmp_path / "store")
    assert store.open(config.scenes[0], config) is None
    assert names(tmp_path / "store") == [LOCK]


def test_unreadable_scenes_are_read_from_their_files(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(pair: ScenePair, window: Window) -> object:
        raise InputError("damaged")

    store = Store(tmp_path / "store")
    monkeypatch.setattr(ScenePair, "read", fail)
    assert isinstance(open_scene(config.scenes[0], config, store), SceneFiles)
    monkeypatch.undo()
    assert not isinstance(open_scene(config.scenes[1], config, store), SceneFiles)
    with messages() as said:
        store.report()
    assert [line for line in said if "north" in line and "unreadable" in line]


def streams(config: TrainConfig, folder: Path, limit: int | None = None) -> list[str]:
    """Open both scenes, and return the names of those that are read from their files."""
    store = Store(folder, limit)
    return [entry.name for entry in config.scenes if isinstance(open_scene(entry, config, store), SceneFiles)]


def test_a_full_disk_only_costs_time(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # captured, it is a file, which may grow as little
    for limit in (0, 100, 20_000, 400_000):
        with file_size_limit(limit):
            assert streams(config, tmp_path / "store") == ["north", "south"]
        assert [name for name in names(tmp_path / "store") if not name.startswith("labels")] == [LOCK]
    monkeypatch.setattr(entries, "KEPT_FREE", 2**60)
    with messages() as said:
        store = Store(tmp_path / "store")
        survey(config, store)
        store.report()
    assert [line for line in said if "north, south" in line and "free" in line]
    monkeypatch.undo()
    assert streams(config, tmp_path / "store") == []


def test_a_disk_that_fills_up_only_costs_time(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its space cannot be reserved."""
    monkeypatch.setattr(entries, "_reserve", lambda file, size: None)
    with file_size_limit(300_000):
        assert streams(config, tmp_path / "store") == ["north", "south"]
    assert names(tmp_path / "store") == [LOCK]


def test_a_training_ends_on_a_full_disk(one: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "KEPT_FREE", 2**60)
    assert fit(one, tmp_path / "run").weights.exists()


def test_a_store_that_cannot_be_written_is_read(config: TrainConfig, one: TrainConfig, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    made(one, folder)
    folder.chmod(0o555)
    (folder / LOCK).chmod(0o444)
    try:
        with permissions_hold():
            assert streams(config, folder) == ["south"]
            assert fit(replace(config, steps=1, cache=folder), tmp_path / "run").weights.exists()
            (tmp_path / "locked").mkdir(mode=0o555)
            assert streams(config, tmp_path / "locked" / "store") == ["north", "south"]
    finally:
        folder.chmod(0o755)


def test_its_size_is_limited(config: TrainConfig, one: TrainConfig, tmp_path: Path) -> None:
    """Entries that nobody uses make room for others, entries in use do not."""
    folder = tmp_path / "store"
    made(one, folder)
    size = sum((folder / name / TILES).stat().st_size for name in names(folder) if name != LOCK)
    store = Store(folder, int(1.5 * size))
    first = store.open(config.scenes[0], config)
    assert first
    assert store.open(config.scenes[1], config) is None
    window = Window(0, 0, 100, 100)
    before = first.read(window)[0].sar
    with messages() as said:
        store.report()
    assert [line for line in said if "south" in line and "--cache-size" in line]
    del first
    store.close()
    assert streams(replace(config, scenes=config.scenes[1:]), folder, int(1.5 * size)) == []
    left = {name for name in names(folder) if name != LOCK}
    assert sum(name.startswith("images") for name in left) == 1
    assert sum((folder / name / TILES).stat().st_size for name in left) <= 1.5 * size
    assert made(one, folder) > left
    with SceneFiles.open(config.scenes[0], config) as files:
        assert np.array_equal(before, files.read(window)[0].sar, equal_nan=True)


def test_a_foreign_file_in_its_folder_stays(one: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "run" / "store" / "mine").mkdir(parents=True)
    (tmp_path / "run" / "store" / "note.txt").write_text("mine")
    fit(one, tmp_path / "run")
    assert names(tmp_path / "run" / "store") == [LOCK, "mine", "note.txt"]


def test_a_limit_in_gigabytes(
    one: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr("refnet_cli.training.fit.initialise_from_config", interrupt)
    with pytest.raises(InterruptedError):
        fit(replace(one, cache=tmp_path / "store", cache_size=1000 / GB), tmp_path / "run")
    assert [line for line in said if "north" in line and "--cache-size" in line]
    assert names(tmp_path / "store") == [LOCK]
