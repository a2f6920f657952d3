"""A whole evaluation of the demo bundle, on made-up pictures: real weights, the native engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.bundle import read_bundle, write_bundle
from engines.core import static_point
from engines.errors import BundleError, ConfigError, InvalidInput
from engines.evaluation import LabelledImages, evaluate_points
from engines.evaluation.plan import EvaluationPlan, Subject, subjects_of
from engines.evaluation.pool import pool_folders
from engines.evaluation.report import Kind, Report
from engines.evaluation.run import evaluate_bundle
from engines.folders import scan_folder
from engines.manifest import Dial, DialCandidate
from engines.registry import load_engine
from tests.engines.demo import SKIP, write_skipping_demo

CLASSES = ("dress", "hat", "pants")


def write_pictures(root: Path, seed: int) -> Path:
    """Two pictures a class, of coarse noise."""
    rng = np.random.default_rng(seed)
    for label in CLASSES:
        (root / label).mkdir(parents=True)
        for i in range(2):
            coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
            picture = Image.fromarray(coarse).resize((150, 140), Image.Resampling.BICUBIC)
            picture.save(root / label / f"{seed}-{i}.png")
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("pictures")
    return write_pictures(place / "one", 1), write_pictures(place / "two", 2)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reference to the demo with a point that skips inside the network."""
    return str(write_skipping_demo(tmp_path_factory.mktemp("demo") / "clothing.laud"))


@pytest.fixture(scope="module")
def everything(folders: tuple[Path, Path], demo: str) -> Report:
    """One skipping point with all that there is to ask."""
    plan = EvaluationPlan(
        folders,
        points=(SKIP,),
        sizes=(72, 112, 160),
        threads=1,
        latency_s=0.01,
        shuffled=True,
        fixed_masks=True,
        baselines=(demo,),
    )
    return evaluate_bundle(demo, plan)


def test_rows_are_the_asked_points_their_rivals_and_the_baselines(
    everything: Report, demo: str
) -> None:
    baseline = [record.point.name for record in read_bundle(demo).manifest.points]
    found = [(row.name, row.kind) for row in everything.rows]
    assert found == [
        (SKIP, Kind.DIAL),
        ("size-72", Kind.SIZE),
        ("size-112", Kind.SIZE),
        (f"{SKIP} (fixed mask)", Kind.FIXED),
        *((f"clothing/{name}", Kind.BASELINE) for name in [*baseline, "size-72"]),
    ]
    assert everything.images == 12
    assert "size-160" not in {row.name for row in everything.rows}, "full has that size"


def test_figures_are_those_of_the_points(
    everything: Report, folders: tuple[Path, Path], demo: str
) -> None:
    bundle = read_bundle(demo)
    images = pool_folders(folders, bundle.manifest.labels)
    with load_engine(bundle, threads=1) as engine:
        points = [bundle.manifest.at(engine.precision).point(name).point for name in ("full", SKIP)]
        crop = bundle.manifest.preprocessing.crop_ratio
        full, skip = evaluate_points(engine, points, LabelledImages(images, crop))
    row = everything.rows[0]
    assert row.answers.log_loss == pytest.approx(skip.losses.mean())
    assert row.answers.macs_ratio == pytest.approx(skip.macs.mean() / full.macs.mean())
    assert row.difference.mean == pytest.approx((skip.losses - full.losses).mean())
    assert row.spread is not None
    assert row.spread.macs_worst_over_mean == pytest.approx(skip.macs.max() / skip.macs.mean())
    assert row.spread.maskers_varying is not None
    assert 0 < row.spread.maskers_varying <= 1
    assert row.macs_ratio_recorded == bundle.manifest.at("int8").point(SKIP).macs_ratio


def test_a_baseline_of_the_same_weights_answers_alike(everything: Report) -> None:
    rows = {row.name: row for row in everything.rows}
    assert rows[f"clothing/{SKIP}"].answers == rows[SKIP].answers
    assert rows["clothing/full"].difference.mean == 0.0


