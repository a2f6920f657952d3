"""What calls take: measured within a budget, or taken from a table that fits."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from engines.bundle import Manifest, read_bundle, write_bundle
from engines.core import OperatingPoint, Output, UInt8Array
from engines.cpu.engine import CpuEngine
from engines.latency.identity import this_device
from engines.latency.tables import LatencyTable, write_table
from engines.tensorrt.latency import CallLatency, PlanTable, write_plan_table
from engines.tensorrt.plans import ENGINE, Bucket
from service.errors import SettingsError
from service.model import Model, load_models
from service.profile import DEFAULT_RATIOS, Profile, Tables, expected_of, profile_points
from service.settings import Settings
from tests.engines.latency.cases import glancing as glancing_bundle
from tests.engines.latency.cases import of_net, profile, spread, table
from tests.service.scripted import HASH, ScriptedEngine, glancing, manifest

Lines = list[MutableMapping[str, Any]]
COST_S = {"full": 0.010, "small": 0.004, "skip": 0.006}


class Stopwatch(ScriptedEngine):
    """An engine whose calls take scripted time on its own clock.

    surcharge_s: what a call takes longer, by its number. first_s: the first look of an image at a
    point that never looks again.
    """

    threads = 1

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.cost_s = dict(COST_S)
        self.surcharge_s: dict[int, float] = {}
        self.sizes: list[int] = []

    first_s = 0.0

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        assert all(point.glance is None or point.glance.confidence == 0.0 for point in points)
        self.now_s += 0.001 + sum(
            self.cost_s[point.name] if point.glance is None else self.first_s for point in points
        )
        self.now_s += self.surcharge_s.get(len(self.batches), 0.0)
        self.sizes.append(images.shape[1])
        return super().infer(images, points)


def no_rest(seconds: float) -> None:
    pytest.fail("only engines that can be forced are measured after a rest")


def measured(
    engine: Stopwatch,
    max_batch: int = 2,
    budget_s: float = 1.0,
    cpu_share: float = 1.0,
    of: Manifest | None = None,
) -> Profile:
    """cpu_share: of its time that the engine's only thread really ran."""
    served = Model(of or manifest(), HASH, engine)
    return profile_points(
        served,
        max_batch,
        budget_s,
        clock=lambda: engine.now_s,
        cpu_clock=lambda: engine.now_s * cpu_share,
        sleep=no_rest,
    )


# Measured.


def test_every_point_is_measured_at_every_batch() -> None:
    found = measured(Stopwatch())
    assert found.keys() == COST_S.keys()
    assert found["full"] == pytest.approx((0.011, 0.021))
    assert found["small"] == pytest.approx((0.005, 0.009))
    assert found.ratios == pytest.approx([1.0] * len(found.ratios))
    assert "measured" in found.source


def test_a_point_that_glances_is_measured_as_both_of_its_looks() -> None:
    engine = Stopwatch()
    # The first look costs as much as `small`; the second is `skip` without its glance.
    engine.first_s = 0.004
    found = measured(engine, max_batch=1, of=glancing(again=0.25))
    first_s, both_s = 0.001 + 0.004, 0.002 + 0.004 + 0.006
    assert found["skip"][0] == pytest.approx(0.75 * first_s + 0.25 * both_s)
    assert found.worst == {"skip": pytest.approx(both_s / found["skip"][0])}
    assert found["full"] == pytest.approx((0.011,))
    assert found.ratios == pytest.approx([1.0] * len(found.ratios))


@pytest.mark.parametrize("again", [0.0, 1.0])
def test_a_point_that_never_or_always_looks_again_has_no_surprise(again: float) -> None:
    engine = Stopwatch()
    engine.first_s = 0.004
    found = measured(engine, max_batch=1, of=glancing(again))
    assert found["skip"][0] == pytest.approx(0.012 if again else 0.005)
    assert found.worst["skip"] == pytest.approx(1.0 if again else 12 / 5)


def test_a_second_look_that_seems_to_take_less_than_nothing_takes_nothing() -> None:
    assert expected_of((2.0, 4.0), (1.9, 6.0), 0.5) == ((2.0, 5.0), 1.2)


def test_between_the_batches_that_are_measured_time_is_linear() -> None:
    engine = Stopwatch()
    found = measured(engine, max_batch=6)
    assert found["full"] == pytest.approx([0.001 + 0.010 * n for n in range(1, 7)])
    assert {len(batch) for batch in engine.batches} == {1, 2, 6}


