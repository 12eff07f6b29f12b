"""The network against reference outputs of the published one, and its behaviour."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from refnet_cli.errors import WeightsError
from refnet_cli.model.config import REFNetConfig
from refnet_cli.model.fuse import prepare_for_inference
from refnet_cli.model.published_checkpoint import from_published, published_names, rename_published
from refnet_cli.model.refnet import DropPath, MDFVSSBlock, Prediction, REFNet
from refnet_cli.scan import SCANS
from refnet_cli.training.losses import training_loss
from tests.golden import Golden, state_of
from tests.helpers.quick import few

# That of "cpu" is not asked: it compiles, and as a test is collected, each worker would wait for that.
HERE = [name for name, scan in SCANS.items() if name == "cpu" or scan.missing("cpu", 1) is None]
TINY = REFNetConfig(encoder="test_resnet", optical_bands=4, sar_bands=2, classes=5, width=16)


def error(ours: torch.Tensor, stored: np.ndarray) -> float:
    """Norm of the difference over the norm of the stored value about its mean over pixels."""
    spread = stored - stored.mean(axis=(-2, -1), keepdims=True)
    return float(np.linalg.norm(ours.detach().numpy() - stored) / np.linalg.norm(spread))


@pytest.fixture(scope="module", params=["resnet18", "resnet50"])
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


@pytest.mark.parametrize("scan", few(HERE, "cpu"))
def test_logits_features_and_losses_are_the_published_ones(golden: Golden, scan: str) -> None:
    features = {}

    def remember(level: int) -> Any:
        return lambda module, inputs, output: features.update({level: output})

    blocks = [m for m in golden.net.modules() if isinstance(m, MDFVSSBlock)]
    hooks = [block.register_forward_hook(remember(i)) for i, block in enumerate(blocks, start=1)]
    with torch.no_grad():
        prediction = golden.net.use_scan(scan)(golden.optical, golden.sar, auxiliary=True)
    for hook in hooks:
        hook.remove()
    stored = golden.stored
    assert error(prediction.logits, stored["logits"]) < 1e-5
    assert error(prediction.optical_logits, stored["opt_logits"]) < 1e-5
    assert error(prediction.sar_logits, stored["sar_logits"]) < 1e-5
    compared = 0
    for level, found in features.items():
        for ours, theirs in (("share", "share"), ("difference", "diff"), ("fused", "fused")):
            if f"{theirs}_{level}" in stored:
                assert error(getattr(found, ours), stored[f"{theirs}_{level}"]) < 1e-5
                compared += 1
    assert compared >= 3
    main, auxiliary = training_loss(prediction, golden.labels)
    assert float(main) == pytest.approx(float(stored["main_loss"]), rel=1e-5)
    assert float(auxiliary) == pytest.approx(float(stored["aux_loss"]), rel=1e-5)


def test_logits_for_prediction_are_the_published_ones(golden: Golden) -> None:
    with torch.no_grad():
        logits = prepare_for_inference(golden.net)(golden.optical, golden.sar).logits
    assert error(logits, golden.stored["logits"]) < 1e-5


@pytest.mark.parametrize("scan", few(HERE, "cpu"))
def test_gradient_norms_are_the_published_ones(scan: str) -> None:
    golden = Golden("resnet18")
    prediction = golden.net.use_scan(scan)(golden.optical, golden.sar, auxiliary=True)
    sum(training_loss(prediction, golden.labels)).backward()
    prefixes = published_names()
    parameters = dict(golden.net.named_parameters())
    assert len(golden.stored["grad_names"]) == len(parameters)
    ours = np.array(
        [float(parameters[rename_published(str(n), prefixes)].grad.norm()) for n in golden.stored["grad_names"]]
    )
    theirs = golden.stored["grad_norms"]
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-4
    large = theirs > 1e-4 * theirs.max()
    assert (np.abs(ours - theirs)[large] / theirs[large]).max() < 1e-4


@pytest.fixture(scope="module")
def tiny() -> REFNet:
    torch.manual_seed(0)
    return REFNet(TINY).eval()


def inputs(batch: int, height: int, width: int, config: REFNetConfig = TINY) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    optical = torch.randn(batch, config.optical_bands, height, width, generator=draw)
    return optical, torch.randn(batch, config.sar_bands, height, width, generator=draw)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (66, 90), (130, 64)])
def test_any_even_size_gives_logits_of_that_size(tiny: REFNet, height: int, width: int) -> None:
    with torch.no_grad():
        prediction = tiny(*inputs(1, height, width))
    assert prediction.logits.shape == (1, 5, height, width)
    assert prediction.optical_logits is None
    assert prediction.sar_logits is None


@pytest.mark.parametrize(("height", "width"), [(65, 64), (64, 62), (32, 32)])
def test_other_sizes_are_refused(tiny: REFNet, height: int, width: int) -> None:
    with pytest.raises(ValueError, match="even and at least 64"):
        tiny(*inputs(1, height, width))


def test_wrong_bands_are_refused(tiny: REFNet) -> None:
    optical, sar = inputs(1, 64, 64)
    with pytest.raises(ValueError, match="Got 3 optical and 2 SAR bands"):
        tiny(optical[:, :3], sar)


def test_samples_of_a_batch_do_not_touch_each_other(tiny: REFNet) -> None:
    optical, sar = inputs(3, 64, 64)
    with torch.no_grad():
        together = tiny(optical, sar).logits
        alone = torch.cat([tiny(optical[i : i + 1], sar[i : i + 1]).logits for i in range(3)])
    assert (together - alone).abs().max() < 1e-4 * together.abs().max()


def test_msie_decoders_run_while_training_and_where_asked_for(tiny: REFNet) -> None:
    without = REFNet(replace(TINY, msie=False))
    assert without.train()(*inputs(2, 64, 64)).optical_logits is None
    with pytest.raises(ValueError, match="has no MSIE decoders"):
        without(*inputs(2, 64, 64), auxiliary=True)
    assert REFNet(TINY).train()(*inputs(2, 64, 64)).sar_logits.shape == (2, 5, 64, 64)
    with torch.no_grad():
        assert torch.equal(
            tiny(*inputs(1, 64, 64), auxiliary=True).logits, tiny(*inputs(1, 64, 64), auxiliary=False).logits
        )


def test_drop_path_keeps_the_mean_and_drops_whole_samples() -> None:
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3)
    dropped = DropPath(0.1).train()(x)
    assert sorted(set(dropped.flatten().tolist())) == pytest.approx([0, 1 / 0.9])
    assert torch.equal(dropped.amin((1, 2)), dropped.amax((1, 2)))
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)
    assert DropPath(0.1).eval()(x) is x


def test_labels_of_no_data_do_not_count() -> None:
    draw = torch.Generator().manual_seed(0)
    prediction = Prediction(*(torch.randn(2, 5, 8, 8, generator=draw) for _ in range(3)))
    labels = torch.randint(1, 5, (2, 8, 8), generator=draw)
    labels[:, :2] = 0
    before = training_loss(prediction, labels)
    for logits in prediction:
        logits[:, :, :2] = 99.0
    after = training_loss(prediction, labels)
    assert float(before[0]) == pytest.approx(float(after[0]))
    assert float(before[1]) == pytest.approx(float(after[1]))
    assert [float(part) for part in training_loss(prediction, torch.zeros_like(labels))] == [0, 0]


def test_the_published_preset_has_the_published_size() -> None:
    # 60.8 million in the paper, which has 3 + 2 bands and 9 classes.
    net = REFNet(REFNetConfig(), initialise=False)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(60.8e6, rel=0.002)


def test_initialisation() -> None:
    net = REFNet(TINY).requires_grad_(False)
    ss2d = net.mdf_decoder.vss[0].ss2d
    dt = torch.nn.functional.softplus(ss2d.dt_bias)
    assert float(dt.min()) >= 0.99e-3
    assert float(dt.max()) <= 0.101
    assert torch.equal(ss2d.d_skip, torch.ones_like(ss2d.d_skip))
    assert torch.equal(ss2d.a_log, torch.zeros_like(ss2d.a_log))
    assert not net.head.classify.bias.any()
    bound = (6 / (9 * 32)) ** 0.5
    weight = net.mdf_blocks[0].share_convolution.weight
    assert bound * 0.95 < float(weight.abs().max()) <= bound


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("decoder.fuse_layer3.share_conv.0.weight"), r"lacks tensors \(1\)"),
        pytest.param(
            lambda s: s.update({"decoder.extra.weight": torch.zeros(1)}), "not a tensor of a published REF-Net",
            marks=pytest.mark.long,
        ),
        pytest.param(
            lambda s: s.update({"seg_head.0.bias": torch.zeros(7)}), "wrongly shaped", marks=pytest.mark.long
        ),
        (lambda s: s.update({"decoder.st_block_2.1.op.Ds": torch.zeros(3)}), "has 3 numbers"),
        (lambda s: s.pop("opt_encoder.conv1.weight"), "is not a REF-Net"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(change: Any, message: str) -> None:
    state = dict(state_of("resnet18"))
    change(state)
    with pytest.raises(WeightsError, match=message):
        from_published(state)


def test_a_published_checkpoint_without_msie_gives_the_same_map() -> None:
    golden = Golden("resnet18")
    single = ("opt_fuse", "sar_fuse", "opt_seg", "sar_seg")
    state = {
        name: tensor
        for name, tensor in golden.state.items()
        if not name.removeprefix("decoder.").startswith(single) and not re.search(r"smooth_layer_\d[23]\.", name)
    }
    net = from_published(state)
    assert not net.config.msie
    with torch.no_grad():
        assert torch.equal(net(golden.optical, golden.sar).logits, golden.net(golden.optical, golden.sar).logits)


@pytest.mark.parametrize("encoder", ["no_such_model", "vit_tiny_patch16_224"])
def test_encoders_without_five_levels_are_refused(encoder: str) -> None:
    with pytest.raises(WeightsError, match=f"{encoder}"):
        REFNet(replace(TINY, encoder=encoder))
