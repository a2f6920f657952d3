"""A RegNet from weights to a bundle to answers of the reference engine; other engines refuse it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.architecture import MapSize, RegNet, RegNetStage
from engines.bundle import Bundle, Preprocessing, WeightsFile, read_bundle, write_bundle
from engines.core import OperatingPoint, Paradigm, UInt8Array, static_point
from engines.errors import BundleError
from engines.macs import static_macs
from engines.models import LaudRegNet, fold_batchnorm
from engines.registry import load_engine
from tests.engines.bundles import manifest
from tests.engines.models.networks import oracle_of, random_network

pytestmark = pytest.mark.torch

SIZE = 37
NET = RegNet(
    stem_width=8,
    stages=(
        RegNetStage(
            depth=2,
            width=8,
            group_width=2,
            paradigm=Paradigm.SPATIAL_CHANNEL,
            spatial_granularity=3,
            channel_granularity=2,
        ),
        RegNetStage(
            depth=1, width=12, group_width=4, paradigm=Paradigm.CHANNEL, channel_granularity=4
        ),
        RegNetStage(depth=1, width=12, group_width=4, paradigm=Paradigm.LAYER),
    ),
    num_classes=5,
    folded=True,
)
MASKERS = len(NET.maskers)
PREPROCESSING = Preprocessing(
    crop_ratio=0.9, channel_order="rgb", mean=(120.0, 110.0, 100.0), std=(58.0, 57.0, 56.0)
)


def point(name: str, threshold: float | None, cap: int | None = None) -> OperatingPoint:
    """The same wish for every masker."""
    return OperatingPoint(
        name=name, image_size=SIZE, thresholds=(threshold,) * MASKERS, caps=(cap,) * MASKERS
    )


FULL = static_point("full", SIZE, MASKERS)
POINTS = (FULL, point("some", 0.0), point("capped", -0.5, 2), point("none", 1e30))


@pytest.fixture(scope="module")
def model() -> LaudRegNet:
    plain = NET.model_copy(update={"folded": False})
    return fold_batchnorm(random_network(plain, seed=5)).float()


@pytest.fixture(scope="module")
def images() -> UInt8Array:
    return np.random.default_rng(4).integers(0, 256, (len(POINTS), SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, model: LaudRegNet) -> Bundle:
    return stored(tmp_path_factory.mktemp("regnet") / "n.laud", model)


def stored(path: Path, model: LaudRegNet) -> Bundle:
    """Written and read again."""
    count = len(model.net.maskers)
    content = manifest(
        architecture=model.net,
        labels=[f"label {i}" for i in range(model.net.num_classes)],
        points=[
            {
                "point": static_point("full", SIZE, count),
                "activation": (1.0,) * count,
                "macs": 1.0,
                "macs_ratio": 1.0,
            }
        ],
        preprocessing=PREPROCESSING,
        weights=WeightsFile(dtype="fp32", sha256="0" * 64),
    )
    write_bundle(path, content, {k: v.numpy() for k, v in model.state_dict().items()})
    return read_bundle(path)


def test_the_architecture_comes_back(bundle: Bundle) -> None:
    assert bundle.manifest.architecture == NET


def test_answers_are_those_of_an_oracle_that_computes_only_what_is_active(
    bundle: Bundle, model: LaudRegNet, images: UInt8Array
) -> None:
    with load_engine(bundle, kind="reference") as engine:
        output = engine.infer(images, POINTS)
    mean, std = np.array(PREPROCESSING.mean), np.array(PREPROCESSING.std)
    for n, chosen in enumerate(POINTS):
        x = ((images[n] - mean) / std).transpose(2, 0, 1)
        answer = oracle_of(model).answer(x, chosen.thresholds, chosen.caps)
        powers = np.exp(answer.logits - answer.logits.max())
        np.testing.assert_allclose(
            output.arrays["probabilities"][n], powers / powers.sum(), atol=1e-5
        )
        assert output.macs[n] == pytest.approx(answer.total_macs, abs=0.5)
        rates = [1.0 if d is None else len(d.active) / len(d.logits) for d in answer.decisions]
        np.testing.assert_allclose(output.activation[n], rates, rtol=1e-6)
    assert output.macs[0] == static_macs(NET, MapSize(SIZE, SIZE))
    assert len(set(output.macs.tolist())) == len(POINTS), "these points do not differ"


def test_neighbours_and_place_change_no_bit(bundle: Bundle, images: UInt8Array) -> None:
    with load_engine(bundle, kind="reference") as engine:
        together = engine.infer(images[::-1], POINTS[::-1])
        for i, chosen in enumerate(POINTS):
            alone = engine.infer(images[i : i + 1], [chosen])
            place = len(POINTS) - 1 - i
            for name in ("probabilities", "decisions"):
                assert together.arrays[name][place].tobytes() == alone.arrays[name][0].tobytes()
            assert together.macs[place] == alone.macs[0]


@pytest.mark.parametrize(
    "changes",
    [{"folded": False}, {"squeeze_over": "map", "official_layout": True, "folded": False}],
    ids=["batch norm", "official"],
)
def test_other_layouts_can_be_bundled_too(
    tmp_path: Path, images: UInt8Array, changes: dict[str, Any]
) -> None:
    other = random_network(NET.model_copy(update=changes)).float()
    with load_engine(stored(tmp_path / "n.laud", other), kind="reference") as engine:
        found = engine.infer(images[:1], [POINTS[1]]).arrays["probabilities"]
    assert np.isfinite(found).all()
    assert found.sum() == pytest.approx(1.0, abs=1e-5)


def test_weights_that_do_not_fit_are_named(tmp_path: Path, model: LaudRegNet) -> None:
    other = LaudRegNet(NET.model_copy(update={"squeeze_ratio": 0.5}))
    path = tmp_path / "n.laud"
    other.net = NET
    with pytest.raises(BundleError, match=r"wrong shape: layer1\.0\.se\.fc1\.weight \(4, 8, 1, 1"):
        load_engine(stored(path, other), kind="reference")


# Who does not run it


def _measure(bundle: Bundle) -> object:
    from engines.latency.measuring import MeasurePlan, measure

    return measure(bundle, MeasurePlan())


def _int8(bundle: Bundle) -> object:
    from engines.cpu.weights import native_tensors

    return native_tensors(bundle, "int8")


def _fp32(bundle: Bundle) -> object:
    return load_engine(bundle, kind="cpu")


def _openvino(bundle: Bundle) -> object:
    pytest.importorskip("openvino")
    from engines.bench.openvino_graph import static_network

    return static_network(bundle, SIZE)


@pytest.mark.parametrize("use", [_fp32, _int8, _measure, _openvino], ids=lambda use: use.__name__)
def test_what_knows_only_resnets_says_what_does_run_it(
    bundle: Bundle, use: Callable[[Bundle], object]
) -> None:
    with pytest.raises(BundleError, match=r"'resnet', .* 'regnet': the reference engine runs it"):
        use(bundle)


def test_latency_prediction_says_so_too(bundle: Bundle) -> None:
    from engines.latency.answers import answer
    from engines.latency.questions import Question

    with pytest.raises(BundleError, match=r"latency prediction takes .*: the reference engine"):
        answer(Question(str(bundle.path), device="v100"))


def test_int8_scales_are_refused(bundle: Bundle) -> None:
    scales = {
        "stem": 1.0,
        "trunk": (1.0,) * 3,
        "blocks": ({"inner1": 1.0, "inner2": 1.0},) * 4,
        "features": 1.0,
        "points": (),
        "calibration": {"images": 1, "split": "t", "method": "max", "agreement": (1.0,)},
    }
    with pytest.raises(ValueError, match="int8 arithmetic is defined for family 'resnet'"):
        manifest(
            **{
                name: getattr(bundle.manifest, name)
                for name in ("architecture", "labels", "points", "preprocessing")
            },
            quantisation=scales,
        )
