"""An option is defined once: tags, ids, config files, the command line and docs/options.md follow from its field."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click
import pytest

from refnet_cli.batch.identity import identify
from refnet_cli.batch.task import Task
from refnet_cli.cli.main import run
from refnet_cli.cli.options_table import options_table
from refnet_cli.cli.predict import predict_command
from refnet_cli.engines.options import EngineOptions
from refnet_cli.engines.providers import PROVIDERS
from refnet_cli.model.weight_files import default_weights, find_weights, read_card
from refnet_cli.outputs import OUTPUTS as OUTPUT_CLASSES
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.provenance import Provenance
from refnet_cli.scene.options import SceneOptions
from refnet_cli.system.options import names

ROOT = Path(__file__).resolve().parents[2]
NOT_IN_TAGS = {
    "optical", "sar", "grid", "output", "weights", "device", "batch", "scan", "compile", "read_threads",
    "deterministic", "provider", "resume", "overwrite", "checksum", "max_memory", "allow_vrt", "allow_remote",
    "outputs", "zones", "zone_field", "zone_layer", "min_area", "date", "stac", "cloud_mask", "season",
}  # fmt: skip
"""As refnet 0.1 listed them, with what was new in 0.2, and without what 0.2 removed."""
NOT_IN_IDS = {"device", "batch", "scan", "provider", "compile", "read_threads", "resume", "max_memory", "overwrite"}
NOT_IN_IDS_BY_DEFAULT = {"zone_layer", "stac", "cloud_mask", "cloud_classes", "cloud_buffer", "season", "combine"}
GONE_SINCE_0_1 = {"preview": None}
"""What ids of 0.1 are made of where the options are not given that are gone."""
OUTPUTS = ("areas", "polygons", "stac")
GIVEN: dict[str, Any] = {
    "optical": (Path("/no/s2.tif"),), "sar": (Path("/no/s1.tif"),), "output": Path("/no/map.tif"), "outputs": OUTPUTS,
}  # fmt: skip
VALUES: dict[str, Any] = {
    "optical_bands": ("B02", "B03"), "sar_bands": ("VV", "VH"), "optical_offset": 5.0, "sar_scale": "db",
    "stac": {"s2:processing_baseline": "05.10"}, "optical_scale": "dn", "strict": True, "mask_clouds": True,
    "season": Path("/no/season.csv"), "combine": "ensemble",
    "cloud_mask": Path("/no/clouds.tif:1,3"), "cloud_classes": ("shadow", "snow"), "cloud_buffer": 50.0,
    "allow_gcps": True, "allow_vrt": True, "allow_remote": True, "extent": "intersection", "grid": Path("/no/grid.tif"),
    "bounds": ("1", "2", "3", "4", "EPSG:4326"), "coreg": "require", "on_read_error": "mask", "missing": "use-other",
    "optical": (Path("/no/a.tif"), Path("/no/b.tif")), "sar": (Path("/no/vv.tif"), Path("/no/vh.tif")),
    "output": Path("/no/other.tif"), "outputs": (*OUTPUTS, "quality=/no/q.tif"),
    "weights": default_weights().with_suffix(".onnx"), "scheme": "worldcover", "resume": False, "overwrite": True,
    "tta": True, "smooth": 2, "threshold": 0.25, "zones": Path("/no/zones.gpkg"), "zone_field": "name",
    "zone_layer": "counties", "min_area": 1.5, "date": "2020-07-01/2020-07-05", "checksum": True, "max_memory": "4G",
    "overlap": 32, "device": "cpu", "batch": 3, "scan": "torch", "precision": "bf16", "compile": True,
    "deterministic": True, "provider": "cpu", "read_threads": 2,
}  # fmt: skip
"""A value of each option that is not its default."""


def options_with(*changed: str) -> PredictOptions:
    return PredictOptions(**GIVEN | {name: VALUES[name] for name in changed})


def default_of(name: str) -> Any:
    (default,) = (field.default for field in fields(PredictOptions) if field.name == name)
    return None if default is MISSING else default


def old_id(options: PredictOptions) -> str:
    """The id as it was made with lists of names."""
    plain = {
        name: value
        for name, value in options.to_dict().items()
        if name not in NOT_IN_IDS and not (name in NOT_IN_IDS_BY_DEFAULT and value == default_of(name))
    }
    sensors = [options.optical, options.sar]
    inputs = [path for paths in sensors if isinstance(paths, tuple) for path in paths]
    inputs += [path for path in (options.grid, options.zones, options.cloud_file) if path]
    sha256 = read_card(find_weights(options.weights)).sha256
    about = plain | GONE_SINCE_0_1 | {"weights": sha256, "states": [None] * len(inputs), "block": None}
    about |= {"dates": []} if options.season else {}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize("changed", [(), *((name,) for name in VALUES), tuple(VALUES)], ids="-".join)
def test_tags_and_ids_are_those_of_the_lists_of_names(changed: tuple[str, ...]) -> None:
    options, plain = options_with(*changed), options_with()
    assert identify(Task(options)) == old_id(options)
    provenance = Provenance.of(
        options.to_dict(), ["optical", "sar"], {"name": "n", "sha256": "s"}, "worldcover", [], None
    )
    expected = {name: value for name, value in options.to_dict().items() if name not in NOT_IN_TAGS}
    assert provenance.tags["REFNET_OPTIONS"] == json.dumps(expected, sort_keys=True)
    if len(changed) == 1:
        assert getattr(options, changed[0]) != getattr(plain, changed[0])
        assert (identify(Task(options)) == identify(Task(plain))) == (changed[0] in NOT_IN_IDS)


def test_every_option_says_what_it_is_and_what_it_affects() -> None:
    assert VALUES.keys() == {field.name for field in fields(PredictOptions)}
    kinds = [names(PredictOptions, affects) for affects in ("pixels", "elsewhere", "files", "run")]
    assert sorted(name for kind in kinds for name in kind) == sorted(VALUES)
    assert all(field.metadata["help"] for field in fields(PredictOptions))


def test_options_of_single_outputs_affect_files() -> None:
    """With defaults for all that affects files, there is no output that could lack, or be missing, an option."""
    own = {name for output in OUTPUT_CLASSES.values() for name in output.own_options}
    assert own < names(PredictOptions, "files")


def test_options_of_the_engine_and_of_the_scene_are_parts_of_a_prediction_s() -> None:
    options = options_with(*VALUES)
    for part, kind in ((options.engine, EngineOptions), (options.scene, SceneOptions)):
        assert type(part) is kind
        assert all(getattr(part, field.name) == VALUES[field.name] for field in fields(kind))


def test_the_providers_that_can_be_chosen_are_those_of_the_engine() -> None:
    (option,) = (option for option in predict_command.params if option.name == "provider")
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == list(PROVIDERS)


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., PredictOptions]:
    """Return the options with which a command line calls for a prediction."""
    found: list[PredictOptions] = []

    def note(options: PredictOptions, **given: Any) -> None:
        found.append(options)
        raise SystemExit

    def call(*words: object) -> PredictOptions:
        with pytest.raises(SystemExit):
            run(["predict", *map(str, words)])
        return found.pop()

    monkeypatch.setattr("refnet_cli.prediction.predict.predict", note)
    return call


def words_of(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if name == "outputs":
        return [word for output in value for word in ("-o", output)]
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]


def toml_of(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{name} = {{ {', '.join(f'{json.dumps(key)} = {json.dumps(item)}' for key, item in value.items())} }}\n"
    text = [str(item) for item in value] if isinstance(value, tuple) else value
    return f"{name} = {json.dumps(str(text) if isinstance(text, Path) else text)}\n"


@pytest.mark.parametrize("name", VALUES)
def test_an_option_is_a_key_of_the_config_and_a_flag(
    name: str, predicted: Callable[..., PredictOptions], tmp_path: Path
) -> None:
    expected, given = options_with(name), GIVEN | {name: VALUES[name]}
    config = tmp_path / "run.toml"
    config.write_text("".join(toml_of(*entry) for entry in given.items()))
    assert predicted("--config", config) == expected
    if not isinstance(VALUES[name], dict):  # a table is for files only
        assert predicted(*(word for entry in given.items() for word in words_of(*entry))) == expected


def test_output_of_a_config_may_be_a_list(predicted: Callable[..., PredictOptions], tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('optical = "s2.tif"\noutput = ["map.tif", "preview", "areas=x.csv"]\n')
    found = predicted("--config", config)
    assert found.output == tmp_path / "map.tif"
    assert found.output_paths == {
        "classes": tmp_path / "map.tif", "preview": tmp_path / "map_preview.png", "areas": tmp_path / "x.csv",
    }  # fmt: skip
    assert predicted("--config", config, "-o", "own.tif").output_paths == {
        "classes": Path("own.tif"), "preview": Path("own_preview.png"), "areas": tmp_path / "x.csv",
    }  # fmt: skip
    assert predicted("--config", config, "-o", "style").outputs == ("style",)
    config.write_text('optical = "s2.tif"\noutput = ["areas", "classes=m=1.tif"]\noutputs = ["style=s.qml"]\n')
    found = predicted("--config", config)
    assert (found.output, found.outputs) == (tmp_path / "m=1.tif", ("areas", f"style={tmp_path / 's.qml'}"))


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [('["a.tif", "b.tif"]', 2, "a.tif and b.tif are two class maps"), ('["preview"]', 2, "Missing option '--output'"),
     ('["a.tif", 1]', 78, "output is ['a.tif', 1]; it must be a path"), ('["a.tif", "areas=-"]', 2, "stdout"),
     ('["a.tif", "areas", "areas"]', 64, "'areas' is given twice"), ('[""]', 78, "output has an empty path")],
)  # fmt: skip
def test_lists_of_outputs_that_make_no_sense(
    output: str, code: int, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(f'optical = "s2.tif"\noutput = {output}\n')
    assert run(["predict", "--config", str(config)]) == code
    assert message in capfd.readouterr().err


def test_the_table_of_options_is_current() -> None:
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == options_table()
