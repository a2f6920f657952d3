"""The picture of a plan: a PNG with everything that the curves need to be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines.latency.candidates import SkipRates
from engines.latency.chart import draw, title
from engines.latency.design import Curve, Design, curves, design
from engines.latency.design_costs import GpuCosts
from engines.latency.hardware import gpu

matplotlib = pytest.importorskip("matplotlib")

SMALL: Any = {"patches": (2, 4), "groups": (16, 32)}


@pytest.fixture(scope="module")
def costs() -> GpuCosts:
    return GpuCosts("resnet50", 224, gpu("v100"), batch=8)


@pytest.fixture(scope="module")
def planned(costs: GpuCosts) -> Design:
    return design(costs, SkipRates(spatial=0.4), **SMALL)


@pytest.fixture(scope="module")
def lines(costs: GpuCosts) -> tuple[Curve, ...]:
    return curves(costs, activations=(0.0, 0.5, 1.0), **SMALL)


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


def test_a_png_is_written_whatever_its_name(
    tmp_path: Path, planned: Design, lines: tuple[Curve, ...]
) -> None:
    path = tmp_path / "plan"
    draw(path, planned, lines)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
    assert width > 1200
    assert height > 600


def test_a_column_per_stage_a_row_for_patches_and_one_for_groups(
    tmp_path: Path, planned: Design, lines: tuple[Curve, ...], figures: list[Any]
) -> None:
    draw(tmp_path / "plan.png", planned, lines)
    (figure,) = figures
    axes = figure.axes
    assert len(axes) == 8
    for row, labels in ((axes[:4], ["S=2", "S=4", "layer"]), (axes[4:], ["G=16", "G=32"])):
        for axis in row:
            assert sorted(axis.get_legend_handles_labels()[1]) == sorted(labels)
            level = axis.get_lines()[0]
            assert list(level.get_ydata()) == [1.0, 1.0]
        assert [text.get_text() for text in row[-1].get_legend().get_texts()] == labels
        assert row[0].get_ylabel().startswith("stage latency / static stage")
    assert {axis.get_xlabel() for axis in axes[4:]} == {"activation rate (share of units)"}
    assert axes[2].get_title() == "layer3: 6 blocks, 256 inner channels, 14x14 px"


def test_curves_are_drawn_as_they_are(
    tmp_path: Path, planned: Design, lines: tuple[Curve, ...], figures: list[Any]
) -> None:
    draw(tmp_path / "plan.png", planned, lines)
    (figure,) = figures
    drawn = {line.get_label(): line for line in figure.axes[1].get_lines()}
    for curve in lines:
        if curve.stage == "layer2" and curve.candidate.group is None:
            line = drawn[curve.candidate.short]
            assert tuple(line.get_xdata()) == curve.activations
            assert tuple(line.get_ydata()) == curve.ratios


def test_the_choice_is_marked_at_its_rate(
    tmp_path: Path, planned: Design, lines: tuple[Curve, ...], figures: list[Any]
) -> None:
    draw(tmp_path / "plan.png", planned, lines)
    (figure,) = figures
    for column, stage in enumerate(planned.stages):
        axes = (figure.axes[column], figure.axes[4 + column])
        marks = [line for axis in axes for line in axis.get_lines() if line.get_marker() == "o"]
        (mark,) = marks
        rate = planned.rates.of(stage.chosen.candidate)
        (curve,) = (
            c for c in lines if (c.stage, c.candidate) == (stage.stage.name, stage.chosen.candidate)
        )
        # Activation rates 0, 0.5 and 1 were drawn.
        low, middle, _ = curve.ratios
        on_line = low + (middle - low) * rate / 0.5 if rate < 0.5 else middle
        assert mark.get_xdata()[0] == rate
        assert mark.get_ydata()[0] == pytest.approx(on_line)


def test_the_title_says_what_the_curves_hold_for(planned: Design) -> None:
    assert title(planned) == "resnet50, 224 px, v100, batch 8, fp32 (predicted)"
    native = planned.setting.model_copy(update={"model": "native", "threads": 2})
    assert title(planned.model_copy(update={"setting": native})) == (
        "resnet50, 224 px, v100, batch 8, fp32, 2 threads (predicted)"
    )
    paper = planned.setting.model_copy(update={"model": "paper"})
    assert "model as published" in title(planned.model_copy(update={"setting": paper}))


def test_a_folder_that_is_not_there_is_an_error(
    tmp_path: Path, planned: Design, lines: tuple[Curve, ...]
) -> None:
    with pytest.raises(FileNotFoundError):
        draw(tmp_path / "nowhere" / "plan.png", planned, lines)
