"""That the state of a run comes back as it was, and is replaced whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch
from torch import Tensor, nn, optim

from engines.errors import CheckpointError
from engines.training.state import (
    Progress,
    load_state,
    optimiser_tensors,
    restore_optimiser,
    save_state,
)

pytestmark = pytest.mark.torch


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.safetensors"


def noise(*shape: int, seed: int = 0) -> Tensor:
    values: Tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values


def test_progress_comes_back_to_the_last_bit(path: Path) -> None:
    progress = Progress(
        phase=2,
        step=7,
        sums={"loss": 1 / 3, "macs_0.8": 1e-300},
        history=[{"phase": "static", "epoch": 1, "loss": 0.1 + 0.2}],
    )
    save_state(path, progress, {})
    assert load_state(path)[0] == progress


def test_tensors_come_back_in_their_groups(path: Path) -> None:
    channels_last = noise(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    groups = {
        "model": {"layer1/odd.name": noise(3), "conv": channels_last},
        "teacher": {"conv": noise(2, seed=1), "half": noise(2).bfloat16()},
        "budgets": {"scalar": torch.tensor(3.0), "row": noise(4, 4)[:, 1]},
    }
    save_state(path, Progress(), groups)
    loaded = load_state(path)[1]
    assert loaded.keys() == groups.keys()
    for group, tensors in groups.items():
        assert loaded[group].keys() == tensors.keys()
        for name, value in tensors.items():
            torch.testing.assert_close(loaded[group][name], value, rtol=0, atol=0)


def test_one_tensor_may_be_in_several_groups(path: Path) -> None:
    shared = noise(3)
    save_state(path, Progress(), {"model": {"a": shared}, "teacher": {"a": shared}})
    assert torch.equal(load_state(path)[1]["teacher"]["a"], shared)


@pytest.mark.parametrize("moment", ["before the tensors", "half of them", "before the exchange"])
def test_kill_while_saving_leaves_the_old_state(
    path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    save_state(path, Progress(step=1), {"model": {"a": noise(3)}})
    save_file = safetensors.torch.save_file

    def save(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        if moment == "before the tensors":
            raise KeyboardInterrupt
        save_file(tensors, file, metadata)
        if moment == "half of them":
            os.truncate(file, file.stat().st_size // 2)
            raise KeyboardInterrupt

    def replace(old: Path, new: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", save)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save_state(path, Progress(step=2), {"model": {"a": noise(3, seed=1)}})
    progress, groups = load_state(path)
    assert progress.step == 1
    assert torch.equal(groups["model"]["a"], noise(3))


def test_next_save_replaces_what_a_kill_left(path: Path) -> None:
    path.with_suffix(".partial").write_bytes(b"half of a state")
    save_state(path, Progress(step=3), {})
    assert load_state(path)[0].step == 3
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def no_file(path: Path) -> None:
    """Leaves the path empty."""


def text(path: Path) -> None:
    path.write_text("not a state at all", encoding="utf-8")


def cut(path: Path) -> None:
    save_state(path, Progress(), {"model": {"a": noise(300)}})
    os.truncate(path, 700)


def weights_only(path: Path) -> None:
    safetensors.torch.save_file({"model/a": noise(3)}, path)


def other_progress(path: Path) -> None:
    safetensors.torch.save_file({"model/a": noise(3)}, path, metadata={"progress": '{"age": 1}'})


@pytest.mark.parametrize("put", [no_file, text, cut, weights_only, other_progress])
def test_file_that_is_no_state_is_refused_by_name(path: Path, put: Callable[[Path], None]) -> None:
    put(path)
    with pytest.raises(CheckpointError, match=r"state.safetensors' is not the state of a run"):
        load_state(path)


def network() -> list[nn.Parameter]:
    """Three parameters of the shapes and memory layouts of a network."""
    kernel = noise(4, 3, 3, 3, seed=2).contiguous(memory_format=torch.channels_last)
    return [nn.Parameter(value) for value in (kernel, noise(4), noise())]


def advance(parameters: list[nn.Parameter], optimiser: optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        for parameter in parameters:
            parameter.grad = noise(*parameter.shape, seed=seed)
        optimiser.step()


def test_restored_optimiser_goes_on_as_the_first(path: Path) -> None:
    first = network()
    optimiser = optim.Adam(first, 0.01)
    advance(first, optimiser, range(3))
    save_state(path, Progress(), {"optimiser": optimiser_tensors(optimiser)})

    second = network()
    for mine, theirs in zip(second, first, strict=True):
        mine.data.copy_(theirs.data)
    restored = optim.Adam(second, 0.01)
    restore_optimiser(restored, load_state(path)[1]["optimiser"])
    for parameter in second:
        moment = restored.state[parameter]["exp_avg"]
        assert moment.stride() == parameter.stride()

    advance(first, optimiser, range(3, 6))
    advance(second, restored, range(3, 6))
    for mine, theirs in zip(second, first, strict=True):
        assert torch.equal(mine, theirs)


def test_optimiser_before_its_first_step_has_nothing_to_restore() -> None:
    parameters = network()
    optimiser = optim.Adam(parameters, 0.01)
    assert optimiser_tensors(optimiser) == {}
    restore_optimiser(optimiser, {})
    advance(parameters, optimiser, range(1))
