"""Bundled weights are known by name, wherever weights are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from refnet_cli.batch.identity import identify
from refnet_cli.batch.plan import plan
from refnet_cli.batch.task import Task
from refnet_cli.batch.task_list import read_tasks
from refnet_cli.batch.templates import Templates
from refnet_cli.cli.main import run
from refnet_cli.engines.load import load_engine
from refnet_cli.engines.options import EngineOptions
from refnet_cli.errors import InputMissingError, WeightsError
from refnet_cli.model import weight_files
from refnet_cli.model.weight_files import (
    BundledName,
    bundled_weights,
    default_weights,
    find_weights,
    parse_weights,
    read_card,
)
from refnet_cli.model.weights import load_weights
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.training.config import TrainConfig
from tests.helpers.batches import here
from tests.helpers.scenes import make_pair
from tests.helpers.small_models import write_model
from tests.training.test_config import scene

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["refnet-base", "shipped"]


def test_the_names_are_those_of_the_files() -> None:
    assert set(get_args(BundledName)) == {path.stem for path in bundled_weights()} | {"shipped"}
    assert sorted(get_args(BundledName)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_goes_before_a_file_of_that_name(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_weights(name) == default_weights()
    assert load_engine(name, EngineOptions(device="cpu")).card == load_weights(name)[1]
    wanted = read_card(default_weights())
    for entry in ("file", "folder"):
        (tmp_path / name).write_text("no weights") if entry == "file" else (tmp_path / name).mkdir()
        assert run(["weights", "info", name, "--json"]) == 0
        assert json.loads(capfd.readouterr().out)["sha256"] == wanted.sha256
        assert run(["weights", "verify", name]) == 0
        assert capfd.readouterr().out == f"{name}: intact, sha256 {wanted.sha256}\n"
        assert run(["weights", "info", f"./{name}"]) in ((78,) if entry == "file" else (2, 66))
        (tmp_path / name).unlink() if entry == "file" else None


def test_a_path_is_never_a_name() -> None:
    for given in ("./refnet-base", "a/refnet-base", "refnet-base.onnx", "other", Path("refnet-base")):
        assert parse_weights(given) == Path(given)


def test_weights_that_do_not_exist_say_which_do(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["weights", "info", "refnet-large"]) == 66
    assert "refnet-base" in capfd.readouterr().err
    with pytest.raises(InputMissingError, match="refnet-base"):
        load_weights("refnet-large")


def test_without_torch_the_name_means_the_onnx_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "find_spec", lambda name: None)
    assert find_weights("refnet-base").name == "refnet-base.onnx"


@pytest.mark.parametrize("name", NAMES)
def test_tasks_keep_the_name(name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that they mean the same weights on another machine, in any folder; the id is that of the weights."""
    optical, sar = make_pair(tmp_path, 64, 64)
    rows = [{"optical": str(optical), "sar": str(sar), "output": str(tmp_path / "map.tif")}]
    (task,) = plan(rows, Templates(), {"weights": name}, tmp_path)
    assert json.loads(task.to_line())["options"] == {"weights": name}
    (tmp_path / "tasks.jsonl").write_text(task.to_line() + "\n")
    monkeypatch.chdir("/")
    (again,) = read_tasks(tmp_path / "tasks.jsonl")
    assert again.options.weights == name
    assert identify(again) == task.id
    for other in (None, str(default_weights()), default_weights()):
        assert identify(Task(replace(task.options, weights=other))) == task.id  # type: ignore[arg-type]


def test_config_files_keep_the_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    optical, sar = make_pair(tmp_path, 64, 64)
    (tmp_path / "run.toml").write_text('weights = "refnet-base"\n')
    (tmp_path / "scenes.csv").write_text(f"optical,sar,output\n{optical.name},{sar.name},map.tif\n")
    words = ["batch", "plan", tmp_path / "scenes.csv", "--config", tmp_path / "run.toml"]
    assert run([*map(str, words)]) == 0
    assert json.loads(capfd.readouterr().out)["options"] == {"weights": "refnet-base"}
    assert run([*map(str, words[:3]), "--weights", "shipped"]) == 0
    assert json.loads(capfd.readouterr().out)["options"] == {"weights": "shipped"}


@pytest.mark.parametrize("given", [*NAMES, str(default_weights()), default_weights()])
def test_a_training_starts_from_them(given: Any) -> None:
    assert TrainConfig(scenes=(scene("a"),), scheme="esri-io", init=given).resolved().init == default_weights()


@pytest.mark.parametrize("name", NAMES)
def test_the_other_commands_take_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    optical, sar = make_pair(tmp_path, 64, 64)
    monkeypatch.chdir(tmp_path)
    assert run(["inspect", "--optical", str(optical), "--sar", str(sar), "--weights", name]) == 0
    assert "fit the weights refnet-base." in capfd.readouterr().out
    found: list[Any] = []
    monkeypatch.setattr(
        "refnet_cli.export.onnx_model.export_onnx", lambda weights, *_, **__: found.append(weights) or 1 / 0
    )
    run(["export", name, "-o", "a.onnx"])
    assert found == [default_weights()]
    (tmp_path / "r.toml").write_text(
        'scheme = "esri-io"\n[[scenes]]\noptical = "s2.tif"\nsar = "s1.tif"\nlabels = "l.tif"\nsplit = "validation"\n'
    )
    monkeypatch.setattr("refnet_cli.training.validation.load_weights", lambda weights: found.append(weights) or 1 / 0)
    run(["evaluate", "--weights", name, "--regions", "r.toml"])
    assert found[1:] == [name]

    def note(config: TrainConfig, *_: object, **__: object) -> float:
        return found.append(config.resolved().init) or 1 / 0

    monkeypatch.setattr("refnet_cli.training.fit.fit", note)
    (tmp_path / "r.toml").write_text((tmp_path / "r.toml").read_text().replace('split = "validation"\n', ""))
    run(["train", "r.toml", "-o", "runs", "--init", name])
    assert found[2:] == [default_weights()]