def test_a_straggler_moves_no_median_but_the_spread() -> None:
    engine = Stopwatch()
    engine.surcharge_s = {40: 1.0, 41: 1.0}  # one of them is timed
    found = measured(engine, budget_s=10.0)
    assert found["full"] == pytest.approx((0.011, 0.021))
    assert found.ratios[len(found.ratios) // 2] == pytest.approx(1.0)
    assert found.ratios[-1] > 40.0
    assert list(found.ratios) == sorted(found.ratios)


def test_a_call_that_others_disturb_half_of_the_time_is_compared_undisturbed() -> None:
    """Both points were disturbed, one of them by chance more often."""
    engine = Stopwatch()
    engine.surcharge_s = dict.fromkeys(range(0, 1000, 3), 0.03)
    found = measured(engine, budget_s=10.0)
    assert found["full"][0] / found["small"][0] == pytest.approx(11 / 5)


def test_on_a_busy_machine_points_are_compared_by_their_work(logged: Lines) -> None:
    """Where every call waits for the processor, what it took says nothing about the point."""
    engine = Stopwatch()
    engine.cost_s = dict.fromkeys(COST_S, 0.230)
    found = measured(engine, cpu_share=0.5)
    work = {record.point.name: record.macs for record in manifest().points}
    for name, macs in work.items():
        expected = found["full"][0] * macs / work["full"]
        assert found[name][0] == pytest.approx(expected, rel=0.33)
    assert [line["event"] for line in logged if line["log_level"] == "warning"] == [
        "the machine is busy: points are compared by their work; laud measure takes a table"
    ]
    engine = Stopwatch()
    engine.cost_s = dict.fromkeys(COST_S, 0.230)
    quiet = measured(engine, cpu_share=0.95)
    assert quiet["full"][0] == pytest.approx(quiet["small"][0])


def test_the_budget_holds_once_everything_ran_a_few_times() -> None:
    engine = Stopwatch()
    measured(engine, budget_s=1.0)
    assert 1.0 <= engine.now_s <= 1.0 + 0.021
    # So little that a busy machine could not fill it: somewhat more is taken.
    engine = Stopwatch()
    measured(engine, budget_s=0.1)
    assert 0.1 < engine.now_s <= 0.3 + 0.021
    for budget_s in (0.0, 1e-9):
        engine = Stopwatch()
        found = measured(engine, budget_s=budget_s)
        assert found["full"] == pytest.approx((0.011, 0.021))
        # One call of each says nothing about how calls scatter.
        assert found.ratios[-1] == pytest.approx(DEFAULT_RATIOS[-1])


def test_a_quick_engine_is_not_measured_for_ever() -> None:
    engine = Stopwatch()
    measured(engine, budget_s=1e9)
    assert len(engine.batches) < 300


def test_a_call_follows_one_of_its_own_size() -> None:
    """Engines plan their buffers anew when the size changes, which traffic seldom makes them do."""
    engine = Stopwatch()
    measured(engine, budget_s=1.0)
    changes = sum(a != b for a, b in zip(engine.sizes, engine.sizes[1:], strict=False))
    assert changes < len(engine.sizes) / 4


def test_points_that_skip_are_measured_at_the_rates_that_the_bundle_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever their maskers would make of the pictures that happen to be at hand."""
    bundle = of_net()
    rates: dict[str, set[tuple[float, ...]]] = {}
    infer = CpuEngine.infer

    def watched(
        self: CpuEngine,
        images: UInt8Array,
        points: Sequence[OperatingPoint],
        decisions: Any = None,
    ) -> Output:
        output = infer(self, images, points, decisions)
        if decisions is not None:
            means = output.activation.mean(axis=0)
            rates.setdefault(points[0].name, set()).add(tuple(map(float, means)))
        return output

    monkeypatch.setattr(CpuEngine, "infer", watched)
    rested: list[float] = []
    with CpuEngine(bundle, threads=1) as engine:
        served = Model(bundle.manifest, bundle.hash, engine)
        found = profile_points(served, 2, 0.01, sleep=rested.append)
    assert rates.keys() == {"half"}
    for means in rates["half"]:
        # A block that is skipped whole is active or not: only in many images half of the time.
        assert all(rate in (0.5, 0.0, 1.0) for rate in means)
        assert means.count(0.5) >= len(means) - 1
    assert rested
    assert 1.0 <= found.rested_ratio <= 2.5


# From a table.


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A bundle that can be written beside."""
    made = of_net()
    path = tmp_path / "abacus.laud"
    write_bundle(path, made.manifest, made.weights)
    return path


def of_this_machine(of: Path, *, batches: Sequence[int] = (1, 2), **changes: Any) -> LatencyTable:
    return table(
        *(profile(size=s, batch=b, scale=b) for s in (16, 32) for b in batches),
        spreads=[changes.pop("spread", spread(0.9, 1.0, 1.5))],
        bundle=changes.pop("bundle", read_bundle(of).hash),
        device=this_device(),
        **changes,
    )


def settings_of(bundle: Path, *tables: Path) -> Settings:
    return Settings(bundles=(str(bundle),), threads=1, latency_tables=tables)


def profiled(settings: Settings, max_batch: int = 2) -> Profile:
    """As the executor does it."""
    tables = Tables.of(settings)
    (model,) = load_models(settings)
    with model.engine:
        found = profile_points(model, max_batch, 0.0, tables, sleep=lambda s: None)
    tables.require_used()
    return found


def test_a_table_of_this_machine_beside_the_bundle_is_used(served: Path, logged: Lines) -> None:
    found = of_this_machine(served)
    write_table(served / found.file_name, found)
    used = profiled(settings_of(served))
    assert used["full"] == pytest.approx((80.5, 161.0))
    assert used.ratios == (0.9, 1.0, 1.5)
    assert used.source == str(served / found.file_name)
    (line,) = [line for line in logged if line["event"] == "calls profiled"]
    assert line["source"] == used.source


def test_a_table_tells_both_looks_of_a_point_that_glances(tmp_path: Path) -> None:
    made = glancing_bundle(of_net(), again=0.25)
    path = tmp_path / "glancing.laud"
    write_bundle(path, made.manifest, made.weights)
    found = of_this_machine(path)
    write_table(path / found.file_name, found)
    used = profiled(settings_of(path))
    # Tables of both sizes say the same: the first look takes what `full` does.
    first_s, second_s = used["full"][0], used["half"][0]
    assert used["glance"][0] == pytest.approx(first_s + 0.25 * second_s)
    assert used["glance"][1] == pytest.approx(2 * used["glance"][0])
    assert used.worst == {"glance": pytest.approx((first_s + second_s) / used["glance"][0])}


def test_a_table_that_is_named_is_used_before_one_that_is_found(
    served: Path, tmp_path: Path
) -> None:
    found = of_this_machine(served)
    write_table(served / found.file_name, found)
    named = tmp_path / "mine.json"
    write_table(named, found)
    assert profiled(settings_of(served, named)).source == str(named)


@pytest.mark.parametrize(
    ("changes", "max_batch", "reason"),
    [
        ({"batches": (1,)}, 2, "batch 2 lies outside what was measured"),
        ({"spread": spread(1.0, 1.5, 2.0)}, 2, "while something else ran"),
        ({"bundle": "b" * 64}, 2, "not served"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_where_named_and_passed_over_where_found(
    served: Path,
    tmp_path: Path,
    logged: Lines,
    changes: dict[str, Any],
    max_batch: int,
    reason: str,
) -> None:
    found = of_this_machine(served, **changes)
    named = tmp_path / "mine.json"
    write_table(named, found)
    with pytest.raises(SettingsError, match=reason) as refused:
        profiled(settings_of(served, named), max_batch)
    assert str(named) in str(refused.value)
    write_table(served / found.file_name, found)
    assert "measured" in profiled(settings_of(served), max_batch).source


def test_a_file_that_is_no_table_is_refused_or_passed_over(
    served: Path, tmp_path: Path, logged: Lines
) -> None:
    named = tmp_path / "mine.json"
    with pytest.raises(SettingsError, match="latency_tables"):
        profiled(settings_of(served, named))
    (served / of_this_machine(served).file_name).write_text("{}")
    assert "measured" in profiled(settings_of(served)).source
    (line,) = [line for line in logged if line["event"] == "latency table ignored"]
    assert line["log_level"] == "warning"
    assert "is not a latency table" in line["reason"]


def test_a_table_of_a_plan_is_for_engines_that_say_which_form_they_take(tmp_path: Path) -> None:
    """Block kernels are no guess for one that has all the rest of such an engine."""

    class Alike(ScriptedEngine):
        name = ENGINE
        programs, device = ANY, "RTX 3090"

    calls = [
        CallLatency.of(point, Bucket(image_size=32, images=1, profile=0), [0.001], [], [], 2)
        for point in COST_S
    ]
    table_of_plan = PlanTable(
        bundle=HASH,
        program="cd" * 32,
        name="colours",
        library="tensorrt",
        library_version="10.16.1.11",
        precision="fp16",
        device=Alike.device,
        version="0.1.0",
        calls=tuple(calls),
    )
    path = tmp_path / "latency.json"
    write_plan_table(path, table_of_plan)
    with pytest.raises(SettingsError, match="does not say which form its calls take"):
        profile_points(Model(manifest(), HASH, Alike()), 1, tables=Tables([path]))
