"""Pretrained encoders: by name or from files, with channels by band name, checksums, statistics and levels.

The files are made here, with the tensors' names and shapes of those that can be fetched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click.testing
import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.cli.train import train_command
from refnet_cli.errors import ConfigError, InputMissingError, OptionsError, WeightsError
from refnet_cli.model.config import REFNetConfig
from refnet_cli.model.encoder_files import read_tensors
from refnet_cli.model.encoders import (
    ENCODERS,
    Chosen,
    EncoderFile,
    Pretrained,
    choose_encoders,
    compare_levels,
    describe_encoders,
    identify_encoders,
)
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.fit import fit
from refnet_cli.training.initialise import InitialNetwork, initialise
from refnet_cli.training.regions_file import read_regions
from tests.helpers.scenes import make_labelled_scene

SHA = {"optical": "a" * 64, "sar": "b" * 64}
BANDS = {"optical": ("B02", "B03", "B04", "B08", "B11"), "sar": ("VH", "VV")}
MEAN, STD = (100.0, 200.0, 300.0, 400.0, 500.0), (10.0, 20.0, 30.0, 40.0, 50.0)
SCHEME = SCHEMES["esri-io"]
SMALL = REFNetConfig("test_resnet", 4, 2, SCHEME.classes, 16, msie=False)
REGIONS = """
scheme = "esri-io"
steps = 3
crop = 64
[[scenes]]
optical = "s2.tif"
sar = "s1.tif"
labels = "labels.tif"
"""


def make_donor(architecture: str, channels: int, seed: int) -> Any:
    """Make an encoder whose batch norms are not those of a fresh one, in evaluation mode."""
    torch.manual_seed(seed)
    donor = timm.create_model(architecture, in_chans=channels, num_classes=19)
    for module in donor.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return donor.eval()


def save(tensors: dict[str, torch.Tensor], path: Path, prefix: str = "") -> str:
    """Write a file of tensors as its ending says, and return its checksum."""
    named = {prefix + name: tensor.contiguous() for name, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(named, path)
    else:
        torch.save(named, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def begin(encoders: Pretrained, optical: tuple[str, ...], sar: tuple[str, ...] = ("VV", "VH")) -> InitialNetwork:
    config = replace(SMALL, optical_bands=len(optical), sar_bands=len(sar))
    return initialise(config, optical, sar, SCHEME, None, encoders, 0)


def choose(*, architecture: str = "test_resnet", **files: EncoderFile) -> Pretrained:
    chosen = choose_encoders(files, None, architecture)
    assert isinstance(chosen, Pretrained)
    return chosen


def said(started: InitialNetwork, about: str) -> str:
    (line,) = (line for line in started.decisions if line.startswith(f"{about}:"))
    return line


def image(channels: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(1, channels, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def donors() -> dict[str, Any]:
    return {sensor: make_donor("test_resnet", len(bands), 7) for sensor, bands in BANDS.items()}


@pytest.fixture(scope="module")
def small(donors: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, EncoderFile]:
    """Files of both sensors for a small network, of both kinds."""
    folder = tmp_path_factory.mktemp("encoders")
    optical, sar = folder / "optical.safetensors", folder / "sar.pth"
    sums = save(donors["optical"].state_dict(), optical), save(donors["sar"].state_dict(), sar, "module.encoder_q.")
    return {
        "optical": EncoderFile(
            file=optical, sha256=sums[0], bands=BANDS["optical"], level="L2A", mean=MEAN, std=STD, licence="MIT"
        ),
        "sar": EncoderFile(file=sar, sha256=sums[1], bands=BANDS["sar"]),
    }


@pytest.mark.parametrize("name", ENCODERS)
def test_entries_are_complete_but_for_the_checksums_that_users_state(name: str) -> None:
    entry = ENCODERS[name]
    for sensor in ("optical", "sar"):
        file: EncoderFile = getattr(entry, sensor)
        repository, commit, filename = file.hub_file()
        assert len(commit) == 40, "a branch can change"
        assert file.url.endswith(f"{repository}/resolve/{commit}/{filename}")
        assert file.statistics(sensor) is not None
        assert file.licence != "unknown"
        assert bool(file.level) == (sensor == "optical")
        if not file.sha256:
            page = file.url.replace("/resolve/", "/blob/")
            with pytest.raises(OptionsError, match=rf"encoder_sha256 = {{ {sensor} = .* {page}; sha256sum FILE"):
                choose_encoders({sensor: name}, None, entry.architecture)
    chosen = choose_encoders(name, SHA, entry.architecture)
    assert isinstance(chosen, Pretrained)
    assert {sensor: file.sha256 for sensor, file in chosen.files.items()} == SHA
    assert {file.name for file in chosen.files.values()} == {name}


def test_the_help_names_every_entry() -> None:
    text = click.testing.CliRunner().invoke(train_command, ["--help"]).output
    assert not [name for name in ENCODERS if f"'{name}'" not in text]


def read(folder: Path, before: str = "", after: str = "", **options: Any) -> TrainConfig:
    (folder / "regions.toml").write_text(before + REGIONS + after)
    return read_regions(folder / "regions.toml", options)


SUMS = f'encoder_sha256 = {{ optical = "{SHA["optical"].upper()}", sar = "{SHA["sar"]}" }}\n'


def test_names_in_a_regions_file(tmp_path: Path) -> None:
    config = read(tmp_path, 'encoder_weights = "decur"\n' + SUMS)
    assert isinstance(config.encoders, Pretrained)
    assert config.encoders.optical == replace(ENCODERS["decur"].optical, name="decur", sha256=SHA["optical"])
    assert replace(config, steps=9).encoders == config.encoders
    assert read(tmp_path, SUMS, encoder_weights="decur").encoders == config.encoders
    mixed = read(tmp_path, 'encoder_weights = { optical = "bigearthnet", sar = "ssl4eo-moco" }\n' + SUMS).encoders
    assert isinstance(mixed, Pretrained)
    assert [file.name for file in mixed.files.values()] == ["bigearthnet", "ssl4eo-moco"]
    placed = f'[encoder_weights.optical]\nname = "decur"\nfile = "a/x.pth"\nsha256 = "{SHA["optical"]}"'
    assert read(tmp_path, after=placed).encoders == Pretrained(
        replace(ENCODERS["decur"].optical, name="decur", sha256=SHA["optical"], file=tmp_path / "a/x.pth"), None
    )


def test_files_in_a_regions_file(tmp_path: Path) -> None:
    table = f"""