def test_options_in_python() -> None:
    pair = Path("s2.tif"), Path("s1.tif")
    for name in NAMES:
        assert PredictOptions(*pair, Path("map.tif"), weights=name).weights == name  # type: ignore[arg-type]
    assert PredictOptions(*pair, Path("map.tif"), weights="a/b").weights == Path("a/b")  # type: ignore[arg-type]


# --- weights that were bundled before --------------------------------------------------------------------------------

REPLACED = "refnet-small"


def named(folder: Path, weights: str) -> Path:
    """Write a file of one task that names weights, as an older refnet planned it."""
    optical, sar = make_pair(folder, 64, 64)
    task = {"id": "0" * 16, "optical": [str(optical)], "sar": [str(sar)], "output": str(folder / "map.tif")}
    path = folder / "tasks.jsonl"
    path.write_text(json.dumps(task | {"refnet": "0.2.0", "options": {"weights": weights}}) + "\n")
    return path


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "--optical", "s2.tif", "--sar", "s1.tif", "-o", "map.tif", "--weights", REPLACED),
        ("predict", "--config", "run.toml"),
        ("inspect", "--optical", "s2.tif", "--weights", REPLACED),
        ("batch", "plan", "scenes.csv", "--weights", REPLACED),
        ("batch", "plan", "scenes.csv", "--config", "run.toml"),
        ("batch", "run", "tasks.jsonl"),
        ("batch", "status", "tasks.jsonl"),
        ("batch", "merge", "tasks.jsonl"),
        ("train", "regions.toml", "-o", "runs"),
        ("train", "plain.toml", "-o", "runs", "--init", REPLACED),
        ("evaluate", "--weights", REPLACED, "--regions", "plain.toml"),
        ("export", REPLACED, "-o", "model.onnx"),
        ("weights", "info", REPLACED),
        ("weights", "verify", REPLACED),
    ],
    ids=" ".join,
)
def test_the_name_of_replaced_weights_is_refused(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """Even where a file of that name lies in the working folder: it has to be given as a path."""
    monkeypatch.chdir(tmp_path)
    named(tmp_path, REPLACED)
    (tmp_path / REPLACED).write_bytes(write_model(tmp_path / "model.bin").read_bytes())
    (tmp_path / "scenes.csv").write_text("optical,sar,output\ns2.tif,s1.tif,map.tif\n")
    (tmp_path / "run.toml").write_text(
        f'optical = "s2.tif"\nsar = "s1.tif"\noutput = "map.tif"\nweights = "{REPLACED}"\n'
    )
    plain = 'scheme = "esri-io"\n[[scenes]]\noptical = "s2.tif"\nsar = "s1.tif"\nlabels = "l.tif"\n'
    (tmp_path / "plain.toml").write_text(plain)
    (tmp_path / "regions.toml").write_text(f'init = "{REPLACED}"\n{plain}')
    if words[:2] == ("batch", "plan") and "--config" in words:
        (tmp_path / "run.toml").write_text(f'weights = "{REPLACED}"\n')
    before = sorted(tmp_path.iterdir())
    ended = here(capfd, *words)
    assert ended.code == 78, ended.err
    assert "Use refnet-base instead" in ended.err
    assert "./refnet-small.safetensors" in ended.err
    if words[0] == "batch" and words[-1] == "tasks.jsonl":
        assert str(tmp_path / "tasks.jsonl") in ended.err
        assert "refnet batch plan SCENES --weights refnet-base" in ended.err
    assert sorted(tmp_path.iterdir()) == before


def test_python_refuses_the_name_too() -> None:
    for call in (
        find_weights, read_card, load_weights, load_engine,
        lambda name: PredictOptions(Path("s2.tif"), Path("s1.tif"), Path("map.tif"), weights=name),
        lambda name: TrainConfig(scenes=(scene("a"),), scheme="esri-io", init=name),
    ):  # fmt: skip
        with pytest.raises(WeightsError, match="Use refnet-base instead"):
            call(REPLACED)
    assert parse_weights(Path(REPLACED)) == parse_weights(f"./{REPLACED}") == Path(REPLACED)


@pytest.mark.parametrize("ending", [".safetensors", ".onnx", ""])
def test_a_path_of_replaced_weights_that_are_gone_says_what_replaced_them(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = here(capfd, "weights", "info", f"./{REPLACED}{ending}")
    assert ended.code == 66
    assert "Use refnet-base instead" in ended.err
    ended = here(capfd, "batch", "run", named(tmp_path, str(tmp_path / "weights" / f"{REPLACED}{ending}")))
    assert [(outcome["status"], outcome["code"]) for outcome in ended.outcomes] == [("failed", 66)]
    assert "refnet batch plan SCENES --weights refnet-base" in ended.outcomes[0]["message"]


@pytest.mark.parametrize("ending", [".onnx", ""])
def test_a_file_of_replaced_weights_that_was_kept_works_by_its_path(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / f"{REPLACED}{ending}"
    kept.write_bytes(write_model(tmp_path / "model.bin").read_bytes())
    ended = here(capfd, "weights", "info", f"./{REPLACED}{ending}", "--json")
    assert (ended.code, json.loads(ended.out)["sha256"]) == (0, read_card(kept).sha256)
    ended = here(capfd, "batch", "run", named(tmp_path, str(kept)))
    assert ended.statuses == {"done": 1}
    assert here(capfd, "batch", "status", "tasks.jsonl").code == 0
