"""What a run folder says to export, and how an unfinished or damaged one is refused. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engines.architecture import ResNet, Stage
from engines.bundle import Preprocessing
from engines.core import Paradigm
from engines.errors import ConfigError
from engines.runs import PointRequest, Run, candidate_points, model_file, read_run

FULL = PointRequest(name="full", image_size=32)
LESS = PointRequest(name="less", image_size=24, budget=0.65)
STAGE = Stage(depth=2, width=4, paradigm=Paradigm.LAYER)


def description(**changes: Any) -> Run:
    content: dict[str, Any] = {
        "name": "tiny",
        "labels": ("cat", "größe"),
        "preprocessing": Preprocessing(
            crop_ratio=0.9, channel_order="bgr", mean=(1 / 3, 2.0, 3.0), std=(1.0, 1.0, 1.0)
        ),
        "architecture": ResNet(stages=(STAGE,), num_classes=2, folded=True),
        "points": (FULL, LESS),
        "last_phase": "dynamic",
        "data": Path("pictures"),
        "config": {"seed": 0},
    }
    return Run.model_validate({**content, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run as training leaves it, without its tensors."""
    (tmp_path / "run.json").write_text(description().model_dump_json(), encoding="utf-8")
    thresholds = {"0.8": [0.0, 0.5], "0.65": [1 / 3, -1e-9]}
    (tmp_path / "thresholds.json").write_text(json.dumps(thresholds), encoding="utf-8")
    return tmp_path


def test_run_comes_back_as_it_was_written(folder: Path) -> None:
    run, thresholds = read_run(folder)
    assert run == description()
    assert thresholds == {0.8: (0.0, 0.5), 0.65: (1 / 3, -1e-9)}


def test_without_budgets_no_thresholds_are_needed(folder: Path) -> None:
    static = description(points=(FULL,), last_phase="sizes")
    (folder / "run.json").write_text(static.model_dump_json(), encoding="utf-8")
    (folder / "thresholds.json").unlink()
    assert read_run(folder) == (static, {})


def test_network_of_a_phase_has_its_own_file(folder: Path) -> None:
    files = {model_file(folder, phase).name for phase in ("static", "sizes", "dynamic")}
    assert files == {f"model-{phase}.safetensors" for phase in ("static", "sizes", "dynamic")}


@pytest.mark.parametrize("name", ["run.json", "thresholds.json"])
def test_unfinished_run_is_told_by_what_is_missing(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"{name}' .*not the folder of a finished run") as caught:
        read_run(folder)
    assert "`laud train` finishes one" in str(caught.value)


@pytest.mark.parametrize("name", ["run.json", "thresholds.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"], ids=["empty", "cut", "not text"])
def test_damaged_file_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name}' is not JSON"):
        read_run(folder)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"speed": 3}, "speed: Extra inputs"),
        ({"labels": None}, "labels: "),
        ({"last_phase": "warm-up"}, "last_phase: "),
        ({"points": [{"name": "full", "image_size": 32, "px": 3}]}, r"points\.0\.px: Extra"),
    ],
)
def test_description_that_does_not_fit_is_explained(
    folder: Path, changes: dict[str, Any], fault: str
) -> None:
    content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps({**content, **changes}), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"run.json' is not valid: .*{fault}"):
        read_run(folder)


@pytest.mark.parametrize(
    "changes", [{"budget": 1.0}, {"budget": 0.05}, {"budget": -1.0}, {"image_size": 15}]
)
def test_point_that_cannot_be_asked_for_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PointRequest.model_validate({**LESS.model_dump(), **changes})


def test_candidates_are_every_size_at_every_budget_the_largest_first() -> None:
    points = candidate_points(160, [112, 128, 112, 160], [0.655, 0.8])
    assert [(p.name, p.image_size, p.budget) for p in points] == [
        ("full", 160, None),
        ("skip-160-80", 160, 0.8),
        ("skip-160-65.5", 160, 0.655),
        ("size-128", 128, None),
        ("skip-128-80", 128, 0.8),
        ("skip-128-65.5", 128, 0.655),
        ("size-112", 112, None),
        ("skip-112-80", 112, 0.8),
        ("skip-112-65.5", 112, 0.655),
    ]


def test_names_of_candidates_are_those_of_budgets_as_they_are_written() -> None:
    """Not of the number that binary makes of a hundred of them."""
    names = [point.name for point in candidate_points(32, [], [0.55, 0.57, 0.29])]
    assert names == ["full", "skip-32-57", "skip-32-55", "skip-32-29"]


def test_without_sizes_and_budgets_there_is_full_alone() -> None:
    assert candidate_points(32, [], []) == (FULL,)