[encoder_weights.sar]
file = "own/x.pth"
sha256 = "{SHA["sar"]}"
bands = ["VH", "VV"]
mean = [-20, -13.5]
std = [5, 5.5]
prefix = "net"
licence = "MIT"
"""
    assert read(tmp_path, 'encoder = "resnet18"', table).encoders == Pretrained(
        None,
        EncoderFile("", tmp_path / "own/x.pth", "", SHA["sar"], ("VH", "VV"), "", (-20, -13.5), (5, 5.5), "net", "MIT"),
    )
    assert read(tmp_path, 'encoder_weights = "imagenet"').encoders == "imagenet"
    assert read(tmp_path, 'encoder_weights = "decur.pth"').encoders == tmp_path / "decur.pth"
    assert read(tmp_path, 'encoder_weights = "x.pth"', encoder_weights="own/y.pth").encoders == Path("own/y.pth")


FILE = f'file = "x.pth", sha256 = "{SHA["optical"]}", bands = ["B02", "B03"]'


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ('encoder_weights = "decur"', r"No checksum of the optical encoder 'decur' is known"),
        ("encoder_weights = 3", "must be imagenet, bigearthnet, ssl4eo-moco, decur, a path or a table"),
        ('encoder_weights = { radar = "decur" }', "encoder_weights: unknown entries radar; known are optical, sar"),
        ("encoder_weights = {}", "encoder_weights is empty; it must have optical, sar or both"),
        ("encoder_weights = { sar = 3 }", "encoder_weights.sar is 3; it must be a text or a table"),
        ('encoder_weights = { sar = "x.pth" }', "sar is 'x.pth'; known are bigearthnet, .* give a table"),
        ('encoder_weights = { sar = { name = "x" } }', "encoder_weights.sar is 'x'; known are"),
        ('encoder_weights = { sar = { name = "decur", bands = ["VV"] } }', "only file and sha256 can be stated"),
        ('encoder_weights = "https://a.org/x.pth"', "is the URL https://a.org/x.pth: give a table with url"),
        ('encoder_weights = "x.pth"\n' + SUMS, "encoder_sha256 is for encoders of a name"),
        (SUMS, "encoder_sha256 is for encoders of a name"),
        ('encoder_weights = { sar = "decur" }\n' + SUMS, "encoder_sha256 has optical, but encoder_weights has not"),
        ('encoder_weights = "decur"\nencoder_sha256 = { optical = "abc" }', "is 'abc'; it must be 64 hexadecimal"),
        (f"encoder_weights = {{ optical = {{ {FILE} }} }}\n" + SUMS.replace("A", "c"), "has sar, but"),
        (f'encoder_weights = {{ optical = {{ {FILE} }} }}\nencoder_sha256 = {{ optical = "{SHA["sar"]}" }}',
         "Two checksums are stated for the optical encoder: a{64} and b{64}"),
        ('encoder = "resnet18"\nencoder_weights = "decur"\n' + SUMS,
         "The encoders of 'decur' are resnet50, but encoder is 'resnet18': set encoder = "),
        (f'encoder_weights = {{ optical = {{ {FILE}, url = "https://hf.co/a/b/resolve/c/d" }} }}', "file or url, or a"),
        (f"encoder_weights = {{ optical = {{ {FILE}, scale = 2 }} }}", "unknown entries scale; known are name, file"),
        (f'encoder_weights = {{ optical = {{ {FILE}, mean = ["x"] }} }}', r"mean\[0\] is 'x'; it must be a number"),
        (f"encoder_weights = {{ optical = {{ {FILE}, mean = [1, 2] }} }}", "2 bands, 2 means and 0 deviations differ"),
        (f"encoder_weights = {{ optical = {{ {FILE}, mean = [1, 2], std = [1, 0] }} }}", "deviations positive"),
        (f"encoder_weights = {{ optical = {{ {FILE}, mean = [0.04, 0.06], std = [0.06, 0.07] }} }}",
         r"greatest std is 0\.07\. The numbers must be reflectance x 10,000: multiply mean and std by 10,000"),
        (f"encoder_weights = {{ sar = {{ {FILE.replace('B02', 'VV').replace('B03', 'VH')}, mean = [0.1, 0.02], "
         "std = [0.09, 0.01] } }", r"sar: the greatest std is 0\.09\. The numbers must be dB"),
        (f'encoder_weights = {{ optical = {{ {FILE}, level = "L3" }} }}', "level is 'L3'; it must be L1C or L2A"),
        (f"encoder_weights = {{ sar = {{ {FILE} }} }}", "sar: bands B02, B03 are unknown; known are HH"),
        (f"encoder_weights = {{ optical = {{ {FILE.replace('B03', 'B2')} }} }}", "bands B02, B2 are not all different"),
        (f"encoder_weights = {{ optical = {{ {FILE.replace('B03', 'B2x')} }} }}", "bands B2x are unknown"),
        ('encoder_weights = { optical = { file = "x.pth" } }', "must name the bands of its input"),
        ('encoder_weights = { optical = { file = "x.pth", bands = ["B02"] } }', "'x.pth' is known, .* sha256sum FILE"),
        (f"encoder_weights = {{ optical = {{ {FILE.replace('x.pth', 'https://a.org/x')} }} }}", "file is a URL"),
        (f"encoder_weights = {{ optical = {{ {FILE.replace('file', 'url')} }} }}", "not a file of the Hugging"),
        (f'freeze = "encoders"\nencoder_weights = {{ optical = {{ {FILE} }} }}', "only has the optical one"),
        ('init = "a.safetensors"\nencoder_weights = "decur"\n' + SUMS, "Give one of them"),
    ],
)  # fmt: skip
def test_regions_files_that_are_wrong(tmp_path: Path, before: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, before)


def test_channels_are_chosen_by_band_name(small: dict[str, EncoderFile], donors: dict[str, Any]) -> None:
    """The donor's first convolution, on an image whose other bands are zero, says what ours must give."""
    started = begin(choose(**small), ("nir", "B2", "SWIR1 B11"))
    full = image(5)
    full[:, [1, 2]] = 0
    with torch.no_grad():
        theirs, ours = donors["optical"].conv1[0](full), started.net.optical_encoder.conv1[0](full[:, [3, 0, 4]])
        assert torch.allclose(ours, theirs, atol=1e-5)
        radar = image(2)
        theirs, ours = donors["sar"].conv1[0](radar), started.net.sar_encoder.conv1[0](radar[:, [1, 0]])
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert said(started, "optical bands") == "optical bands: nir, B2, SWIR1 B11 copied; B03, B04 removed"
    assert said(started, "sar bands") == "sar bands: VV, VH copied"


