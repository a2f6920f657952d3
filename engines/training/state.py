"""The state of a run: tensors and progress in one safetensors file, replaced in one step."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from engines.errors import CheckpointError


@dataclass
class Progress:
    """Where a run stands: the next step of a phase, the rows of its metrics so far, and the sums
    of what the steps of an unfinished epoch have logged."""

    phase: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def save_state(path: Path, progress: Progress, groups: dict[str, dict[str, Tensor]]) -> None:
    """Write `groups` of named tensors and `progress`; a kill leaves the old file or the new one."""
    flat = {
        f"{group}/{name}": value.detach().contiguous().clone()
        for group, tensors in groups.items()
        for name, value in tensors.items()
    }
    scratch = path.with_suffix(".partial")
    safetensors.torch.save_file(flat, scratch, metadata={"progress": json.dumps(asdict(progress))})
    os.replace(scratch, path)


def load_state(path: Path) -> tuple[Progress, dict[str, dict[str, Tensor]]]:
    """Read what `save_state` wrote; CheckpointError when the file is something else."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            flat = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        progress = Progress(**json.loads(metadata["progress"]))
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"'{path}' is not the state of a run: {error}") from None
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = value
    return progress, groups


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts by parameter number."""
    return {
        f"{index}.{name}": value
        for index, entry in optimiser.state_dict()["state"].items()
        for name, value in entry.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` gave, in the memory layout of the parameters."""
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        entries.setdefault(int(index), {})[name] = value
    state = optimiser.state_dict()
    state["state"] = entries
    optimiser.load_state_dict(state)
    for parameter, entry in optimiser.state.items():
        for name, value in entry.items():
            if value.shape == parameter.shape:
                entry[name] = torch.empty_like(parameter).copy_(value)
