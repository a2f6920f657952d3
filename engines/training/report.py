"""The run folder: configuration, state, metrics, curves, and activation per masker."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import yaml
from torch import nn

from engines.core import FrozenModel
from engines.errors import ConfigError
from engines.runs import RUN, THRESHOLDS, Run, model_file

_ALWAYS = 1e-9


class RunFolder:
    """Files of one run. Creating it writes `config.yaml` and `run.json`; a resumed run must have
    the same configuration."""

    def __init__(
        self, path: Path, config: FrozenModel, classes: Sequence[str], description: Run
    ) -> None:
        self.path = path
        self.state = path / "state.safetensors"
        content = {
            "config": config.model_dump(mode="json", exclude_unset=True),
            "classes": list(classes),
        }
        file = path / "config.yaml"
        if file.exists() and yaml.safe_load(file.read_text(encoding="utf-8")) != content:
            raise ConfigError(
                f"'{path}' holds a run of another configuration; choose another folder with "
                "--out, or delete it"
            )
        path.mkdir(parents=True, exist_ok=True)
        _write(path / RUN, description.model_dump_json(indent=1) + "\n")
        _write(file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def save_model(self, phase: str, model: nn.Module) -> None:
        """Keep the network as it is after a phase."""
        file = model_file(self.path, phase)
        scratch = file.with_suffix(".partial")
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        safetensors.torch.save_file(state, scratch)
        os.replace(scratch, file)

    def write_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """`metrics.csv`, a row an epoch, and `curves.png`."""
        columns = list(dict.fromkeys(key for row in history for key in row))
        scratch = self.path / "metrics.partial"
        with scratch.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(history)
        os.replace(scratch, self.path / "metrics.csv")
        _draw_curves(self.path / "curves.png", history)

    def write_thresholds(self, thresholds: Mapping[float, Sequence[float]]) -> None:
        """`thresholds.json`: per budget, one threshold per masker, before calibration."""
        content = {repr(budget): list(values) for budget, values in thresholds.items()}
        _write(self.path / THRESHOLDS, json.dumps(content, indent=1) + "\n")

    def write_activation(
        self, maskers: Sequence[str], rates: Mapping[float, npt.NDArray[np.float64]]
    ) -> list[str]:
        """`activation.csv` and `activation.png`; returns lines that report collapsed maskers.

        rates: per budget, activation (images, maskers). A masker has collapsed when it is fully on
        for every image, or fully off for every image.
        """
        lines: list[str] = []
        scratch = self.path / "activation.partial"
        with scratch.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["budget", "masker", "mean", "lowest", "highest", "spread", "verdict"])
            for budget, values in rates.items():
                found: dict[str, list[str]] = {}
                for name, column in zip(maskers, values.T, strict=True):
                    verdict = masker_verdict(column)
                    found.setdefault(verdict, []).append(name)
                    stats = (column.mean(), column.min(), column.max(), column.std())
                    writer.writerow(
                        [f"{budget:g}", name, *(f"{value:.4f}" for value in stats), verdict]
                    )
                moving = len(found.get("depends on the image", []))
                lines.append(
                    f"budget {budget:g}: {moving} of {len(maskers)} maskers depend on the image"
                )
                lines += [
                    f"  collapsed, {verdict} for every image: {', '.join(names)}"
                    for verdict, names in found.items()
                    if verdict in ("always on", "always off")
                ]
        os.replace(scratch, self.path / "activation.csv")
        _draw_activation(self.path / "activation.png", maskers, rates)
        return lines


def masker_verdict(rates: npt.NDArray[np.float64]) -> str:
    """What a masker does over images (N,): collapsed, fixed in amount, or moving with the image."""
    if rates.min() >= 1.0 - _ALWAYS:
        return "always on"
    if rates.max() <= _ALWAYS:
        return "always off"
    return "same amount" if rates.std() <= _ALWAYS else "depends on the image"


def _write(path: Path, text: str) -> None:
    scratch = path.with_suffix(".partial")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)


def _draw_curves(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = np.arange(1, len(history) + 1)
    for axis, prefix, title in (
        (left, "loss", "loss"),
        (right, "accuracy_", "validation accuracy"),
    ):
        keys = dict.fromkeys(key for row in history for key in row if key.startswith(prefix))
        for key in keys:
            values = [float(row[key]) if key in row else np.nan for row in history]
            axis.plot(epochs, values, marker="o", markersize=3, label=key.removeprefix("accuracy_"))
        axis.set(title=title, xlabel="epoch (all phases)")
        axis.grid(alpha=0.3)
        if keys:
            axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _draw_activation(
    path: Path, maskers: Sequence[str], rates: Mapping[float, npt.NDArray[np.float64]]
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, 0.4 * len(maskers) + 2), 3.6), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(maskers))
    width = 0.8 / max(len(rates), 1)
    for i, (budget, values) in enumerate(rates.items()):
        low, high = np.percentile(values, [5, 95], axis=0)
        mean = values.mean(axis=0)
        axis.bar(
            places + (i - (len(rates) - 1) / 2) * width,
            mean,
            width,
            yerr=np.maximum([mean - low, high - mean], 0.0),
            capsize=2,
            label=f"budget {budget:g}",
        )
    axis.set_xticks(places, maskers, rotation=60, ha="right", fontsize=7)
    axis.set(ylabel="activation rate (mean, 5 to 95 % of images)", ylim=(0, 1.05))
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