def test_two_baselines_of_one_name_are_told_apart(folders: tuple[Path, Path], demo: str) -> None:
    plan = EvaluationPlan(folders, baselines=(demo, demo))
    assert [subject.name for subject in subjects_of(demo, plan)] == ["", "clothing", "clothing#2"]


def test_a_fixed_mask_costs_what_its_point_costs(everything: Report) -> None:
    rows = {row.name: row for row in everything.rows}
    fixed = rows[f"{SKIP} (fixed mask)"]
    assert fixed.of == SKIP
    assert fixed.answers.macs_ratio == pytest.approx(rows[SKIP].answers.macs_ratio, rel=0.01)
    assert fixed.answers.log_loss != rows[SKIP].answers.log_loss
    assert everything.fixed_from == "the evaluated pictures"


def test_masks_may_be_fixed_on_other_pictures(
    everything: Report, folders: tuple[Path, Path], demo: str
) -> None:
    plan = EvaluationPlan(
        folders, points=(SKIP,), latency_s=None, fixed_masks=True, fixed_from=folders[1]
    )
    found = evaluate_bundle(demo, plan)
    assert found.fixed_from == str(folders[1])
    own, other = (
        next(row for row in report.rows if row.kind is Kind.FIXED) for report in (everything, found)
    )
    assert other.answers.log_loss != own.answers.log_loss
    assert other.answers.macs_ratio == pytest.approx(own.answers.macs_ratio, rel=0.02)
    # Nothing was timed: a rival is as fast where it needs no more work.
    assert (found.timing, found.cost) == (None, "macs")
    assert all(row.latency is None for row in found.rows)
    assert [each.rival for each in found.comparisons] == [other.name, other.name]


def test_fixed_masks_may_come_from_pictures_of_any_classes(
    folders: tuple[Path, Path], tmp_path: Path, demo: str
) -> None:
    count = len(read_bundle(demo).manifest.labels) + 1
    for i in range(count):
        (tmp_path / f"class-{i}").mkdir()
        Image.new("RGB", (40, 40), (i, 9 * i, 99)).save(tmp_path / f"class-{i}" / "x.png")
    plan = EvaluationPlan(
        folders[:1], points=(SKIP,), latency_s=None, fixed_masks=True, fixed_from=tmp_path
    )
    assert Kind.FIXED in {row.kind for row in evaluate_bundle(demo, plan).rows}


def test_a_baseline_runs_in_the_precision_of_the_bundle(
    folders: tuple[Path, Path], tmp_path: Path, demo: str
) -> None:
    bundle = read_bundle(demo)
    path = tmp_path / "float.laud"
    write_bundle(path, bundle.manifest.model_copy(update={"quantisation": None}), bundle.weights)
    with pytest.raises(BundleError, match=r"float\.laud' has no scales for int8"):
        evaluate_bundle(demo, EvaluationPlan(folders, latency_s=None, baselines=(str(path),)))


def test_shuffled_masks_are_reported_with_their_point(everything: Report) -> None:
    skip, *others = everything.rows
    assert skip.shuffled is not None
    rise = skip.shuffled.log_loss - skip.answers.log_loss
    assert skip.shuffled.rise.mean == pytest.approx(rise)
    assert rise != 0.0
    assert all(row.shuffled is None for row in others)


def test_the_point_stands_beside_its_rivals(everything: Report) -> None:
    found = {each.against: each for each in everything.comparisons}
    assert [*found] == ["free rival", "fixed mask", "baseline"]
    assert {each.point for each in everything.comparisons} == {SKIP}
    assert found["fixed mask"].rival == f"{SKIP} (fixed mask)"
    by_name = {row.name: row.answers.log_loss for row in everything.rows}
    difference = by_name[SKIP] - by_name[f"{SKIP} (fixed mask)"]
    assert found["fixed mask"].difference == pytest.approx(difference)


