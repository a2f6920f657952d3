"""The reference engine: what it answers, what it refuses, and that neighbours change nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from engines.architecture import MapSize, ResNet, Stage
from engines.bundle import Bundle, Preprocessing, WeightsFile, read_bundle, write_bundle
from engines.core import OperatingPoint, Output, Paradigm, UInt8Array, static_point
from engines.errors import BundleError, EngineError, InvalidInput
from engines.macs import static_macs
from engines.models.maskers import ChannelMasker, SpatialMasker
from engines.models.resnet import LaudResNet
from engines.reference.engine import ReferenceEngine
from engines.registry import load_engine
from tests.engines.bundles import manifest

pytestmark = pytest.mark.torch

SIZE = 40
NET = ResNet(
    stem_width=8,
    stages=(
        Stage(depth=2, width=4, paradigm=Paradigm.SPATIAL, spatial_granularity=3),
        Stage(
            depth=1,
            width=8,
            paradigm=Paradigm.SPATIAL_CHANNEL,
            spatial_granularity=2,
            channel_granularity=2,
        ),
        Stage(depth=1, width=8, paradigm=Paradigm.LAYER),
    ),
    num_classes=4,
    folded=True,
)
MASKERS = len(NET.maskers)
UNITS = 2 * 16 + 9 + 4 + 1  # patches of 2 + 1 blocks, channel groups, one layer
PREPROCESSING = Preprocessing(
    crop_ratio=0.9, channel_order="bgr", mean=(104.0, 117.0, 123.0), std=(60.0, 50.0, 40.0)
)
INFINITE = 1e30


def point(
    name: str, thresholds: Sequence[float | None], caps: Sequence[int | None] | None = None
) -> OperatingPoint:
    all_caps = tuple(caps or [None] * MASKERS)
    return OperatingPoint(name=name, image_size=SIZE, thresholds=tuple(thresholds), caps=all_caps)


FULL = static_point("full", SIZE, MASKERS)
SOME = point("some", [0.0] * MASKERS)
NONE = point("none", [INFINITE] * MASKERS)
CAPPED = point("capped", [None] * MASKERS, [1] * MASKERS)
PARTLY = point("partly", [None, INFINITE, None, None, 0.0], [None, None, 2, None, None])
POINTS = [FULL, SOME, NONE, CAPPED, PARTLY]


def network(net: ResNet = NET, seed: int = 0) -> LaudResNet:
    """With random weights, maskers and biases included."""
    torch.manual_seed(seed)
    model = LaudResNet(net)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "masker_" in name and not name.endswith(("mean", "std")):
                value.normal_(0, 1.0)
            elif name.endswith("bias"):
                value.normal_(0, 0.3)
    return model


@pytest.fixture(scope="module")
def model() -> LaudResNet:
    return network()


@pytest.fixture
def engine(model: LaudResNet) -> ReferenceEngine:
    return ReferenceEngine(model, PREPROCESSING)


@pytest.fixture(scope="module")
def images() -> UInt8Array:
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)


def same(one: Output, i: int, other: Output, j: int) -> bool:
    """Whether two images were answered alike, to the last bit."""
    return all(
        np.array_equal(a[i], b[j])
        for a, b in [
            (one.arrays["probabilities"], other.arrays["probabilities"]),
            (one.activation, other.activation),
            (one.macs, other.macs),
        ]
    )


# What it answers


def test_an_answer_has_the_promised_shapes(engine: ReferenceEngine, images: UInt8Array) -> None:
    found = engine.infer(images, POINTS)
    assert {name: (a.dtype, a.shape) for name, a in found.arrays.items()} == {
        "probabilities": (np.dtype(np.float32), (5, 4)),
        "decisions": (np.dtype(np.bool_), (5, UNITS)),
    }
    assert (found.activation.dtype, found.activation.shape) == (np.dtype(np.float32), (5, MASKERS))
    assert (found.macs.dtype, found.macs.shape) == (np.dtype(np.float64), (5,))
    assert found.durations_s.keys() == {"prepare", "network"}
    assert all(seconds >= 0 for seconds in found.durations_s.values())
    assert (engine.name, engine.precision) == ("reference", "fp32")


def test_probabilities_are_such(engine: ReferenceEngine, images: UInt8Array) -> None:
    probabilities = np.asarray(engine.infer(images, POINTS).arrays["probabilities"], np.float64)
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-6)
    assert len(np.unique(probabilities[:, 0])) == 5


def test_full_is_the_static_network_on_normalised_pixels(
    engine: ReferenceEngine, model: LaudResNet, images: UInt8Array
) -> None:
    """The bundle's order is BGR: channels are reversed, then its mean and deviation apply."""
    x = (images[..., ::-1].astype(np.float32) - (104, 117, 123)) / (60, 50, 40)
    with torch.no_grad():
        logits, _ = model(torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32), None)
    wanted = torch.softmax(logits, dim=1).numpy()
    found = np.asarray(engine.infer(images, [FULL] * 5).arrays["probabilities"], np.float64)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_full_costs_exactly_the_static_network_and_asks_no_masker(
    engine: ReferenceEngine, images: UInt8Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: Any, x: Tensor, size: MapSize) -> Tensor:
        raise AssertionError("a masker was asked")

    monkeypatch.setattr(SpatialMasker, "forward", never)
    monkeypatch.setattr(ChannelMasker, "forward", never)
    found = engine.infer(images[:2], [FULL] * 2)
    assert found.macs.tolist() == [static_macs(NET, MapSize(SIZE, SIZE))] * 2
    assert (found.activation == 1.0).all()


