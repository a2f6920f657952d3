"""Networks to judge predictors by: what their tables have not seen, and how they are run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engines.architecture import MapSize
from engines.bench.held_out import (
    Held,
    Runs,
    Subject,
    demo,
    has_new_rate,
    point_of,
    rates_before,
    run_case,
    synthetic,
)
from engines.bench.masks import MaskKind
from engines.bench.pictures import MadeUpPictures
from engines.bench.predictor import NETWORKS
from engines.core import Paradigm
from engines.latency.profiling import CROSSED_RATES, RATES
from engines.latency.rates import expected_rates
from tests.engines.cpu.cases import load, net_of, pictures, stage
from tests.engines.demo import SKIP, skipping_demo
from tests.engines.latency.cases import NET, of_net, rates

PICTURES = MadeUpPictures(0, 8)
DEMO = demo("int8", 1)
TINY = Subject(
    name="tiny",
    precision="fp32",
    threads=1,
    bundle=of_net(),
    sizes=(16, 32),
    batches=(1,),
    repeats=3,
    cases=(),
)


def subjects() -> list[Subject]:
    """All but those that need int8 scales, for which their fp32 twins stand."""
    made = [of for of in NETWORKS.values() if of is not None]
    return [
        demo("fp32", 1),
        DEMO,
        *(synthetic(name, how, "fp32", 1, PICTURES, lambda _: None) for name, how, _ in made),
    ]


SUBJECTS = subjects()


# What is held out.


def test_there_are_enough_networks_and_blocks() -> None:
    cases = sum(len(subject.cases) for subject in SUBJECTS)
    assert cases >= 20
    blocks = {(s.name, b) for s in SUBJECTS for b in s.bundle.manifest.architecture.blocks}
    assert len(blocks) >= 60


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_what_a_case_calls_held_out_its_table_has_not_seen(subject: Subject) -> None:
    for case in subject.cases:
        assert ("batch" in case.held_out) == (case.batch not in subject.batches)
        assert ("size" in case.held_out) == (case.size not in subject.sizes)
        assert case.held_out, "what a table is made from is no case"
        skips = case.point is None or not point_of(subject, case).skips_nothing
        assert ("masks" in case.held_out) == skips
        if "rate" in case.held_out:
            assert case.kind is not MaskKind.TRAINED
            assert not {case.spatial, case.channel} & {*RATES, *CROSSED_RATES}


def test_a_rate_is_new_where_some_masker_decides_on_another_number_of_units() -> None:
    """Of 16 patches 0, 2, 4, 6, 10, 13 and 16 are measured; of 4 groups, and of layers, all."""
    patches = net_of(stage(Paradigm.SPATIAL, 8, patch=2))
    assert patches.block_sizes(MapSize(32, 32))[0][1] == MapSize(8, 8)
    assert has_new_rate(patches, 32, 0.5, 1.0)
    assert not has_new_rate(patches, 32, 0.26, 1.0)
    groups = net_of(stage(Paradigm.CHANNEL, 8, group=2))
    assert not has_new_rate(groups, 32, 1.0, 0.33)
    assert not has_new_rate(net_of(stage(Paradigm.LAYER, 8)), 32, 0.33, 1.0)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_every_case_lies_within_what_the_table_spans(subject: Subject) -> None:
    for case in subject.cases:
        assert min(subject.sizes) <= case.size <= max(subject.sizes)
        assert min(subject.batches) <= case.batch <= max(subject.batches)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_masks_are_clustered_and_random_in_turns(subject: Subject) -> None:
    kinds = [case.kind for case in subject.cases if case.kind is not MaskKind.TRAINED]
    assert abs(kinds.count(MaskKind.CLUSTERED) - kinds.count(MaskKind.RANDOM)) <= 2
    assert {MaskKind.CLUSTERED, MaskKind.RANDOM} == set(kinds)


def test_the_demo_is_judged_at_every_point_by_its_own_masks() -> None:
    # What a glance takes depends on the picture: no prediction is held against it.
    points = [r.point for r in DEMO.bundle.manifest.at("int8").points if r.again is None]
    own = [case for case in DEMO.cases if case.point is not None]
    assert {case.point for case in own} == {point.name for point in points}
    assert all(case.size == point_of(DEMO, case).image_size for case in own)
    assert any(case.batch == 3 for case in own)
    assert DEMO.cases[0].point is not None, "which is how a bench tells a bundle with points"


# What is known before.


def test_a_forced_case_asks_every_masker() -> None:
    case = Held(32, 1, MaskKind.RANDOM, 0.3, 0.7)
    point = point_of(TINY, case)
    assert set(point.thresholds) == {0.0}
    found = rates_before(TINY, case)
    assert found.spatial.tolist() == [0.3, 0.3, 0.3, 1.0, 0.3, 1.0]
    assert found.channel.tolist() == [1.0, 1.0, 0.7, 0.7, 1.0, 1.0]
    together = rates_before(TINY, replace(case, kind=MaskKind.CLUSTERED))
    assert found.dilated[0] > together.dilated[0]


def test_a_point_has_the_rates_of_the_bundle() -> None:
    case = Held(32, 1, MaskKind.TRAINED, point="half")
    record = TINY.bundle.manifest.point("half")
    wanted = expected_rates(NET, record.point, record.activation)
    assert (rates_before(TINY, case).dilated == wanted.dilated).all()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_point_has_the_rates_of_its_precision(precision: str) -> None:
    subject = demo(precision, 1, skipping_demo())
    case = next(c for c in subject.cases if c.point == SKIP)
    record = subject.bundle.manifest.at(precision).point(SKIP)
    found = rates_before(subject, case)
    shares = [found.spatial[b] for b in range(7)] + [found.channel[b] for b in range(7, 16)]
    assert shares == list(record.activation)


# Running.


def test_the_first_call_is_not_timed() -> None:
    with load(TINY.bundle, poison=False) as engine:
        case = Held(32, 2, MaskKind.RANDOM, 0.5, 0.5)
        runs = run_case(engine, TINY, case, pictures(4, 32), 5, np.random.default_rng(0))
    assert len(runs.seconds) == len(runs.parts) == len(runs.rates) == 5
    assert all(seconds > 0.0 for seconds in runs.seconds)
    assert all(parts.shape == (len(NET.blocks) + 2,) for parts in runs.parts)
    assert all(sum(p) <= s for p, s in zip(runs.parts, runs.seconds, strict=True))


def test_forced_masks_have_the_rate_and_trained_ones_their_own() -> None:
    net = net_of(stage(Paradigm.SPATIAL, 8, patch=1))
    subject = replace(TINY, bundle=of_net(net))
    with load(subject.bundle, poison=False) as engine:
        forced, own = (
            run_case(engine, subject, case, pictures(4, 32), 3, np.random.default_rng(0))
            for case in (
                Held(32, 1, MaskKind.RANDOM, 0.25),
                Held(32, 1, MaskKind.TRAINED, point="full"),
            )
        )
    assert MapSize(8, 8) == net.block_sizes(MapSize(32, 32))[0][1]
    assert {run.spatial[0] for run in forced.rates} == {0.25}
    assert {run.spatial[0] for run in own.rates} == {1.0}
    assert forced.mean_rates.asked.all()
    assert not own.mean_rates.asked.any()


def test_runs_have_a_median_and_mean_rates() -> None:
    runs = Runs(seconds=[3.0, 1.0, 2.0], rates=[rates(0.2, 0.4, 1.0), rates(0.4, 0.8, 0.0)])
    assert runs.median_s == 2.0
    mean = runs.mean_rates
    assert mean.spatial == pytest.approx(0.3)
    assert mean.dilated == pytest.approx(0.6)
    assert mean.channel == pytest.approx(0.5)
