"""Names that earlier versions had: everywhere the error says what to give instead, and what it says works."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refnet_cli.batch.plan import plan
from refnet_cli.batch.scene_list import read_scenes
from refnet_cli.batch.task import Task
from refnet_cli.batch.task_list import read_tasks
from refnet_cli.batch.templates import Templates
from refnet_cli.errors import ConfigError, OptionsError
from refnet_cli.outputs import OUTPUTS
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.removed import REMOVED, REMOVED_OPTIONS
from tests.helpers.batches import here
from tests.helpers.small_models import write_model

CALL = ("predict", "--optical", "s2.tif", "--sar", "s1.tif", "-o", "map.tif")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_takes_the_place_is_there() -> None:
    for name, (what, _, output) in REMOVED.items():
        assert output in OUTPUTS
        known = OUTPUTS if what == "output" else PredictOptions.__dataclass_fields__
        assert name not in known


@pytest.mark.parametrize(
    ("words", "instead"),
    [(["--preview", "a b.png"], ["-o", "preview=a b.png"]), (["--preview=a.png"], ["-o", "preview=a.png"]),
     (["-o", "probabilities16"], ["-o", "probabilities"]), (["-o", "areas", "-o", "probabilities16=p.tif"],
     ["-o", "probabilities=p.tif"])],
)  # fmt: skip
def test_on_the_command_line(words: Sequence[str], instead: list[str], capfd: Any) -> None:
    ended = here(capfd, *CALL, *words)
    assert (ended.code, ended.out) == (2, "")
    assert "was removed in refnet 0.2. Pass -o " in ended.err
    (remedy,) = re.findall(r"Pass (.+) instead", ended.err)
    assert shlex.split(remedy) == instead
    assert here(capfd, *CALL, *instead).code == 66  # past the options, to files that are not there


def test_help_and_completion_are_silent(capfd: Any) -> None:
    help_text = here(capfd, "predict", "--help").out
    assert not [name for name in REMOVED_OPTIONS if f"--{name}" in help_text]


@pytest.mark.parametrize("command", ["predict", "batch"])
@pytest.mark.parametrize(
    ("lines", "instead"),
    [('preview = "ö/a b.png"', "preview=ö/a b.png"), ('outputs = ["areas", "probabilities16"]', "probabilities"),
     ('outputs = ["probabilities16=p.tif"]', "probabilities=p.tif")],
)  # fmt: skip
def test_in_a_config(command: str, lines: str, instead: str, folder: Path, capfd: Any) -> None:
    (folder / "run.toml").write_text(f"{lines}\n", encoding="utf-8")
    (folder / "scenes.csv").write_text("optical,sar,output\ns2.tif,s1.tif,map.tif\n")
    plan_words = ("batch", "plan", "scenes.csv")
    words = (*(CALL if command == "predict" else plan_words), "--config", "run.toml")
    ended = here(capfd, *words)
    assert ended.code == 78
    assert "run.toml: " in ended.err
    (remedy,) = re.findall(r"Write (.+) instead", ended.err)
    assert tomllib.loads(remedy) == {"outputs": [instead]}
    (folder / "run.toml").write_text(f"{remedy}\n", encoding="utf-8")
    assert here(capfd, *words).code == (66 if command == "predict" else 0)


def test_in_a_config_s_list_of_outputs(folder: Path, capfd: Any) -> None:
    (folder / "run.toml").write_text('optical = "s2.tif"\noutput = ["map.tif", "probabilities16"]\n')
    ended = here(capfd, "predict", "--config", "run.toml")
    assert ended.code == 78
    assert 'Write outputs = ["probabilities"] instead' in ended.err


@pytest.mark.parametrize(
    ("options", "instead"),
    [({"preview": "/a/b.png"}, "preview=/a/b.png"), ({"outputs": ["probabilities16"]}, "probabilities"),
     ({"outputs": ["areas", "probabilities16=/p.tif"]}, "probabilities=/p.tif")],
)  # fmt: skip
def test_in_a_list_of_tasks(options: dict[str, Any], instead: str, folder: Path, capfd: Any) -> None:
    line = {"optical": ["/s2.tif"], "sar": ["/s1.tif"], "output": "/map.tif"}
    (folder / "tasks.jsonl").write_text(json.dumps(line | {"options": options}) + "\n")
    ended = here(capfd, "batch", "run", "tasks.jsonl")
    assert ended.code == 78
    (remedy,) = re.findall(r"Write (.+) instead, or plan again", ended.err)
    (folder / "tasks.jsonl").write_text(json.dumps(line | {"options": json.loads(f"{{{remedy}}}")}) + "\n")
    (task,) = read_tasks(folder / "tasks.jsonl")
    assert task.options.outputs == (instead,)


def test_a_wrong_list_of_outputs_stays_wrong(folder: Path) -> None:
    line = {"optical": ["/s2.tif"], "sar": ["/s1.tif"], "output": "/map.tif"}
    for outputs in (1, "probabilities16", [["probabilities16"]]):
        with pytest.raises(ConfigError):
            Task.from_line(json.dumps(line | {"options": {"outputs": outputs}}), folder / "tasks.jsonl")


def test_in_a_table_of_scenes(folder: Path, capfd: Any) -> None:
    weights = write_model(folder / "w.onnx")
    table = folder / "scenes.csv"
    table.write_text("optical,sar,output,preview\ns2.tif,s1.tif,map.tif,look.png\n")
    words = ("batch", "plan", "scenes.csv", "--weights", weights)
    ended = here(capfd, *words)
    assert ended.code == 78
    column, remedy = re.findall(r"Rename the column to (\w+) and pass (.+) instead", ended.err)[0]
    table.write_text(table.read_text().replace("preview", column))
    ended = here(capfd, *words, *shlex.split(remedy))
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["options"]["outputs"] == [f"preview={folder / 'look.png'}"]


@pytest.mark.parametrize("path", ["", "={stem}_p.tif"])
def test_among_the_outputs_of_all_scenes(path: str, folder: Path, capfd: Any) -> None:
    (folder / "scenes.csv").write_text("optical,sar,output\ns2.tif,s1.tif,map.tif\n")
    words = ("batch", "plan", "scenes.csv", "--weights", write_model(folder / "w.onnx"))
    ended = here(capfd, *words, "--also", f"probabilities16{path}")
    assert ended.code == 2
    (remedy,) = re.findall(r"Pass (--also .+) instead", ended.err)
    assert shlex.split(remedy) == ["--also", f"probabilities{path}"]
    assert here(capfd, *words, *shlex.split(remedy)).code == 0


def test_in_python() -> None:
    options = PredictOptions("s2.tif", "s1.tif", "map.tif")  # type: ignore[arg-type]
    for value in ("a.png", Path("a.png")):
        with pytest.raises(OptionsError, match=r"removed in refnet 0\.2\. Pass outputs=\['preview=a\.png'\]"):
            PredictOptions("s2.tif", "s1.tif", "map.tif", preview=value)  # type: ignore[call-arg, arg-type]
        with pytest.raises(OptionsError, match="'preview' was removed"):
            replace(options, preview=value)  # type: ignore[call-arg]
    with pytest.raises(OptionsError, match="'preview=PATH'"):
        PredictOptions("s2.tif", "s1.tif", "map.tif", preview=None)  # type: ignore[call-arg, arg-type]
    with pytest.raises(OptionsError, match=r"'probabilities16' was .* Pass outputs=\['probabilities'\] instead"):
        replace(options, outputs=("areas", "probabilities16"))
    with pytest.raises(TypeError, match="unexpected keyword argument 'previews'"):
        PredictOptions("s2.tif", "s1.tif", "map.tif", previews=1)  # type: ignore[call-arg, arg-type]
    scenes = read_scenes("optical,sar,output\ns2.tif,s1.tif,map.tif\n", Path())
    with pytest.raises(OptionsError, match="'probabilities16' was removed"):
        list(plan(scenes, Templates(outputs=("probabilities16",)), {}, Path()))
