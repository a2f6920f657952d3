"""The Pareto picture: a PNG that has every point, marked by what it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
pytest.importorskip("torch")

from engines.errors import InvalidInput
from engines.evaluation.picture import draw, draw_detection, title
from tests.engines.evaluation.detection_reports import detection_report
from tests.engines.evaluation.reports import report

pytestmark = pytest.mark.torch


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn, still as objects."""
    from matplotlib.figure import Figure

    found: list[Any] = []
    save = Figure.savefig

    def remember(self: Any, *given: Any, **options: Any) -> None:
        found.append(self)
        save(self, *given, **options)

    monkeypatch.setattr(Figure, "savefig", remember)
    return found


def test_a_png_is_written_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "points"
    draw(path, report())
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
    assert width > 1200
    assert height > 600


def test_both_panels_name_every_point(tmp_path: Path, figures: list[Any]) -> None:
    draw(tmp_path / "points.png", report())
    [figure] = figures
    names = {"full", "size-144", "size-112", "skip-128", "skip-128 fixed", "clothing-static/full"}
    for axis in figure.axes[:2]:
        assert {text.get_text() for text in axis.texts} == names
        assert axis.get_xlabel() == "latency of an image, ms"
    left, right = figure.axes[:2]
    assert "log-loss" in left.get_ylabel()
    assert "accuracy" in right.get_ylabel()


def test_every_kind_has_a_marker_and_a_colour_of_its_own(
    tmp_path: Path, figures: list[Any]
) -> None:
    draw(tmp_path / "points.png", report())
    containers = figures[0].axes[0].containers
    looks = [(each[0].get_marker(), str(each[0].get_color())) for each in containers]
    assert len(looks) == 5
    assert len({marker for marker, _ in looks}) == len({colour for _, colour in looks}) == 5


def test_points_stand_at_their_latency_and_loss(tmp_path: Path, figures: list[Any]) -> None:
    draw(tmp_path / "points.png", report())
    left, right = figures[0].axes[:2]
    shown = {
        container.get_label(): container[0].get_xydata().tolist() for container in left.containers
    }
    assert shown["skips per image"] == [[4.3, 0.32]]
    assert shown["smaller image, nothing skipped"] == [[4.2, 0.33], [6.4, 0.31]]
    [of_dial] = [c for c in right.containers if c.get_label() == "skips per image"]
    assert of_dial[0].get_xydata().tolist() == [[4.3, 0.91]]
    _, _, (bars,) = of_dial.lines
    (low, high) = bars.get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((0.88, 0.93))


def test_the_axis_above_is_relative_to_full(tmp_path: Path, figures: list[Any]) -> None:
    draw(tmp_path / "points.png", report())
    left = figures[0].axes[0]
    [above] = left.child_axes
    np.testing.assert_allclose(above.get_xlim(), np.array(left.get_xlim()) / 8.0)


def test_the_title_says_what_ran_and_whether_to_believe_it() -> None:
    quiet = "clothing: cpu engine, int8 (avx2), 1 thread, one image a call, 575 pictures"
    assert title(report()) == quiet
    assert title(report(noise=0.05)) == f"{quiet}; the machine was NOT quiet"


def test_without_latency_there_is_nothing_to_draw(tmp_path: Path) -> None:
    untimed = tuple(replace(row, latency=None) for row in report().rows)
    with pytest.raises(InvalidInput, match="latency was not measured"):
        draw(tmp_path / "points.png", replace(report(), rows=untimed))


@pytest.mark.parametrize(("masks", "highest"), [(True, 0.5), (False, 0.6)])
def test_a_detector_is_drawn_by_its_precision(
    tmp_path: Path, figures: list[Any], masks: bool, highest: float
) -> None:
    draw_detection(tmp_path / "points.png", detection_report(masks=masks))
    [figure] = figures
    left, right = figure.axes[:2]
    of = "masks" if masks else "boxes"
    heights = [axis.get_ylabel() for axis in (left, right)]
    assert heights == [f"{name} of {of} (95 %, bootstrap over pictures)" for name in ("AP", "AP50")]
    places = {c.get_label(): c[0].get_xydata().tolist() for c in left.containers}
    assert places["full: nothing skipped"] == [[40.0, highest]]
    assert places["smaller image, nothing skipped"] == [[15.0, pytest.approx(highest - 0.1)]]
    _, _, (bars,) = left.containers[0].lines
    assert bars.get_segments()[0][:, 1] == pytest.approx((highest - 0.04, highest + 0.03))
    assert {text.get_text() for text in right.texts} == {"full", "size-320"}
    [above] = left.child_axes
    np.testing.assert_allclose(above.get_xlim(), np.array(left.get_xlim()) / 40.0)
    assert figure.get_suptitle() == (
        "things: cpu engine, fp32, 2 threads, one image a call, 81 pictures, 3508 objects; "
        "the machine was NOT quiet"
    )
    with pytest.raises(InvalidInput, match="latency was not measured"):
        draw_detection(tmp_path / "points.png", detection_report(timed=False))


def test_a_fixed_mask_is_drawn_too(tmp_path: Path, figures: list[Any]) -> None:
    draw_detection(tmp_path / "points.png", detection_report(skips=20.0, fixed=18.0))
    [figure] = figures
    left, right = figure.axes[:2]
    places = {c.get_label(): c[0].get_xydata().tolist() for c in left.containers}
    assert places["one mask for all images, same MACs"] == [[18.0, pytest.approx(0.42)]]
    shown = {text.get_text() for text in right.texts}
    assert shown == {"full", "size-320", "skip-512-50", "skip-512-50 fixed"}
