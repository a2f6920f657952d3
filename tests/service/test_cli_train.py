"""`laud train`: a configuration as it stands, or a folder of pictures and nothing else."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from engines.bundle import Bundle, read_bundle
from engines.evaluation import run as evaluation
from engines.evaluation.plan import EvaluationPlan
from engines.evaluation.report import Report
from engines.folders import ImageFolder
from engines.training.config import TrainConfig
from engines.training.defaults import with_minutes
from tests.engines.demo import SKIP, write_skipping_demo
from tests.service.commands import Done, Laud, assert_one_line
from tests.service.scripted import jpeg

# Labels of the demo, so that its weights may stand for what a training would have made.
CLASSES = ("dress", "hat")
SECONDS = {"static": 60.0, "sizes": 60.0, "dynamic": 60.0}


@dataclass
class Asked:
    """What the command asked of the modules that need torch, in place of doing it."""

    files: list[tuple[Path, Path, dict[str, Any]]] = field(default_factory=list)
    configs: list[TrainConfig] = field(default_factory=list)
    exports: list[tuple[Path, Path, Path | None]] = field(default_factory=list)
    plans: list[EvaluationPlan] = field(default_factory=list)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    """Training writes its configuration only; export gives the demo; evaluating is real."""
    found = Asked()

    def train(path: Path, out: Path, overrides: dict[str, Any], say: object) -> None:
        found.files.append((path, out, overrides))

    def train_config(config: TrainConfig, out: Path, say: object) -> None:
        found.configs.append(config)
        content = {"config": config.model_dump(mode="json", exclude_unset=True), "classes": []}
        (out / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

    def with_time(config: TrainConfig, pictures: ImageFolder, minutes: float) -> TrainConfig:
        return with_minutes(config, SECONDS, minutes)

    def export(folder: Path, out: Path, *, calibration: Path | None, say: object) -> Bundle:
        found.exports.append((folder, out, calibration))
        return read_bundle(write_skipping_demo(out))

    evaluate = evaluation.evaluate_bundle

    def untimed(ref: Path, plan: EvaluationPlan, say: Callable[[str], None]) -> Report:
        found.plans.append(plan)
        return evaluate(ref, dataclasses.replace(plan, latency_s=None), say)

    for name, functions in {
        "engines.training.run": (train, train_config, with_time),
        "engines.export.run": (export,),
    }.items():
        module = ModuleType(name)
        for function in functions:
            setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(evaluation, "evaluate_bundle", untimed)
    monkeypatch.chdir(tmp_path)
    return found


def write(root: Path, count: int, classes: tuple[str, ...] = CLASSES) -> Path:
    """So many pictures a class, one folder a class."""
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.jpg").write_bytes(jpeg("red"))
    return root


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Ten pictures, no splits."""
    return write(tmp_path / "My pictures", 5)


def test_a_finished_run_is_not_exported_again(laud: Laud, asked: Asked, mine: Path) -> None:
    """The bundle is kept while it has the precision that is asked; deleting it makes it anew."""
    assert laud("train", "--data", mine).status == 0
    run = Path("runs/my-pictures")
    (run / "model-dynamic.safetensors").touch()
    done = laud("train", "--data", mine)
    assert done.status == 0, done.err
    assert len(asked.exports) == 1
    assert "was made of this run before; delete it to have it made again" in done.err
    assert "kept runs/my-pictures/my-pictures.laud" in done.err
    assert laud("train", "--data", mine, "--no-int8").status == 0
    shutil.rmtree(run / "my-pictures.laud")
    assert laud("train", "--data", mine).status == 0
    assert len(asked.exports) == 3


def test_a_folder_is_enough(laud: Laud, asked: Asked, mine: Path) -> None:
    done = laud("train", "--data", mine)
    assert done.status == 0, done.err
    (config,) = asked.configs
    run = Path("runs/my-pictures")
    assert (config.name, config.seed, config.image_size) == ("my-pictures", 0, 160)
    assert config.sizes.sizes == (144, 128, 112, 96, 80, 64)
    assert config.dynamic.budgets == (0.8, 0.65)
    links = (run / "pictures").resolve()
    assert config.data.root == links
    assert asked.exports == [(run, run / "my-pictures.laud", links / "train")]
    assert "8 pictures to train, 2 to validate, no test pictures" in done.err
    assert "no split for it, so 2 of its 10 pictures are held out" in done.err
    assert done.err.splitlines()[-1].endswith("laud serve runs/my-pictures/my-pictures.laud")
    assert sorted(path.name for path in mine.iterdir()) == sorted(CLASSES)


def test_points_are_printed_beside_their_rivals(laud: Laud, asked: Asked, mine: Path) -> None:
    done = laud("train", "--data", mine, "--sizes", "96", "--budgets", ".7")
    for row in ("full", SKIP, f"{SKIP} (fixed mask)", "size-112", "size-96"):
        assert row in done.out
    assert "on the validation pictures, which the points were chosen on" in done.err
    (plan,) = asked.plans
    assert plan.folders == (Path("runs/my-pictures/pictures").resolve() / "validation",)
    assert (plan.sizes, plan.fixed_masks, plan.fixed_from) == ((96,), True, None)


def test_the_last_table_is_of_test_pictures_where_there_are_any(
    laud: Laud, asked: Asked, tmp_path: Path
) -> None:
    root = tmp_path / "mine"
    for split, count in (("train", 4), ("val", 1), ("test", 2)):
        write(root / split, count)
    done = laud("train", "--data", root, "--out", "else/where", "--no-int8", "--json")
    assert done.status == 0, done.err
    printed = json.loads(done.out)
    assert printed["images"] == 4
    assert printed["path"] == "else/where/mine.laud"
    assert {"full", SKIP} <= {row["name"] for row in printed["points"]}
    assert asked.exports == [(Path("else/where"), Path("else/where/mine.laud"), None)]
    (config,) = asked.configs
    assert config.data.root == root.resolve()
    (plan,) = asked.plans
    assert (plan.folders, plan.fixed_from) == ((root / "test",), root.resolve() / "val")


