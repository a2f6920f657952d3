"""`laud measure BUNDLE` on a tiny network: the whole table, observed rates, progress, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.bundle import Bundle
from engines.core import Paradigm
from engines.cpu.threads import available_cpus
from engines.errors import BundleError, ConfigError, EngineError, InvalidInput
from engines.latency import measuring
from engines.latency.identity import this_device
from engines.latency.measuring import BATCHES, MeasurePlan, measure
from engines.latency.predictor import MeasuredPredictor
from engines.latency.profiling import timed
from engines.latency.tables import LatencyTable, check_table, read_table, write_table
from tests.engines.cpu.cases import NET, SIZE, bundle, net_of, pictures, stage
from tests.engines.latency.cases import glancing, of_net

BUNDLE = of_net(NET, size=SIZE)
QUICK = MeasurePlan(precisions=("fp32",), sizes=(16, SIZE), batches=(1, 2), threads=(1,), repeats=3)
QUICK = replace(QUICK, calls=20)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures."""
    folder = tmp_path_factory.mktemp("photos")
    for i, pixels in enumerate(pictures(8, 48)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def table(told: list[str], photos: Path) -> LatencyTable:
    """Measured with pictures."""
    return measure(BUNDLE, replace(QUICK, images=photos), told.append)


def test_a_table_is_of_this_bundle_and_this_device(table: LatencyTable) -> None:
    check_table(table, BUNDLE, this_device())
    assert (table.name, table.engine) == ("abacus", "cpu")


def test_every_way_that_was_asked_is_there(table: LatencyTable) -> None:
    ways = [(p.precision, p.threads, p.size, p.batch) for p in table.profiles]
    assert ways == [("fp32", 1, size, batch) for size in (16, SIZE) for batch in (1, 2)]


def test_the_spread_is_of_mixed_calls(table: LatencyTable) -> None:
    (spread,) = table.spreads
    assert (spread.precision, spread.threads, spread.calls) == ("fp32", 1, 20)
    assert len(spread.ratios) == 201
    assert list(spread.ratios) == sorted(spread.ratios)


def test_predictions_have_the_order_of_magnitude_of_the_engine(table: LatencyTable) -> None:
    predictor = MeasuredPredictor(table, BUNDLE, device=this_device(), precision="fp32", threads=1)
    assert 0.2 < predictor.ratio(0.5) < 5.0
    assert predictor.predict("full", quantile=0.95) >= predictor.predict("full", quantile=0.5)


def test_the_table_survives_the_disk(table: LatencyTable, tmp_path: Path) -> None:
    write_table(tmp_path / table.file_name, table)
    assert read_table(tmp_path / table.file_name) == table


def test_what_the_points_compute_is_observed_on_pictures(table: LatencyTable, photos: Path) -> None:
    assert table.pictures == f"8 of 8 pictures below {photos}"
    full, half, small = table.points
    assert [each.point for each in table.points] == ["full", "half", "small"]
    for whole in (full, small):
        for rates in (whole.spatial, whole.dilated, whole.channel):
            assert rates == (1.0,) * len(NET.blocks)
    # Logits fall on both sides of 0: what is skipped is the maskers' own decision.
    assert 0.0 < half.spatial[0] < 1.0
    assert 0.0 < min(half.channel[3:7]) < 1.0
    assert all(d >= s for s, d in zip(half.spatial, half.dilated, strict=True))


def test_progress_is_told_from_the_first_line_to_the_last(
    table: LatencyTable, told: list[str]
) -> None:
    # 32 pairs of rates, nothing masked, and a call that is not timed; at 2 sizes and 2 batches.
    lines = [line for line in told if "too noisy" not in line]
    assert f"3 rounds of {34 * 4} calls; pictures: 8 of 8" in lines[0]
    assert lines[-2].startswith("3 of 3 rounds (fp32, threads: 1), about 0 s left")
    assert "20 mixed calls for the quantiles" in lines[-1]


@pytest.mark.parametrize("observing", [True, False])
def test_the_spread_is_at_points_whose_rates_were_observed(
    photos: Path, monkeypatch: pytest.MonkeyPatch, observing: bool
) -> None:
    """As the maskers decide; without pictures masks are forced on every call."""
    called: list[tuple[str, bool]] = []

    def noted(engine: Any, images: Any, points: Any, decisions: Any) -> Any:
        called.append((points[0].name, decisions is None))
        return timed(engine, images, points, decisions)

    monkeypatch.setattr(measuring, "timed", noted)
    plan = replace(QUICK, sizes=(SIZE,), images=photos if observing else None, calls=40)
    measure(BUNDLE, plan)
    forced = [call for call in called if call == ("asking", False)]
    own = [name for name, decides in called if decides]
    assert len(called) == 40
    assert len(forced) == (0 if observing else 40)
    assert set(own) == ({"full", "half"} if observing else set()), "`small` was not measured"


def test_the_first_looks_of_points_are_measured_too(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def noted(engine: Any, images: Any, points: Any, decisions: Any) -> Any:
        asked.append([point.name for point in points])
        return timed(engine, images, points, decisions)

    monkeypatch.setattr(measuring, "timed", noted)
    source = glancing(BUNDLE)
    of = source.manifest.points[-1].point
    plan = replace(QUICK, sizes=None, batches=(1,), images=photos, calls=40)
    found = measure(source, plan)
    assert sorted({p.size for p in found.profiles}) == [SIZE // 2, SIZE]
    (shrink,) = found.shrinks
    assert (shrink.size, shrink.small) == (SIZE, SIZE // 2)
    assert shrink.seconds > 0.0
    assert ["glance"] in asked, "its calls are part of the spread"
    half, glance = (p for p in found.points if p.point in ("half", "glance"))
    assert min(glance.channel) > 0.0, "rates of images that are looked at again, not of all"
    predictor = MeasuredPredictor(found, source, device=this_device(), precision="fp32", threads=1)
    assert predictor.median(of.name) < predictor.known(of.name, 1.0)
    assert half.spatial != glance.spatial or half == glance.model_copy(update={"point": "half"})


def test_without_pictures_nothing_is_observed() -> None:
    found = measure(BUNDLE, replace(QUICK, sizes=(16,), batches=(1,)))
    assert found.pictures is None
    assert found.points == ()


def test_a_seed_decides_the_masks() -> None:
    plan = replace(QUICK, sizes=(16,), batches=(1,))

    def shares(seed: int) -> list[object]:
        found = measure(BUNDLE, replace(plan, seed=seed))
        return [table.clustered.dilated for p in found.profiles for table in p.blocks]

    assert shares(3) == shares(3)


def test_all_that_bundle_and_machine_have_is_measured_unless_it_is_said() -> None:
    net = net_of(stage(Paradigm.SPATIAL, 8))
    scaled = bundle(net, scaled=True)
    found = measure(scaled, MeasurePlan(repeats=3, calls=20))
    device = this_device()
    assert {p.precision for p in found.profiles} == set(device.isa)
    assert {p.threads for p in found.profiles} == {1, available_cpus()}
    assert {p.batch for p in found.profiles} == set(BATCHES)
    assert {p.size for p in found.profiles} == {32}, "that of the only point"
    assert len(found.spreads) == len(device.isa) * len({1, available_cpus()})


def test_int8_is_not_measured_where_the_bundle_has_no_scales() -> None:
    plan = replace(QUICK, precisions=None, sizes=(16,), batches=(1,))
    assert "int8" not in {p.precision for p in measure(BUNDLE, plan).profiles}


def test_a_network_that_skips_nothing_is_measured_too() -> None:
    source = bundle(net_of(stage(Paradigm.STATIC, 8)))
    found = measure(source, replace(QUICK, sizes=(16,), batches=(1,)))
    predictor = MeasuredPredictor(found, source, device=this_device(), precision="fp32", threads=1)
    assert predictor.predict("full", size=16) > 0.0


def test_the_largest_batch_needs_no_more_pictures_than_there_are() -> None:
    tiny = replace(QUICK, sizes=(8,), batches=(40,))
    assert measure(BUNDLE, tiny).profiles[0].batch == 40, "32 are made up"


# What cannot be measured.


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"precisions": ("fp64",)}, "unknown precision 'fp64'; there are: fp32, bf16, int8"),
        ({"precisions": ("fp32", "fp32")}, "every precision is to be given once"),
        ({"precisions": ()}, "every precision is to be given once"),
        ({"sizes": (0,)}, "a size is 1 to 4096, got 0"),
        ({"sizes": (4097,)}, "a size is 1 to 4096, got 4097"),
        ({"sizes": (32, 32)}, "every size is to be given once"),
        ({"batches": (0,)}, "a batch is 1 to 256, got 0"),
        ({"batches": (257,)}, "a batch is 1 to 256, got 257"),
        ({"batches": ()}, "every batch is to be given once"),
        ({"threads": (0,)}, "a number of threads is 1 to 1024, got 0"),
        ({"threads": (1025,)}, "a number of threads is 1 to 1024, got 1025"),
        ({"repeats": 2}, "at least 3 repeats make a median, got 2"),
        ({"calls": 19}, "at least 20 calls are needed for a spread, got 19"),
    ],
)
def test_what_makes_no_plan_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        MeasurePlan(**fields)


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever begins to measure fails the test."""

    def measured(*arguments: object, **options: object) -> None:
        raise AssertionError("something was measured")

    monkeypatch.setattr(measuring, "profiles_of", measured)


@pytest.mark.usefixtures("nothing_runs")
def test_a_precision_that_the_bundle_lacks_is_refused_before_another_is_measured() -> None:
    with pytest.raises(BundleError, match="int8"):
        measure(BUNDLE, replace(QUICK, precisions=("fp32", "int8")))


@pytest.mark.usefixtures("nothing_runs")
def test_a_precision_that_the_machine_lacks_is_refused_before_another_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAUD_CPU_ISA", "avx2")
    with pytest.raises(EngineError, match="bf16"):
        measure(BUNDLE, replace(QUICK, precisions=("fp32", "bf16")))


@pytest.mark.usefixtures("nothing_runs")
def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        measure(BUNDLE, replace(QUICK, images=tmp_path / "none"))
    with pytest.raises(ConfigError, match="0 jpg, jpeg, png or webp files are too few"):
        measure(BUNDLE, replace(QUICK, images=tmp_path))


@pytest.mark.usefixtures("nothing_runs")
def test_a_bundle_that_the_engine_cannot_run_is_refused() -> None:
    official = BUNDLE.manifest.architecture.model_copy(update={"official_layout": True})
    manifest = BUNDLE.manifest.model_copy(update={"architecture": official})
    with pytest.raises(BundleError, match="folded batch norm"):
        measure(Bundle(BUNDLE.path, manifest, BUNDLE.hash, BUNDLE.weights), QUICK)


def test_observed_rates_are_means_over_pictures(table: LatencyTable) -> None:
    """A share of a layer that eight pictures run is a number of eighths."""
    half = table.points[1]
    eighths = np.array(half.spatial[7:]) * 8
    assert eighths == pytest.approx(np.round(eighths))