def test_all_bands_give_the_features_of_the_donor(small: dict[str, EncoderFile], donors: dict[str, Any]) -> None:
    started = begin(choose(**small), BANDS["optical"][::-1])
    pixels = image(5)
    with torch.no_grad():
        ours = started.net.optical_encoder.eval()(pixels.flip(1))[-1]
        assert torch.allclose(ours, donors["optical"].forward_features(pixels), atol=1e-4)


def test_a_band_that_the_encoder_lacks_is_the_mean_of_all(
    small: dict[str, EncoderFile], donors: dict[str, Any]
) -> None:
    started = begin(choose(**small), (*BANDS["optical"], "B12"))
    ours, theirs = started.net.optical_encoder.conv1[0].weight, donors["optical"].conv1[0].weight
    assert torch.allclose(ours.sum(1), theirs.sum(1), atol=1e-5)
    assert torch.allclose(ours[:, 5], theirs.mean(1) * 5 / 6)
    assert "B12 new (mean of all bands)" in said(started, "optical bands")
    line = said(started, "optical statistics")
    assert line == "optical statistics: B02, B03, B04, B08, B11 from the encoder; B12 measured"


def test_statistics_are_those_of_the_encoder(small: dict[str, EncoderFile]) -> None:
    started = begin(choose(**small), ("nir", "B02", "B12"))
    assert started.optical_statistics == {"nir": (400, 40), "B02": (100, 10)}
    assert started.sar_statistics == {}
    assert said(started, "sar statistics") == "sar statistics: VV, VH measured"


