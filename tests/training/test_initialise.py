"""What a training starts from: weights of other bands and classes, published checkpoints, timm's encoders."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from huggingface_hub.errors import HTTPError
from safetensors.torch import save_file

from refnet_cli.classes.schemes import SCHEMES, ClassScheme
from refnet_cli.errors import InputMissingError, OptionsError, WeightsError
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weights import save_weights
from refnet_cli.training.initialise import InitialNetwork, freeze_encoders, initialise, set_training
from refnet_cli.training.losses import training_loss
from tests.golden import Golden
from tests.helpers.quick import few
from tests.helpers.scenes import CARD as FREE

CARD = replace(FREE, network=replace(FREE.network, msie=True))
OPTICAL, SAR, SCHEME = CARD.optical.bands, CARD.sar.bands, CARD.scheme


def named(*names: str) -> ClassScheme:
    count = len(names)
    return ClassScheme("mine", tuple(range(1, count + 1)), names, ((0, 0, 0),) * count)


def begin(
    init: Path | None = None,
    optical: tuple[str, ...] = OPTICAL,
    sar: tuple[str, ...] = SAR,
    scheme: ClassScheme = SCHEME,
    encoder_weights: str | Path | None = None,
    seed: int = 1,
    **settings: Any,
) -> InitialNetwork:
    config = replace(CARD.network, optical_bands=len(optical), sar_bands=len(sar), classes=scheme.classes, **settings)
    return initialise(config, optical, sar, scheme, init, encoder_weights, seed)


@pytest.fixture(scope="module")
def trained() -> REFNet:
    torch.manual_seed(0)
    return REFNet(CARD.network).eval()


@pytest.fixture(scope="module")
def saved(trained: REFNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "theirs.safetensors"
    save_weights(trained, CARD, path)
    return path


@pytest.fixture(scope="module")
def optical() -> torch.Tensor:
    return torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def sar() -> torch.Tensor:
    return torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(4))


def logits(net: REFNet, optical: torch.Tensor, sar: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return [x for x in net.eval()(optical, sar, auxiliary=net.config.msie) if x is not None]


def said(start: InitialNetwork, about: str) -> str:
    (line,) = (line for line in start.decisions if line.startswith(f"{about}:"))
    return line


def same(net: REFNet, other: REFNet) -> bool:
    ours, theirs = net.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_from_scratch_depends_on_the_seed_alone() -> None:
    first, again, other = begin(seed=5), begin(seed=5), begin(seed=6)
    assert same(first.net, again.net)
    assert not same(first.net, other.net)
    assert first.decisions == ["network: from scratch"]
    assert first.optical_statistics == first.sar_statistics == {}


def test_the_same_bands_and_classes_take_over_everything(trained: REFNet, saved: Path) -> None:
    begun = begin(saved)
    assert same(begun.net, trained)
    assert begun.optical_statistics["B08"] == (2500, 900)
    assert begun.sar_statistics == {"VV": (-11, 4), "VH": (-17.5, 4.5)}
    assert said(begun, "head") == f"head: 9 classes copied ({', '.join(SCHEME.names)})"


@pytest.mark.parametrize("encoder", few(["test_resnet", "repvgg_a0"], "test_resnet"))
def test_bands_in_another_order_are_permuted(
    tmp_path: Path, optical: torch.Tensor, sar: torch.Tensor, encoder: str
) -> None:
    """Also where, as in repvgg, several convolutions see the bands."""
    torch.manual_seed(0)
    net = REFNet(replace(CARD.network, encoder=encoder, msie=False))
    save_weights(net, replace(CARD, network=net.config), tmp_path / "x.safetensors")
    begun = begin(tmp_path / "x.safetensors", ("nir", "B4", "B02", "green"), ("VH", "VV"), encoder=encoder, msie=False)
    (ours,) = logits(begun.net, optical[:, [3, 2, 0, 1]], sar[:, [1, 0]])
    (theirs,) = logits(net, optical, sar)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert begun.optical_statistics == {"nir": (2500, 900), "B4": (500, 300), "B02": (400, 200), "green": (600, 200)}


def test_a_band_left_out_is_as_if_at_its_mean(
    trained: REFNet, saved: Path, optical: torch.Tensor, sar: torch.Tensor
) -> None:
    begun = begin(saved, ("B02", "B03", "B08"), ("VV",))
    ours = logits(begun.net, optical[:, [0, 1, 3]], sar[:, :1])
    optical, sar = optical.clone(), sar.clone()
    optical[:, 2], sar[:, 1] = 0, 0
    theirs = logits(trained, optical, sar)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs, strict=True))
    assert said(begun, "optical bands") == "optical bands: B02, B03, B08 copied; B04 removed"


def test_a_new_band_gets_the_mean_and_magnitude_is_kept(trained: REFNet, saved: Path) -> None:
    begun = begin(saved, (*OPTICAL, "B11"), ("VV", "HH"))
    (theirs, ours), (theirs_sar, ours_sar) = (
        [net.get_submodule(f"{name}_encoder.conv1.0").weight for net in (trained, begun.net)]
        for name in ("optical", "sar")
    )
    assert torch.allclose(ours.sum(1), theirs.sum(1), atol=1e-5)
    assert torch.allclose(ours[:, :4], theirs * 4 / 5)
    assert torch.allclose(ours[:, 4], theirs.mean(1) * 4 / 5)
    # HH takes the place of VH, so VV stays as it was.
    assert torch.equal(ours_sar[:, 0], theirs_sar[:, 0])
    assert torch.allclose(ours_sar[:, 1], theirs_sar.mean(1))
    assert "B11" not in begun.optical_statistics
    assert list(begun.sar_statistics) == ["VV"]
    assert said(begun, "sar bands") == "sar bands: VV copied; HH new (mean of all bands); VH removed"


def test_classes_are_taken_over_by_name(trained: REFNet, saved: Path, optical: torch.Tensor, sar: torch.Tensor) -> None:
    begun = begin(saved, scheme=named("Vineyard", "crops", "WATER"))
    for ours, theirs in zip(logits(begun.net, optical, sar), logits(trained, optical, sar), strict=True):
        assert torch.allclose(ours[:, [0, 2, 3]], theirs[:, [0, 4, 1]], atol=1e-5)
    assert said(begun, "head") == "head: 2 classes copied (crops, WATER), 1 new (Vineyard)"
    fresh = begin(scheme=named("Vineyard", "crops", "WATER")).net.head.classify
    assert torch.equal(begun.net.head.classify.weight[1], fresh.weight[1])


def test_other_classes_get_a_new_head(trained: REFNet, saved: Path) -> None:
    begun = begin(saved, scheme=named("Moss", "Road"))
    assert said(begun, "head").startswith("head: new; the weights know Water, Trees")
    fresh = begin(scheme=named("Moss", "Road")).net
    for head in ("head", "optical_head", "sar_head"):
        ours, new = (net.get_submodule(f"{head}.classify").weight for net in (begun.net, fresh))
        assert torch.equal(ours[1:], new[1:])
    assert torch.equal(begun.net.optical_projection[0].weight, trained.optical_projection[0].weight)


def test_msie_decoders_are_new_where_the_weights_have_none(trained: REFNet, saved: Path, tmp_path: Path) -> None:
    without = begin(saved, msie=False)
    assert said(without, "MSIE decoders") == "MSIE decoders: removed"
    save_weights(without.net, replace(CARD, network=without.net.config), tmp_path / "x.safetensors")
    begun = begin(tmp_path / "x.safetensors")
    assert said(begun, "MSIE decoders") == "MSIE decoders: new, the weights have none"
    assert torch.equal(begun.net.head.classify.weight, trained.head.classify.weight)
    assert not torch.equal(begun.net.optical_head.classify.weight, trained.optical_head.classify.weight)
    assert same(begun.net, begin(tmp_path / "x.safetensors").net)


def test_another_network_is_refused_with_the_remedy(saved: Path) -> None:
    with pytest.raises(WeightsError, match='Set encoder = "test_resnet" and width = 16 in the regions file'):
        begin(saved, width=32)
    with pytest.raises(WeightsError, match="Choose other weights"):
        begin(saved, states=2)


def test_init_and_encoder_weights_contradict_each_other(saved: Path) -> None:
    with pytest.raises(OptionsError, match="Give either"):
        begin(saved, encoder_weights="imagenet")


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("resnet18")


@pytest.fixture(scope="module")
def published(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "published.pth"
    torch.save({"state_dict": golden.state, "epoch": 3}, path)
    return path


def test_published_checkpoints(golden: Golden, published: Path) -> None:
    config = golden.net.config
    optical, scheme = ("B04", "B03", "B02"), SCHEMES["dfc2020"]
    begun = initialise(config, optical, SAR, scheme, published, None, 0)
    assert same(begun.net, golden.net)
    assert begun.optical_statistics == {}
    assert "B04, B03, B02 is assumed" in said(begun, "optical bands")
    assert "no class names, Forests" in said(begun, "head")
    other = initialise(replace(config, classes=3), optical, SAR, named("a", "b"), published, None, 0)
    assert said(other, "head") == "head: new, the checkpoint has 9 classes instead of 3"
    assert torch.equal(other.net.mdf_decoder.vss[0].norm.weight, golden.net.mdf_decoder.vss[0].norm.weight)
    with pytest.raises(WeightsError, match=r"has 3 optical bands .*refnet weights import"):
        initialise(replace(config, optical_bands=4), OPTICAL, SAR, scheme, published, None, 0)


@pytest.fixture(scope="module")
def donor() -> torch.nn.Module:
    torch.manual_seed(7)
    net = timm.create_model("test_resnet", num_classes=10)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
    return net.eval()


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_encoders_from_a_file_give_the_features_of_timm(
    donor: torch.nn.Module, tmp_path: Path, optical: torch.Tensor, ending: str
) -> None:
    path = tmp_path / f"donor.{ending}"
    if ending == "pth":
        torch.save(donor.state_dict(), path)
    else:
        save_file(donor.state_dict(), path)
    begun = begin(encoder_weights=path, optical=OPTICAL[:3])
    with torch.no_grad():
        ours = begun.net.optical_encoder.eval()(optical[:, :3])[-1]
        assert torch.equal(ours, donor.forward_features(optical[:, :3]))
    assert said(begun, "optical encoder") == f"optical encoder: from donor.{ending}"
    assert "adapted to 2 bands" in said(begun, "sar encoder")
    first = donor.conv1[0].weight
    assert torch.allclose(begun.net.sar_encoder.conv1[0].weight, first[:, :2] * 3 / 2)


def test_names_that_timm_changes_are_followed(tmp_path: Path) -> None:
    donor = timm.create_model("test_efficientnet", num_classes=10)
    save_file(donor.state_dict(), tmp_path / "donor.safetensors")
    begun = begin(encoder_weights=tmp_path / "donor.safetensors", encoder="test_efficientnet", optical=OPTICAL[:3])
    assert torch.equal(begun.net.optical_encoder.conv_stem.weight, donor.conv_stem.weight)


@pytest.mark.parametrize(
    ("without", "message"),
    [("layer4.0.bn2.running_var", "1 tensors are missing, first layer4.0.bn2.running_var"), ("", "are missing")],
)
def test_missing_tensors_are_refused(donor: torch.nn.Module, tmp_path: Path, without: str, message: str) -> None:
    state = donor.state_dict()
    kept = {name: tensor for name, tensor in state.items() if not without or name != without}
    save_file(kept if without else {"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=message):
        begin(encoder_weights=tmp_path / "x.safetensors")


def test_tensors_of_other_shapes_are_refused(donor: torch.nn.Module, tmp_path: Path) -> None:
    save_file(donor.state_dict() | {"layer4.0.bn2.weight": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"does not fit encoder 'test_resnet'.*size mismatch"):
        begin(encoder_weights=tmp_path / "x.safetensors")


@pytest.mark.parametrize("option", ["init", "encoder_weights"])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_code_in_a_file_is_refused_and_does_not_run(tmp_path: Path, option: str, ending: str) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "pwned",)

    torch.save({"state_dict": Evil()}, tmp_path / f"evil.{ending}")
    with pytest.raises(WeightsError, match="is not a checkpoint of tensors"):
        begin(**{option: tmp_path / f"evil.{ending}"})
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("option", ["init", "encoder_weights"])
def test_missing_and_meaningless_files(tmp_path: Path, option: str) -> None:
    with pytest.raises(InputMissingError, match="cannot be read: No such file"):
        begin(**{option: tmp_path / "none"})
    (tmp_path / "text").write_text("nothing of the kind")
    with pytest.raises(WeightsError, match="safetensors file"):
        begin(**{option: tmp_path / "text"})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of an empty cache of the hub, which is offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_imagenet_without_network_names_the_file(hub: Path) -> None:
    url = "https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
    with pytest.raises(InputMissingError, match=rf"Download {url} and give it as --encoder-weights model\.safetensors"):
        begin(encoder_weights="imagenet")


def test_imagenet_without_an_answer_does_not_try_for_long(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str, timeout: float) -> None:
        assert timeout <= 10
        raise HTTPError("no route to host")

    monkeypatch.setattr("refnet_cli.system.hub.get_hf_file_metadata", fail)
    with pytest.raises(InputMissingError, match=r"could not be downloaded \(no route to host\)\. Download https://"):
        begin(encoder_weights="imagenet")


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("resnetblur18", "for encoder 'resnetblur18'\\. Give a file"),
        ("legacy_seresnet18", r"for encoder 'legacy_seresnet18', but https://\S+\.pth\. Give a file"),
    ],
)
def test_imagenet_of_an_encoder_that_the_hub_does_not_have(hub: Path, encoder: str, message: str) -> None:
    with pytest.raises(InputMissingError, match=message):
        begin(encoder_weights="imagenet", encoder=encoder, msie=False)


def test_imagenet_from_the_cache(hub: Path, donor: torch.nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    repository = hub / "models--timm--test_resnet.r160_in1k"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    save_file(donor.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        begun = begin(encoder_weights="imagenet")
    assert torch.equal(begun.net.sar_encoder.layer1[0].conv1.weight, donor.layer1[0].conv1.weight)
    assert begun.decisions[0].startswith("optical encoder: from timm's pretrained test_resnet, first convolution")
    assert not caplog.records


def test_frozen_encoders_stay_as_they_are(trained: REFNet, optical: torch.Tensor, sar: torch.Tensor) -> None:
    net = begin().net
    freeze_encoders(net)
    set_training(net, frozen=True)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], weight_decay=0.1)
    labels = torch.ones(2, 64, 64, dtype=torch.long)
    sum(training_loss(net(optical.expand(2, -1, -1, -1), sar.expand(2, -1, -1, -1)), labels)).backward()
    optimizer.step()
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not any("encoder" in name for name in changed)
    assert {"head.classify.weight", "mdf_blocks.0.share_norm.running_mean"} <= changed
    set_training(net, frozen=False)
    assert net.sar_encoder.training
