"""MobileNetV4-Conv-Small without timm is timm's, to the bit."""

from __future__ import annotations

import pytest
import timm
import torch

from refnet_cli.model.config import REFNetConfig
from refnet_cli.model.refnet import OWN_ENCODERS, REFNet


@pytest.mark.parametrize("bands", [2, 4])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", OWN_ENCODERS)
def test_an_own_encoder_is_timm_s(name: str, bands: int, training: bool) -> None:
    theirs = timm.create_model(name, features_only=True, in_chans=bands).train(training)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    ours, channels = OWN_ENCODERS[name](bands)
    ours.train(training)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, bands, 96, 64)
    levels = ours(image)
    assert [level.shape[1] for level in levels] == channels == theirs.feature_info.channels()
    for level, expected in zip(levels, theirs(image), strict=True):
        assert torch.equal(level, expected)
    for (key, ours_then), theirs_then in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(ours_then, theirs_then), key


@pytest.mark.parametrize("encoder", [*OWN_ENCODERS, "test_resnet"])
def test_a_network_to_load_weights_into_has_the_same_tensors(encoder: str) -> None:
    """Also with the tag of timm's pretrained weights behind the encoder's name."""
    shapes = []
    for name, initialise in ((encoder, True), (encoder, False), (f"{encoder}.r160_in1k", False)):
        if "." in name and encoder not in OWN_ENCODERS:
            continue
        net = REFNet(REFNetConfig(encoder=name, width=16, classes=3), initialise=initialise)
        shapes.append({key: tensor.shape for key, tensor in net.state_dict().items()})
    assert all(shape == shapes[0] for shape in shapes)
