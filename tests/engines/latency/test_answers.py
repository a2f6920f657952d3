"""What `laud predict` answers for a bundle: by its table, or by a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines.architecture import MapSize, only_resnet
from engines.bundle import read_bundle, write_bundle
from engines.core import Paradigm
from engines.errors import BundleError, InvalidInput, LatencyError
from engines.latency.answers import answer, find_table
from engines.latency.corrections import CORRECTION_NAMES
from engines.latency.gpu import predict_gpu
from engines.latency.hardware import gpu
from engines.latency.identity import this_device
from engines.latency.native import predict_native
from engines.latency.questions import Question
from engines.latency.rates import block_rates, expected_rates
from engines.latency.shapes import shape_of
from engines.latency.tables import write_table
from engines.macs import static_macs
from tests.engines.cpu.cases import bundle, net_of, stage
from tests.engines.latency.cases import (
    ABACUS,
    BLOCKS,
    MACS_PER_S,
    NET,
    host,
    linear,
    of_net,
    one,
    table,
)

STATIC_S = 5.5 + sum(10.0 + i for i in range(BLOCKS))
"""Of a measured call with nothing asked, at 32 pixels; at 16 it is half of that."""


# A bundle, by its table.


def test_every_point_is_answered_at_its_own_size(measured: str) -> None:
    full, half, small = answer(Question(measured, threads=1))
    assert [each.point for each in (full, half, small)] == ["full", "half", "small"]
    assert [each.size for each in (full, half, small)] == [32, 32, 16]
    assert full.ms == pytest.approx(STATIC_S * 1e3)
    assert small.ms == pytest.approx(STATIC_S / 2 * 1e3)
    assert (full.ratio, small.ratio) == pytest.approx((1.0, 1.0))
    assert half.ratio == pytest.approx(half.ms / full.ms)


def test_a_table_answers_with_who_measured_it_and_how(measured: str) -> None:
    found = one(measured, point="full", threads=1)
    assert (found.network, found.model, found.precision) == ("abacus", "measured", "fp32")
    assert (found.device, found.threads, found.batch) == (this_device().slug, 1, 1)
    assert (found.rate, found.channel_rate, found.corrections) == (None, None, None)


def test_the_quantile_comes_with_the_median(measured: str) -> None:
    found = one(measured, point="full", threads=1)
    assert found.quantile == 0.95
    assert found.quantile_ms == pytest.approx(2.8 * STATIC_S * 1e3)
    other = one(measured, point="full", threads=1, quantile=0.25)
    assert (other.quantile, other.ms) == (0.25, found.ms)
    assert other.quantile_ms == pytest.approx(0.75 * STATIC_S * 1e3)


def test_a_point_can_be_asked_at_another_size_and_batch(measured: str) -> None:
    found = one(measured, point="full", threads=1, size=16, batch=2)
    assert (found.size, found.batch) == (16, 2)
    assert found.ms == pytest.approx(STATIC_S * 1e3)
    assert found.ms_per_image == pytest.approx(STATIC_S / 2 * 1e3)


def test_a_rate_holds_for_every_masker(measured: str) -> None:
    found = one(measured, rate=0.0, threads=1)
    assert (found.point, found.rate) == (None, 0.0)
    patches, both, channels = 2 * linear(0, 0, 1), linear(0, 0, 0), linear(1, 1, 0)
    layer, static = linear(0, 0, 1), 15.0
    blocks = patches + both + channels + layer + static
    assert found.ms == pytest.approx((3.0 + blocks + 2.0 + 0.5) * 1e3)
    assert found.static_ms == pytest.approx(STATIC_S * 1e3)
    assert found.ratio == pytest.approx(found.ms / found.static_ms)


def test_channels_may_have_a_rate_of_their_own(measured: str) -> None:
    found, less = (one(measured, rate=0.5, channel_rate=c, threads=1) for c in (None, 0.0))
    assert less.channel_rate == 0.0
    parts = {a.name: (a.ms, b.ms) for a, b in zip(found.parts, less.parts, strict=True)}
    changed = {name for name, (a, b) in parts.items() if a != pytest.approx(b)}
    assert changed == {"layer2.0", "layer3.0"}, "those that skip channels"


def test_scattered_patches_cost_more(measured: str) -> None:
    together, apart = (one(measured, rate=0.5, scattered=s, threads=1).ms for s in (False, True))
    assert apart > together


def test_parts_and_overhead_are_the_median(measured: str) -> None:
    found = one(measured, point="half", threads=1)
    assert [part.name for part in found.parts] == [
        "stem",
        *(block.name for block in NET.blocks),
        "head",
        "call",
    ]
    assert found.parts[-1].ms == pytest.approx(500.0)
    assert sum(part.ms for part in found.parts) == pytest.approx(found.ms)
    assert {part.masker for part in found.parts} == {None}


def test_unless_said_as_many_threads_as_were_measured(measured: str) -> None:
    found = one(measured, point="full")
    assert found.threads == 2
    assert found.ms == pytest.approx(STATIC_S / 2 * 1e3)
    assert found.quantile_ms == found.ms, "nobody measured how that spreads"


def test_a_table_elsewhere_is_taken_by_name(measured: str, tmp_path: Path) -> None:
    (there,) = Path(measured).glob("latency-*.json")
    elsewhere = there.rename(tmp_path / "t.json")
    assert one(measured, point="full", table=elsewhere, threads=1).ms > 0
    with pytest.raises(LatencyError, match="has not been measured on this machine"):
        one(measured, point="full")


def test_a_bundle_that_was_not_measured_says_what_can_be_done(tiny: str) -> None:
    with pytest.raises(LatencyError) as refusal:
        answer(Question(tiny))
    for way in ("abacus.laud' has not been measured", "laud measure", "--table", "--device this"):
        assert way in str(refusal.value)


def test_a_table_of_another_device_is_refused(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    write_table(path, table(bundle=read_bundle(tiny).hash, device=ABACUS))
    with pytest.raises(LatencyError, match="was taken on Abacus 3000"):
        answer(Question(tiny, table=path))


def test_a_table_of_another_bundle_is_refused(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    write_table(path, table(device=this_device()))
    with pytest.raises(LatencyError, match=r"is of bundle abacus \(aaaaaaaaaaaa\)"):
        answer(Question(tiny, table=path))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"threads": 3}, LatencyError, "nothing for fp32 on 3 threads"),
        ({"precision": "bf16"}, LatencyError, "nothing for bf16 on 1 thread;"),
        ({"precision": "int8"}, BundleError, "has no int8 scales"),
        ({"point": "fast"}, InvalidInput, "has no operating point 'fast'; it has: full, half"),
        ({"size": 33}, InvalidInput, "image size 33 lies outside what was measured, 32 to 32"),
        ({"batch": 3, "threads": 1}, InvalidInput, "batch 3 lies outside"),
        ({"paradigm": "layer"}, InvalidInput, "a bundle has its paradigm already"),
        ({"patches": (8, 4, 2, 1)}, InvalidInput, "a bundle has its patches already"),
        ({"group": 8}, InvalidInput, "a bundle has its group already"),
        ({"mode": "paper"}, InvalidInput, "mode and corrections are of the model of GPUs"),
        ({"corrections": ("halo",)}, InvalidInput, "mode and corrections are of the model"),
        ({"mode": "right"}, InvalidInput, "unknown mode 'right'"),
    ],
)
def test_what_a_table_cannot_answer_is_refused(
    measured: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        answer(Question(measured, **options))


def test_a_table_and_a_device_exclude_each_other(measured: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"a latency table or a device .*, not both"):
        answer(Question(measured, table=tmp_path / "t.json", device="v100"))


def test_channels_have_no_rate_where_none_are_skipped(tmp_path: Path, abacus: str) -> None:
    source = bundle(net_of(stage(Paradigm.SPATIAL, 8)))
    write_bundle(tmp_path / "s.laud", source.manifest, source.weights)
    with pytest.raises(InvalidInput, match="no block of this network skips channels"):
        one(str(tmp_path / "s.laud"), device=abacus, rate=0.5, channel_rate=0.2)


def test_the_table_of_this_device_is_found_in_the_bundle(measured: str) -> None:
    assert find_table(read_bundle(measured), None).device == this_device()


# A bundle, by the model of a GPU.


def test_a_bundle_on_a_gpu_is_the_model_of_its_shape(tiny: str) -> None:
    found = answer(Question(tiny, device="v100", batch=4))
    half = found[1]
    net = only_resnet(of_net().manifest.architecture, "a test")
    record = of_net().manifest.points[1]
    rates = block_rates(expected_rates(net, record.point, record.activation), net)
    wanted = predict_gpu(shape_of(net, MapSize(32, 32)), rates, batch=4, device=gpu("v100"))
    assert half.ms == pytest.approx(wanted.total_s * 1e3)
    assert half.ms_per_image == pytest.approx(half.ms / 4)
    assert (half.model, half.device, half.precision, half.threads) == ("gpu", "v100", "fp32", None)
    assert [each.point for each in found] == ["full", "half", "small"]
    assert (half.quantile, half.quantile_ms) == (None, None), "a model has no spread"
    assert half.corrections == CORRECTION_NAMES
    assert found[0].ratio == pytest.approx(1.0)


def test_a_rate_of_a_bundle_on_a_gpu(tiny: str) -> None:
    none, every = (one(tiny, device="v100", rate=rate, batch=64) for rate in (0.0, 1.0))
    assert none.ms < every.ms
    assert (none.point, none.rate, none.size) == (None, 0.0, 32)
    assert none.static_ms == every.static_ms


# A bundle, by the model of our engine.


def test_a_bundle_on_a_machine_measured_before(tiny: str, abacus: str) -> None:
    full, half, small = answer(Question(tiny, device=abacus))
    macs = static_macs(NET, MapSize(32, 32))
    assert full.ms == pytest.approx(macs / MACS_PER_S * 1e3, rel=0.1)
    assert half.ms < full.ms
    assert small.ms < full.ms
    assert (full.model, full.precision, full.threads) == ("native", "fp32", 1)
    assert (full.device, full.quantile_ms, full.corrections) == (ABACUS.slug, None, None)


def test_a_point_at_another_size_needs_the_pixels_of_that_size(tiny: str, abacus: str) -> None:
    found = one(tiny, device=abacus, point="half", size=64)
    record = of_net().manifest.points[1]
    point = record.point.model_copy(update={"image_size": 64})
    rates = block_rates(expected_rates(NET, point, record.activation), NET)
    wanted = predict_native(
        NET, MapSize(64, 64), rates, batch=1, threads=1, precision="fp32", host=host()
    )
    assert found.size == 64
    assert found.ms == pytest.approx(wanted.total_s * 1e3)


def test_int8_is_what_a_bundle_with_scales_runs_in(tmp_path: Path, abacus: str) -> None:
    source = bundle(net_of(stage(Paradigm.SPATIAL, 8)), scaled=True)
    path = str(tmp_path / "scaled.laud")
    write_bundle(Path(path), source.manifest, source.weights)
    assert one(path, device=abacus).precision == "int8"
    assert one(path, device=abacus, precision="fp32").precision == "fp32"
    assert one(path, device="v100").precision == "fp32", "the model of GPUs knows no other"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precision": "bf16"}, InvalidInput, "was not measured in 'bf16'"),
        ({"precision": "int8"}, BundleError, "has no int8 scales"),
        ({"threads": 5}, InvalidInput, "threads must be 1 to 4, the CPUs of 'Abacus 3000', got 5"),
        ({"corrections": ("halo",)}, InvalidInput, "corrections are of the model of GPUs"),
        ({"mode": "paper"}, InvalidInput, "paper mode reproduces the published model of GPUs"),
        ({"point": "fast"}, InvalidInput, "has no operating point 'fast'"),
    ],
)
def test_what_the_model_of_our_engine_cannot_answer_is_refused(
    tiny: str, abacus: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        answer(Question(tiny, device=abacus, **options))


def test_a_bundle_is_told_by_its_manifest_or_its_prefix(tiny: str, tmp_path: Path) -> None:
    assert Question(tiny).is_bundle
    assert Question("zoo:clothing").is_bundle
    assert not Question("resnet50").is_bundle
    assert not Question(str(tmp_path)).is_bundle