def test_options_end_in_the_configuration(laud: Laud, asked: Asked, mine: Path) -> None:
    done = laud(
        "train", "--data", mine, "--arch", "zoo:clothing", "--budgets", ".5,.9", "--sizes", "32,48",
        "--image-size", "64", "--seed", "7", "--set", "static.epochs=2", "--set", "dropout=0.3",
    )  # fmt: skip
    assert done.status == 0, done.err
    (config,) = asked.configs
    assert (config.seed, config.image_size, config.sizes.sizes) == (7, 64, (48, 32))
    assert config.dynamic.budgets == (0.9, 0.5)
    assert (config.static.epochs, config.dropout) == (2, 0.3)


def test_minutes_choose_epochs_once(laud: Laud, asked: Asked, mine: Path) -> None:
    for minutes in (3, 30):
        assert laud("train", "--data", mine, "--minutes", minutes).status == 0
    first, again = asked.configs
    # Three minutes are what the default's three phases take here.
    assert (first.static.epochs, first.dynamic.epochs) == (32, 48)
    assert again == first


def test_pictures_that_change_after_the_start_are_noticed(
    laud: Laud, asked: Asked, mine: Path
) -> None:
    assert laud("train", "--data", mine).status == 0
    (mine / "hat" / "new.jpg").write_bytes(jpeg("blue"))
    assert "have changed since this run began" in last_line(laud("train", "--data", mine))


def last_line(done: Done) -> str:
    """The reason in the one line that it was refused with."""
    assert (done.status, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith("laud: ")
    return done.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--budgets", "1.2"), "between 0.05 and 1, got 1.2"),
        (("--budgets", "half"), "--budgets takes numbers between commas, such as .8,.65"),
        (("--sizes", "160"), "below the image size of 160, got 160"),
        (("--sizes", "96.5"), "--sizes takes numbers between commas"),
        (("--image-size", "8"), "--image-size must be 16 to"),
        (("--arch", "resnet9000"), "no arch 'resnet9000'"),
        (("--arch", "zoo:nothing"), "no bundle 'zoo:nothing' ships with laudserve"),
        (("--minutes", "0"), "--minutes must be above 0, got 0"),
        (("--minutes", "inf"), "--minutes must be above 0, got inf"),
        (("--minutes", "3", "--set", "static.epochs=1"), "leave out --minutes or --set static"),
        (("--set", "data.root=x"), "name the pictures with --data DIR"),
        (("--set", "epochs=1"), "the configuration is not valid: epochs"),
        (("--set", "epochs"), "--set takes KEY=VALUE, got 'epochs'"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    laud: Laud, asked: Asked, mine: Path, options: tuple[str, ...], reason: str
) -> None:
    assert reason in assert_one_line(laud("train", "--data", mine, *options))
    assert asked == Asked()


def test_what_goes_with_a_configuration_and_what_without(laud: Laud, asked: Asked) -> None:
    assert "--data DIR, or a configuration" in assert_one_line(laud("train"))
    reason = assert_one_line(laud("train", "a.yaml", "--out", "run", "--minutes", "3", "--seed", 0))
    assert reason.startswith("--minutes, --seed: CONFIG says it all")
    assert "--out runs/NAME" in assert_one_line(laud("train", "a.yaml"))
    Path("pictures").mkdir()
    assert "--data pictures" in assert_one_line(laud("train", "pictures"))
    assert laud("train", "a.yaml", "--out", "run", "--data", "photos").status == 0
    assert asked == Asked(files=[(Path("a.yaml"), Path("run"), {"data.root": "photos"})])


def test_a_folder_that_cannot_be_written_is_refused_before_training(
    laud: Laud, asked: Asked, mine: Path
) -> None:
    Path("file").touch()
    assert "file" in assert_one_line(laud("train", "--data", mine, "--out", "file/run"))
    Path("run/my-pictures.laud").mkdir(parents=True)
    assert "is not a bundle" in assert_one_line(laud("train", "--data", mine, "--out", "run"))
    assert asked == Asked()


def test_broken_pictures_are_named_before_anything_is_written(
    laud: Laud, asked: Asked, mine: Path
) -> None:
    (mine / "hat" / "3.jpg").write_bytes(jpeg("red")[:200])
    reason = assert_one_line(laud("train", "--data", mine))
    assert "1 of 10 pictures cannot be used" in reason
    assert "hat/3.jpg" in reason
    assert not Path("runs").exists()
    (mine / "hat" / "3.jpg").unlink()
    assert laud("train", "--data", mine).status == 0


def test_a_class_with_one_picture_is_refused(laud: Laud, asked: Asked, mine: Path) -> None:
    (mine / "shoes").mkdir()
    (mine / "shoes" / "0.jpg").write_bytes(jpeg("red"))
    assert "shoes: 1 picture is too few" in assert_one_line(laud("train", "--data", mine))


def test_without_budgets_there_is_nothing_to_say_about_masks(
    laud: Laud, asked: Asked, mine: Path
) -> None:
    done = laud("train", "--data", mine, "--budgets", "none", "--sizes", "none")
    assert done.status == 0, done.err
    assert "No point that skips" not in done.out
    (plan,) = asked.plans
    assert not plan.fixed_masks