def test_counts_above_24_bits_are_exact() -> None:
    """Where float32 would round."""
    stage = Stage(depth=1, width=15, paradigm=Paradigm.CHANNEL, channel_granularity=5)
    net = ResNet(stem_width=63, stages=(stage,), num_classes=3, folded=True)
    count = static_macs(net, MapSize(78, 78))
    assert int(np.float32(count)) != count
    all_asked = OperatingPoint(name="all", image_size=78, thresholds=(-INFINITE,), caps=(None,))
    engine = ReferenceEngine(network(net), PREPROCESSING)
    points = [static_point("full", 78, 1), all_asked]
    found = engine.infer(np.zeros((2, 78, 78, 3), np.uint8), points)
    assert found.macs.tolist() == [count, count + 63 * 20 * 20 + 63 * 16 + 16 * 3]


def test_activation_follows_thresholds_and_caps(
    engine: ReferenceEngine, images: UInt8Array
) -> None:
    """Maps are 10x10, then 5x5, then 3x3: 16, 16, 9 patches, 4 groups, 1 patch."""
    units = np.array([16, 16, 9, 4, 1])
    full, some, none, capped, partly = engine.infer(images, POINTS).activation
    assert full.tolist() == [1.0] * MASKERS
    assert none.tolist() == [0.0] * MASKERS
    assert 0 < some.mean() < 1
    np.testing.assert_allclose(capped * units, 1)
    assert partly[[0, 3]].tolist() == [1.0, 1.0], "a masker without a wish leaves all active"
    assert partly[[1, 2]].tolist() == [0.0, np.float32(2 / 9)]


def test_skipping_costs_less_and_unasked_maskers_nothing(
    engine: ReferenceEngine, images: UInt8Array
) -> None:
    full, some, none, capped, _ = engine.infer(images[[0] * 5], POINTS).macs
    assert none < some < full
    assert none < capped < full
    almost = point("almost", [-INFINITE, *[None] * (MASKERS - 1)])
    asked = engine.infer(images[:1], [almost]).macs[0] - full
    assert asked == 2 * 8 * 16, "sixteen patches of eight channels: a pooled value and a weight"


