"""Leave-one-region-out in one command: each fold is a training by itself, and the table says what the folds say."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refnet_cli.cli.main import run
from refnet_cli.errors import ConfigError, OptionsError, OutputError, TryAgainError
from refnet_cli.evaluation.scores import score
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weight_files import read_card
from refnet_cli.model.weights import load_weights, save_weights
from refnet_cli.system.marks import is_refnet_output
from refnet_cli.training import folds
from refnet_cli.training.calibration import fit_temperature
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.fit import fit
from refnet_cli.training.folds import POOLED, fit_folds, name_folders
from refnet_cli.training.held_out import HeldOut
from refnet_cli.training.history import History
from refnet_cli.training.regions_file import read_folds
from refnet_cli.training.result import TrainResult
from refnet_cli.training.run import Progress
from tests.helpers.once import once
from tests.helpers.scenes import CARD, make_labelled_scene
from tests.helpers.trainings import shorten
from tests.training.test_rehearsal import TIMES

HEAD = 'scheme = "esri-io"\nencoder = "test_resnet"\ndevice = "cpu"\n'
HEAD += "width = 16\nsteps = 2\nvalidate_every = 2\nbatch = 2\ncrop = 64\ntile = 160\n"
NAMES = CARD.scheme.names
HELD_OUT = "south,east"
pytestmark = pytest.mark.usefixtures("short_trainings")


def table_of(name: str, entries: str = "") -> str:
    files = {"optical": "s2", "sar": "s1", "labels": "labels"}
    lines = [f'{what} = "{name}/{file}.tif"' for what, file in files.items()]
    return "\n".join(["[[scenes]]", f'name = "{name}"', *lines, entries, ""])


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three regions, the last one of a scene whose name is not the region's."""

    def make(folder: Path) -> Path:
        for seed, name in enumerate(("north", "south", "east-1")):
            make_labelled_scene(folder / name, seed=seed)
        path = folder / "regions.toml"
        path.write_text(HEAD + table_of("north") + table_of("south") + table_of("east-1", 'region = "east"'))
        return path

    return once(tmp_path_factory, "folds-regions", make)


