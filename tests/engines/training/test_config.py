"""What a training's YAML file may say, and how each fault in it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from engines.errors import ConfigError
from engines.training.config import TrainConfig, load_config, read_content, validated
from engines.training.detection_config import DetectionConfig

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))
STATIC_STAGES = [{"depth": 1, "width": 8}]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_that_ship_are_valid(path: Path) -> None:
    content = read_content(path)
    config: TrainConfig | DetectionConfig
    if "task" in content:
        config = validated(DetectionConfig, content, {}, str(path))
    else:
        config = load_config(path)
    assert config.name == path.stem


def test_detectors_name_the_licences_of_what_they_learn_from() -> None:
    notices = {
        name: " ".join(read_content(CONFIGS[0].parent / f"{name}.yaml")["notices"])
        for name in ("nuclei", "bccd")
    }
    for text in notices.values():
        assert "Yahoo (open_nsfw), BSD-2-Clause" in text
    assert "CC0" in notices["nuclei"]
    assert "MIT, Copyright (c) 2017 shenggan" in notices["bccd"]


def test_the_demo_configuration_is_there() -> None:
    assert "clothing" in {path.stem for path in CONFIGS}


def test_file_may_leave_out_what_has_a_default(write_config: Callable[..., Path]) -> None:
    config = load_config(write_config(static={}))
    assert config.static.epochs == 8
    assert config.label_smoothing == 0.1


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"epochs": 3}, "epochs: Extra inputs"),
        ({"static": {"epoch": 3}}, "static.epoch: Extra inputs"),
        ({"init": {"source": "random", "file": "x"}}, "init.file: Extra inputs"),
        ({"stages": [{"depth": 1, "width": 8, "kind": "x"}]}, r"stages\.0\.kind: Extra inputs"),
        (
            {"points": [{"name": "full", "image_size": 32, "macs": 1}]},
            r"points\.0\.macs: Extra inputs",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unknown_keys_are_named(
    write_config: Callable[..., Path], sections: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=f"tiny.yaml' is not valid: .*{named}"):
        load_config(write_config(**sections))


def test_every_fault_is_listed_at_once(write_config: Callable[..., Path]) -> None:
    path = write_config(seed=-1, batch_size=0, sizes={"rate": 2})
    with pytest.raises(ConfigError, match=r"seed: .*sizes.rate: .*") as caught:
        load_config(path)
    assert "batch_size: " in str(caught.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "must hold keys and values, not a NoneType"),
        ("- a\n- b\n", "must hold keys and values, not a list"),
        ("just words", "must hold keys and values, not a str"),
        ("a: [1, 2", "is not YAML"),
        ("a: !!python/object/apply:os.getcwd []", "is not YAML"),
        ("1: 2", "is not valid"),
    ],
)
def test_file_that_holds_something_else_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"wrong.yaml' {fault}"):
        load_config(path)


def test_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.yaml"
    path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ConfigError, match=r"picture.yaml' is not YAML"):
        load_config(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read '.*none.yaml': No such file"):
        load_config(tmp_path / "none.yaml")


def full(**changes: Any) -> dict[str, Any]:
    return {"name": "full", "image_size": 32, **changes}


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ({"points": []}, "the first point must be 'full'"),
        ({"points": [{"name": "less", "image_size": 32}]}, "the first point must be 'full'"),
        ({"points": [full(image_size=24)]}, "'full' has the full image_size and no budget"),
        ({"points": [full(budget=0.8)]}, "'full' has the full image_size and no budget"),
        (
            {"points": [full(), {"name": "half", "image_size": 32, "budget": 0.5}]},
            r"point 'half' asks budget 0.5, which dynamic.budgets \[0.8, 0.6\] does not train",
        ),
        ({"points": [full(), full()]}, "points have equal names: full, full"),
        ({"stages": STATIC_STAGES}, "budgets needs a stage whose paradigm is not static"),
        ({"batch_size": 2}, "batch_size must exceed the number of budgets"),
        ({"stages": []}, "stages: "),
        ({"init": {"source": "torchvision"}}, "source 'torchvision' needs path and arch"),
        ({"init": {"source": "imagenet"}}, "init.source: "),
        ({"name": "../up"}, "name: "),
        ({"name": "n" * 65}, "name: .*at most 64"),
        ({"points": [full(), full(name="two words")]}, "point 'two words': name: .*pattern"),
        ({"points": [full(), full(name="n" * 65)]}, "name: .*at most 64"),
        ({"points": [full(name=f"p{i}" if i else "full") for i in range(65)]}, "points: .*at most"),
        ({"data": {"root": "x", "crop_area": [0.0, 1.0]}}, "crop_area must be two rising shares"),
        ({"data": {"root": "x", "crop_area": [0.9, 0.5]}}, "crop_area must be two rising shares"),
    ],
)
def test_contradictions_are_told(
    write_config: Callable[..., Path], sections: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        load_config(write_config(**sections))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"size_shares": {32: 0.5, 24: 0.4}}, "size_shares must add up to 1, not 0.9"),
        ({"size_shares": {8: 1.0}}, "size_shares"),
        ({"budgets": [1.0]}, r"dynamic.budgets.0: "),
        ({"budgets": [0.01]}, r"dynamic.budgets.0: "),
        ({"temperature": [0.0, 0.3]}, "dynamic.temperature.0: "),
        ({"temperature": [2.0, -1.0]}, "dynamic.temperature.1: "),
        ({"noise": float("nan")}, "dynamic.noise: "),
    ],
)
def test_impossible_dynamic_phases_are_refused(
    write_config: Callable[..., Path], changes: dict[str, Any], fault: str
) -> None:
    path = write_config(points=[full()], dynamic={"budgets": [0.8], **changes})
    with pytest.raises(ConfigError, match=fault):
        load_config(path)


def test_budgets_need_a_dynamic_stage_even_where_they_are_not_trained(
    write_config: Callable[..., Path],
) -> None:
    dynamic = {"budgets": [0.8], "epochs": 0}
    path = write_config(stages=STATIC_STAGES, points=[full()], dynamic=dynamic)
    with pytest.raises(ConfigError, match="needs a stage whose paradigm is not static"):
        load_config(path)


def test_training_without_budgets_may_be_static(write_config: Callable[..., Path]) -> None:
    config = load_config(write_config(stages=STATIC_STAGES, points=[full()], dynamic={}))
    assert not config.dynamic.budgets


def test_overrides_replace_values_by_dotted_key(write_config: Callable[..., Path]) -> None:
    overrides = {"seed": 7, "data.root": "/elsewhere", "dynamic.budgets": [0.6, 0.7]}
    config = load_config(write_config(), overrides)
    assert config.seed == 7
    assert config.data.root == Path("/elsewhere")
    assert config.data.crop_ratio == 1.0
    assert config.dynamic.budgets == (0.6, 0.7)


def test_override_adds_a_section_that_the_file_leaves_out(
    write_config: Callable[..., Path], content: Callable[[], dict[str, Any]]
) -> None:
    assert "label_smoothing" not in content()
    config = load_config(write_config(), {"label_smoothing": 0.0, "sizes.rate": 0.5})
    assert (config.label_smoothing, config.sizes.rate) == (0.0, 0.5)
    assert config.sizes.sizes == (24, 16)


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ({"static.speed": 1}, "static.speed: Extra inputs"),
        ({"seed.sub": 1}, "'seed.sub' cannot be set: 'seed' is not a section"),
    ],
)
def test_overrides_are_checked_too(
    write_config: Callable[..., Path], overrides: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        load_config(write_config(), overrides)


# Points left out


def points_of(write_config: Callable[..., Path], **sections: Any) -> list[str]:
    """Names of the points of the tiny configuration without its own, with sections replaced."""
    path = write_config(**sections)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    del content["points"]
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return [point.name for point in load_config(path).points]


def test_points_left_out_are_every_trained_size_at_every_trained_budget(
    write_config: Callable[..., Path],
) -> None:
    dynamic = {"budgets": [0.6, 0.8], "size_shares": {32: 0.5, 20: 0.5, 18: 0.0}}
    sizes = {"epochs": 1, "sizes": [16, 24]}
    assert points_of(write_config, dynamic=dynamic, sizes=sizes) == [
        "full",
        *("skip-32-80", "skip-32-60"),
        *("size-24", "skip-24-80", "skip-24-60"),
        *("size-20", "skip-20-80", "skip-20-60"),
        *("size-16", "skip-16-80", "skip-16-60"),
    ]


def test_what_is_not_trained_is_no_point(write_config: Callable[..., Path]) -> None:
    untrained = {"epochs": 0, "sizes": [16]}
    dynamic = {"epochs": 0, "budgets": [0.8], "size_shares": {32: 0.5, 24: 0.5}}
    assert points_of(write_config, sizes=untrained, dynamic=dynamic) == ["full"]


def test_a_fault_elsewhere_is_told_without_the_points(write_config: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="image_size: ") as caught:
        points_of(write_config, image_size=3)
    assert "points" not in str(caught.value)


def test_more_points_than_a_bundle_holds_are_refused(write_config: Callable[..., Path]) -> None:
    dynamic = {"budgets": [0.3 + i / 100 for i in range(30)]}
    with pytest.raises(ConfigError, match=r"points: .*at most 64"):
        points_of(write_config, dynamic=dynamic, batch_size=64)