def test_a_threshold_that_a_logit_equals_leaves_it_active(
    engine: ReferenceEngine, model: LaudResNet, images: UInt8Array
) -> None:
    seen: list[Tensor] = []

    def note(module: Any, inputs: Any, logits: Tensor) -> None:
        seen.append(logits)

    handle = model.bottlenecks()[0].masker_spatial.register_forward_hook(note)
    engine.infer(images[:1], [SOME])
    handle.remove()
    highest = float(seen[0].max())
    rest = [None] * (MASKERS - 1)
    at = engine.infer(images[:1], [point("at", [highest, *rest])]).activation[0, 0]
    above = np.nextafter(np.float32(highest), np.float32(np.inf))
    over = engine.infer(images[:1], [point("over", [float(above), *rest])]).activation[0, 0]
    assert (at, over) == (1 / 16, 0.0)


# Neighbours


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [1, 1, 1, 1, 0]], ids=str)
def test_neighbours_and_place_change_no_bit(
    engine: ReferenceEngine, images: UInt8Array, order: list[int]
) -> None:
    alone = [engine.infer(images[i : i + 1], [POINTS[i]]) for i in range(5)]
    together = engine.infer(images[order], [POINTS[i] for i in order])
    for place, i in enumerate(order):
        assert same(together, place, alone[i], 0), f"image {i} at place {place}"


def test_answers_repeat_and_belong_to_the_caller(
    engine: ReferenceEngine, images: UInt8Array
) -> None:
    first = engine.infer(images, POINTS)
    kept = {name: value.copy() for name, value in first.arrays.items()}
    second = engine.infer(images[::-1], POINTS)
    assert all(np.array_equal(first.arrays[name], value) for name, value in kept.items())
    second.arrays["probabilities"][:] = 0
    third = engine.infer(images, POINTS)
    assert all(same(first, i, third, i) for i in range(5))


@pytest.mark.parametrize(
    "view",
    [
        lambda images: images[:, ::-1, ::-1][:, ::-1, ::-1],
        np.asfortranarray,
        lambda images: np.frombuffer(images.tobytes(), np.uint8).reshape(images.shape),
    ],
    ids=["reversed", "column order", "read only"],
)
def test_memory_layout_of_images_does_not_matter(
    engine: ReferenceEngine, images: UInt8Array, view: Callable[[UInt8Array], UInt8Array]
) -> None:
    one, other = engine.infer(images, POINTS), engine.infer(view(images), POINTS)
    assert all(same(one, i, other, i) for i in range(5))


def test_images_are_not_written_to(engine: ReferenceEngine, images: UInt8Array) -> None:
    before = images.copy()
    engine.infer(images, POINTS)
    np.testing.assert_array_equal(images, before)


# What it refuses


GREY = np.full((2, SIZE, SIZE, 3), 128, np.uint8)


@pytest.mark.parametrize(
    ("bad", "points", "says"),
    [
        (GREY.astype(np.float32), [FULL] * 2, "uint8 array, got float32"),
        (GREY[0], [FULL], r"shape \(N, H, W, 3\)"),
        (GREY.transpose(0, 3, 1, 2), [FULL] * 2, r"got \(2, 3, 40, 40\)"),
        (GREY[:0], [], "at least 1"),
        (GREY, [FULL], "2 images need as many points, got 1"),
        (GREY, [FULL, static_point("alien", SIZE, 2)], "'alien' has 2 thresholds, .* 5 maskers"),
        (GREY, [FULL, static_point("small", 24, MASKERS)], "'small' takes images of 24x24"),
        (GREY[:, :24], [FULL] * 2, "'full' takes images of 40x40, got 24x40"),
    ],
    ids=["float", "one image", "planar", "empty", "points", "thresholds", "size", "not square"],
)
def test_what_cannot_run_is_refused_and_harms_nothing(
    engine: ReferenceEngine,
    images: UInt8Array,
    bad: Any,
    points: list[OperatingPoint],
    says: str,
) -> None:
    before = engine.infer(images, POINTS)
    with pytest.raises(InvalidInput, match=says):
        engine.infer(bad, points)
    after = engine.infer(images, POINTS)
    assert all(same(before, i, after, i) for i in range(5))


