"""Strict imports of RegNets: torchvision's names and the official LAUDNet names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.architecture import RegNet, RegNetStage
from engines.core import Paradigm
from engines.errors import CheckpointError, InvalidInput
from engines.models import LaudRegNet, fold_batchnorm, load_official, load_torchvision
from engines.models.checkpoints import torchvision_regnet
from tests.engines.models.official import NAMES, official_names, official_state

pytestmark = pytest.mark.torch

ARCHS = ("regnet_y_400mf", "regnet_y_800mf")


def torchvision_model(arch: str) -> Any:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = getattr(models, arch)(weights=None).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_mean"):
                value.normal_(0, 0.1)
            if name.endswith("running_var"):
                value.uniform_(0.8, 1.2)
    return model


def with_masks(arch: str) -> RegNet:
    """Its stages with two patches' and four channel groups' worth of maskers."""
    stages = tuple(
        RegNetStage.model_validate(
            stage.model_dump()
            | {
                "paradigm": Paradigm.SPATIAL_CHANNEL,
                "spatial_granularity": 2,
                "channel_granularity": stage.group_width,
            }
        )
        for stage in torchvision_regnet(arch).stages
    )
    return torchvision_regnet(arch, stages=stages)


@pytest.mark.parametrize("arch", ARCHS)
def test_torchvision_logits_are_the_same(arch: str) -> None:
    theirs = torchvision_model(arch)
    static = load_torchvision(torchvision_regnet(arch), theirs.state_dict())
    masked = load_torchvision(with_masks(arch), theirs.state_dict())
    x = torch.randn(2, 3, 97, 130)
    with torch.no_grad():
        expected = theirs(x)
        answers = {
            "static": static(x)[0],
            "folded": fold_batchnorm(static)(x)[0],
            "all active": masked(x)[0],
        }
        masks = masked(x)[1]
    assert all(bool((mask.units == 1).all()) for mask in masks)
    scale = float(expected.abs().max())
    for what, logits in answers.items():
        torch.testing.assert_close(
            logits, expected, rtol=0, atol=1e-5 * scale, msg=lambda text, what=what: what + text
        )


def test_every_fault_is_listed_as_the_checkpoint_spells_it() -> None:
    theirs = torchvision_model(ARCHS[0])
    state = dict(theirs.state_dict())
    del state["trunk_output.block3.block3-1.f.se.fc1.weight"]
    state["layer1.0.conv1.weight"] = torch.zeros(1)
    state["stem.0.weight"] = torch.zeros(32, 3, 7, 7)
    with pytest.raises(CheckpointError) as error:
        load_torchvision(torchvision_regnet(ARCHS[0]), state)
    for part in (
        "missing: trunk_output.block3.block3-1.f.se.fc1.weight",
        "unexpected: layer1.0.conv1.weight",
        "wrong shape: stem.0.weight (32, 3, 7, 7) instead of (32, 3, 3, 3)",
    ):
        assert part in str(error.value)


@pytest.mark.usefixtures("unfilled")
def test_one_size_does_not_load_as_the_other() -> None:
    state = torchvision_model(ARCHS[0]).state_dict()
    with pytest.raises(CheckpointError, match="missing: trunk_output"):
        load_torchvision(torchvision_regnet(ARCHS[1]), state)


@pytest.mark.parametrize("arch", ["resnet50", "regnet_y_1_6gf", "", None, ["regnet_y_400mf"]])
def test_an_unknown_arch_is_refused_with_those_there_are(arch: Any) -> None:
    with pytest.raises(InvalidInput, match=r"unknown arch .*; there are: regnet_y_400mf, regnet"):
        torchvision_regnet(arch)


# The official naming


@pytest.mark.skipif(not NAMES.is_file(), reason="the official names file is not here")
@pytest.mark.parametrize("name", official_names("regnet"))
@pytest.mark.usefixtures("unfilled")
def test_official_configurations_load_strictly(name: str) -> None:
    shapes = official_names("regnet")[name]
    arch, paradigm = name.split()[:2]
    state = official_state(shapes)
    model = load_official(arch, state, paradigm, (4, 4, 2, 1), (2, 2, 2, 2))
    assert isinstance(model, LaudRegNet)
    assert not model.training
    assert model.net.squeeze_over == "map", "as it was trained"
    with torch.no_grad():
        logits, masks = model(torch.randn(1, 3, 64, 64))
    assert logits.shape == (1, 1000)
    per_block = 2 if paradigm == "both" else 1
    assert len(masks) == per_block * len(model.net.blocks)
    loaded = {value.sum().item() for value in model.state_dict().values() if value.ndim > 1}
    given = {torch.from_numpy(value).sum().item() for value in state.values() if value.ndim > 1}
    assert loaded == given, "every tensor went somewhere"


@pytest.mark.skipif(not NAMES.is_file(), reason="the official names file is not here")
@pytest.mark.usefixtures("unfilled")
def test_an_official_state_with_a_name_less_or_more_is_refused() -> None:
    state = official_state(official_names("regnet")["regnet_y_400mf spatial 4-4-2-1"])
    name = "trunk_output.block2.block2-1.f.masker_spatial.conv.bias"
    less = {key: value for key, value in state.items() if key != name}
    with pytest.raises(CheckpointError, match=f"missing: {name}"):
        load_official(ARCHS[0], less, "spatial", (4, 4, 2, 1))
    with pytest.raises(CheckpointError, match="unexpected: extra"):
        load_official(ARCHS[0], {**state, "extra": np.zeros(1)}, "spatial", (4, 4, 2, 1))
    with pytest.raises(CheckpointError, match=r"missing: .*masker_channel"):
        load_official(ARCHS[0], state, "channel", None, (2, 2, 2, 2))
    with pytest.raises(CheckpointError, match="wrong shape"):
        load_official(ARCHS[1], state, "spatial", (4, 4, 2, 1))


@pytest.mark.parametrize(
    ("arch", "paradigm", "spatial", "channel", "says"),
    [
        (["resnet50"], "layer", None, None, r"unknown arch '\['resnet50'\]'; there are: resnet50"),
        ({}, "layer", None, None, "unknown arch"),
        (None, "layer", None, None, "unknown arch 'None'"),
        ("regnet_x_400mf", "layer", None, None, "there are: .*regnet_y_400mf, regnet_y_800mf"),
        (ARCHS[0], ["layer"], None, None, "unknown paradigm"),
        (ARCHS[0], "spatial", None, None, "spatial_granularity needs 4"),
        (ARCHS[0], "channel", None, (2, 2, 2), "channel_granularity needs 4"),
        (ARCHS[0], "channel", None, (2, 2, 3, 2), "3 does not divide width 208"),
    ],
    ids=str,
)
def test_wrong_arguments(arch: Any, paradigm: Any, spatial: Any, channel: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        load_official(arch, {"fc.weight": np.zeros((10, 440))}, paradigm, spatial, channel)