@pytest.fixture(scope="module")
def done(regions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds, stopped within the second one."""

    def make(folder: Path) -> Path:
        with pytest.MonkeyPatch.context() as patched:
            shorten(patched)
            configs = read_folds(regions, HELD_OUT)
            with pytest.raises(TryAgainError, match="Run the same command again"):
                fit_folds(configs, folder, stopping=lambda: (folder / "fold-east" / "checkpoints").exists())
            assert (folder / "fold-south" / "refnet.safetensors").exists()
            assert not (folder / "folds.csv").exists()
            fit_folds(configs, folder)
        return folder

    return once(tmp_path_factory, "folds", make)


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "folds.csv").open(encoding="utf-8", newline="") as file:
        return {row["region"]: row for row in csv.DictReader(file)}


@pytest.mark.long
def test_each_fold_is_a_training_by_itself(regions: Path, done: Path, tmp_path: Path) -> None:
    """Interrupted or not, and no matter what was trained before it in the same process."""
    config = read_folds(regions, "east")["east"]
    alone = fit(config, tmp_path)
    mine = done / "fold-east" / "refnet.safetensors"
    ours, theirs = (load_weights(path, msie=True)[0].state_dict() for path in (mine, alone.weights))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert read_card(mine).to_dict() == read_card(alone.weights).to_dict()


def test_the_table_says_what_the_cards_say(done: Path) -> None:
    rows = rows_of(done)
    assert list(rows) == ["south", "east", POOLED]
    details = json.loads((done / "folds.json").read_text())
    pooled = np.zeros((9, 9), np.int64)
    for region in ("south", "east"):
        card = read_card(done / f"fold-{region}" / "refnet.safetensors")
        scores, row = card.scores["validation"], rows[region]
        for name in ("overall_accuracy", "balanced_accuracy", "mean_iou"):
            assert float(row[name]) == pytest.approx(scores[name]) == details["folds"][region][name]
        assert int(row["labelled_pixels"]) == scores["pixels"]
        for name in NAMES:
            stored = row[f"recall {name}"]
            assert (stored == "") == (not scores["labelled"].get(name))
            assert not stored or float(stored) == pytest.approx(scores["recall"][name])
        assert float(row["temperature"]) == card.temperature
        assert float(row["ece"]) == card.scores["calibration"]["ece_after"]
        assert details["folds"][region]["weights"] == f"fold-{region}/refnet.safetensors"
        places = [NAMES.index(name) for name in scores["labelled"]]
        pooled[np.ix_(places, places)] += np.array(scores["confusion_matrix"])
    assert int(rows[POOLED]["labelled_pixels"]) == pooled.sum()
    assert float(rows[POOLED]["overall_accuracy"]) == pytest.approx(np.trace(pooled) / pooled.sum())
    assert float(rows[POOLED]["mean_iou"]) == pytest.approx(score(pooled, NAMES).mean_iou)
    assert all(is_refnet_output(done / name) for name in ("folds.csv", "folds.json", "fold-east/fold.json"))


@pytest.mark.long
def test_finished_folds_are_not_trained_again(
    regions: Path, done: Path, tmp_path: Path, said: list[str]
) -> None:
    folder = shutil.copytree(done, tmp_path / "folds")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}

    def fail(progress: Progress) -> None:
        raise AssertionError

    fit_folds(read_folds(regions, HELD_OUT), folder, fail)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before
    assert [line for line in said if "not trained again" in line] == [
        f"fold {name}: finished before, not trained again" for name in ("south", "east")
    ]
    with pytest.raises(OptionsError, match=r"different settings \(steps\)"):
        fit_folds(read_folds(regions, HELD_OUT, {"steps": 3}), folder)


def make_result(config: TrainConfig, folder: Path, number: int, pixels: int = 2000) -> TrainResult:
    """Weights whose logits are too sure by a factor of their own, and the scores of a matrix of their own."""
    random = np.random.default_rng(number)
    labels = random.integers(1, 4, pixels).astype(np.uint8)
    logits = random.normal(0, 1, (pixels, 10)).astype(np.float32)
    logits[np.arange(pixels), labels] += 1.5
    logits *= 2 + number
    matrix = np.zeros((9, 9), np.int64)
    matrix[:3, :3] = random.integers(1, 50, (3, 3))
    found = {"validation": score(matrix, NAMES).to_dict()} if pixels else {}
    card = replace(CARD, name=config.name, scores=found)
    folder.mkdir(parents=True, exist_ok=True)
    net = REFNet(CARD.network)
    path = folder / f"{config.name}.safetensors"
    return TrainResult(path, save_weights(net, card, path), History(), held_out=HeldOut(logits, labels))


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings that end at once; which regions were trained."""
    trained: list[str] = []

    def fake(config: TrainConfig, folder: Path, *others: Any) -> TrainResult:
        assert config.fold is not None
        trained.append(config.fold)
        return make_result(config, folder, ["north", "south", "east"].index(config.fold))

    monkeypatch.setattr(folds, "fit", fake)
    return trained


def shares(logits: np.ndarray, temperature: float) -> np.ndarray:
    powers = np.exp((logits - logits.max(1, keepdims=True)).astype(float) / temperature)
    return np.asarray(powers / powers.sum(1, keepdims=True))


def slow_error(parts: list[tuple[np.ndarray, np.ndarray, float]]) -> float:
    """Expected calibration error in 15 bins."""
    sure, right = [], []
    for logits, labels, temperature in parts:
        found = shares(logits, temperature)[:, 1:]
        sure.append(found.max(1))
        right.append(found.argmax(1) + 1 == labels)
    confidence, hits = np.concatenate(sure), np.concatenate(right)
    bins = np.clip(np.ceil(confidence * 15), 1, 15)
    return sum(abs((confidence - hits)[bins == number].sum()) for number in range(1, 16)) / len(hits)


def test_a_temperature_is_judged_on_ground_that_it_was_not_fitted_to(
    regions: Path, tmp_path: Path, faked: list[str]
) -> None:
    details = fit_folds(read_folds(regions, "all"), tmp_path)
    assert faked == ["north", "south", "east"]
    config = read_folds(regions, "north")["north"]
    parts = [make_result(config, tmp_path / "same", number).held_out for number in range(3)]
    known = []
    for number, region in enumerate(faked):
        others = [part for other, part in enumerate(parts) if other != number and part]
        wanted = fit_temperature(*(np.concatenate(arrays) for arrays in zip(*others, strict=True)))
        row, own = details["folds"][region], parts[number]
        assert wanted is not None
        assert own is not None
        assert row["temperature_of_others"] == pytest.approx(wanted.temperature, rel=1e-3)
        error = slow_error([(*own, row["temperature_of_others"])])
        assert row["ece_with_temperature_of_others"] == pytest.approx(error, abs=1e-4)
        known.append((*own, row["temperature_of_others"]))
    assert details["pooled"]["ece_with_temperature_of_others"] == pytest.approx(slow_error(known), abs=1e-4)
    again = fit_folds(read_folds(regions, "all"), tmp_path)
    assert (faked, again) == (["north", "south", "east"], details)


def test_one_fold_alone_has_no_others(regions: Path, tmp_path: Path, faked: list[str]) -> None:
    details = fit_folds(read_folds(regions, "south"), tmp_path)
    assert faked == ["south"]
    assert details["folds"]["south"]["temperature_of_others"] is None
    assert rows_of(tmp_path)["south"]["ece_with_temperature_of_others"] == ""
    fit_folds(read_folds(regions, "east,south"), tmp_path)
    assert faked == ["south", "east"]
    assert list(rows_of(tmp_path)) == ["south", "east", POOLED]


@pytest.mark.parametrize("damage", ["fold.json", "held-out.npz", "refnet.safetensors", "labels"])
def test_folds_whose_files_are_not_as_they_were_are_trained_again(
    regions: Path, tmp_path: Path, faked: list[str], damage: str
) -> None:
    """Which a real training does from its last checkpoint, if that still fits."""
    for name in ("north", "south", "east-1"):
        make_labelled_scene(tmp_path / name, seed=5)
    copy = tmp_path / "regions.toml"
    copy.write_text(regions.read_text())
    configs = read_folds(copy, "south")
    fit_folds(configs, tmp_path / "out")
    path = tmp_path / "north" / "labels.tif" if damage == "labels" else tmp_path / "out" / "fold-south" / damage
    path.write_bytes(path.read_bytes()[:50])
    fit_folds(configs, tmp_path / "out", overwrite=True)
    assert faked == ["south", "south"]
    fit_folds(configs, tmp_path / "out")
    assert faked == ["south", "south"]


def test_a_fold_whose_labels_change_while_it_trains_is_not_finished(
    regions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("north", "south", "east-1"):
        make_labelled_scene(tmp_path / name, seed=5)
    copy = tmp_path / "regions.toml"
    copy.write_text(regions.read_text())
    trained = []

    def fake(config: TrainConfig, folder: Path, *others: Any) -> TrainResult:
        trained.append(config.fold)
        if len(trained) == 1:
            os.utime(tmp_path / "north" / "labels.tif", (0, 0))
        return make_result(config, folder, 1)

    monkeypatch.setattr(folds, "fit", fake)
    for _ in range(3):
        fit_folds(read_folds(copy, "south"), tmp_path / "out")
    assert trained == ["south", "south"]


def test_a_fold_depends_on_the_classes_of_a_shapefile(regions: Path, tmp_path: Path, faked: list[str]) -> None:
    """Which lie next to the shapes, in a file of their own."""
    shapes = tmp_path / "fields.shp"
    for ending in (".shp", ".dbf"):
        shapes.with_suffix(ending).write_bytes(b"x")
    (tmp_path / "fields2.dbf").write_bytes(b"x")
    config = read_folds(regions, "south")["south"]
    config = replace(config, scenes=(replace(config.scenes[0], labels=shapes), *config.scenes[1:]))
    for changed in ("fields2.dbf", "fields.dbf", "fields2.dbf"):
        fit_folds({"south": config}, tmp_path / "out")
        os.utime(tmp_path / changed, (0, 0))
    assert faked == ["south", "south"]


def test_a_region_without_labels_has_no_scores(
    regions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(config: TrainConfig, folder: Path, *others: Any) -> TrainResult:
        result = make_result(config, folder, 1, 0 if config.fold == "south" else 2000)
        return replace(result, held_out=None) if config.fold == "south" else result

    monkeypatch.setattr(folds, "fit", fake)
    details = fit_folds(read_folds(regions, "all"), tmp_path)
    assert details["folds"]["south"]["pixels"] == 0
    row = rows_of(tmp_path)["south"]
    assert (row["labelled_pixels"], row["overall_accuracy"], row["recall Water"]) == ("0", "", "")
    assert details["pooled"]["pixels"] == 2 * details["folds"]["north"]["pixels"]
    assert fit_folds(read_folds(regions, "all"), tmp_path) == details


@pytest.mark.parametrize(
    ("scenes", "asked", "message"),
    [
        (table_of("a") + table_of("b"), "c", r"has no region 'c' to hold out\. .*: a, b"),
        (table_of("a") + table_of("b"), "a,,b", "has no region ''"),
        (table_of("a", 'split = "train"'), "all", "no region at all to hold out"),
        (table_of("a", 'split = "train"') + table_of("b"), "a", "has no region 'a'.*: b"),
        (table_of("a") + table_of("b", 'split = "validation"'), "all", "every fold would score it"),
        (table_of("a", 'split = "train"\nregion = "x"') + table_of("b", 'region = "x"'), "all", "scenes of x have"),
        ("scenes = 3", "all", "must be"),
        ("", "all", "no region at all"),
    ],
)
def test_regions_that_cannot_be_held_out(tmp_path: Path, scenes: str, asked: str, message: str) -> None:
    (tmp_path / "regions.toml").write_text(HEAD + scenes)
    with pytest.raises((OptionsError, ConfigError), match=message):
        read_folds(tmp_path / "regions.toml", asked)


def test_regions_that_are_held_out(tmp_path: Path) -> None:
    """Those that are always learned from stay in every fold; a name with a comma is one."""
    path = tmp_path / "regions.toml"
    path.write_text(
        'split = "region"\n' + HEAD + table_of("a", 'region = "north, east"') + table_of("b")
        + table_of("c", 'split = "train"') + table_of("d", 'region = "north, east"')
    )
    found = read_folds(path, "all", {"steps": 7})
    assert list(found) == ["north, east", "b"]
    assert list(read_folds(path, "north, east")) == ["north, east"]
    assert list(read_folds(path, " b ")) == ["b"]
    config = found["north, east"]
    assert [config.role(scene) for scene in config.scenes] == ["validation", "train", "train", "validation"]
    assert (config.method, config.fold, config.steps) == ("region", "north, east", 7)


def test_names_of_folders() -> None:
    names = ["Bavaria", "north, east", "../up", "C:\\x", "Österreich", "x" * 300]
    found = name_folders(Path("out"), names)
    assert [path.parent for path in found.values()] == [Path("out")] * len(names)
    assert [path.name for path in found.values()][:5] == [
        "fold-Bavaria", "fold-north__east", "fold-.._up", "fold-C__x", "fold-Österreich",
    ]  # fmt: skip
    assert all(len(path.name.encode()) <= 255 for path in name_folders(Path("out"), ["x" * 300, "界" * 300]).values())
    for pair in (["a b", "a_b"], ["Trees", "trees"], ["x" * 300, "x" * 301], ["A\u030a", "Å"]):
        with pytest.raises(OptionsError, match="would share the folder"):
            name_folders(Path("out"), pair)


def test_the_command(
    regions: Path, tmp_path: Path, faked: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """stdout has the table's path, or all of it as JSON."""
    words = ["train", str(regions), "-o", str(tmp_path / "out"), "--folds", "all"]
    assert run(words) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{tmp_path / 'out' / 'folds.csv'}\n"
    assert run([*words, "--json", "-q"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["folds"].keys() == {"north", "south", "east"}
    assert shown.err == ""
    assert len(faked) == 3
    for extra in (["--fold", "north"], ["--split", "blocks"]):
        assert run([*words, *extra]) == 64
        assert "Remove one of them" in capsys.readouterr().err or extra[0] == "--fold"
    assert run(["train", str(regions), "--folds", "all"]) == 2
    capsys.readouterr()
    monkeypatch.setattr("refnet_cli.training.rehearsal.rehearse", lambda *_: TIMES)
    assert run(["train", str(regions), "--folds", "north,east", "--dry-run", "--json", "-q"]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert counted.keys() == {"north", "east"}
    assert counted["north"]["validation"]["Water"] > 0
    assert [counted[fold]["time"]["steps"] for fold in counted] == [TIMES.steps, 2]
    assert run(["train", str(regions), "--folds", "north", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("fold north\nlabelled pixels")


def test_stopping_ends_with_75(
    regions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> TrainResult:
        raise TryAgainError("Stopped. Run the same command again.")

    monkeypatch.setattr(folds, "fit", stop)
    assert run(["train", str(regions), "-o", str(tmp_path / "out"), "--folds", "all"]) == 75
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Run the same command again" in shown.err
    assert not list(tmp_path.rglob("folds.*"))


def test_files_that_refnet_did_not_write_are_kept(regions: Path, tmp_path: Path, faked: list[str]) -> None:
    (tmp_path / "folds.csv").write_text("my,own\n1,2\n")
    configs = read_folds(regions, "north")
    with pytest.raises(OutputError, match=r"folds\.csv would be replaced"):
        fit_folds(configs, tmp_path)
    assert faked == []
    fit_folds(configs, tmp_path, overwrite=True)
    fit_folds(configs, tmp_path)


def test_several_processes_are_refused(regions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OptionsError, match="without torchrun"):
        fit_folds(read_folds(regions, "all"), tmp_path)
