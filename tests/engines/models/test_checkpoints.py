"""Strict imports: torchvision, the official LAUDNet naming, and Yahoo's ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from engines.architecture import ResNet, Stage
from engines.core import Paradigm
from engines.errors import CheckpointError, InvalidInput
from engines.models import (
    LaudResNet,
    fold_batchnorm,
    load_official,
    load_open_nsfw,
    load_torchvision,
)
from engines.models.checkpoints import load_strictly, torchvision_resnet
from engines.models.open_nsfw import open_nsfw_resnet, read_open_nsfw
from engines.training.starts import find_open_nsfw
from tests.engines.models.official import NAMES, official_names, official_state

pytestmark = pytest.mark.torch

SMALL = ResNet(stem_width=4, stages=(Stage(depth=1, width=2),), num_classes=2)
JOINT = tuple(
    Stage(
        depth=depth,
        width=width,
        paradigm=Paradigm.SPATIAL_CHANNEL,
        spatial_granularity=s,
        channel_granularity=8,
    )
    for depth, width, s in zip((3, 4, 6, 3), (64, 128, 256, 512), (8, 4, 2, 1), strict=True)
)


@pytest.fixture(scope="module")
def torchvision_model() -> Any:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_mean"):
                value.normal_(0, 0.1)
            if name.endswith("running_var"):
                value.uniform_(0.8, 1.2)
    return model


def test_torchvision_logits_are_the_same_with_all_masks_on(torchvision_model: Any) -> None:
    net = torchvision_resnet("resnet50", stages=JOINT)
    model = load_torchvision(net, torchvision_model.state_dict())
    x = torch.randn(2, 3, 97, 130)
    with torch.no_grad():
        expected = torchvision_model(x)
        masked, masks = model(x)
        folded, _ = fold_batchnorm(model)(x)
    assert len(masks) == 32
    assert all(bool((mask.units == 1).all()) for mask in masks)
    scale = float(expected.abs().max())
    torch.testing.assert_close(masked, expected, rtol=0, atol=1e-4 * scale)
    torch.testing.assert_close(folded, expected, rtol=0, atol=1e-4 * scale)


def test_every_fault_of_a_state_is_listed(torchvision_model: Any) -> None:
    state = dict(torchvision_model.state_dict())
    del state["layer2.1.conv2.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["fc.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as error:
        load_torchvision(torchvision_resnet("resnet50"), state)
    for part in ("missing: layer2.1.conv2.weight", "unexpected: layer9.weight", "fc.bias (7,)"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("text", r"'fc\.bias' is a str, not an array or a tensor"),
        (None, r"'fc\.bias' is a NoneType"),
        (np.array(["text"]), r"'fc\.bias' has elements of type <U4"),
        (np.array([None]), r"'fc\.bias' has elements of type object"),
    ],
    ids=["text", "none", "array of text", "array of objects"],
)
def test_what_is_not_an_array_of_numbers_is_refused(value: object, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        load_torchvision(SMALL, {"fc.bias": value})  # type: ignore[dict-item]


def test_a_long_list_of_names_is_cut_short_and_counted() -> None:
    more = len(LaudResNet(SMALL).state_dict()) - 20
    with pytest.raises(CheckpointError, match=f"and {more} more") as error:
        load_torchvision(SMALL, {})
    assert str(error.value).count(",") == 19


def test_a_refused_state_leaves_the_network_as_it_was() -> None:
    model = LaudResNet(SMALL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value + 1 for name, value in before.items()} | {"extra": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="unexpected: extra"):
        load_strictly(model, state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_with_batch_norm_do_not_go_into_a_folded_network() -> None:
    with pytest.raises(InvalidInput, match="not folded"):
        load_torchvision(SMALL.model_copy(update={"folded": True}), {})


@pytest.mark.skipif(not NAMES.is_file(), reason="the official names file is not here")
@pytest.mark.parametrize("name", official_names("resnet"))
@pytest.mark.usefixtures("unfilled")
def test_official_configurations_load_strictly(name: str) -> None:
    shapes = official_names("resnet")[name]
    arch, paradigm = name.split()[:2]
    state = official_state(shapes)
    model = load_official(arch, state, paradigm, (4, 4, 2, 1), (2, 2, 2, 2))
    assert not model.training
    with torch.no_grad():
        logits, masks = model(torch.randn(1, 3, 64, 64))
    assert logits.shape == (1, 1000)
    per_block = 2 if paradigm == "both" else 1
    assert len(masks) == per_block * len(model.net.blocks)
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    again = load_official(arch, tensors, paradigm, (4, 4, 2, 1), (2, 2, 2, 2))
    for key, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])


@pytest.mark.skipif(not NAMES.is_file(), reason="the official names file is not here")
@pytest.mark.usefixtures("unfilled")
def test_an_official_state_with_a_name_less_or_more_is_refused() -> None:
    state = official_state(official_names("resnet")["resnet50 layer"])
    less = dict(state)
    del less["layer3.0.masker_spatial.conv.bias"]
    with pytest.raises(CheckpointError, match=r"missing: layer3\.0\.masker_spatial\.conv\.bias"):
        load_official("resnet50", less, "layer")
    with pytest.raises(CheckpointError, match="unexpected: extra"):
        load_official("resnet50", {**state, "extra": np.zeros(1)}, "layer")
    with pytest.raises(CheckpointError, match="missing"):
        load_official("resnet101", state, "layer")
    with pytest.raises(CheckpointError, match="masker_channel"):
        load_official("resnet50", state, "channel", None, (2, 2, 2, 2))


@pytest.mark.usefixtures("unfilled")
@pytest.mark.parametrize(
    ("arch", "paradigm", "spatial", "channel", "says"),
    [
        ("resnet18", "spatial", (4, 4, 2, 1), None, "unknown arch"),
        ("resnet50", "pixel", None, None, "unknown paradigm"),
        ("resnet50", "spatial", None, None, "spatial_granularity needs 4"),
        ("resnet50", "spatial", (4, 4), None, "spatial_granularity needs 4"),
        ("resnet50", "spatial", (4, 4, 2, 1, 1), None, "spatial_granularity needs 4"),
        ("resnet50", "spatial", 4, None, "spatial_granularity needs 4 numbers, .* got 4"),
        ("resnet50", "both", (4, 4, 2, 1), (2, 2, 2), "channel_granularity needs 4"),
        ("resnet50", "channel", None, (3, 2, 2, 2), "does not divide"),
        ("resnet50", "spatial", (0, 4, 2, 1), None, "greater than or equal to 1"),
    ],
)
def test_wrong_arguments(
    arch: str,
    paradigm: str,
    spatial: Any,
    channel: Any,
    says: str,
) -> None:
    with pytest.raises(InvalidInput, match=says):
        load_official(arch, {"fc.weight": np.zeros((10, 2048))}, paradigm, spatial, channel)


@pytest.mark.usefixtures("unfilled")
def test_an_official_state_without_a_classifier_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"missing: fc\.weight"):
        load_official("resnet50", {}, "layer")


def test_open_nsfw_equals_onnxruntime() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    path = find_open_nsfw()
    model = load_open_nsfw(path)
    session = onnxruntime.InferenceSession(str(path))
    rng = np.random.default_rng(0)
    images = (rng.uniform(0, 255, (3, 224, 224, 3)) - 110).astype(np.float32)
    expected = session.run(None, {"input:0": images})[0]
    with torch.no_grad():
        logits, _ = model(torch.from_numpy(images).permute(0, 3, 1, 2), None)
    got = torch.softmax(logits, dim=1).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-3)
    # The graph's logits are not an output: compare their difference, where softmax saturates.
    np.testing.assert_allclose(
        (logits[:, 0] - logits[:, 1]).numpy(), np.log(expected[:, 0] / expected[:, 1]), atol=1e-3
    )


def test_open_nsfw_with_other_classes_keeps_a_fresh_head() -> None:
    pytest.importorskip("onnx")
    path = find_open_nsfw()
    model = load_open_nsfw(path, open_nsfw_resnet(num_classes=10))
    assert model.fc.weight.shape == (10, 1024)
    stored = read_open_nsfw(path)["layer4.2.conv3.weight"]
    assert np.array_equal(model.state_dict()["layer4.2.conv3.weight"].numpy(), stored)


def test_a_file_that_is_not_that_network_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    with pytest.raises(CheckpointError, match="cannot read"):
        load_open_nsfw(tmp_path / "missing.onnx")
    text = tmp_path / "text.onnx"
    text.write_bytes(b"this is no protobuf at all")
    with pytest.raises(CheckpointError, match="not an ONNX file"):
        load_open_nsfw(text)
    other = tmp_path / "other.onnx"
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [out])), other)
    with pytest.raises(CheckpointError, match="0 convolutions"):
        load_open_nsfw(other)
