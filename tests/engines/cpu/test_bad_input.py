"""Whatever cannot run is refused by name, and never crashes or harms the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engines.core import OperatingPoint, static_point
from engines.cpu import _native
from engines.cpu.engine import CpuEngine
from engines.cpu.loading import ISA_VARIABLE
from engines.errors import BundleError, EngineError, InvalidInput
from tests.engines.cpu import processes
from tests.engines.cpu.alone import run_alone
from tests.engines.cpu.cases import (
    BF16_ISAS,
    FP32_ISAS,
    MASKERS,
    NET,
    SIZE,
    bundle,
    load,
    net_of,
    pictures,
    same,
    varied_points,
)
from tests.engines.int8 import random_weights

IMAGES, POINTS = pictures(5), varied_points()
FULL = POINTS[0]
GREY = np.full((2, SIZE, SIZE, 3), 128, np.uint8)


def assert_unharmed(engine: CpuEngine) -> None:
    with load(bundle()) as fresh:
        wanted = fresh.infer(IMAGES, POINTS)
    found = engine.infer(IMAGES, POINTS)
    assert all(same(found, i, wanted, i) for i in range(5))


# Calls


@pytest.mark.parametrize(
    ("images", "points", "says"),
    [
        (GREY.astype(np.float32), [FULL] * 2, "uint8 array, got float32"),
        (GREY.astype(np.int8), [FULL] * 2, "uint8 array, got int8"),
        (GREY.tolist(), [FULL] * 2, "uint8 array, got list"),
        (None, [FULL], "uint8 array, got NoneType"),
        (GREY[0], [FULL], r"shape \(N, H, W, 3\)"),
        (GREY.transpose(0, 3, 1, 2), [FULL] * 2, r"got \(2, 3, 33, 33\)"),
        (GREY[..., :1], [FULL] * 2, r"got \(2, 33, 33, 1\)"),
        (GREY[:0], [], "at least 1"),
        (GREY[:, :0], [FULL] * 2, "at least 1"),
        (GREY, [FULL], "2 images need as many points, got 1"),
        (GREY, [FULL] * 3, "2 images need as many points, got 3"),
        (GREY, [FULL, static_point("alien", SIZE, 2)], "'alien' has 2 thresholds, .* 11 maskers"),
        (GREY, [FULL, static_point("small", 24, MASKERS)], "'small' takes images of 24x24"),
        (GREY[:, :24].copy(), [FULL] * 2, "'full' takes images of 33x33, got 24x33"),
        (np.repeat(GREY, 2, axis=2)[:, :, ::2], [FULL] * 2, "contiguous .* got strides"),
        (GREY[:, ::-1], [FULL] * 2, "contiguous"),
        (np.asfortranarray(GREY), [FULL] * 2, "contiguous"),
        (np.broadcast_to(GREY[:1], GREY.shape), [FULL] * 2, "contiguous"),
    ],
)
def test_images_and_points_that_do_not_fit(
    images: Any, points: list[OperatingPoint], says: str
) -> None:
    with load(bundle(), threads=2) as engine:
        with pytest.raises(InvalidInput, match=says):
            engine.infer(images, points)
        assert_unharmed(engine)


@pytest.mark.parametrize(
    ("masker", "wrong", "says"),
    [
        (None, None, "one array per masker: 11, got 10"),
        (2, np.ones((2, 8), bool), r"masker 2 must have shape \(2, 9\), got \(2, 8\)"),
        (0, np.ones((1, 9), bool), r"masker 0 must have shape \(2, 9\), got \(1, 9\)"),
        (10, np.ones(2, bool), r"masker 10 must have shape \(2, 1\), got \(2,\)"),
    ],
)
def test_decisions_that_do_not_fit(masker: int | None, wrong: Any, says: str) -> None:
    counts = [9, 9, 9, 9, 4, 9, 4, 4, 4, 1, 1]
    decisions = [np.ones((2, count), bool) for count in counts]
    if masker is None:
        decisions.pop()
    else:
        decisions[masker] = wrong
    with load(bundle(), threads=2) as engine:
        with pytest.raises(InvalidInput, match=says):
            engine.infer(GREY, [FULL] * 2, decisions)
        assert_unharmed(engine)


def test_a_closed_engine_says_so() -> None:
    engine = load(bundle(), threads=2)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(IMAGES, POINTS)


def test_memory_that_there_is_not_is_an_error_and_no_crash() -> None:
    assert run_alone(processes.memory_runs_out) == ""


# Loading


def test_networks_that_it_does_not_run() -> None:
    weights = random_weights(NET)
    for changes in ({"folded": False}, {"folded": False, "official_layout": True}):
        with pytest.raises(BundleError, match=r"int8\.laud.*folded batch norm.*our own layout"):
            CpuEngine(bundle(net_of(**changes), weights=weights))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layer2.0.conv2.weight": None}, r"missing: layer2\.0\.conv2\.weight"),
        ({"layer1.1.masker_spatial.std": None}, r"missing: layer1\.1\.masker_spatial\.std"),
        ({"layer9.weight": np.zeros(1, np.float32)}, r"unexpected: layer9\.weight"),
        ({"bn1.weight": np.zeros(1, np.float32)}, r"unexpected: bn1\.weight"),
        ({"fc.bias": np.zeros(9, np.float32)}, r"wrong shape: fc\.bias \(9,\) instead of \(7,\)"),
        ({"conv1.weight": np.zeros((12, 3, 7), np.float32)}, r"wrong shape: conv1\.weight"),
        ({"fc.bias": np.zeros((), np.float32)}, r"wrong shape: fc\.bias \(\)"),
        ({"fc.bias": np.zeros(7, np.int32)}, r"wrong type: fc\.bias .*int32"),
        ({"fc.bias": np.zeros(7, np.complex64)}, r"wrong type: fc\.bias .*complex64"),
    ],
)
@pytest.mark.parametrize("scaled", [False, True], ids=["fp32", "int8"])
def test_weights_that_do_not_fit_are_named(change: dict[str, Any], says: str, scaled: bool) -> None:
    weights = {**random_weights(NET), **change}
    given = {name: value for name, value in weights.items() if value is not None}
    with pytest.raises(BundleError, match=rf"int8\.laud': the weights do not fit .*{says}"):
        CpuEngine(bundle(weights=given, scaled=scaled))


def test_every_fault_is_listed_up_to_twenty() -> None:
    with pytest.raises(BundleError, match=r"missing: conv1\.bias;.* and \d\d more"):
        CpuEngine(bundle(weights={}))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.dtype(">f4")], ids=str)
def test_other_floats_are_converted(dtype: Any) -> None:
    """Also arrays in another order of bytes, or of strides."""
    weights = random_weights(NET)
    given = {name: np.asfortranarray(value.astype(dtype)) for name, value in weights.items()}
    wide = {name: value.astype(dtype).astype(np.float32) for name, value in weights.items()}
    with load(bundle(weights=given)) as one, load(bundle(weights=wide)) as other:
        found, wanted = one.infer(IMAGES, POINTS), other.infer(IMAGES, POINTS)
    assert all(same(found, i, wanted, i) for i in range(5))


@pytest.mark.parametrize("threads", [0, -1, -(10**9), 1025, 2**40])
def test_threads_there_cannot_be(threads: int) -> None:
    with pytest.raises(InvalidInput, match=f"threads must be 1 to 1024, got {threads}"):
        CpuEngine(bundle(), threads=threads)


def test_an_unknown_precision() -> None:
    with pytest.raises(InvalidInput, match="unknown precision 'fp64'; there are: fp32, bf16, int8"):
        CpuEngine(bundle(), precision="fp64")


# Instruction sets


@pytest.mark.parametrize("name", ["avx1024", "AVX2", "avx2 ", "fp32"])
def test_an_unknown_instruction_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(ISA_VARIABLE, name)
    with pytest.raises(EngineError, match=f"LAUD_CPU_ISA={name}: unknown .* there are: .*baseline"):
        CpuEngine(bundle(), precision="fp32")


@pytest.mark.parametrize("isa", FP32_ISAS)
def test_a_lower_instruction_set_is_taken(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv(ISA_VARIABLE, isa)
    with CpuEngine(bundle()) as engine:
        assert engine.isa == isa


def test_more_than_the_cpu_has_is_the_best_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA_VARIABLE, "amx")
    with CpuEngine(bundle(), precision="fp32") as engine:
        assert engine.isa == FP32_ISAS[0]
        assert_unharmed(engine)


def test_the_best_is_taken_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        monkeypatch.delenv(ISA_VARIABLE, raising=False)
        if value is not None:
            monkeypatch.setenv(ISA_VARIABLE, value)
        with CpuEngine(bundle()) as engine:
            assert (engine.isa, engine.precision, engine.name) == (FP32_ISAS[0], "fp32", "cpu")


def test_bf16_where_the_cpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or where a lower instruction set is asked for."""
    if BF16_ISAS:
        monkeypatch.setenv(ISA_VARIABLE, "avx2")
    with pytest.raises(EngineError, match="bf16 needs a CPU with AMX"):
        CpuEngine(bundle(), precision="bf16")
    assert _native.supported_isas("bf16") == list(BF16_ISAS)
