"""The exported network in ONNX Runtime against the reference engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from hypothesis import given, settings
from hypothesis import strategies as st

from engines.architecture import ResNet
from engines.bundle import Bundle, read_bundle
from engines.core import OperatingPoint, Paradigm, UInt8Array, static_point
from engines.reference.engine import ReferenceEngine
from tests.engines.cpu.cases import (
    BGR,
    NET,
    RGB,
    bundle,
    net_of,
    networks,
    pictures,
    point,
    stage,
    varied_points,
)
from tests.engines.cpu.comparing import Wish, points_for, reference_answer
from tests.engines.demo import skipping_demo
from tests.engines.export.onnx.running import BundleNetwork
from tests.engines.int8 import bundle_of
from tests.engines.models.networks import exact_network

pytestmark = pytest.mark.torch

BOUND = 1e-4
HALF_BOUND = 2e-2
"""Of probabilities in fp16, on random networks of a handful of channels."""


def assert_equal(
    source: Bundle,
    network: BundleNetwork,
    images: UInt8Array,
    points: list[OperatingPoint],
    bound: float = BOUND,
) -> float:
    """Probabilities within the bound and the same decisions; returns the share of active units."""
    found = network.answer(images, points)
    wanted = reference_answer(source, images, points)
    np.testing.assert_allclose(
        found["probabilities"],
        wanted.arrays["probabilities"].astype(np.float64),
        rtol=0,
        atol=bound,
    )
    if source.manifest.architecture.maskers:
        np.testing.assert_array_equal(found["decisions"], wanted.arrays["decisions"])
    return float(wanted.activation.mean()) if wanted.activation.size else 1.0


@pytest.mark.parametrize("size", [33, 40, 17, 5, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stride_in_1x1": True},
        {"stem_pool": "trailing"},
        {"stem_pool": "trailing", "stride_in_1x1": True},
    ],
    ids=["plain", "stride in 1x1", "trailing pool", "both"],
)
def test_a_batch_that_mixes_points_of_every_paradigm(changes: dict[str, Any], size: int) -> None:
    """All and none active, caps, maskers that are not asked; maps that no patch divides."""
    source = bundle(net_of(**changes))
    rate = assert_equal(source, BundleNetwork(source), pictures(5, size), varied_points(size=size))
    assert 0.3 < rate < 0.7


@pytest.mark.parametrize("paradigm", Paradigm)
@pytest.mark.parametrize("preprocessing", [BGR, RGB], ids=["bgr", "rgb"])
def test_one_paradigm_alone(paradigm: Paradigm, preprocessing: Any) -> None:
    net = net_of(stage(paradigm, 6, depth=2, patch=3, group=2), stage(paradigm, 8, patch=2))
    source = bundle(net, preprocessing=preprocessing)
    points = varied_points(len(net.maskers))
    assert_equal(source, BundleNetwork(source), pictures(5), points)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(net=networks(), size=st.integers(3, 50), data=st.data())
def test_any_network_at_any_size(net: ResNet, size: int, data: st.DataObject) -> None:
    source = bundle(net, seed=size)
    images = pictures(data.draw(st.integers(1, 3)), size)
    wish = st.builds(
        Wish,
        st.sampled_from([None, 0.0, 0.3, 0.7, 1.0]),
        st.sampled_from([None, None, 0, 1, 3]),
    )
    asked = st.lists(wish, min_size=len(net.maskers), max_size=len(net.maskers))
    points = points_for(source, images, [data.draw(asked) for _ in images])
    assert_equal(source, BundleNetwork(source), images, points)


def test_ties_go_to_the_lower_index() -> None:
    """No sum is rounded in this network and its logits are few, so caps cut through equal ones."""
    model = exact_network(NET.model_copy(update={"stem_pool": "trailing"}), seed=5)
    weights = {name: value.float().numpy() for name, value in model.state_dict().items()}
    source = bundle_of(
        model.net, weights, None, RGB.model_copy(update={"mean": (0,) * 3, "std": (1.0,) * 3})
    )
    images = np.random.default_rng(3).integers(0, 3, (4, 33, 33, 3)).astype(np.uint8)
    maskers = len(NET.maskers)
    points = [point([None] * maskers, [cap] * maskers, name=f"cap-{cap}") for cap in (0, 1, 2, 5)]
    network = BundleNetwork(source)
    found = network.answer(images, points)["decisions"]
    with ReferenceEngine.from_bundle(source) as engine:
        wanted = engine.infer(images, points).arrays["decisions"]
    np.testing.assert_array_equal(found, wanted)
    assert 0 < found.mean() < 0.5


def test_half_precision_decides_alike_where_logits_differ_clearly() -> None:
    source = bundle()
    images = pictures(5)
    network = BundleNetwork(source, "fp16")
    assert_equal(source, network, images, varied_points(), HALF_BOUND)


def test_an_answer_does_not_depend_on_its_batch_mates() -> None:
    source = bundle()
    images, points = pictures(5), varied_points()
    network = BundleNetwork(source)
    together = network.answer(images, points)
    for i in range(len(images)):
        alone = network.answer(images[i : i + 1], points[i : i + 1])
        np.testing.assert_array_equal(together["decisions"][i], alone["decisions"][0])
        np.testing.assert_allclose(
            together["probabilities"][i], alone["probabilities"][0], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("source", [read_bundle("zoo:clothing"), skipping_demo()], ids=["as it "
                         "ships", "skipping"])  # fmt: skip
def test_every_point_of_the_demo(source: Bundle) -> None:
    """Looks of points that glance are points too; one file serves all image sizes."""
    network = BundleNetwork(source)
    half = BundleNetwork(source, "fp16")
    points = [record.point for record in source.manifest.points]
    looks = [look for p in points if p.glance for look in (p.first_look, p.second_look)]
    skipped = [False]
    for each in [p for p in points if p.glance is None] + looks:
        images = pictures(2, each.image_size)
        skipped.append(assert_equal(source, network, images, [each, each]) < 0.9)
        if each.asks_no_masker:
            assert_equal(source, half, images, [each, each], HALF_BOUND)
    asks = any(not each.asks_no_masker for each in points if each.glance is None)
    assert any(skipped) == asks, "what ships may skip nothing inside the network"


def test_a_static_network_takes_images_alone() -> None:
    net = net_of(stage(Paradigm.STATIC, 6, depth=2))
    source = bundle(net)
    network = BundleNetwork(source)
    assert network.outputs == ["probabilities"]
    assert_equal(source, network, pictures(2), [static_point("full", 33, 0)] * 2)
