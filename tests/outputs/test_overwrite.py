"""Commands replace their own outputs, nothing else unasked; names fit formats; folders come and go."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refnet_cli.cli.main import run
from refnet_cli.cli.options import with_outputs
from refnet_cli.errors import InputError, OptionsError, OutputError
from refnet_cli.outputs import OUTPUTS
from refnet_cli.prediction.job import files_of
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.scene.pair import ScenePair
from refnet_cli.training import fit as train
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.result import RESULTS
from tests.helpers.scenes import PlaceEngine, make_labelled_scene, make_pair

KINDS = tuple(kind for kind in OUTPUTS if kind != "classes")


@pytest.fixture
def alone(tmp_path: Path) -> PredictOptions:
    """A map without further outputs."""
    return PredictOptions(*make_pair(tmp_path, 64, 64), tmp_path / "out" / "map.tif", coreg="off", threshold=0.1)


@pytest.fixture
def options(alone: PredictOptions) -> PredictOptions:
    """A map with all further outputs."""
    return replace(alone, outputs=KINDS, checksum=True, date="2020-07-01")


def no_pixel(*arguments: object, **settings: object) -> None:
    raise AssertionError("a file was opened")


def test_no_file_of_a_prediction_replaces_one_of_others(
    options: PredictOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(options, PlaceEngine())
    made = {path: path.read_bytes() for path in options.output.parent.iterdir()}
    assert sorted(made) == sorted(files_of(options))
    predict(replace(options, threshold=0.0), PlaceEngine())  # its own files, whatever their content
    predict(options, PlaceEngine())
    assert {path: path.read_bytes() for path in options.output.parent.iterdir()} == made
    for path, content in made.items():
        path.write_text("important")
        with monkeypatch.context() as closed:
            closed.setattr(ScenePair, "open", no_pixel)
            with pytest.raises(OutputError, match=re.escape(str(path)) + ".*--overwrite"):
                predict(options, PlaceEngine())
        assert path.read_text() == "important"
        path.write_bytes(content)
    for path in made:
        path.write_text("important")
    predict(replace(options, overwrite=True), PlaceEngine())
    assert {path: path.read_bytes() for path in options.output.parent.iterdir()} == made


def test_what_is_replaced_does_not_change_the_map_or_its_identity(options: PredictOptions) -> None:
    report = predict(options, PlaceEngine())
    again = predict(replace(options, overwrite=True), PlaceEngine())
    assert report.provenance.tags == again.provenance.tags


def test_missing_folders_come_with_a_map_and_go_with_a_failure(alone: PredictOptions, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    deep = replace(alone, output=tmp_path / "new" / "deep" / "map.tif", outputs=(f"areas={tmp_path}/other/a.csv",))
    empty = replace(deep, bounds=("0", "0", "1", "1"))
    with pytest.raises(OptionsError):
        predict(empty, PlaceEngine())

    class Failing(PlaceEngine):
        def predict(self, *patches: np.ndarray) -> np.ndarray:
            raise InputError("as if")

    with pytest.raises(InputError, match="as if"):
        predict(deep, Failing())
    assert set(tmp_path.iterdir()) == before
    predict(deep, PlaceEngine())
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} > {"map.tif", "a.csv", "a.json"}


NAMES = [
    "map.png", "map.PNG", "map.jpg", "map.pdf", "map.gpkg", "map.shp", "map.geojson", "map.csv", "map.xlsx", "map.html",
    "map.qml", "map.sld", "map.json", "map.vrt", "map.jp2", "map.nc", "map", "map.v2", "map.tif.gz", ".tif",
    "important.txt",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_map_has_the_name_of_a_geotiff_or_is_refused_with_what_works(
    name: str, alone: PredictOptions, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scene = ["predict", "--optical", str(alone.optical), "--sar", str(alone.sar)]
    assert run([*scene, "-o", str(tmp_path / name)]) == 64
    message = capfd.readouterr().err
    remedy = re.findall(r"-o (\S+?)[;.]?(?=\s)", message)
    given = with_outputs({"given_outputs": remedy})
    chosen = replace(alone, output=given["output"], outputs=given["outputs"] or ())
    assert chosen.output.suffix == ".tif"
    wanted = Path(name).suffix.lower()
    if name != "map.geojson" and wanted in {ending for kind in OUTPUTS.values() for ending in kind.suffixes}:
        assert wanted in [path.suffix for path in chosen.output_paths.values()]


def test_a_folder_is_no_map_but_may_hold_one(
    alone: PredictOptions, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scene = ["predict", "--optical", str(alone.optical), "--sar", str(alone.sar)]
    assert run([*scene, "-o", str(tmp_path)]) == 64
    (remedy,) = re.findall(r"-o (\S+)\.", capfd.readouterr().err)
    assert Path(remedy).parent == tmp_path
    assert replace(alone, output=Path(remedy)).output_paths


@pytest.mark.parametrize("kind", KINDS)
def test_further_outputs_have_names_that_fit(kind: str, alone: PredictOptions) -> None:
    for ending in OUTPUTS[kind].suffixes:
        assert replace(alone, outputs=(f"{kind}=x{ending.upper()}",)).output_paths[kind] == Path(f"x{ending.upper()}")
    with pytest.raises(OptionsError, match=f"the output {kind}") as refused:
        replace(alone, outputs=(f"{kind}=x.foo",))
    (remedy,) = re.findall(r"-o (\S+)\.$", str(refused.value))
    assert replace(alone, outputs=(remedy,)).output_paths[kind].stem == "x"


def test_commands_that_write_one_file_leave_those_of_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before they read anything: what they are given to read is not there."""
    monkeypatch.chdir(tmp_path)
    scene = ["--optical", "none.tif", "--sar", "none.tif"]
    Path("tasks.csv").write_text("optical,sar,output\na.tif,b.tif,c.tif\n")
    calls: list[tuple[Sequence[str], str, str, int]] = [
        (["register", *scene, "--plot"], "x.png", "x.jpg", 66),
        (["register", *scene, "--geojson"], "x.geojson", "x.shp", 66),
        (["evaluate", "none.tif", "none2.tif", "--plot"], "x.png", "x.pdf", 66),
        (["export", "none.safetensors", "-o"], "x.onnx", "x.pt", 66),
        (["weights", "import", "none.pth", "--card", "card.toml", "-o"], "x.safetensors", "x.onnx", 66),
        (["batch", "plan", "tasks.csv", "-o"], "x.jsonl", "x.tif", 0),
    ]
    Path("card.toml").write_text("")
    for words, name, wrong, code in calls:
        Path(name).write_text("important")
        assert run([*words, name]) == 73, words
        assert "--overwrite" in capfd.readouterr().err
        assert run([*words, wrong]) == 64, words
        capfd.readouterr()
        assert run([*words, name, "--overwrite"]) == code, words
        assert Path(name).read_text() == "important" or code == 0
        Path(name).unlink()
        assert run([*words, f"new/{name}"]) == code, words
        assert Path("new").exists() == (code == 0)
    assert run(["batch", "plan", "tasks.csv", "-o", "new/x.jsonl"]) == 0  # its own, again