def test_all_of_it_is_timed(everything: Report) -> None:
    for row in everything.rows:
        assert row.latency is not None
        assert 0 < row.latency.p50_ms <= row.latency.p95_ms
    assert everything.timing is not None
    assert everything.timing.calls == 20
    assert everything.cost == "latency"


def test_every_row_has_the_same_keys_and_is_json(everything: Report) -> None:
    flat = json.loads(json.dumps(everything.flat(), allow_nan=False))
    keys = {tuple(row) for row in flat["points"]}
    assert len(keys) == 1
    assert {"latency_p50_ms", "shuffled_log_loss", "blocks_varying", "macs_ratio_cap"} <= {
        *keys.pop()
    }


# Pooled folders


def test_folders_are_pooled_one_behind_the_other(folders: tuple[Path, Path]) -> None:
    labels = ("pants", "hat", "shoes", "dress")
    pooled = pool_folders(folders, labels)
    assert pooled.labels.tolist() == [3, 3, 1, 1, 0, 0] * 2
    assert [(pooled.root / file).is_file() for file in pooled.files] == [True] * 12
    assert {file.parts[0] for file in pooled.files[:6]} == {"one"}


def test_folders_of_other_classes_and_the_same_pictures_twice_are_refused(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    other = write_pictures(tmp_path / "other", 3)
    (other / "pants").rename(other / "shoes")
    labels = (*CLASSES, "shoes")
    with pytest.raises(ConfigError, match="it lacks pants and also has shoes"):
        pool_folders([folders[0], other], labels)
    with pytest.raises(ConfigError, match="every picture counts once"):
        pool_folders([folders[0], folders[0] / ".." / "one"], labels)


# What cannot be


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sizes": (0,)}, "1 to 4096 pixels, got 0"),
        ({"sizes": (96, 88, 96)}, "once, got 96, 88, 96"),
        ({"latency_s": 0.0}, "above 0, got 0"),
        ({"latency_s": float("nan")}, "above 0, got nan"),
        ({"fixed_from": Path()}, "goes with --fixed-masks"),
        ({"seed": -1}, "0 or more, got -1"),
        ({"folders": ()}, "at least one folder"),
    ],
    ids=str,
)
def test_a_plan_that_cannot_be_is_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        EvaluationPlan(**{"folders": (Path("somewhere"),), **options})  # type: ignore[arg-type]


def test_sizes_that_the_dial_dropped_are_met_again(folders: tuple[Path, Path]) -> None:
    """Skipping beat them once, on the pictures that it was chosen on."""
    bundle = read_bundle("zoo:clothing")
    kept, maskers = bundle.manifest.points, len(bundle.manifest.architecture.maskers)
    candidates = tuple(
        DialCandidate(
            name=name, image_size=size, budget=budget, latency_ms=5.0, latency_ratio=0.5,
            log_loss=0.4, accuracy=0.9, macs_ratio=0.5, kept=False, dominated_by="full",
        )
        for name, size, budget in (
            ("size-104", 104, None), ("size-128", 128, None), ("skip-96-80", 96, 0.8),
        )
    )  # fmt: skip
    dial = Dial(
        device="here", precision="int8", threads=1, repeats=9, noise_ratio=0.0,
        tolerance_ratio=0.02, candidates=candidates,
    )  # fmt: skip
    changed = replace(bundle, manifest=bundle.manifest.model_copy(update={"dial": dial}))
    plan = EvaluationPlan(folders=folders)
    images = scan_folder(folders[0])
    names = [point.name for point in Subject(changed, images).points_in("fp32", plan)]
    assert names == [*(record.point.name for record in kept), "size-104"]
    assert Subject(changed, images).points_in("fp32", plan)[-1] == static_point(
        "size-104", 104, maskers
    )
    few = Subject(changed, images).points_in("fp32", replace(plan, points=("full",)))
    assert [point.name for point in few] == ["full"]