def test_what_was_taken_from_where_is_said(small: dict[str, EncoderFile]) -> None:
    started = begin(choose(**small), BANDS["optical"])
    checksum = small["optical"].sha256[:12]
    assert said(started, "optical encoder") == (
        f"optical encoder: from optical.safetensors (MIT), file optical.safetensors, SHA-256 {checksum}..."
    )
    assert said(started, "sar encoder").endswith(", names without 'module.encoder_q.'")
    assert said(started, "optical tensors") == "optical tensors: 2 in the file not used: fc.bias, fc.weight"
    assert started.decisions[-1] == "decoders and heads: new"


def test_a_bare_path_to_a_file_of_other_bands_is_refused_with_the_remedy(small: dict[str, EncoderFile]) -> None:
    with pytest.raises(WeightsError, match=r"conv1\.0.* name its bands in a table"):
        initialise(SMALL, BANDS["optical"][:4], ("VV", "VH"), SCHEME, None, small["optical"].file, 0)


def test_one_sensor_alone(small: dict[str, EncoderFile]) -> None:
    started = begin(choose(sar=small["sar"]), ("B02", "B03"))
    fresh = initialise(started.net.config, ("B02", "B03"), ("VV", "VH"), SCHEME, None, None, 0)
    ours, theirs = (x.net.optical_encoder.state_dict() for x in (started, fresh))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert said(started, "optical encoder") == "optical encoder: new"
    assert said(started, "sar encoder").startswith("sar encoder: from sar.pth")