def test_the_list_of_tasks_is_not_the_map(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scenes.csv").write_text("optical,sar\na/s2.tif,a/s1.tif\n")
    words = ["batch", "plan", str(tmp_path / "scenes.csv")]
    assert run([*words, "-o", str(tmp_path / "map.tif")]) == 64
    said = capfd.readouterr().err
    remedy = shlex.split(re.sub(r"[;,]", " ", said[said.index("-o tasks.jsonl") : said.index(" for the file")]))
    template = shlex.split(said[said.index("as --map") + 3 :].strip().rstrip("."))
    assert run([*words, "-o", str(tmp_path / remedy[1]), *template]) == 0


def test_a_run_of_training_is_a_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("my.safetensors", "my.onnx", "my.pth"):
        assert run(["train", str(tmp_path / "regions.toml"), "-o", str(tmp_path / name)]) == 64
        assert f"-o {tmp_path}/my." in capfd.readouterr().err
    assert run(["train", str(tmp_path / "regions.toml"), "-o", str(tmp_path / "runs" / "v1.2")]) == 66
    assert list(tmp_path.iterdir()) == []


def test_a_training_leaves_files_of_others_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so before it looks at a scene, and leaves no folder behind."""

    def stop(config: object, store: object) -> None:
        raise InputError("as if")

    monkeypatch.setattr(train, "survey_or_advise", stop)
    config = TrainConfig(
        (make_labelled_scene(tmp_path / "scene"),), "esri-io", name="mine", encoder="test_resnet", width=16, batch=1,
        device="cpu",
    )
    run_folder = tmp_path / "run"
    for name in (*RESULTS, "mine.safetensors", "checkpoints/best.pt"):
        file = run_folder / name
        file.parent.mkdir(parents=True)
        file.write_text("important")
        with pytest.raises(OutputError, match="--overwrite"):
            train.fit(config, run_folder)
        with pytest.raises(InputError, match="as if"):
            train.fit(config, run_folder, overwrite=True)
        assert file.read_text() == "important"
        shutil.rmtree(run_folder)
    with pytest.raises(InputError, match="as if"):
        train.fit(config, run_folder)
    assert not run_folder.exists()
    # What an interrupted training has written is its own; weights carry a card.
    (run_folder / "checkpoints").mkdir(parents=True)
    (run_folder / "checkpoints" / "step-000000001.pt").touch()
    (run_folder / "curves.png").write_text("of 0.1")
    with pytest.raises(InputError, match="as if"):
        train.fit(config, run_folder)
    (run_folder / "mine.safetensors").write_text("important")
    with pytest.raises(OutputError, match="--overwrite"):
        train.fit(config, run_folder)
