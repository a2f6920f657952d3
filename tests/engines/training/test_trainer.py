"""The training loop: killed at any moment and resumed, it ends where an uninterrupted one does."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import safetensors.torch

from engines.errors import ConfigError
from engines.runs import Run
from engines.training import report, trainer
from engines.training.config import TrainConfig
from engines.training.pixels import PixelCache
from engines.training.report import RunFolder
from engines.training.starts import preprocessing_of, starting_network
from engines.training.state import load_state
from engines.training.trainer import Data, Trainer, projected_seconds, schedule

pytestmark = pytest.mark.torch

ALWAYS, NEVER = -1.0, float("inf")
PHASES = ("static", "sizes", "dynamic")
RESULTS = (
    *(f"model-{phase}.safetensors" for phase in PHASES),
    "thresholds.json",
    "metrics.csv",
    "activation.csv",
    "state.safetensors",
)
# What the training asks of other parts; the loop's own steps are watched beside these.
WATCHED = (
    (trainer, "prepare_maskers"),
    (trainer, "measure"),
    (trainer, "save_state"),
    (RunFolder, "write_metrics"),
    (RunFolder, "write_thresholds"),
    (RunFolder, "write_activation"),
    (RunFolder, "save_model"),
)


class Killed(Exception):
    """Stands for the end of the process."""


class Watch:
    """Hears what a training does as `before NAME N` and `after NAME N`, and may end it there."""

    def __init__(self, ends: Callable[[str, int], bool] = lambda moment, count: False) -> None:
        self.ends = ends
        self.moments: list[str] = []
        self.said: list[str] = []
        self.losses: list[float] = []

    def hear(self, moment: str) -> None:
        self.moments.append(moment)
        if self.ends(moment, len(self.moments)):
            raise Killed(moment)

    def say(self, line: str) -> None:
        self.said.append(line)
        self.hear(f"saying {line}")

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        count = 0

        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            label = f"step {args[5]} of {args[1].name}" if name == "_step" else f"{name} {count}"
            self.hear(f"before {label}")
            result = function(*args, **kwargs)
            if name == "_step":
                self.losses.append(result["loss"])
            self.hear(f"after {label}")
            return result

        return watched


@pytest.fixture(scope="module")
def config(content: Callable[[], dict[str, Any]]) -> TrainConfig:
    return TrainConfig.model_validate(content())


@pytest.fixture(scope="module")
def data() -> Data:
    """24 pictures to train on and 12 to validate: noise around a colour per class."""
    rng = np.random.default_rng(2)
    colours = np.array([(40, 60, 200), (40, 180, 60), (210, 50, 40)])

    def pictures(count: int, size: int) -> Any:
        noise = rng.normal(0, 40, (count, size, size, 3))
        values = colours[np.arange(count) % 3][:, None, None] + noise
        return values.clip(0, 255).astype(np.uint8)

    return Data(
        cache=PixelCache(pictures(24, 40).ravel(), np.array([(40, 40)] * 24)),
        labels=np.arange(24) % 3,
        probe=pictures(24, 32),
        validation=pictures(12, 32),
        validation_labels=np.arange(12) % 3,
    )


def train(
    folder: Path, config: TrainConfig, data: Data, watch: Watch | None = None, save_s: float = NEVER
) -> None:
    """One process that trains, or goes on training, in `folder`; pictures are not drawn."""
    watch = watch or Watch()
    model, preprocessing = starting_network(config, 3), preprocessing_of(config)
    description = Run(
        name=config.name,
        labels=("blue", "green", "red"),
        preprocessing=preprocessing,
        architecture=model.net,
        points=config.points,
        last_phase="dynamic",
        data=config.data.root,
        config={},
    )
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (*WATCHED, (Trainer, "_step")):
            patch.setattr(owner, name, watch.wrap(name, getattr(owner, name)))
        patch.setattr(report, "_draw_curves", lambda *args: None)
        patch.setattr(report, "_draw_activation", lambda *args: None)
        patch.setattr(trainer, "_SAVE_EVERY_S", save_s)
        run = RunFolder(folder, config, description.labels, description)
        Trainer(config, model, data, preprocessing, run, watch.say).train()


def train_until(
    moment: str, folder: Path, config: TrainConfig, data: Data, save_s: float = NEVER
) -> None:
    watch = Watch(lambda heard, count: heard.startswith(moment))
    with pytest.raises(Killed):
        train(folder, config, data, watch, save_s)


def assert_same_results(folder: Path, expected: Path) -> None:
    files = [(folder / name, expected / name) for name in RESULTS]
    assert not [mine.name for mine, other in files if mine.read_bytes() != other.read_bytes()]


@pytest.fixture(scope="module")
def watch() -> Watch:
    """What was heard of the uninterrupted training."""
    return Watch()


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, config: TrainConfig, data: Data, watch: Watch
) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(folder, config, data, watch)
    return folder


# An epoch has 3 steps; static has 2 epochs, sizes 1, dynamic 2.
WITHIN_EPOCHS = (
    "before step 0 of static",
    "after step 1 of static",
    "saying static 3/6 loss",
    "before step 1 of sizes",
    "before step 0 of dynamic",
    "after step 1 of dynamic",
    "before step 5 of dynamic",
)
# Evaluation asks `measure` once in static and sizes, three times in dynamic: full and two budgets.
IN_EVALUATIONS = (
    "before measure 1",
    "after measure 3",
    "after measure 5",
    "before write_metrics 2",
    "after write_metrics 4",
    "saying dynamic epoch 1:",
)
# The state is written after each epoch (1, 2; 4; 6, 7) and each phase (3; 5; 8).
BETWEEN_EPOCHS_AND_PHASES = (
    "before save_state 2",
    "before save_model 1",
    "before save_state 3",
    "after save_state 3",
    "before prepare_maskers 1",
    "before write_thresholds 1",
    "after write_activation 1",
    "before save_model 3",
    "after save_state 8",
)


@pytest.mark.parametrize(
    ("moment", "save_s"),
    [*((m, ALWAYS) for m in WITHIN_EPOCHS), *((m, NEVER) for m in WITHIN_EPOCHS[1::2])],
)
def test_killed_within_an_epoch(
    tmp_path: Path, config: TrainConfig, data: Data, uninterrupted: Path, moment: str, save_s: float
) -> None:
    train_until(moment, tmp_path, config, data, save_s)
    train(tmp_path, config, data)
    assert_same_results(tmp_path, uninterrupted)


@pytest.mark.parametrize("moment", IN_EVALUATIONS)
def test_killed_while_an_epoch_is_evaluated(
    tmp_path: Path, config: TrainConfig, data: Data, uninterrupted: Path, moment: str
) -> None:
    train_until(moment, tmp_path, config, data, ALWAYS)
    train(tmp_path, config, data)
    assert_same_results(tmp_path, uninterrupted)


@pytest.mark.parametrize("moment", BETWEEN_EPOCHS_AND_PHASES)
def test_killed_between_epochs_and_phases(
    tmp_path: Path, config: TrainConfig, data: Data, uninterrupted: Path, moment: str
) -> None:
    train_until(moment, tmp_path, config, data)
    train(tmp_path, config, data)
    assert_same_results(tmp_path, uninterrupted)


def test_killed_some_steps_after_a_save(
    tmp_path: Path, config: TrainConfig, data: Data, uninterrupted: Path
) -> None:
    for phase, saved in (("static", 3), ("sizes", 0), ("dynamic", 3)):
        train_until(f"before step {saved + 1} of {phase}", tmp_path, config, data, ALWAYS)
        train_until(f"after step {saved + 1} of {phase}", tmp_path, config, data, NEVER)
    train(tmp_path, config, data)
    assert_same_results(tmp_path, uninterrupted)


@pytest.mark.parametrize(("every", "save_s"), [(23, ALWAYS), (31, NEVER)])
def test_killed_again_and_again(
    tmp_path: Path, config: TrainConfig, data: Data, uninterrupted: Path, every: int, save_s: float
) -> None:
    killed = 0
    while killed < 30:
        try:
            train(tmp_path, config, data, Watch(lambda _, count: count == every), save_s)
            break
        except Killed:
            killed += 1
    assert 3 <= killed < 30
    assert_same_results(tmp_path, uninterrupted)


def test_killed_under_bf16_autocast(
    tmp_path: Path, config: TrainConfig, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "cpu_has_bf16", lambda: True)
    train(tmp_path / "whole", config, data)
    for moment in ("after step 4 of static", "after step 1 of sizes", "after step 4 of dynamic"):
        train_until(moment, tmp_path / "killed", config, data, ALWAYS)
    train(tmp_path / "killed", config, data)
    assert_same_results(tmp_path / "killed", tmp_path / "whole")


def test_finished_run_is_left_as_it_is(tmp_path: Path, config: TrainConfig, data: Data) -> None:
    train(tmp_path, config, data)
    files = [tmp_path / name for name in RESULTS]
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    watch = Watch()
    train(tmp_path, config, data, watch)
    assert watch.said == [f"done; the run is in {tmp_path}"]
    assert len(watch.moments) == 1
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in files] == before


def test_a_seed_determines_the_result(
    tmp_path: Path, config: TrainConfig, data: Data, uninterrupted: Path
) -> None:
    train(tmp_path / "same", config, data)
    assert_same_results(tmp_path / "same", uninterrupted)
    train(tmp_path / "other", config.model_copy(update={"seed": 1}), data)
    for phase in PHASES:
        name = f"model-{phase}.safetensors"
        first, other = (
            safetensors.torch.load_file(folder / name)
            for folder in (uninterrupted, tmp_path / "other")
        )
        assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_metrics_have_a_row_an_epoch(uninterrupted: Path, watch: Watch) -> None:
    with (uninterrupted / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = [(row["phase"], row["epoch"]) for row in rows]
    assert epochs == [(p, e) for p in PHASES for e in ("1", "2") if (p, e) != ("sizes", "2")]
    means = np.array(watch.losses).reshape(-1, 3).mean(axis=1)
    assert [float(row["loss"]) for row in rows] == pytest.approx(means)
    assert all(row["validation_macs_0.8"] for row in rows if row["phase"] == "dynamic")


def test_budgets_are_met_on_validation_and_the_classes_learned(
    tmp_path: Path, content: Callable[[], dict[str, Any]], data: Data
) -> None:
    longer = content()
    longer["static"] = {"epochs": 12, "rate": 0.04}
    longer["sizes"]["epochs"] = 0
    longer["dynamic"] |= {"epochs": 10, "rate": 0.01, "size_shares": {}}
    longer["data"] |= {"crop_area": (0.8, 1.0), "gain": 0.1, "offset": 5.0}
    # Many small units, so that a budget can be met closely.
    longer["stages"][0] |= {"depth": 2, "spatial_granularity": 1}
    longer["stages"][1] |= {"depth": 2, "spatial_granularity": 1, "channel_granularity": 1}
    train(tmp_path, TrainConfig.model_validate(longer), data)
    with (tmp_path / "metrics.csv").open(newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    for budget in (0.8, 0.6):
        assert float(last[f"validation_macs_{budget}"]) == pytest.approx(budget, abs=0.08)
    # A third would be right by chance.
    assert float(last["accuracy_full"]) > 0.6
    assert float(last["accuracy_0.8"]) > 0.6


def test_loss_that_is_no_number_ends_the_training_with_advice(
    tmp_path: Path, config: TrainConfig, data: Data
) -> None:
    wild = config.dynamic.model_copy(update={"macs_weight": 1e39})
    with pytest.raises(ConfigError, match=r"the loss became inf at step 0 of 'dynamic': lower"):
        train(tmp_path, config.model_copy(update={"dynamic": wild}), data)
    assert load_state(tmp_path / "state.safetensors")[0].phase == 2


def test_without_budgets_two_phases_are_trained(
    tmp_path: Path, config: TrainConfig, data: Data
) -> None:
    static = config.dynamic.model_copy(update={"budgets": ()})
    train(tmp_path, config.model_copy(update={"dynamic": static}), data)
    assert sorted(path.name for path in tmp_path.glob("model-*")) == [
        "model-sizes.safetensors",
        "model-static.safetensors",
    ]
    assert not (tmp_path / "thresholds.json").exists()


def test_phases_of_no_epochs_still_leave_their_files(
    tmp_path: Path, config: TrainConfig, data: Data
) -> None:
    none = {phase: getattr(config, phase).model_copy(update={"epochs": 0}) for phase in PHASES}
    train(tmp_path, config.model_copy(update=none), data)
    assert len(list(tmp_path.glob("model-*.safetensors"))) == 3
    assert list(json.loads((tmp_path / "thresholds.json").read_text())) == ["0.8", "0.6"]


def test_progress_is_said(uninterrupted: Path, watch: Watch) -> None:
    said = "\n".join(watch.said)
    assert watch.said[0].startswith("projected: ")
    assert "static: 2 epochs of 3 steps" in said
    assert "sizes 3/3 loss" in said
    assert "s left" in said
    assert "budget 0.6: " in said
    assert "maskers depend on the image" in said


def test_rate_warms_up_and_falls_to_zero() -> None:
    factors = [schedule(step, 200) for step in range(200)]
    assert factors[0] == pytest.approx(1 / 20)
    assert factors[:20] == sorted(factors[:20])
    assert max(factors) == pytest.approx(factors[19], abs=0.02)
    assert factors[19:] == sorted(factors[19:], reverse=True)
    assert factors[100] == pytest.approx(0.5)
    assert factors[-1] < 1e-3


def test_projection_counts_areas_and_the_teacher(content: Callable[[], dict[str, Any]]) -> None:
    made = content()
    made["static"]["epochs"], made["sizes"]["epochs"], made["dynamic"]["epochs"] = 5, 3, 2
    seconds = projected_seconds(TrainConfig.model_validate(made), steps=10, step_s=2.0)
    small = ((24 / 32) ** 2 + (16 / 32) ** 2) / 2
    student = 0.5 * 1 + 0.5 * (24 / 32) ** 2
    assert seconds == pytest.approx(
        {
            "static": 5 * 10 * 2.0,
            "sizes": 3 * 10 * 2.0 * (1 + small),
            "dynamic": 2 * 10 * 2.0 * (1 / 3 + student),
        }
    )


def test_projection_leaves_out_what_is_not_trained(config: TrainConfig) -> None:
    bare = config.model_copy(
        update={
            "sizes": config.sizes.model_copy(update={"sizes": ()}),
            "dynamic": config.dynamic.model_copy(update={"budgets": ()}),
        }
    )
    assert projected_seconds(bare, steps=4, step_s=1.0) == {"static": 8, "sizes": 4, "dynamic": 0}