def test_a_closed_engine_says_so(model: LaudResNet, images: UInt8Array) -> None:
    with ReferenceEngine(model, PREPROCESSING) as engine:
        engine.infer(images, POINTS)
    with pytest.raises(EngineError, match="closed"):
        engine.infer(images, POINTS)
    engine.close()


def test_an_error_inside_closes_it_too(model: LaudResNet, images: UInt8Array) -> None:
    engine = ReferenceEngine(model, PREPROCESSING)
    with pytest.raises(KeyError), engine:
        raise KeyError
    with pytest.raises(EngineError, match="closed"):
        engine.infer(images, POINTS)


# From a bundle


def bundle(path: Path, net: ResNet, state: dict[str, Any], dtype: str = "fp32") -> Bundle:
    full = {
        "point": static_point("full", SIZE, len(net.maskers)),
        "activation": (1.0,) * len(net.maskers),
        "macs": 1.0,
        "macs_ratio": 1.0,
    }
    content = manifest(
        architecture=net,
        labels=[f"label {i}" for i in range(net.num_classes)],
        points=[full],
        preprocessing=PREPROCESSING,
        weights=WeightsFile.model_validate({"dtype": dtype, "sha256": "0" * 64}),
    )
    write_bundle(path, content, state)
    return read_bundle(path)


def arrays(model: LaudResNet, dtype: Any = None) -> dict[str, Any]:
    return {name: value.to(dtype).numpy() for name, value in model.state_dict().items()}


LOAD = partial(load_engine, kind="reference")


@pytest.mark.parametrize("load", [ReferenceEngine.from_bundle, LOAD])
def test_a_bundle_answers_as_its_network(
    tmp_path: Path, model: LaudResNet, images: UInt8Array, load: Callable[..., ReferenceEngine]
) -> None:
    stored = bundle(tmp_path / "n.laud", NET, arrays(model))
    with load(stored, threads=1) as engine:
        found = engine.infer(images, POINTS)
    wanted = ReferenceEngine(model, PREPROCESSING).infer(images, POINTS)
    assert all(same(found, i, wanted, i) for i in range(5))


def test_16_bit_weights_are_widened(tmp_path: Path, images: UInt8Array) -> None:
    model = network(seed=1)
    stored = bundle(tmp_path / "n.laud", NET, arrays(model, torch.float16), "fp16")
    found = ReferenceEngine.from_bundle(stored).infer(images, POINTS)
    wanted = ReferenceEngine(model.half().float(), PREPROCESSING).infer(images, POINTS)
    assert all(same(found, i, wanted, i) for i in range(5))


def test_a_network_with_batch_norm_can_be_bundled(tmp_path: Path, images: UInt8Array) -> None:
    """Its counters of batches are scalars, which have to stay so."""
    model = network(net := NET.model_copy(update={"folded": False}))
    stored = bundle(tmp_path / "n.laud", net, arrays(model))
    found = ReferenceEngine.from_bundle(stored).infer(images, POINTS)
    wanted = ReferenceEngine(model, PREPROCESSING).infer(images, POINTS)
    assert all(same(found, i, wanted, i) for i in range(5))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("missing", r"missing: layer2\.0\.conv2\.weight"),
        ("unexpected", r"unexpected: layer9\.weight"),
        ("shape", r"wrong shape: fc\.bias \(9,\) instead of \(4,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, model: LaudResNet, fault: str, says: str
) -> None:
    state = arrays(model)
    if fault == "missing":
        del state["layer2.0.conv2.weight"]
    elif fault == "unexpected":
        state["layer9.weight"] = np.zeros(1, np.float32)
    else:
        state["fc.bias"] = np.zeros(9, np.float32)
    stored = bundle(tmp_path / "n.laud", NET, state)
    with pytest.raises(BundleError, match=rf"n\.laud': the weights do not fit .*{says}"):
        ReferenceEngine.from_bundle(stored)


def test_threads_are_set_for_torch(model: LaudResNet) -> None:
    before = torch.get_num_threads()
    try:
        ReferenceEngine(model, PREPROCESSING, threads=2)
        assert torch.get_num_threads() == 2
        ReferenceEngine(model, PREPROCESSING)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
