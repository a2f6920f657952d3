"""`laud bench plan`: masks at the rates, the judgement, and one real run of small networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.architecture import MapSize
from engines.bench.masks import MaskKind
from engines.bench.plan_check import PlanQuestion, check_plan, over_draws
from engines.bench.plan_masks import design_masks
from engines.bench.plan_report import Measured, PlanReport, judge
from engines.bench.timing import Spread
from engines.core import Paradigm
from engines.errors import ConfigError, InvalidInput, LatencyError
from engines.latency.candidates import LAYER, STATIC, Candidate, SkipRates, network_with, shape_with
from engines.latency.design_costs import rates_of
from engines.latency.host import write_host
from engines.latency.identity import DeviceIdentity, this_device
from engines.macs import executed_macs, static_macs
from tests.engines.latency.hosts import costs, host

S4 = Candidate(paradigm=Paradigm.SPATIAL, patch=4)
G16 = Candidate(paradigm=Paradigm.CHANNEL, group=16)
IMAGE = MapSize(96, 96)
RATES = SkipRates(spatial=0.4, channel=0.5, layer=0.3)
DRAWS, BATCH = 8, 3


def masks(choice: list[Candidate], kind: MaskKind = MaskKind.RANDOM, seed: int = 0) -> Any:
    return design_masks("resnet50", choice, IMAGE, RATES, kind, batch=BATCH, draws=DRAWS, seed=seed)


@pytest.mark.parametrize("kind", [MaskKind.RANDOM, MaskKind.CLUSTERED])
def test_every_stage_is_active_at_the_rate_of_its_paradigm(kind: MaskKind) -> None:
    choice = [S4, G16, LAYER, STATIC]
    net = network_with("resnet50", choice)
    drawn = masks(choice, kind)
    assert len(drawn) == DRAWS
    of_stage: dict[int, list[float]] = {}
    for i, masker in enumerate(net.maskers):
        decisions = np.stack([draw[i] for draw in drawn])
        assert decisions.shape[:2] == (DRAWS, BATCH)
        of_stage.setdefault(net.blocks[masker.block].stage, []).append(decisions.mean())
    assert of_stage.keys() == {0, 1, 2}
    # 36 patches, 8 groups and 6 blocks: no rate fits exactly, but the mean over images does.
    assert np.mean(of_stage[0]) == pytest.approx(0.4, abs=0.005)
    assert np.mean(of_stage[1]) == pytest.approx(0.5, abs=0.005)
    assert np.mean(of_stage[2]) == pytest.approx(0.3, abs=0.01)


def test_images_differ_by_one_unit_at_most() -> None:
    for draw in masks([STATIC, STATIC, LAYER, STATIC]):
        executed = np.sum(draw, axis=0).ravel()
        assert set(executed) <= {1, 2}, "0.3 of 6 blocks is 1.8"


def test_networks_that_share_a_candidate_run_that_stage_on_the_same_masks() -> None:
    one, other = masks([S4, G16, LAYER, LAYER]), masks([LAYER, G16, STATIC, STATIC])
    for a, b in zip(one, other, strict=True):
        for in_one, in_other in zip(a[3:7], b[3:7], strict=True):
            np.testing.assert_array_equal(in_one, in_other)
    assert any(
        (a[3] != b[3]).any()
        for a, b in zip(one, masks([S4, G16, LAYER, LAYER], seed=1), strict=True)
    )


def test_a_network_is_judged_by_the_mean_over_draws_of_medians() -> None:
    # Two runs in a row are of one draw: draw 0, draw 1, draw 0 again.
    assert over_draws([1.0, 1.0, 5.0, 5.0, 1.0, 100.0], draws=2) == 3.0


def measured(ms: float, predicted_ms: float, stages: Any = (STATIC,)) -> Measured:
    run = Spread(median_ms=ms, min_ms=ms, lower_quartile_ms=ms, upper_quartile_ms=ms)
    return Measured(
        role="alternative",
        stages=stages,
        predicted_ms=predicted_ms,
        measured_ms=ms,
        macs_ratio=0.5,
        run=run,
    )


@pytest.mark.parametrize(
    ("fastest_ms", "ratio", "within"), [(11.0, 1.0, True), (9.6, 1.042, True), (9.5, 1.053, False)]
)
def test_a_choice_is_good_within_5_percent_of_the_fastest(
    fastest_ms: float, ratio: float, within: bool
) -> None:
    found = judge([measured(10.0, 9.0), measured(fastest_ms, 9.5, (LAYER,)), measured(20.0, 22.0)])
    assert found.chosen_ms == 10.0
    assert found.fastest_ms == min(10.0, fastest_ms)
    assert found.chosen_over_fastest == pytest.approx(ratio, abs=0.001)
    assert found.within_5_percent is within
    assert found.fastest == ((STATIC,) if fastest_ms > 10 else (LAYER,))
    assert found.rank_correlation == pytest.approx(1.0 if fastest_ms > 10 else 0.5)
    assert found.median_error == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"masks": "trained"}, "--masks must be one of random, clustered"),
        ({"precision": "fp8"}, "--precision must be one of"),
        ({"batch": 0}, "--batch must be at least 1"),
        ({"threads": 0}, "--threads must be at least 1"),
        ({"repeats": 3}, "--repeats must be at least 4"),
        ({"seed": -1}, "--seed must be at least 0"),
    ],
)
def test_what_no_machine_can_measure_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        PlanQuestion("resnet50", **options)


@pytest.fixture
def here(tmp_path: Path) -> str:
    """A description of this machine, with made-up numbers."""
    path = tmp_path / "here.json"
    device = this_device()
    precisions = dict.fromkeys(device.isa, costs())
    write_host(path, host().model_copy(update={"device": device, "precisions": precisions}))
    return str(path)


def test_a_plan_for_another_machine_is_not_measured_here(tmp_path: Path) -> None:
    path = tmp_path / "there.json"
    there = DeviceIdentity(cpu="Abacus 3000", cpus=2, isa={"fp32": "beads", "int8": "beads"})
    write_host(path, host(device=there))
    with pytest.raises(LatencyError, match="was measured on abacus-3000-2cpu-beads, this is"):
        check_plan(PlanQuestion("resnet50", str(path)))
    with pytest.raises(InvalidInput, match="a plan for 'v100' cannot be measured here"):
        check_plan(PlanQuestion("resnet50", "v100"))


def test_missing_pictures_are_told_before_the_machine_is_measured(tmp_path: Path) -> None:
    question = PlanQuestion("resnet50", "this", images=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no such folder"):
        check_plan(question)


def checked(here: str, **options: Any) -> PlanReport:
    # Few candidates and small pictures: the plan is the same, it is only built faster.
    small: dict[str, Any] = {"size": 32, "patches": (4,), "groups": (32,), "repeats": 4}
    return check_plan(PlanQuestion("resnet50", here, **{**small, **options}))


def test_the_choice_and_its_rivals_are_built_and_measured(here: str) -> None:
    said: list[str] = []
    small: dict[str, Any] = {"size": 32, "patches": (4,), "groups": (32,), "repeats": 4}
    # Rates that so few units can have.
    rates = SkipRates(spatial=0.5, channel=0.5, layer=0.75)
    found = check_plan(PlanQuestion("resnet50", here, rates=rates, **small), said.append)
    networks = found.networks
    assert (networks[0].role, networks[-1].role) == ("chosen", "static")
    assert networks[0].stages == found.design.chosen.stages
    assert [each.stages for each in networks if each.role == "alternative"] == [
        each.stages for each in found.design.alternatives
    ]
    assert len({each.stages for each in networks}) == len(networks) >= 12
    assert networks[-1].macs_ratio == pytest.approx(1.0)
    for each in networks[:-1]:
        assert 0.0 < each.run.min_ms <= each.measured_ms
        assert each.predicted_ms > 0.0
        assert 0.3 < each.macs_ratio < 1.0
    # What ran is what was predicted for: masks that were drawn have the rates of the design.
    choice, image = networks[0].stages, MapSize(32, 32)
    net, shape = network_with("resnet50", choice), shape_with("resnet50", choice, image)
    expected = executed_macs(net, image, rates_of(shape, choice, rates, clustered=False))
    assert networks[0].macs_ratio == pytest.approx(expected / static_macs(net, image), abs=0.02)
    assert found.chosen_ms == networks[0].measured_ms
    assert found.fastest_ms == min(each.measured_ms for each in networks)
    assert (found.repeats, found.draws, found.masks) == (4, 2, "random")
    assert any(f"measuring 4 turns of {len(networks)} networks" in line for line in said)
    assert PlanReport.model_validate_json(found.model_dump_json()) == found


@pytest.mark.torch
def test_int8_networks_share_the_scales_of_the_static_one(here: str) -> None:
    pytest.importorskip("torch")
    found = checked(here, precision="int8", masks="clustered", batch=2)
    assert found.design.setting.precision == "int8"
    assert found.design.setting.clustered
    assert found.networks[0].measured_ms > 0.0