def test_many_tensors_are_listed_short(donors: dict[str, Any], tmp_path: Path) -> None:
    state = {name: x for name, x in donors["optical"].state_dict().items() if not name.endswith("tracked")}
    more = {f"projector.{number:02}": torch.zeros(1) for number in range(14)}
    checksum = save(state | more, tmp_path / "x.pth")
    file = EncoderFile(file=tmp_path / "x.pth", sha256=checksum, bands=BANDS["optical"])
    started = begin(choose(optical=file), ("B02",))
    lost, unused = (line for line in started.decisions if line.startswith("optical tensors:"))
    count = sum(name.endswith("tracked") for name in started.net.optical_encoder.state_dict())
    assert count > 10
    assert lost.startswith(f"optical tensors: {count} not found, left new: conv1.1.num_batches_tracked, ")
    assert lost.endswith(f" and {count - 10} more")
    assert unused.startswith("optical tensors: 16 in the file not used: fc.bias, fc.weight, projector.00, ")
    assert unused.endswith("projector.07 and 6 more")


Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {name: x[name] for name in x if name != "layer1.0.conv1.weight"},
         r"does not fit encoder 'test_resnet': 1 of \d+ tensors are missing \(layer1\.0\.conv1\.weight\)\. "),
        (lambda x: {name: x[name] for name in x if name != "layer1.0.bn1.running_var"}, r"missing \(layer1\.0\.bn1"),
        (lambda x: {"tokens": torch.zeros(1)}, r"missing \(conv1\.0\.weight, .* more\)\. Unused tensors: tokens"),
        (lambda x: x | {"conv1.0.weight": x["conv1.0.weight"][:, :4].clone()}, "takes 4 bands, but 5 are named: B02"),
        (lambda x: x | {"layer1.0.bn1.weight": torch.zeros(3)}, r"1 tensors have another shape \(layer1\.0\.bn1"),
        (lambda x: {f"{side}.{name}": x[name].clone() for side in ("q", "k") for name in x},
         r"contains 2 encoders, with the prefixes 'k\.', 'q\.'\. Choose one"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit(donors: dict[str, Any], tmp_path: Path, change: Change, message: str) -> None:
    checksum = save(change(donors["optical"].state_dict()), tmp_path / "x.safetensors")
    file = EncoderFile(file=tmp_path / "x.safetensors", sha256=checksum, bands=BANDS["optical"])
    with pytest.raises(WeightsError, match=message):
        begin(choose(optical=file), ("B02",))


def test_the_prefix_says_which_of_two_encoders(donors: dict[str, Any], tmp_path: Path) -> None:
    state = donors["optical"].state_dict()
    both = {f"k.{name}": x * 0 for name, x in state.items()} | {f"q.{name}": x for name, x in state.items()}
    file = EncoderFile(
        file=tmp_path / "x.pth", sha256=save(both, tmp_path / "x.pth"), bands=BANDS["optical"], prefix="q"
    )
    started = begin(choose(optical=file), BANDS["optical"])
    assert torch.equal(started.net.optical_encoder.conv1[0].weight, state["conv1.0.weight"])


@pytest.mark.parametrize(
    ("nest", "prefix"),
    [
        (lambda x: {"model": x, "epoch": 3, "optimizer": {"state": {0: {"step": torch.zeros(1)}}}}, None),
        (lambda x: {"state_dict": x, "state_dict_ema": {}, "arch": "test_resnet"}, None),
        (lambda x: {"state": {"model": {f"module.backbone.{name}": x[name] for name in x}}}, None),
        (lambda x: {"student": {name: x[name] * 0 for name in x}, "teacher": x}, "teacher"),
    ],
)  # fmt: skip
def test_tables_within_a_checkpoint(
    donors: dict[str, Any], tmp_path: Path, nest: Callable[[Any], Any], prefix: str | None
) -> None:
    """Projects keep the network's tensors next to what else they need to go on."""
    state = donors["optical"].state_dict()
    path = tmp_path / "x.pth"
    torch.save(nest(state), path)
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    link = tmp_path / "link"
    link.symlink_to(path)
    file = EncoderFile(file=link, sha256=checksum.upper(), bands=BANDS["optical"], prefix=prefix)
    started = begin(choose(optical=file), BANDS["optical"][::-1])
    assert torch.equal(started.net.optical_encoder.conv1[0].weight, state["conv1.0.weight"].flip(1))
    if prefix:
        with pytest.raises(WeightsError, match=r"contains 2 encoders, .* 'student\.', 'teacher\.'"):
            begin(choose(optical=replace(file, prefix=None)), BANDS["optical"])


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(1)], {"state_dict": 3}, {0: torch.zeros(1)}])
def test_a_checkpoint_without_named_tensors(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"x\.pth contains no named tensors"):
        read_tensors(tmp_path / "x.pth")


