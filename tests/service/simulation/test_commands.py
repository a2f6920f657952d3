"""`laud simulate` and `laud whatif`: what they print, what they refuse, what they can be given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines.errors import InvalidInput
from service.simulation.core import Machine
from service.simulation.files import profile_of, read_profile
from tests.service.commands import Laud, assert_one_line
from tests.service.policy.waiting import dial
from tests.service.simulation.machines import machine

MACHINE = machine(
    (0.001, 0.002, 0.004), max_batch=2, ratios=(0.9, 1.0, 1.2), rested_ratio=1.25, overhead_s=0.001
)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """Three points of 1, 2 and 4 ms."""
    path = tmp_path / "profile.json"
    path.write_text(profile_of("somewhere", MACHINE).model_dump_json(), encoding="utf-8")
    return path


def edited(profile: Path, **changes: Any) -> Path:
    content = json.loads(profile.read_text(encoding="utf-8")) | changes
    profile.write_text(json.dumps(content), encoding="utf-8")
    return profile


SMALL = ("--loads", 2, "--cv2", 1, "--seeds", 2, "--requests", 200)


def test_a_profile_is_read_as_it_was_written(profile: Path) -> None:
    found = read_profile(profile)
    assert found.name == "somewhere"
    assert found.machine == MACHINE


def test_a_point_of_a_profile_may_glance(tmp_path: Path) -> None:
    of = Machine(dial(again=(1.0, 0.25, 0.0), worst=(1.0, 2.5, 3.0)), (1.0,))
    path = tmp_path / "profile.json"
    path.write_text(profile_of("glancing", of).model_dump_json(), encoding="utf-8")
    assert read_profile(path).machine == of


def test_a_profile_that_knows_nothing_of_glances_is_one(profile: Path) -> None:
    points = json.loads(profile.read_text(encoding="utf-8"))["points"]
    older = [{k: v for k, v in one.items() if k not in ("again", "worst")} for one in points]
    assert read_profile(edited(profile, points=older)).machine == MACHINE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"again": 1.5}, "again: Input should be less than or equal to 1"),
        ({"worst": 0.9}, "worst: Input should be greater than or equal to 1"),
        ({"again": 0.5, "worst": 2.0}, "leaves no time for its first look"),
        ({"worst": 1.2}, "leaves no time for its first look"),
    ],
    ids=str,
)
def test_a_glance_that_cannot_be_is_refused(
    profile: Path, change: dict[str, float], message: str
) -> None:
    first, *others = json.loads(profile.read_text(encoding="utf-8"))["points"]
    with pytest.raises(InvalidInput, match=message):
        read_profile(edited(profile, points=[first | change, *others]))


def test_points_of_a_profile_may_come_in_any_order(profile: Path) -> None:
    points = json.loads(profile.read_text(encoding="utf-8"))["points"]
    assert read_profile(edited(profile, points=points[::-1])).machine == MACHINE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": 1}, "speed: Extra inputs are not permitted"),
        ({"version": 2}, "version: Input should be 1"),
        ({"points": []}, "points: "),
        ({"ratios": [0.0]}, "ratios.0: Input should be greater than 0"),
        ({"rested_ratio": 0.5}, "rested_ratio: "),
    ],
    ids=str,
)
def test_a_profile_that_is_none_is_refused(
    profile: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_profile(edited(profile, **changes))


def test_points_of_a_profile_have_the_same_batches_and_their_own_names(profile: Path) -> None:
    points = json.loads(profile.read_text(encoding="utf-8"))["points"]
    shorter = [points[0], points[1] | {"seconds": [0.002]}]
    with pytest.raises(InvalidInput, match="the same batch sizes"):
        read_profile(edited(profile, points=shorter))
    with pytest.raises(InvalidInput, match="two points have one name"):
        read_profile(edited(profile, points=[points[0], points[0]]))


def test_simulate_says_who_is_first(laud: Laud, profile: Path) -> None:
    done = laud("simulate", "--profile", profile, "--policies", "foresight,fixed", *SMALL)
    assert done.status == 0, done.err
    assert "somewhere: load 2 (483.9/s), CV² 1; the fastest point could do 2.00 times" in done.out
    assert "first: foresight; foresight is first" in done.out


def test_simulate_gives_machines_everything(laud: Laud, profile: Path) -> None:
    done = laud("simulate", "--profile", profile, *SMALL, "--json")
    report = json.loads(done.out)
    (cell,) = report["cells"]
    assert report["ours"] == "foresight"
    assert len(cell["policies"]) == 7
    for result in cell["policies"]:
        assert result["effective_accuracy"]["mean"] == pytest.approx(
            result["attainment"]["mean"] * result["mean_accuracy"]["mean"], abs=0.01
        )
    assert laud("simulate", "--profile", profile, *SMALL, "--json").out == done.out


def test_refusals_instead_of_late_answers(laud: Laud, profile: Path) -> None:
    options = ("--profile", profile, "--policies", "fixed", *SMALL, "--json")
    ((degrade,), (reject,)) = (
        json.loads(laud("simulate", *options, *more).out)["cells"][0]["policies"]
        for more in ((), ("--reject",))
    )
    assert degrade["late"] > reject["late"]
    assert reject["refused"] > degrade["refused"]


@pytest.mark.torch
def test_simulate_draws(laud: Laud, profile: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    png = tmp_path / "grid.png"
    done = laud("simulate", "--profile", profile, *SMALL, "--png", png)
    assert done.status == 0, done.err
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--policies", "fifo"), "no policy 'fifo'; there are: foresight, thresholds"),
        (("--loads", "much"), "--loads takes numbers with commas"),
        (("--loads", "0"), "the rate must be above 0"),
        (("--seeds", 0), "at least one each"),
        (("--mix", "100"), "is no part of a deadline mix"),
        (("--decode-ms", -1), "--decode-ms must be 0 to 60000 milliseconds"),
        (("zoo:clothing",), "--profile stands for a bundle and its table"),
    ],
    ids=str,
)
def test_what_cannot_be_simulated_is_refused(
    laud: Laud, profile: Path, options: tuple[object, ...], message: str
) -> None:
    assert message in assert_one_line(laud("simulate", "--profile", profile, *options))


def test_what_if_says_what_to_expect(laud: Laud, profile: Path) -> None:
    done = laud("whatif", "--profile", profile, "--slo-ms", 20, "--rate", 100)
    assert done.status == 0, done.err
    assert "somewhere: 100/s, CV² 1, 100% in 20 ms; foresight" in done.out
    assert "at other rates" in done.out
    assert "with other budgets" in done.out
    assert "99 % in time: up to " in done.out


def test_what_if_gives_machines_everything(laud: Laud, profile: Path) -> None:
    options = ("--profile", profile, "--rate", 100, "--cv2", 4)
    found = json.loads(laud("whatif", *options, "--slo-ms", 20, "--json").out)
    assert found["asked"]["attainment"]["mean"] > 0.99
    assert [one["rate_hz"] for one in found["rates"]][2] == found["asked"]["rate_hz"] == 100
    tight = json.loads(laud("whatif", *options, "--slo-ms", 20, "--decode-ms", 15, "--json").out)
    assert tight["asked"]["mean_accuracy"]["mean"] < found["asked"]["mean_accuracy"]["mean"]


MIX = """
quick: {share: 30, slo_ms: 10}
thorough: {share: 70, slo_ms: 200, min_accuracy: 0.85, on_infeasible: reject}
"""


def test_what_if_of_several_classes(laud: Laud, profile: Path, tmp_path: Path) -> None:
    mix = tmp_path / "mix.yaml"
    mix.write_text(MIX, encoding="utf-8")
    done = laud("whatif", "--profile", profile, "--rate", 50, "--class-mix", mix)
    assert done.status == 0, done.err
    assert "30% in 10 ms, 70% in 200 ms at accuracy 0.85 or more; foresight" in done.out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- quick", "must hold classes"),
        ("quick: 10", "class 'quick' must be like"),
        ("quick: {slo_ms: 10}", "class 'quick' needs a share above 0, got None"),
        ("quick: {share: .nan, slo_ms: 10}", "class 'quick' needs a share above 0, got nan"),
        ("quick: {share: 1}", "class 'quick': slo_ms: Field required"),
        ("quick: {share: 1, slo_ms: 10, colour: red}", "colour: Extra inputs are not permitted"),
        ("quick: {share: 1, slo_ms: 10, min_accuracy: 0.99}", "no operating point has"),
        ("quick: {", "is not YAML"),
    ],
)
def test_classes_are_checked(
    laud: Laud, profile: Path, tmp_path: Path, content: str, message: str
) -> None:
    mix = tmp_path / "mix.yaml"
    mix.write_text(content, encoding="utf-8")
    done = laud("whatif", "--profile", profile, "--rate", 50, "--class-mix", mix)
    assert message in assert_one_line(done)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--slo-ms", 20), "--rate says how many"),
        (("--rate", 10), "give --slo-ms, or --class-mix"),
        (("--rate", 10, "--slo-ms", -1), "class 'default': slo_ms: Input should be greater"),
        (("--rate", -10, "--slo-ms", 20), "the rate must be above 0"),
        (("--rate", 10, "--slo-ms", 20, "--policy", "fifo"), "no policy 'fifo'"),
        (("--rate", 10, "--slo-ms", 20, "--max-queue-s", 0), "--max-queue-s must be above 0"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused(
    laud: Laud, profile: Path, options: tuple[object, ...], message: str
) -> None:
    assert message in assert_one_line(laud("whatif", "--profile", profile, *options))


def test_a_file_that_is_not_there_is_told(laud: Laud, tmp_path: Path) -> None:
    missing = tmp_path / "none.json"
    assert "No such file" in assert_one_line(laud("simulate", "--profile", missing))


@pytest.mark.parametrize("precision", ["fp32"])
def test_a_bundle_is_measured_where_there_is_no_profile(
    laud: Laud, tmp_path: Path, precision: str
) -> None:
    saved = tmp_path / "here.json"
    done = laud(
        *("whatif", "zoo:clothing", "--rate", 1, "--slo-ms", 60_000, "--threads", 1),
        *("--precision", precision, "--max-batch", 1, "--save-profile", saved, "--json"),
    )
    assert done.status == 0, done.err
    assert json.loads(done.out)["asked"]["attainment"]["mean"] == 1.0
    found = read_profile(saved)
    assert found.name == "clothing"
    assert {"full"} < {point.name for point in found.points}
    assert all(len(point.seconds) == 1 for point in found.points)


def test_a_picture_that_cannot_be_written_is_told_before_anything_runs(
    laud: Laud, profile: Path
) -> None:
    line = assert_one_line(laud("simulate", "--profile", profile, "--png", "nowhere/x.png"))
    assert line == "--png nowhere/x.png: no such folder"
