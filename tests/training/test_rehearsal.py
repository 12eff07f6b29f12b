"""A dry run: how files are read, and how long a training takes; it leaves nothing behind and changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from refnet_cli.cli.main import run
from refnet_cli.cli.train_text import describe_rehearsals
from refnet_cli.errors import InputError, UnavailableError
from refnet_cli.model.weights import load_weights
from refnet_cli.sensors.decisions import Decision
from refnet_cli.training import result, trainer
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.fit import fit
from refnet_cli.training.rehearsal import Rehearsal, rehearse
from refnet_cli.training.survey import describe_files, survey
from tests.helpers.scenes import make_labelled_scene

TIMES = Rehearsal(
    device="cpu", steps=150, step_seconds=4.0, passes=13, tiles=36, tile_seconds=0.25, start_seconds=3.0, patient=True
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("scenes")
    scenes = make_labelled_scene(folder / "north"), make_labelled_scene(folder / "south", "validation", seed=1)
    return TrainConfig(
        scenes=scenes, scheme="esri-io", encoder="test_resnet", width=16, steps=5, batch=2, crop=64, tile=64,
        device="cpu", validate_every=2,
    )  # fmt: skip


@pytest.mark.long
def test_it_counts_what_the_training_does_and_does_not_change_it(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes over the held-out tiles are those of a real training, which is the same before and after."""
    monkeypatch.setattr(result, "draw_pictures", lambda *arguments: None)
    passes = []
    for module, name in ((trainer, "validate"), (result, "validate"), (result, "read_held_out")):
        whole = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, whole=whole: passes.append(1) or whole(*given))
    before = fit(config, tmp_path / "before")
    counted = len(passes)
    scenes = survey(config)
    found = rehearse(config, scenes)
    assert (found.steps, found.passes, found.device) == (5, counted, "cpu")
    assert found.tiles == 12  # of 160 x 144 pixels, with the overlap of refnet predict
    assert min(found.step_seconds, found.tile_seconds, found.start_seconds) > 0
    assert found.of(replace(config, steps=8), scenes) == replace(found, steps=8, passes=4 + 2)
    after = fit(config, tmp_path / "after")
    assert after.history == before.history
    ours, theirs = load_weights(after.weights)[0].state_dict(), load_weights(before.weights)[0].state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_weights_to_start_from_are_validated_once_more(config: TrainConfig) -> None:
    scenes = survey(config)
    started = replace(config, init="shipped", encoder=None, width=None, batch=1)
    assert TIMES.of(started, scenes).passes == TIMES.of(config, scenes).passes + 1
    assert TIMES.of(replace(config, split="none", scenes=config.scenes[:1]), scenes[:1]).tiles == 0


def test_a_precision_of_other_machines_is_not_timed(config: TrainConfig) -> None:
    with pytest.raises(UnavailableError, match="which needs a GPU"):
        rehearse(replace(config, precision="bf16"), survey(config))


def test_what_it_says() -> None:
    assert TIMES.seconds == 3 + 150 * 4 + 13 * 36 * 0.25
    assert describe_rehearsals([TIMES]) == [
        "time        about 12:00 min here (cpu): 150 steps of 4.0 s, 13 times 36 held-out tiles of 0.25 s"
    ]
    (line,) = describe_rehearsals([TIMES, replace(TIMES, steps=50, tiles=0, passes=0)])
    assert line == "time        about 15:23 min for 2 folds here (cpu): 200 steps of 4.0 s, 468 tiles of 0.25 s"
    (line,) = describe_rehearsals([replace(TIMES, tiles=0, passes=0, patient=False)])
    assert line == "time        at most 10:03 min here (cpu): 150 steps of 4.0 s"
    assert describe_rehearsals([]) == []


def test_how_files_are_read(config: TrainConfig) -> None:
    scene = survey(config)[0]
    assert describe_files(scene, config) == (
        "optical B02 B03 B04 B08 from bands 1 2 3 4, level unknown, scale 1, offset 0 (from pixel values); SAR "
        "VV VH from bands 1 2, scale power (from pixel values)"
    )
    moved = {"columns": 1.25, "rows": -3.0, "accepted": True, "applied": True}
    shifts = [moved, moved | {"applied": False}, moved | {"accepted": False}]
    decided = [(Decision("coreg", value, "values: the peaks"),) for value in shifts]
    found = [describe_files(replace(scene, decisions=decisions), config) for decisions in decided]
    assert [text.rpartition("; ")[2] for text in found] == [
        "SAR is moved by +1.25 columns, -3 rows", "SAR lies off by +1.25 columns, -3 rows", "shift of SAR unknown",
    ]  # fmt: skip


def test_the_dry_run(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts go to stdout, all else to stderr, evidence with -v; nothing is written."""
    regions = tmp_path / "regions.toml"
    regions.write_text(
        'scheme = "esri-io"\nencoder = "test_resnet"\nwidth = 16\nbatch = 1\ncrop = 64\ntile = 64\nsteps = 3\n'
        + "".join(
            f'[[scenes]]\nname = "{scene.name}"\noptical = "{scene.optical}"\nsar = "{scene.sar}"\n'
            f'labels = "{scene.labels}"\nsplit = "{config.role(scene)}"\n'
            for scene in config.scenes
        )
    )
    assert run(["train", str(regions), "--dry-run", "-v", "-o", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("labelled pixels")
    assert "north: optical B02 B03 B04 B08 from bands 1 2 3 4" in shown.err
    assert "north: sar.scale power (values: " in shown.err
    assert shown.err.index("timing two steps ...\n") < shown.err.index("\ntime        about ")
    assert [path.name for path in tmp_path.iterdir()] == ["regions.toml"]
    assert run(["train", str(regions), "--dry-run", "--precision", "bf16"]) == 0
    assert "! not timed: precision is bf16, which needs a GPU" in capsys.readouterr().err
    monkeypatch.setattr("refnet_cli.training.rehearsal.rehearse", lambda *_: TIMES)
    assert run(["train", str(regions), "--dry-run", "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scenes"]["south"]["sar.scale"] == "power"
    assert (found["time"]["seconds"], found["time"]["step_seconds"]) == (TIMES.seconds, TIMES.step_seconds)


def test_labels_that_are_all_unknown_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    scene = config.scenes[0]
    with rasterio.open(scene.labels) as labels, rasterio.open(tmp_path / "none.tif", "w", **labels.profile) as empty:
        empty.write(np.zeros((1, *labels.shape), np.uint8))
    with pytest.raises(InputError, match=r"No pixel has a class in .*none\.tif"):
        survey(replace(config, scenes=(replace(scene, labels=tmp_path / "none.tif"),)))