def test_a_plain_file_of_a_wrapped_network(tmp_path: Path) -> None:
    donor = make_donor("test_resnet", 3, 7)
    save(donor.state_dict(), tmp_path / "x.pth", "module.")
    net = initialise(SMALL, BANDS["optical"][:4], ("VV", "VH"), SCHEME, None, tmp_path / "x.pth", 0).net
    assert torch.equal(net.sar_encoder.layer1[0].conv1.weight, donor.state_dict()["layer1.0.conv1.weight"])


def test_another_file_than_the_checksum_says(small: dict[str, EncoderFile], tmp_path: Path) -> None:
    right = small["optical"]
    pointer = tmp_path / "pointer.safetensors"
    pointer.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{right.sha256}\nsize 94500000\n")
    found = hashlib.sha256(pointer.read_bytes()).hexdigest()
    with pytest.raises(WeightsError, match=rf"\(133 bytes\) is not .* SHA-256 is {found}, stated is {right.sha256}"):
        begin(choose(optical=replace(right, file=pointer)), ("B02",))
    with pytest.raises(WeightsError, match=f"SHA-256 is {right.sha256}, stated is {SHA['sar']}"):
        begin(choose(optical=replace(right, sha256=SHA["sar"])), ("B02",))
    with pytest.raises(InputMissingError, match=r"optical encoder .*none\.pth cannot be read: No such file"):
        begin(choose(optical=replace(right, file=tmp_path / "none.pth")), ("B02",))


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "pwned",)

    path = tmp_path / "x.pth"
    torch.save({"state_dict": Evil()}, path)
    file = EncoderFile(file=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), bands=("B02",))
    with pytest.raises(WeightsError, match="is not a checkpoint of tensors"):
        begin(choose(optical=file), ("B02",))
    assert not (tmp_path / "pwned").exists()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of an empty cache of the hub, which is offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def cached(hub: Path, file: EncoderFile) -> Path:
    """Make the folder where the hub's cache would keep a file, and return the file's path."""
    repository, commit, filename = file.hub_file()
    folder = hub / f"models--{repository.replace('/', '--')}" / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    return folder / filename


URL = "https://hf.co/someone/encoders/resolve/0123456789abcdef0123456789abcdef01234567/x.pth"


