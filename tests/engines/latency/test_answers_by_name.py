"""What `laud predict` answers for a network by name, on a GPU or on our engine; what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines.architecture import MapSize
from engines.bench.networks import architecture
from engines.core import Paradigm
from engines.errors import InvalidInput
from engines.latency import host_measuring
from engines.latency.answers import answer
from engines.latency.core import uniform_rates
from engines.latency.corrections import FIXED, PAPER, Corrections
from engines.latency.gpu import predict_gpu
from engines.latency.hardware import gpu
from engines.latency.questions import Question
from engines.latency.shapes import named_shape, uniform_shape_rates
from tests.engines.latency.cases import (
    ABACUS,
    MACS_PER_S,
    host,
    one,
)

# A network by name, on a GPU.


def test_without_a_rate_a_network_is_static() -> None:
    found = one("resnet50", device="v100")
    assert (found.point, found.rate, found.ratio) == (None, None, 1.0)
    assert found.ms == found.static_ms
    assert (found.network, found.size, found.batch) == ("resnet50", 224, 1)


def test_a_rate_alone_is_of_patches() -> None:
    found = one("resnet50", device="v100", rate=0.5, batch=128, patches=(4, 4, 2, 1))
    shape = named_shape("resnet50", Paradigm.SPATIAL, spatial_granularity=(4, 4, 2, 1))
    wanted = predict_gpu(shape, uniform_shape_rates(shape, 0.5), batch=128, device=gpu("v100"))
    assert found.ms == pytest.approx(wanted.total_s * 1e3)
    assert found == one(
        "resnet50", device="v100", rate=0.5, batch=128, patches=(4, 4, 2, 1), paradigm="spatial"
    )
    assert {part.masker for part in found.parts[1:-1]} <= {"fused", "unfused"}
    assert found.parts[0].masker is None, "the stem has none"


def test_parts_of_a_model_are_told_apart_and_add_up() -> None:
    found = one("resnet50", device="v100", rate=0.5, batch=8)
    assert sum(part.ms for part in found.parts) == pytest.approx(found.ms)
    for part in found.parts:
        assert part.compute_ms
        assert part.memory_ms


def test_a_mix_skips_patches_early_and_layers_late() -> None:
    found = one("resnet101", device="v100", paradigm="mix", rate=0.5)
    kinds = [Paradigm.SPATIAL] * 2 + [Paradigm.LAYER] * 2
    shape = named_shape("resnet101", kinds, spatial_granularity=(8, 4, 2, 1))
    wanted = predict_gpu(shape, uniform_shape_rates(shape, 0.5), batch=1, device=gpu("v100"))
    assert found.ms == pytest.approx(wanted.total_s * 1e3)


def test_channels_on_a_gpu_take_group_and_rate() -> None:
    options = {"device": "v100", "paradigm": "channel", "batch": 16}
    half = one("resnet50", rate=0.5, **options)
    assert half == one("resnet50", rate=0.5, group=2, **options)
    assert half.ms != one("resnet50", rate=0.5, group=32, **options).ms
    by_channel = one("resnet50", rate=1.0, channel_rate=0.5, **options)
    assert by_channel.ms == pytest.approx(half.ms)


def test_scattered_patches_read_more_on_a_gpu() -> None:
    options = {"device": "v100", "rate": 0.3, "batch": 64, "patches": (8, 7, 7, 7)}
    together, apart = (one("resnet50", scattered=s, **options).ms for s in (False, True))
    assert apart >= together


def test_paper_mode_is_the_published_model_with_its_constants() -> None:
    found = one("resnet101", device="v100", mode="paper", batch=128)
    shape = named_shape("resnet101")
    rates = uniform_shape_rates(shape, 1.0)
    wanted = predict_gpu(shape, rates, batch=128, device=gpu("v100", "paper"), corrections=PAPER)
    assert found.ms == pytest.approx(wanted.total_s * 1e3)
    assert found.ms_per_image == pytest.approx(1.677, rel=0.005), "as published"
    assert found.corrections == ()
    assert (found.parts[0].ms, found.parts[-1].ms) == (0.0, 0.0), "without stem and head"


def test_corrections_are_switched_one_by_one() -> None:
    found = one("resnet50", device="v100", corrections=("stem_and_head",), rate=0.5)
    assert found.corrections == ("stem_and_head",)
    shape = named_shape("resnet50", Paradigm.SPATIAL, spatial_granularity=(8, 4, 2, 1))
    wanted = predict_gpu(
        shape,
        uniform_shape_rates(shape, 0.5),
        batch=1,
        device=gpu("v100"),
        corrections=Corrections(stem_and_head=True),
    )
    assert found.ms == pytest.approx(wanted.total_s * 1e3)
    assert one("resnet50", device="v100", rate=0.5).corrections == FIXED.names


def test_a_network_that_only_gpus_run() -> None:
    assert one("regnet_y_400mf", device="tx2").ms > 0


# A network by name, on our engine.


def test_a_static_network_takes_its_multiplications(abacus: str) -> None:
    found = one("resnet50", device=abacus)
    assert found.ms == pytest.approx(4.09e3, rel=0.05), "4.09e9 of them"
    assert (found.ratio, found.model, found.threads) == (1.0, "native", 1)


@pytest.mark.parametrize("paradigm", ["spatial", "layer", "channel", "mix"])
def test_a_dynamic_network_takes_less(abacus: str, paradigm: str) -> None:
    found = one("resnet50", device=abacus, paradigm=paradigm, rate=0.4)
    assert 0.2 < found.ratio < 0.8
    assert found.static_ms == pytest.approx(one("resnet50", device=abacus).ms, rel=0.01)


def test_a_layer_network_runs_as_many_blocks_as_the_rate_says(abacus: str) -> None:
    net = architecture("resnet50", "layer", patches=(8, 4, 2, 1), group=64, mix="layer")
    rates = uniform_rates(net, 0.5, MapSize(224, 224))
    assert {rate.spatial for rate in rates} == {0.5}
    whole, half = (
        one("resnet50", device=abacus, paradigm="layer", rate=rate).ms for rate in (1.0, 0.5)
    )
    none = one("resnet50", device=abacus, paradigm="layer", rate=0.0).ms
    assert half == pytest.approx((whole + none) / 2, rel=0.02)


def test_batch_threads_and_precision_reach_the_model(abacus: str) -> None:
    alone = one("resnet50", device=abacus)
    both = one("resnet50", device=abacus, batch=4, threads=2, precision="int8")
    assert (both.batch, both.threads, both.precision) == (4, 2, "int8")
    assert both.ms == pytest.approx(2 * alone.ms, rel=0.1)


def test_without_a_device_it_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_measuring, "measure_host", lambda say: host(macs_per_s=MACS_PER_S))
    told: list[str] = []
    (found,) = answer(Question("resnet50"), told.append)
    assert found.device == ABACUS.slug
    assert "laud measure device" in told[0]


# What is no question.


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever measures this machine fails the test."""

    def measured(say: object) -> None:
        raise AssertionError("this machine was measured")

    monkeypatch.setattr(host_measuring, "measure_host", measured)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"what": "resnet18"}, "'resnet18' is neither a bundle .* nor one of: resnet50, resnet101"),
        ({"what": "none.laud"}, "'none.laud' is neither a bundle"),
        ({"what": "regnet_y_800mf"}, "the native engine runs resnet50, resnet101"),
        ({"point": "full"}, "points and tables are of bundles"),
        ({"table": Path("t.json")}, "points and tables are of bundles"),
        ({"paradigm": "layer"}, "paradigm 'layer' needs a rate, such as --rate 0.5"),
        ({"paradigm": "static", "rate": 0.5}, "a static network has no rate; leave it out"),
        ({"rate": 0.5, "patches": (8, 4)}, "resnet50 takes 4 patch sizes"),
        ({"rate": 0.5, "paradigm": "channel", "group": 48}, "group of channels that divides 64"),
        ({"mode": "paper"}, "paper mode reproduces the published model of GPUs, not 'this'"),
        ({"mode": "best"}, "unknown mode 'best'"),
        ({"corrections": ("luck",)}, "unknown correction 'luck'"),
        ({"device": "b200"}, "unknown GPU 'b200'"),
        ({"device": "h100", "mode": "paper"}, "unknown GPU 'h100' in the paper's constants"),
        ({"device": "v100", "precision": "int8"}, "the model of GPUs is of fp32"),
        ({"device": "v100", "threads": 2}, "knows no threads"),
        ({"device": "v100", "rate": 0.5, "patches": (8, 4)}, "has 4 stages, got 2"),
        ({"device": "v100", "rate": 0.5, "channel_rate": 0.2}, "skips channels; leave the channel"),
        ({"device": "v100", "rate": 0.5, "paradigm": "channel", "group": 3}, "does not divide"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_anything_is_measured(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        answer(Question(**{"what": "resnet50", **options}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": 0}, "batch must be 1 to 65536, got 0"),
        ({"batch": 65537}, "batch must be 1 to 65536, got 65537"),
        ({"size": 0}, "size must be 1 to 4096, got 0"),
        ({"size": 4097}, "size must be 1 to 4096, got 4097"),
        ({"threads": 0}, "threads must be 1 to 1024, got 0"),
        ({"rate": 1.1}, "the rate must be 0 to 1, got 1.1"),
        ({"rate": float("nan")}, "the rate must be 0 to 1, got nan"),
        ({"rate": 0.5, "channel_rate": -0.1}, "the channel rate must be 0 to 1, got -0.1"),
        ({"channel_rate": 0.5}, "a channel rate goes with a rate"),
        ({"quantile": 0.0}, "the quantile must be between 0 and 1, got 0.0"),
        ({"quantile": 95.0}, "the quantile must be between 0 and 1, got 95.0"),
        ({"paradigm": "token"}, "unknown paradigm 'token'; there are: static, spatial, channel"),
        ({"point": "full", "rate": 0.5}, "give a point or a rate, not both"),
    ],
)
def test_what_makes_no_sense_whatever_is_asked_of(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Question("resnet50", **fields)


def test_patches_larger_than_the_map_are_legal() -> None:
    assert one("resnet50", device="v100", rate=0.5, patches=(56, 64, 128, 4096)).ms > 0


def test_patches_of_nothing_are_not() -> None:
    with pytest.raises(InvalidInput, match="granularity"):
        one("resnet50", device="v100", rate=0.5, patches=(0, 1, 1, 1))
