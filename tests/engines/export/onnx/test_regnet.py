"""An exported RegNet in ONNX Runtime against the reference engine."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from engines.architecture import RegNet, RegNetStage
from engines.bundle import Bundle
from engines.core import Paradigm
from engines.errors import BundleError
from engines.export.onnx.run import onnx_model
from tests.engines.cpu.cases import pictures, varied_points
from tests.engines.cpu.comparing import reference_answer
from tests.engines.export.onnx.running import BundleNetwork
from tests.engines.regnets import bundle, regnet

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("over", ["active", "map"])
@pytest.mark.parametrize("paradigm", Paradigm)
def test_every_paradigm_and_both_means(paradigm: Paradigm, over: str) -> None:
    source = bundle(regnet(paradigm, squeeze_over=over))
    images, points = pictures(5), varied_points(len(source.manifest.architecture.maskers))
    found = BundleNetwork(source).answer(images, points)
    wanted = reference_answer(source, images, points)
    np.testing.assert_allclose(
        found["probabilities"], wanted.arrays["probabilities"].astype(np.float64), rtol=0, atol=1e-4
    )
    if paradigm is not Paradigm.STATIC:
        np.testing.assert_array_equal(found["decisions"], wanted.arrays["decisions"])


def test_half_precision() -> None:
    source = bundle(regnet(Paradigm.SPATIAL_CHANNEL))
    images, points = pictures(5), varied_points(8)
    single, half = (
        BundleNetwork(source, precision).answer(images, points) for precision in ("fp32", "fp16")
    )
    np.testing.assert_array_equal(half["decisions"], single["decisions"])
    np.testing.assert_allclose(half["probabilities"], single["probabilities"], atol=2e-2)


def test_only_the_last_convolution_of_a_block_skips() -> None:
    """The first two run everywhere: the 3x3 has groups, and a mean over its map behind it."""
    nodes = onnx_model(bundle(regnet(Paradigm.CHANNEL)), "fp32").graph.node
    kinds = {node.op_type for node in nodes if node.domain}
    assert kinds == {"partition", "channel_mask", "conv_from_groups_add"}


def test_without_squeeze_and_groups_everything_can_be_skipped() -> None:
    net = RegNet(
        stem_width=6,
        stages=(
            RegNetStage(depth=1, width=6, group_width=6, paradigm=Paradigm.CHANNEL,
                        channel_granularity=6),
        ),
        num_classes=3,
        squeeze_ratio=0.0,
    )  # fmt: skip
    source = bundle(net)
    kinds = {node.op_type for node in onnx_model(source, "fp32").graph.node if node.domain}
    assert "conv_within_groups" in kinds
    images, points = pictures(5), varied_points(1)
    found = BundleNetwork(source).answer(images, points)["probabilities"]
    wanted = reference_answer(source, images, points).arrays["probabilities"].astype(np.float64)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_the_official_layout_is_refused() -> None:
    source = bundle(regnet(Paradigm.STATIC))
    net = source.manifest.architecture.model_copy(update={"official_layout": True})
    content = source.manifest.model_copy(update={"architecture": net})
    with pytest.raises(BundleError, match="in our own layout"):
        onnx_model(Bundle(source.path, content, source.hash, source.weights), "fp32")