def test_without_a_network_it_says_what_to_fetch_and_where_to_put_it(hub: Path) -> None:
    file = EncoderFile(url=URL, sha256=SHA["sar"], bands=("VV", "VH"))
    there = URL.replace("hf.co", "huggingface.co")
    with pytest.raises(InputMissingError, match=r"The sar encoder 'x\.pth' could not be downloaded") as raised:
        begin(choose(sar=file), ("B02",))
    assert str(raised.value).endswith(
        f"Download {there} and put x.pth next to the regions file, which then says encoder_weights = "
        '{ sar = { bands = [...], file = "x.pth", sha256 = "bbbbbbbb..." } }.'
    )


def test_the_checksum_of_a_cached_file_counts_too(hub: Path, donors: dict[str, Any]) -> None:
    file = EncoderFile(url=URL, sha256=SHA["optical"], bands=BANDS["optical"])
    path = cached(hub, file)
    checksum = save(donors["optical"].state_dict(), path)
    with pytest.raises(WeightsError, match=rf"x\.pth .* SHA-256 is {checksum}, stated is a{{64}}"):
        begin(choose(optical=file), ("B02",))
    started = begin(choose(optical=replace(file, sha256=checksum)), BANDS["optical"])
    assert torch.equal(started.net.optical_encoder.conv1[0].weight, donors["optical"].conv1[0].weight)


@pytest.fixture(scope="module")
def resnet() -> Any:
    return make_donor("resnet50", 13, 5)


@pytest.mark.long
@pytest.mark.parametrize(("name", "prefix"), [("bigearthnet", "model.vision_encoder."), ("ssl4eo-moco", "")])
def test_resnet_50s_of_a_name(hub: Path, resnet: Any, name: str, prefix: str) -> None:
    """The files are of the structure, size and kind of the real ones, and lie in the hub's cache."""
    entry = ENCODERS[name]
    state = {x: y for x, y in resnet.state_dict().items() if prefix or not x.startswith("fc.")}
    sums = {}
    for sensor in ("optical", "sar"):
        file = getattr(entry, sensor)
        first = state["conv1.weight"][:, : len(file.bands)]
        path = cached(hub, file)
        sums[sensor] = save(state | {"conv1.weight": first}, path, prefix)
        assert 94e6 < path.stat().st_size < 95e6
    optical = ("B04", "B03", "B02", "B8A")
    chosen = choose_encoders(name, sums, "resnet50")
    assert isinstance(chosen, Pretrained)
    config = replace(SMALL, encoder="resnet50", optical_bands=4)
    started = initialise(config, optical, ("VH", "VV"), SCHEME, None, chosen, 0)
    places = [entry.optical.bands.index(band) for band in optical]
    ours = started.net.optical_encoder.state_dict()
    assert torch.equal(ours["conv1.weight"], state["conv1.weight"][:, places])
    assert all(torch.equal(ours[x], state[x]) for x in ours if x != "conv1.weight")
    pixels = torch.zeros(1, 13, 64, 64)
    pixels[:, :2] = image(2)
    with torch.no_grad():
        theirs = resnet.forward_features(pixels)
        radar = started.net.sar_encoder.eval()(pixels[:, [1, 0]])[-1]
    assert torch.allclose(radar, theirs, atol=1e-4)
    for sensor, bands, known in (
        ("optical", optical, started.optical_statistics), ("sar", ("VH", "VV"), started.sar_statistics),
    ):  # fmt: skip
        file = getattr(entry, sensor)
        assert known == {band: (file.mean[i], file.std[i]) for band in bands for i in [file.bands.index(band)]}
    assert [line for line in started.decisions if " tensors: " in line] == (
        [f"{sensor} tensors: 2 in the file not used: {prefix}fc.bias, {prefix}fc.weight" for sensor in sums]
        if prefix else []
    )  # fmt: skip


