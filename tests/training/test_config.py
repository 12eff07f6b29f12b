"""Regions files: what they may say, what is refused, and what follows from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.errors import ConfigError, InputMissingError
from refnet_cli.model.weight_files import default_weights, read_card
from refnet_cli.training.config import Schedule, TrainConfig, TrainScene
from refnet_cli.training.identity import describe_settings
from refnet_cli.training.regions_file import SHARED, read_folds, read_regions
from tests.helpers.pages import page

REGIONS = """
scheme = "esri-io"
steps = 3
crop = 64
[[scenes]]
optical = "a/s2.tif"
sar = "/b/s1.tif"
labels = "labels.tif"
"""
OWN = REGIONS.replace('scheme = "esri-io"', "")


def test_regions_file(tmp_path: Path) -> None:
    (tmp_path / "regions.toml").write_text(REGIONS)
    config = read_regions(tmp_path / "regions.toml")
    assert (config.steps, config.batch) == (3, 8)
    assert config.scenes[0].optical == tmp_path / "a" / "s2.tif"
    assert config.scenes[0].sar == Path("/b/s1.tif")
    assert (config.scenes[0].name, config.role(config.scenes[0])) == ("scene-0", "divided")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = ", "not valid TOML"),
        ("stepps = 3" + REGIONS, "unknown entries stepps"),
        (REGIONS + 'masks = "x"', "unknown entries masks"),
        (REGIONS + 'split = "test"', "it must be train or validation"),
        (REGIONS.replace("64", "50"), "whole number from 64"),
        (REGIONS.replace("64", "80"), "multiple of 32"),
        (REGIONS.replace("esri-io", "mine"), "'mine' is unknown"),
        (REGIONS.replace('scheme = "esri-io"', ""), r"class scheme of the labels is missing\. .* esri-io, terramesh"),
        ('without = "both"' + REGIONS, "it must be optical or sar"),
        ('loss = "hinge"' + REGIONS, "Loss 'hinge' is unknown; choose one of cross-entropy, focal"),
        ('scheme = "esri-io"', "There are no scenes"),
        ("[[scenes]]\nregion = 'x'", r"scenes\[0\]: scene-0 lacks labels, optical or sar"),
        ("[[scenes]]\nlabels = 'x'", "scene-0 lacks optical or sar"),
        ("seed = -1" + REGIONS, "seed is -1; it must be a whole number from 0"),
        ('freeze = "encoders"' + REGIONS, "freeze would freeze random encoders"),
        ('without = "sar"\nmodality_dropout = 0.1' + REGIONS, "leave crops without any sensor"),
        ('split = "none"\npatience = 2' + REGIONS, "patience needs validations"),
        ("scenes = 3", "scenes"),
        ('learning_rate = "x"' + REGIONS, "learning_rate is 'x'; it must be a number"),
        ('optical_bands = "B02"' + REGIONS, "it must be a list of names"),
        ('name = "../x"' + REGIONS, "must be a file name without folders"),
        (REGIONS + 'sar_scale = "dB"', "it must be db, db100, power or amplitude"),
        ("batch = 9\naccumulate = 2" + REGIONS, "must be a multiple of accumulate"),
        ("warmup = 3" + REGIONS, "must be less than steps"),
        ("jitter = 1.5" + REGIONS, "jitter is 1.5; it must be from 0 to 1"),
        ("haze = 650" + REGIONS, "haze is 650.0; it must be from 0 to 0.3"),
        ('optical_bands = ["B02", "pan"]\nhaze = 0.1' + REGIONS, "haze needs Sentinel-2 bands"),
        ("clip = 0" + REGIONS, "clip is 0.0; it must be above 0"),
        ("ema = 1.0" + REGIONS, "ema is 1.0; it must be above 0"),
        ("block = 0" + REGIONS, "block is 0.0; it must be above 0"),
        ('fold = "north"' + REGIONS, "fold is 'north', but the regions are"),
        ('split = "blocks"\nfold = "scene-0"' + REGIONS, 'but split is "blocks"'),
        ('split = "region"' + REGIONS, "no region is held out"),
        ('init = "a.safetensors"\nencoder_weights = "imagenet"' + REGIONS, "Give one of them"),
        ("class_weights = { Water = 2 }" + REGIONS, "must give each class a positive number"),
        ("label_codes = { 10 = 1.5 }" + REGIONS, r"label_codes\['10'\] is 1.5; it must be a text or a whole number"),
        ("class_weights = 3" + REGIONS, "it must be balanced or a table of numbers"),
        (OWN + "[scheme]\nname = 'x'", "scheme.classes is missing; it must be a table of texts or tables"),
        (OWN + "[scheme]\nclasses = { a = 'Water' }", "class a is no code"),
        (OWN + "[scheme]\nclasses = { 1 = { name = 'A', colour = 'blue' } }", "write it as #rrggbb"),
        (OWN + "[scheme]\nclasses = { 1 = 'A', 2 = 'a' }", "names of their own"),
        (OWN + "[scheme]\nclasses = { 300 = 'A' }", "unique, 1 to 255"),
        (REGIONS + 'name = "a"\n[[scenes]]' + REGIONS.split("[[scenes]]")[1] + 'name = "a"', "names must be unique"),
    ],
)
def test_regions_files_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "regions.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_regions(tmp_path / "regions.toml")


def test_a_regions_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match=r"none\.toml"):
        read_regions(tmp_path / "none.toml")


def test_a_scheme_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "regions.toml").write_text(OWN + """
label_codes = { 7 = "Vineyard" }
[[scenes]]
optical = "b.tif"
sar = "b.tif"
labels = "b.tif"
[scheme]
name = "mine"
ignore = [99]
[scheme.classes]
4 = { name = "Vineyard", colour = "#aa0077" }
9 = "Orchard"
""")
    config = read_regions(tmp_path / "regions.toml")
    assert (config.classes.name, config.classes.codes) == ("mine", (4, 9))
    assert config.classes.names == ("Vineyard", "Orchard")
    assert config.classes.colours[0] == (0xAA, 0, 0x77)
    assert config.classes.colours[1] != config.classes.colours[0]
    assert config.label_codes == {"4": "4", "9": "9", "Vineyard": "Vineyard", "Orchard": "Orchard", "99": "0"}
    assert config.scenes[0].label_codes == {"7": "Vineyard", "99": "0"}
    assert config.scenes[1].label_codes is None
    assert config.network.classes == 3


def test_options_replace_what_the_file_says_before_it_is_checked(tmp_path: Path) -> None:
    (tmp_path / "regions.toml").write_text('split = "region"\nwarmup = 5' + REGIONS)
    config = read_regions(tmp_path / "regions.toml", {"fold": "scene-0", "steps": 10})
    assert (config.fold, config.steps, config.warmup) == ("scene-0", 10, 5)


def test_keywords_and_paths_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "regions.toml").write_text('init = "shipped"' + REGIONS)
    assert read_regions(tmp_path / "regions.toml").init == "shipped"
    (tmp_path / "regions.toml").write_text('encoder_weights = "resnet50.pth"' + REGIONS)
    assert read_regions(tmp_path / "regions.toml").encoder_weights == tmp_path / "resnet50.pth"


def test_the_network_is_that_of_the_weights_to_start_from() -> None:
    config = TrainConfig(scenes=(scene("a"),), scheme="esri-io", init="shipped").resolved()
    shipped = read_card(default_weights()).network
    assert (config.encoder, config.width, config.init) == (shipped.encoder, shipped.width, default_weights())
    asked = TrainConfig(scenes=(scene("a"),), scheme="esri-io", init="shipped", width=99).resolved()
    assert (asked.encoder, asked.width) == (shipped.encoder, 99)  # and so refused when it starts
    scratch = TrainConfig(scenes=(scene("a"),), scheme="esri-io").resolved()
    assert (scratch.encoder, scratch.width, scratch.init) == ("resnet50", 128, None)


def scene(name: str, split: str | None = None, region: str = "") -> TrainScene:
    return TrainScene(Path("o"), Path("s"), Path("l"), name=name, split=split, region=region)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scenes", "settings", "method", "roles"),
    [
        ((scene("a"), scene("b")), {}, "blocks", ["divided", "divided"]),
        ((scene("a"), scene("b", "train")), {}, "blocks", ["divided", "train"]),
        ((scene("a"), scene("b", "validation")), {}, "region", ["train", "validation"]),
        ((scene("a"), scene("b")), {"fold": "b"}, "region", ["train", "validation"]),
        ((scene("a", region="x"), scene("b", region="x"), scene("c")), {"fold": "x"}, "region",
         ["validation", "validation", "train"]),
        ((scene("a"), scene("b", "validation")), {"split": "blocks"}, "blocks", ["divided", "validation"]),
        ((scene("a"),), {"split": "random"}, "random", ["divided"]),
        ((scene("a"),), {"split": "none"}, "none", ["train"]),
    ],
)  # fmt: skip
def test_roles(scenes: tuple[TrainScene, ...], settings: dict[str, str], method: str, roles: list[str]) -> None:
    config = TrainConfig(scenes=scenes, scheme="esri-io", **settings)  # type: ignore[arg-type]
    assert config.method == method
    assert [config.role(one) for one in scenes] == roles


def test_the_buffer_is_a_tile_and_no_less_than_a_crop() -> None:
    assert TrainConfig(scenes=(scene("a"),), scheme="esri-io", tile=256, crop=128).buffer == 256
    assert TrainConfig(scenes=(scene("a"),), scheme="esri-io", tile=128, crop=256).buffer == 256
    assert TrainConfig(scenes=(scene("a"),), scheme="esri-io", split="random").buffer == 0


def test_defaults_are_the_published_ones() -> None:
    config = TrainConfig(scenes=(scene("a"),), scheme="esri-io")
    assert config.schedule == Schedule(steps=70_000, learning_rate=5e-4, warmup=0, clip=None)
    assert (config.batch, config.crop, config.loss, config.weight_decay) == (8, 256, "cross-entropy", 5e-4)
    assert (config.sampling, config.jitter, config.modality_dropout, config.class_weights) == ("area", 0, 0, None)
    assert config.classes == SCHEMES["esri-io"]


def test_a_scene_may_be_many_files(tmp_path: Path) -> None:
    (tmp_path / "regions.toml").write_text(
        'scheme = "esri-io"\n[[scenes]]\noptical = ["a/B02.tif", "/b/B03.tif"]\n'
        'sar = "a"\nlabels = "x.tif"\ncoreg = "auto"\n'
        "mask_clouds = true"
    )
    (scene,) = read_regions(tmp_path / "regions.toml").scenes
    assert scene.optical == (tmp_path / "a" / "B02.tif", Path("/b/B03.tif"))
    assert (scene.sar, scene.coreg, scene.mask_clouds, scene.strict) == (tmp_path / "a", "auto", True, False)
    (tmp_path / "regions.toml").write_text('[[scenes]]\noptical = 3\nsar = "a"\nlabels = "x.tif"')
    with pytest.raises(ConfigError, match="a path or a list of paths"):
        read_regions(tmp_path / "regions.toml")


ALL_SHARED = """
scheme = "esri-io"
coreg = "auto"
sar_scale = "db"
mask_clouds = true
label_field = "class"
{more}
[[scenes]]
name = "both"
optical = "s2.tif"
sar = "s1.tif"
labels = "fields.GPKG"
{own}
[[scenes]]
name = "radar"
sar = "s1.tif"
labels = "labels.tif"
"""


def test_options_may_stand_once_for_all_scenes(tmp_path: Path) -> None:
    """A scene's own value wins, and none gets options that mean nothing for it."""
    path = tmp_path / "regions.toml"
    path.write_text(ALL_SHARED.format(more="", own='coreg = "check"\nmask_clouds = false'))
    both, radar = read_regions(path).scenes
    assert (both.coreg, both.sar_scale, both.mask_clouds, both.label_field) == ("check", "db", False, "class")
    assert (radar.coreg, radar.sar_scale, radar.mask_clouds, radar.label_field) == ("off", "db", False, None)
    assert read_folds(path, "both")["both"].scenes == (both, radar)
    path.write_text(ALL_SHARED.format(more="coreg_ = 1", own=""))
    with pytest.raises(ConfigError, match="unknown entries coreg_"):
        read_regions(path)
    path.write_text(ALL_SHARED.format(more="", own="").replace('"auto"', '"always"'))
    with pytest.raises(ConfigError, match="coreg is 'always'; it must be off, check, auto or require"):
        read_regions(path)


