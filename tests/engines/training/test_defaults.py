"""A folder and few options become a whole configuration, as one who knows would write it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from engines.bundle import Bundle, read_bundle
from engines.errors import InvalidInput
from engines.training.config import TrainConfig, load_config, parse_config
from engines.training.defaults import (
    Options,
    bundle_reference,
    check_options,
    default_content,
    default_sizes,
    epochs_for,
    epochs_of,
    name_for,
    with_epochs,
    with_minutes,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def demo() -> Bundle:
    return read_bundle("zoo:clothing")


def config_of(backbone: Bundle, num_pictures: int = 3068, **options: Any) -> TrainConfig:
    content = default_content(
        Options(**options), backbone, name="mine", root=Path("mine"), num_pictures=num_pictures
    )
    return parse_config(content, {}, "it")


def test_as_many_pictures_as_the_demo_had_get_the_recipe_of_the_demo(demo: Bundle) -> None:
    theirs = load_config(ROOT / "configs" / "clothing.yaml")
    ours = config_of(demo)
    assert epochs_of(ours) == epochs_of(theirs)
    assert (ours.stages, ours.image_size) == (theirs.stages, theirs.image_size)
    assert ours.sizes.sizes == theirs.sizes.sizes == (144, 128, 112, 96, 80, 64)
    assert (ours.data.crop_ratio, ours.batch_size) == (theirs.data.crop_ratio, theirs.batch_size)
    assert (ours.init.source, str(ours.init.path)) == ("bundle", "zoo:clothing")
    assert ours.dynamic.budgets == theirs.dynamic.budgets == (0.8, 0.65)
    for key in ("full_share", "difficulty_spread", "difficulty_weight", "start_share"):
        assert getattr(ours.dynamic, key) == getattr(theirs.dynamic, key)


def test_every_size_and_budget_becomes_a_point(demo: Bundle) -> None:
    config = config_of(demo, image_size=64, sizes=(48,), budgets=(0.5, 0.8))
    assert [point.name for point in config.points] == [
        "full", "skip-64-80", "skip-64-50", "size-48", "skip-48-80", "skip-48-50",
    ]  # fmt: skip


def test_without_budgets_or_sizes_their_phases_do_nothing(demo: Bundle) -> None:
    config = config_of(demo, sizes=(), budgets=())
    assert [point.name for point in config.points] == ["full"]
    assert (config.sizes.epochs, config.dynamic.epochs) == (0, 0)
    assert config_of(demo, sizes=()).dynamic.size_shares == {160: 1.0}


@pytest.mark.parametrize(
    ("size", "smaller"),
    [
        (160, (144, 128, 112, 96, 80, 64)),
        (224, (208, 176, 160, 128, 112, 96)),
        (256, (224, 208, 176, 160, 128, 96)),
        (64, (56, 48, 40, 32, 24)),
        (40, (32, 24, 16)),
        (16, ()),
    ],
)
def test_smaller_sizes_follow_from_the_full_one(size: int, smaller: tuple[int, ...]) -> None:
    assert default_sizes(size) == smaller


@pytest.mark.parametrize(("pictures", "epochs"), [(1, 32), (767, 32), (3068, 8), (100_000, 4)])
def test_fewer_pictures_are_seen_more_often(pictures: int, epochs: int) -> None:
    found = epochs_for(pictures)
    assert found["static"] == epochs
    assert all(count >= 1 for count in found.values())


def test_minutes_scale_every_phase_alike(demo: Bundle) -> None:
    config = config_of(demo)
    seconds = {"static": 400.0, "sizes": 200.0, "dynamic": 600.0}
    doubled = with_minutes(config, seconds, 40.0)
    assert epochs_of(doubled) == {"static": 16, "sizes": 16, "dynamic": 24}
    assert with_epochs(doubled, epochs_of(config)) == config
    assert set(epochs_of(with_minutes(config, seconds, 0.001)).values()) == {1}
    assert epochs_of(with_minutes(config_of(demo, budgets=()), seconds, 1e9))["dynamic"] == 0


def test_it_can_be_written_and_read_again(demo: Bundle, tmp_path: Path) -> None:
    config = config_of(demo, budgets=(0.7,), sizes=(96, 80), image_size=128, seed=3)
    path = tmp_path / "config.yaml"
    content = {"config": config.model_dump(mode="json", exclude_unset=True), "classes": ["a", "b"]}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert load_config(path) == config
    assert load_config(path, {"seed": 4}).seed == 4


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"budgets": (1.0,)}, r"between 0.05 and 1, got 1"),
        ({"budgets": (0.8, 0.05)}, r"got 0.05"),
        ({"budgets": (float("nan"),)}, r"got nan"),
        ({"sizes": (160,)}, r"below the image size of 160, got 160"),
        ({"sizes": (8,)}, r"at least 16 .* got 8"),
        ({"image_size": 0}, r"--image-size must be 16 to"),
        ({"image_size": 100_000}, r"--image-size must be 16 to"),
        ({"sizes": tuple(range(16, 160)), "budgets": (0.5,)}, r"more than 64 operating points"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    demo: Bundle, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidInput, match=reason) as error:
        check_options(Options(**options), demo)
    assert "\n" not in str(error.value)


def test_minutes_below_nothing_are_refused(demo: Bundle) -> None:
    with pytest.raises(InvalidInput, match="--minutes must be above 0"):
        with_minutes(config_of(demo), {"static": 1.0}, 0.0)


def test_a_network_in_the_official_layout_cannot_be_trained_further(demo: Bundle) -> None:
    net = demo.manifest.architecture.model_copy(update={"official_layout": True})
    manifest = demo.manifest.model_copy(update={"architecture": net})
    with pytest.raises(InvalidInput, match="cannot be trained further"):
        check_options(Options(), dataclasses.replace(demo, manifest=manifest))


def test_an_arch_is_a_name_of_the_zoo_or_a_path(tmp_path: Path) -> None:
    assert bundle_reference("clothing") == bundle_reference("zoo:clothing") == "zoo:clothing"
    assert bundle_reference(str(tmp_path)) == str(tmp_path)
    with pytest.raises(InvalidInput, match=r"no arch 'resnet-9000'.*zoo:clothing"):
        bundle_reference("resnet-9000")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/data/Flowers 102", "flowers-102"),
        ("/x/__été", "t"),
        ("/", "pictures"),
        ("/a/" + "b" * 99, "b" * 64),
    ],
)
def test_a_bundle_is_called_after_the_folder(folder: str, name: str) -> None:
    assert name_for(Path(folder)) == name
