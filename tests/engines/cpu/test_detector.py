"""A detector's answer is one string of bits, and what cannot run is refused by name. No torch."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.bundle import Bundle, write_bundle
from engines.core import Glance, Output
from engines.cpu import _native
from engines.cpu.detector import CpuDetector
from engines.cpu.loading import ISA_VARIABLE
from engines.detection.letterbox import detections_of
from engines.errors import BundleError, EngineError, InvalidInput
from engines.registry import load_engine
from tests.engines.cpu import processes
from tests.engines.cpu.alone import PATIENCE_S, run_alone
from tests.engines.cpu.cases import bundle as classifier
from tests.engines.cpu.cases import pictures
from tests.engines.cpu.detectors import (
    FITTING,
    KERNELS,
    MASKED,
    PLAIN,
    SMALL,
    WIDE,
    bundle,
    full,
    load,
    random_weights,
    same,
)

ROOT = Path(__file__).parents[3]
SIZE = 96
IMAGES = pictures(3, SIZE)
POINTS = [full(SIZE)] * 3

kernels = pytest.mark.parametrize(("precision", "isa"), KERNELS)


def assert_same(one: Output, other: Output) -> None:
    assert [same(one, i, other, i) for i in range(len(one.macs))] == [True] * len(other.macs)


# Exactness


@kernels
@pytest.mark.parametrize("threads", [2, 3])
def test_neither_threads_nor_neighbours_change_a_bit(
    precision: str, isa: str, threads: int
) -> None:
    source = bundle(scale=FITTING)
    with (
        load(source, isa=isa, precision=precision) as one,
        load(source, isa=isa, precision=precision, threads=threads) as many,
    ):
        alone = [one.infer(IMAGES[i : i + 1], POINTS[:1]) for i in range(3)]
        together = many.infer(IMAGES[[2, 0, 1, 0]], [full(SIZE)] * 4)
    for place, i in enumerate([2, 0, 1, 0]):
        assert same(together, place, alone[i], 0), f"image {i} at place {place}"
    assert len({a.arrays["boxes"].tobytes() for a in alone}) == 3


@kernels
def test_scratch_memory_is_never_read_before_it_is_written(precision: str, isa: str) -> None:
    """Poisoned and fresh memory give the same bits, whatever ran before and is active."""
    source = bundle(scale=FITTING)
    active = np.random.default_rng(0).random((3, 24**2 + 12**2 + 6**2 + 3**2)) < 0.4
    answers = []
    for poison in (True, False):
        with load(source, isa=isa, precision=precision, poison=poison, threads=2) as engine:
            engine.infer(pictures(2, 160), [full(160)] * 2)
            engine.infer(IMAGES, POINTS)
            answers.append(engine.infer(IMAGES, POINTS, active=active, tell_places=True))
            engine.infer(pictures(1, 32), [full(32)])
            answers.append(engine.infer(IMAGES, POINTS, tell_places=True))
    assert_same(answers[0], answers[2])
    assert_same(answers[1], answers[3])
    for one, other in ((0, 2), (1, 3)):
        wanted, found = (answers[i].arrays["places"].tobytes() for i in (one, other))
        assert wanted == found


def test_everything_active_is_the_same_as_no_mask() -> None:
    everything = np.ones((3, 24**2 + 12**2 + 6**2 + 3**2), np.bool_)
    with load(bundle()) as engine:
        assert_same(engine.infer(IMAGES, POINTS), engine.infer(IMAGES, POINTS, active=everything))


def test_an_answer_has_the_promised_shapes() -> None:
    with load(bundle()) as engine:
        found = engine.infer(IMAGES, POINTS)
    most = int(found.arrays["counts"].max())
    assert {name: (array.dtype, array.shape) for name, array in found.arrays.items()} == {
        "counts": (np.dtype(np.int64), (3,)),
        "boxes": (np.dtype(np.float32), (3, most, 4)),
        "scores": (np.dtype(np.float32), (3, most)),
        "labels": (np.dtype(np.int64), (3, most)),
        "masks": (np.dtype(np.float32), (3, most, 28, 28)),
        "decisions": (np.dtype(np.bool_), (3, 0)),
    }
    assert set(np.unique(found.arrays["labels"].astype(np.int64))) == {0, 1, 2}
    assert found.durations_s.keys() == {"prepare", "network"}
    assert found.parts_s is not None
    assert found.parts_s.shape == (len(WIDE.blocks) + 5,)
    np.testing.assert_allclose(found.parts_s.sum(), found.durations_s["network"], atol=1e-9)
    assert found.activation.shape == (3, 0)
    moved = detections_of(found, 0, SIZE, width=2 * SIZE, height=SIZE)
    assert moved.masks is not None


def test_boxes_alone_have_no_masks() -> None:
    with load(bundle(SMALL, PLAIN)) as engine:
        assert "masks" not in engine.infer(IMAGES, POINTS).arrays


# Refusals


def _refused(engine: CpuDetector, says: str, **changes: Any) -> None:
    call = {"images": IMAGES, "points": POINTS, **changes}
    with pytest.raises(InvalidInput, match=says):
        engine.infer(**call)


def test_calls_that_do_not_fit() -> None:
    glancing = full(SIZE).model_copy(update={"glance": Glance(image_size=64, confidence=0.5)})
    places = 24**2 + 12**2 + 6**2 + 3**2
    with load(bundle(), threads=2) as engine:
        wanted = engine.infer(IMAGES, POINTS)
        _refused(engine, "uint8 array", images=IMAGES.astype(np.float32))
        _refused(engine, "3 images need as many points", points=POINTS[:1])
        _refused(engine, "contiguous", images=IMAGES[:, ::-1])
        _refused(engine, "2 thresholds, this network has 0 maskers", points=[full(SIZE, 2)] * 3)
        _refused(engine, "does not glance", points=[glancing] * 3)
        for size in (40, 33, 1):
            _refused(
                engine, f"multiples of 32, got {size}", images=pictures(1, size),
                points=[full(size)],
            )  # fmt: skip
        for shape in ((3, places - 1), (2, places), (places,)):
            _refused(engine, rf"must have shape \(3, {places}\)", active=np.ones(shape, np.bool_))
        assert_same(engine.infer(IMAGES, POINTS), wanted)
    with pytest.raises(EngineError, match="closed"):
        engine.infer(IMAGES, POINTS)
    engine.close()


def test_an_unknown_precision_lists_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="'fp64'; there are: fp32, bf16, int8"):
        CpuDetector(bundle(), precision="fp64")


def test_bf16_needs_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA_VARIABLE, "avx2")
    with pytest.raises(EngineError, match="bf16 needs a CPU with AMX"):
        CpuDetector(bundle(), precision="bf16")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dense.fpn.inner_blocks.2.0.bias": None}, r"missing: dense\.fpn\.inner_blocks\.2\.0"),
        ({"dense.body.conv1.weight": None}, r"missing: dense\.body\.conv1\.weight"),
        ({"dense.body.fc.weight": np.zeros(1, np.float32)}, r"unexpected: dense\.body\.fc"),
        (
            {"instances.mask_predictor.conv5_mask.weight": np.zeros((24, 12, 3, 3), np.float32)},
            r"wrong shape: instances\.mask_predictor\.conv5_mask\.weight \(24, 12, 3, 3\)",
        ),
        (
            {"dense.head.regression_head.bbox_ctrness.bias": np.zeros(1, np.int32)},
            r"wrong type: dense\.head\.regression_head\.bbox_ctrness\.bias",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(change: dict[str, Any], says: str) -> None:
    weights = {**random_weights(WIDE, MASKED), **change}
    given = {name: value for name, value in weights.items() if value is not None}
    with pytest.raises(BundleError, match=says):
        CpuDetector(bundle(weights=given))


def test_networks_that_it_does_not_run() -> None:
    with pytest.raises(BundleError, match="finds no objects: its task is classification"):
        CpuDetector(classifier())
    with pytest.raises(InvalidInput, match="threads must be 1 to 1024, got 0"):
        CpuDetector(bundle(), threads=0)


def test_weights_that_are_no_numbers_crash_nothing() -> None:
    """Whatever comes of them: boxes and regions are computed from it."""
    rng = np.random.default_rng(0)
    for bad in (np.nan, np.inf, -np.inf, 3e38):
        for name in ("dense.head.regression_head.bbox_reg.bias", "dense.body.conv1.bias"):
            weights = random_weights(WIDE, MASKED)
            value = np.array(weights[name], np.float32)
            value[rng.integers(len(value))] = bad
            with load(bundle(weights={**weights, name: value}), poison=False) as engine:
                engine.infer(IMAGES, POINTS)


def test_memory_that_there_is_not_is_an_error_and_no_crash() -> None:
    assert run_alone(processes.memory_runs_out_for_a_detector) == ""


# Its life


def test_it_may_be_called_from_several_threads() -> None:
    with load(bundle(), threads=2) as engine, ThreadPoolExecutor(4) as pool:
        wanted = [engine.infer(IMAGES[i : i + 1], POINTS[:1]) for i in range(3)]
        asked = [i % 3 for i in range(24)]
        found = list(pool.map(lambda i: engine.infer(IMAGES[i : i + 1], POINTS[:1]), asked))
    assert all(same(one, 0, wanted[i], 0) for one, i in zip(found, asked, strict=True))


def test_closing_lets_a_call_finish() -> None:
    engine = load(bundle(), threads=2)
    begun = threading.Event()

    def work() -> str:
        while True:
            try:
                engine.infer(IMAGES, POINTS)
                begun.set()
            except EngineError as error:
                return str(error)

    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(work)
        assert begun.wait(PATIENCE_S)
        engine.close()
    assert "closed" in worker.result()


def test_a_fork_is_refused_by_name() -> None:
    assert run_alone(processes.fork_of_a_detector) == ""


def test_torch_is_not_imported(tmp_path: Path) -> None:
    """Neither to load the bundle of a detector nor to find objects, whatever engine is default."""
    path = tmp_path / "things.laud"
    source = bundle()
    write_bundle(path, source.manifest, source.weights)
    code = """
