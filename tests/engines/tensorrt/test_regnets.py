"""RegNets as plans, on a scripted GPU, against the reference engine: it alone runs them besides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from engines.architecture import MapSize
from engines.bench.pictures import MadeUpPictures
from engines.bundle import Bundle, read_bundle, write_bundle
from engines.core import OperatingPoint, Paradigm, static_point
from engines.export.onnx.run import onnx_model
from engines.macs import BlockRates, executed_macs
from engines.tensorrt.counting import DecisionCounter
from engines.tensorrt.dense import dense_bundle
from engines.tensorrt.engine import TensorRtEngine
from engines.tensorrt.oracle import OnnxRuntime
from engines.tensorrt.plans import Bucket
from engines.tensorrt.verifying import measured, verify
from engines.tensorrt.ways import LabelsWay
from tests.engines.cpu.cases import pictures, varied_points
from tests.engines.cpu.comparing import reference_answer
from tests.engines.regnets import SIZE, bundle, regnet
from tests.engines.tensorrt.manifests import plan_manifest
from tests.engines.tensorrt.scripted import ScriptedGpu, ScriptedNetwork

pytestmark = pytest.mark.torch

BUCKETS = tuple(Bucket(image_size=SIZE, images=n, profile=i) for i, n in enumerate((1, 4)))


def engine_of(source: Bundle) -> TensorRtEngine:
    gpu = ScriptedGpu()
    onnx = onnx_model(source, "fp32").SerializeToString()
    network = ScriptedNetwork(gpu, onnx, [[(each.images, SIZE)] for each in BUCKETS])
    manifest = plan_manifest(bundle=source.hash, buckets=BUCKETS, precision="fp32")
    return TensorRtEngine(source, manifest, gpu, network)


def points_of(source: Bundle) -> Sequence[OperatingPoint]:
    """What asks everything, something, and nothing."""
    maskers = len(source.manifest.architecture.maskers)
    some: dict[str, Any] = {"name": "some", "image_size": SIZE, "caps": (None,) * maskers}
    thresholds = tuple(0.0 if i % 2 else None for i in range(maskers))
    return [
        *varied_points(maskers),
        OperatingPoint(thresholds=thresholds, **some),
        static_point("nothing", SIZE, maskers),
    ]


@pytest.mark.parametrize("over", ["active", "map"])
@pytest.mark.parametrize("paradigm", Paradigm)
def test_it_answers_and_counts_what_the_reference_does(paradigm: Paradigm, over: str) -> None:
    source = bundle(regnet(paradigm, squeeze_over=over))
    points = points_of(source)
    images = pictures(len(points))
    with engine_of(source) as engine:
        found = engine.infer(images, points)
    wanted = reference_answer(source, images, points)
    np.testing.assert_allclose(
        np.asarray(found.arrays["probabilities"], np.float64),
        np.asarray(wanted.arrays["probabilities"], np.float64),
        rtol=0,
        atol=1e-4,
    )
    if paradigm is not Paradigm.STATIC:
        np.testing.assert_array_equal(found.arrays["decisions"], wanted.arrays["decisions"])
    np.testing.assert_allclose(found.activation, wanted.activation, atol=1e-7)
    np.testing.assert_allclose(found.macs, wanted.macs, rtol=1e-9)


def test_groups_of_the_3x3_that_are_active_in_part_cost_their_pairs() -> None:
    """In the official layout a decision may cover a part of one: which plans have not, yet."""
    net = regnet(Paradigm.CHANNEL)
    thirds = tuple(
        stage.model_copy(update={"group_width": 3, "channel_granularity": 1})
        for stage in net.stages
    )
    net = net.model_copy(update={"stages": thirds, "official_layout": True})
    counter = DecisionCounter(net, SIZE)
    decisions = np.zeros((1, counter.num_units), np.bool_)
    decisions[:, ::3] = True
    (found,) = counter.counted(decisions, np.ones((1, len(net.maskers)))).macs
    rates = BlockRates(channel=1 / 3, pairs=1 / 9, channel_masker=1.0)
    wanted = executed_macs(net, MapSize(SIZE, SIZE), [rates] * len(net.blocks))
    assert found == pytest.approx(wanted)


def test_a_plan_is_verified_and_timed_beside_a_dense_one(tmp_path: Path) -> None:
    source = bundle(regnet(Paradigm.SPATIAL_CHANNEL))
    write_bundle(tmp_path / "regnet.laud", source.manifest, source.weights)
    source = read_bundle(tmp_path / "regnet.laud")
    (tmp_path / "net.onnx").write_bytes(onnx_model(source, "fp32").SerializeToString())
    oracle = OnnxRuntime(tmp_path / "net.onnx", source.manifest.architecture, threads=1)
    at = MadeUpPictures(0, 4).at
    plain = dense_bundle(source)
    assert not plain.manifest.architecture.maskers
    with engine_of(source) as engine, engine_of(replace(plain, hash=source.hash)) as dense:
        ways = [LabelsWay("blocks", engine.infer, BUCKETS, oracle)]
        assert verify(source, ways, at, print, precision="fp32").agrees
        timed = measured(source, ways, at, print, calls=1, dense=dense.infer)
    assert [(each.point, each.images) for each in timed] == [("full", 1), ("full", 4)]
    assert all(each.dense_s is not None for each in timed)