def test_what_all_scenes_may_share() -> None:
    """Neither bands, which are the network's at the top of the file, nor what belongs to the ground of one scene."""
    listed = page("reference/regions-file").partition("may stand once, above them: ")[2].partition(". A scene's own")[0]
    assert {*re.findall(r"`(\w+)`", listed)} == {*SHARED}
    assert {"optical_offset", "optical_scale", "sar_scale", "coreg", "mask_clouds", "missing", "strict"} <= {*SHARED}
    assert not {"optical_bands", "sar_bands", "bounds", "grid", "stac", "labels", "split", "region"} & {*SHARED}


def test_an_option_at_the_top_is_that_of_each_scene(tmp_path: Path) -> None:
    """A training does not know where the option stood: it goes on when the option is moved."""
    scene = '[[scenes]]\noptical = "s2.tif"\nsar = "s1.tif"\nlabels = "l.tif"\n'
    texts = ('coreg = "auto"\n' + scene, scene + 'coreg = "auto"', 'coreg = "off"\n' + scene + 'coreg = "auto"', scene)
    found = []
    for text in texts:
        (tmp_path / "regions.toml").write_text('scheme = "esri-io"\n' + text)
        found.append(describe_settings(read_regions(tmp_path / "regions.toml")))
    assert found[0] == found[1] == found[2] != found[3]