def test_levels_are_compared_with_the_scenes(said: list[str]) -> None:
    chosen = choose_encoders("decur", SHA, "resnet50")
    assert compare_levels(chosen, {"a": "L1C", "b": None}) == ["optical level: the encoder learned from L1C"]
    assert not said
    _, unknown = compare_levels(chosen, {"a": "L2A", "b": "unknown", "c": "L2A", "d": "L1C"})
    (warning,) = said
    assert unknown.endswith("do not say theirs: b")
    assert warning.startswith("! the optical encoder learned from L1C, but 2 scenes have another level (a, c)")
    assert warning.endswith("an encoder of their level, as bigearthnet.")
    other = choose_encoders("bigearthnet", SHA, "resnet50")
    compare_levels(other, {"a": "L1C"})
    assert said[-1].endswith("as ssl4eo-moco, decur.")
    own = Pretrained(EncoderFile(bands=("B02",)), None)
    assert "not stated" in compare_levels(own, {"a": "L2A"})[0]
    without_level: list[Chosen] = [None, "imagenet", Path("x.pth"), Pretrained(None, EncoderFile())]
    for nothing in without_level:
        assert compare_levels(nothing, {"a": "L2A"}) == []


def test_a_card_holds_names_and_checksums_but_no_folders(small: dict[str, EncoderFile]) -> None:
    described = describe_encoders(choose(**small))
    assert described["optical"] == {
        "file": "optical.safetensors", "sha256": small["optical"].sha256, "bands": BANDS["optical"], "level": "L2A",
        "mean": MEAN, "std": STD, "licence": "MIT",
    }  # fmt: skip
    assert small["sar"].file
    assert str(small["sar"].file.parent) not in str(described)
    named = describe_encoders(choose_encoders("decur", SHA, "resnet50"))
    assert (named["sar"]["name"], named["sar"]["sha256"]) == ("decur", SHA["sar"])
    assert [describe_encoders(x) for x in (None, "imagenet", Path("a/b.pth"))] == [None, "imagenet", "b.pth"]


def test_a_training_depends_on_what_a_file_holds_and_not_on_where_it_lies(small: dict[str, EncoderFile]) -> None:
    moved = choose(**small | {"sar": replace(small["sar"], file=Path("elsewhere.pth"))})
    assert identify_encoders(moved) == identify_encoders(choose(**small))
    for changed in ({"sha256": SHA["sar"]}, {"mean": (1, 2), "std": (3, 4)}, {"bands": ("VV", "VH")}):
        other = choose(**small | {"sar": replace(small["sar"], **changed)})
        assert identify_encoders(other) != identify_encoders(moved)
    assert identify_encoders(None) == "None"
    assert identify_encoders(Path("x.pth")) == str(Path("x.pth").resolve())


@pytest.mark.long
def test_a_training_with_them(
    small: dict[str, EncoderFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr("refnet_cli.training.result.draw_pictures", lambda *arguments: None)
    scene = replace(make_labelled_scene(tmp_path / "scene"), split="train")
    config = TrainConfig(
        scenes=(scene,), scheme="esri-io", encoder="test_resnet", width=16, steps=1, batch=2, crop=64, tile=64,
        device="cpu", split="none", freeze="encoders", encoder_weights=small,
    )  # fmt: skip
    result = fit(config, tmp_path / "run")
    assert result.card.optical.mean == MEAN[:4]
    assert result.card.optical.std == STD[:4]
    assert result.card.training["encoder_weights"] == describe_encoders(config.encoders)
    assert "encoder_sha256" not in result.card.training
    assert "optical level: the encoder learned from L2A" in said
    assert set(result.card.training["start"]) <= set(said)
    moved = tmp_path / "moved.pth"
    assert small["sar"].file
    moved.write_bytes(small["sar"].file.read_bytes())
    again = replace(config, encoder_weights=small | {"sar": replace(small["sar"], file=moved)})
    assert fit(again, tmp_path / "run").card.optical == result.card.optical
    other = replace(config, encoder_weights=small | {"sar": replace(small["sar"], mean=(1, 2), std=(3, 4))})
    with pytest.raises(OptionsError, match=r"different settings \(encoder_weights\)"):
        fit(other, tmp_path / "run", overwrite=True)