import sys
sys.modules["torch"] = sys.modules["torchvision"] = None
import numpy as np
from engines.bundle import read_bundle
from engines.registry import load_engine
bundle = read_bundle(sys.argv[1])
images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
with load_engine(bundle, threads=1) as engine:
    assert engine.name == "cpu"
    assert engine.infer(images, [bundle.manifest.points[0].point]).arrays["counts"][0] > 0
assert not [name for name in sys.modules if name.startswith(("torch.", "engines.reference"))]
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_registry_takes_it() -> None:
    with load_engine(bundle(), threads=1, precision="fp32") as engine:
        assert isinstance(engine, CpuDetector)
    with pytest.raises(BundleError, match="has no scales for int8"):
        load_engine(bundle(), precision="int8")


# The compiled module by itself


def arguments(source: Bundle, n: int = 2) -> dict[str, Any]:
    """Of a call that is right."""
    blocks = len(WIDE.blocks)
    places = 16**2 + 8**2 + 4**2 + 2**2
    return {
        "images": pictures(n, 64),
        "thresholds": np.empty((n, 0), np.float32),
        "caps": np.empty((n, 0), np.int64),
        "decisions": np.empty((n, 0), np.uint8),
        "level_decisions": np.empty((n, 0), np.uint8),
        "active": np.ones((n, places), np.uint8),
        "counts": np.empty(n, np.int64),
        "boxes": np.empty((n, 500, 4), np.float32),
        "scores": np.empty((n, 500), np.float32),
        "labels": np.empty((n, 500), np.int64),
        "masks": np.empty((n, 500, 28, 28), np.float32),
        "places": np.empty((n, places, len(source.manifest.labels) + 5), np.float32),
        "active_units": np.empty((n, 0), np.int64),
        "pixels": np.empty((n, blocks, 2), np.int64),
        "decided": np.empty((n, 0), np.uint8),
        "level_units": np.empty((n, 0), np.int64),
        "level_decided": np.empty((n, 0), np.uint8),
        "level_pixels": np.empty((n, 4), np.int64),
        "parts_s": np.empty(blocks + 5, np.float64),
    }


