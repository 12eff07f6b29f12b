"""Weights on disk: round trips, damage, cards that do not fit, published checkpoints."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from refnet_cli.cli.main import commands, run
from refnet_cli.errors import InputMissingError, OutputError, WeightsError
from refnet_cli.model.card import Card
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weight_files import bundled_weights, default_weights, read_card, verify
from refnet_cli.model.weights import load_weights, read_checkpoint, save_weights
from refnet_cli.prediction.inspection import inspect
from tests.golden import Golden
from tests.helpers.scenes import CARD as FREE
from tests.helpers.scenes import write

CARD = replace(FREE, name="tiny", licence="CC0-1.0", network=replace(FREE.network, msie=True))


@pytest.fixture(scope="module")
def net() -> REFNet:
    torch.manual_seed(0)
    return REFNet(CARD.network).eval()


@pytest.fixture(scope="module")
def content(net: REFNet, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("weights")
    save_weights(net, CARD, folder / "tiny.safetensors")
    (only,) = folder.iterdir()
    return only.read_bytes()


@pytest.fixture
def saved(content: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(content)
    return path


def test_round_trip(net: REFNet, saved: Path) -> None:
    loaded, card = load_weights(saved, msie=True)
    assert replace(card, sha256="") == CARD
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), loaded.state_dict().values(), strict=True))
    assert not loaded.training


def test_saving_twice_gives_the_same_bytes(net: REFNet, saved: Path, tmp_path: Path) -> None:
    save_weights(net, CARD, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_without_msie_predicts_the_same(net: REFNet, saved: Path) -> None:
    loaded, card = load_weights(saved)
    assert not card.network.msie
    assert not any("msie" in name for name in loaded.state_dict())
    optical, sar = torch.randn(1, 4, 64, 64), torch.randn(1, 2, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(optical, sar).logits, net(optical, sar).logits)


@pytest.mark.parametrize("where", [0.0, 0.02, 0.3, 0.7, 0.999])
def test_every_flipped_byte_is_noticed(saved: Path, where: float) -> None:
    content = bytearray(saved.read_bytes())
    for place in np.random.default_rng(int(where * 1000)).integers(0, 64, 5):
        damaged = content.copy()
        at = min(int(where * len(content)) + int(place), len(content) - 1)
        damaged[at] ^= 0x15
        saved.write_bytes(damaged)
        with pytest.raises(WeightsError):
            load_weights(saved)


@pytest.mark.parametrize("length", [0, 5, 300, 20_000, -1])
def test_truncated_weights_are_refused(saved: Path, length: int) -> None:
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(WeightsError):
        load_weights(saved)


def test_weights_without_a_card_are_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(3)}, tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match="has no refnet card"):
        read_card(tmp_path / "bare.safetensors")


def test_missing_files_and_folders(net: REFNet, tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match=r"none\.safetensors do not exist"):
        verify(tmp_path / "none.safetensors")
    with pytest.raises(OutputError, match="cannot be created"):
        save_weights(net, CARD, tmp_path / ("x" * 300) / "x.safetensors")
    assert save_weights(net, CARD, tmp_path / "new" / "x.safetensors") == read_card(tmp_path / "new" / "x.safetensors")


def entries(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(CARD.to_dict()))
    for path, value in changes.items():
        *parents, last = path.split("__")
        table = plain
        for parent in parents:
            table = table[parent]
        if value is None:
            del table[last]
        else:
            table[last] = value
    return plain


def test_card_survives_json() -> None:
    assert Card.from_dict(entries()) == CARD


def test_a_temperature_is_kept_and_one_of_1_is_not_mentioned(net: REFNet, tmp_path: Path) -> None:
    """Cards from before there were temperatures say nothing of them, and their checksums must hold."""
    for value in (1, 1.0):
        assert "temperature" not in replace(CARD, temperature=value).to_dict()
    warm = save_weights(net, replace(CARD, temperature=1.3), tmp_path / "warm.safetensors")
    plain = save_weights(net, CARD, tmp_path / "plain.safetensors")
    assert warm.to_dict()["temperature"] == 1.3
    assert load_weights(tmp_path / "warm.safetensors")[1].temperature == 1.3
    assert load_weights(tmp_path / "plain.safetensors")[1].temperature == 1
    assert warm.sha256 != plain.sha256
    assert b"temperature" not in (tmp_path / "plain.safetensors").read_bytes()
    content = (tmp_path / "warm.safetensors").read_bytes()
    place = content.index(b"1.3", content.index(b"temperature"))
    (tmp_path / "warm.safetensors").write_bytes(content[:place] + b"1.4" + content[place + 3 :])
    with pytest.raises(WeightsError, match="is damaged"):
        verify(tmp_path / "warm.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"colour": "red"},
        {"network__colour": "red"},
        {"format_version": 2},
        {"tile": 100},
        {"tile": 32},
        {"tile": "256"},
        {"network__width": -1},
        {"network__width": 10**9},
        {"network__classes": 9},
        {"network__encoder": ""},
        {"network__msie": 1},
        {"network__drop_path": 1.5},
        {"optical__bands": ["B02", "B03", "B04"]},
        {"optical__bands": ["B02", "B02", "B04", "B08"]},
        {"optical__bands": "B02 B03"},
        {"optical__std": [1, 2, 3, 0]},
        {"optical__mean": [1, 2, 3, float("nan")]},
        {"optical__mean": [1, 2, 3, "4"]},
        {"optical__unit": "dB"},
        {"sar__unit": "furlong"},
        {"scheme__names": ["water"]},
        {"scheme": None},
        {"optical": [1, 2]},
        {"name": 5},
        *({"temperature": value} for value in (0, -1.0, 0.049, 20.1, float("nan"), float("inf"), "1", True)),
    ],
    ids=str,
)
def test_impossible_cards_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(WeightsError):
        Card.from_dict(entries(**changes))


def test_a_card_for_another_network_is_refused(net: REFNet, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="The card describes"):
        save_weights(net, replace(CARD, network=replace(CARD.network, width=32)), tmp_path / "x.safetensors")


def test_code_in_a_checkpoint_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "pwned",)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="is not a checkpoint"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "pwned").exists()


CARD_TOML = """
name = "published"
scheme = "dfc2020"
licence = "none"
[optical]
bands = ["B04", "B03", "B02"]
mean = [763.8806, 919.1531, 1013.227]
std = [248.1907, 173.0708, 141.8084]
[sar]
bands = ["VV", "VH"]
mean = [-12.542, -19.7742]
std = [2.4201, 2.5095]
"""


def test_importing_a_published_checkpoint(tmp_path: Path) -> None:
    golden = Golden("resnet18")
    torch.save({"state_dict": golden.state, "epoch": 3}, tmp_path / "published.pth")
    (tmp_path / "card.toml").write_text(CARD_TOML)
    out = tmp_path / "mine.safetensors"
    arguments = [str(tmp_path / "published.pth"), "-o", str(out), "--card", str(tmp_path / "card.toml")]
    result = CliRunner().invoke(commands, ["weights", "import", *arguments])
    assert result.output.strip() == str(out)
    net, card = load_weights(out)
    assert (card.name, card.network.encoder, card.scheme.name) == ("published", "resnet18", "dfc2020")
    with torch.no_grad():
        ours = net(golden.optical, golden.sar).logits
    assert np.abs(ours.numpy() - golden.stored["logits"]).max() < 1e-3


def test_import_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "other.pth")
    (tmp_path / "card.toml").write_text(CARD_TOML)
    paths = [str(tmp_path / "other.pth"), "-o", str(tmp_path / "x.safetensors"), "--card", str(tmp_path / "card.toml")]
    assert run(["weights", "import", *paths]) == 78
    assert "not a tensor of a published REF-Net checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


def test_looking_at_weights(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["weights", "info", str(saved), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tiny"
    assert run(["weights", "verify", str(saved)]) == 0
    assert "intact" in capsys.readouterr().out
    assert run(["weights", "list"]) == 0
    assert "refnet-base.safetensors" in capsys.readouterr().out
    saved.write_bytes(saved.read_bytes()[:-1] + b"?")
    assert run(["weights", "verify", str(saved)]) == 78
    assert "is damaged" in capsys.readouterr().err


def test_shipped_weights_are_intact() -> None:
    assert bundled_weights()
    for path in bundled_weights():
        card = verify(path)
        assert card.training
        assert card.notice
        assert card.sensors_alone == ("optical", "sar")
        assert card.temperature == card.scores["calibration"]["temperature"]
        assert path.stat().st_size < 20e6
        if path.suffix == ".safetensors":
            load_weights(path)
        else:
            with pytest.raises(WeightsError, match="ONNX model"):
                load_weights(path)


def test_cards_by_name_text_and_path(tmp_path: Path) -> None:
    card = read_card(default_weights())
    for given in ("refnet-base", str(default_weights()), default_weights()):
        assert read_card(given) == verify(given) == card
    scene = write(tmp_path / "s2.tif", np.full((3, 64, 64), 1500, np.uint16), ("B4", "B3", "B2"))
    found = inspect(scene, None, card).to_dict()
    assert found["weights"] == "refnet-base"
    for weights in ("refnet-base", default_weights()):
        assert inspect(scene, None, weights).to_dict() == found
    for read in (read_card, verify, lambda given: inspect(scene, None, given)):
        with pytest.raises(InputMissingError, match="do not exist"):
            read(str(tmp_path / "no.safetensors"))


def test_wheels_carry_the_shipped_weights() -> None:
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {f"weights/{path.name}": f"refnet_cli/_weights/{path.name}" for path in bundled_weights()}