def test_wrong_arrays_are_an_error_and_no_wrong_access() -> None:
    source = bundle()
    with load(source) as engine:
        native = engine._native
        native.infer(**arguments(source))
        for name, array in arguments(source).items():
            for wrong in (array[:1], np.repeat(array, 2, axis=0), array[:0]):
                with pytest.raises(ValueError, match=r"does not fit"):
                    native.infer(**{**arguments(source), name: wrong})
            if array.ndim > 1 and array.shape[1]:
                with pytest.raises(ValueError, match=r"does not fit|no multiples|not half"):
                    native.infer(**{**arguments(source), name: array[:, :-1].copy()})
            for other in (np.zeros(array.shape, np.int16), array[..., None], array.tolist()):
                with pytest.raises(TypeError):
                    native.infer(**{**arguments(source), name: other})
        with pytest.raises(ValueError, match="does not fit"):
            native.infer(**{**arguments(source), "masks": None})
        unasked = ("decisions", "level_decisions", "active", "places", "decided", "level_decided")
        native.infer(**{**arguments(source), **dict.fromkeys(unasked)})


def test_wrong_boxes_are_an_error() -> None:
    boxes, labels = np.zeros((3, 4), np.float32), np.zeros(3, np.int64)
    kept = np.empty(3, np.int64)
    assert _native.suppress(boxes, labels, 0.5, kept) == 3
    with pytest.raises(ValueError, match="a label each"):
        _native.suppress(boxes, labels[:2], 0.5, kept)
    with pytest.raises(ValueError, match="a label each"):
        _native.suppress(boxes[:, :3].copy(), labels, 0.5, kept)
    features, region = np.zeros((4, 4, 2), np.float32), np.empty((3, 3, 2), np.float32)
    _native.pool_region(features, boxes[0], 1.0, region)
    for wrong in (
        (features[:0], region),
        (features, region[:2]),
        (features[..., :1].copy(), region),
        (features, np.empty((33, 33, 2), np.float32)),
    ):
        with pytest.raises(ValueError, match="does not fit"):
            _native.pool_region(wrong[0], boxes[0], 1.0, wrong[1])
