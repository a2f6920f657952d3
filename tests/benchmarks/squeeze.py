"""How far RegNetY's answers move when squeeze-and-excitation's mean is over active pixels only.

One set of weights, one set of masks, two networks: means over the whole map, as the official code
trains, and over active pixels, as ours skips. Weights are random, with branches as weak beside the
trunk as training makes them (`--branch`); batch norm's statistics and a ridge classifier come from
the training photographs, so that activations and answers are those of real pictures. Runs with
torch and laudserve; DIR has `train` and `validation` with class folders:

    .venv/bin/python tests/benchmarks/squeeze.py DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engines.architecture import RegNetStage
from engines.bundle import Preprocessing
from engines.core import Paradigm
from engines.folders import scan_folder
from engines.models import LaudRegNet
from engines.models.checkpoints import torchvision_regnet
from engines.models.inputs import normalise
from engines.preprocessing import preprocess

_BATCH = 30
_RIDGE = 1.0
_PREPROCESSING = Preprocessing(
    crop_ratio=0.875, channel_order="rgb", mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4)
)

Masks = dict[tuple[int, int], Tensor]
"""Decisions (N, patches) by batch and masker."""


def main() -> None:
    """Prints one line per way of choosing patches and rate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DIR")
    parser.add_argument("--arch", default="regnet_y_400mf")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--train", type=int, default=600, help="photographs to fit on")
    parser.add_argument("--test", type=int, default=200, help="photographs to compare on")
    parser.add_argument("--branch", type=float, default=0.2, help="scale of every branch's last BN")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    train, labels = _photographs(options.data / "train", options.train, options.size)
    test, truth = _photographs(options.data / "validation", options.test, options.size)
    ours, theirs = _networks(options.arch, int(labels.max()) + 1)
    for block in ours.bottlenecks():
        nn.init.constant_(block.bn3.get_parameter("weight"), options.branch)
    _settle(ours, train, labels)
    theirs.load_state_dict(ours.state_dict())
    full = _answers(ours, test, {})
    right = float((full.argmax(1) == truth).float().mean())
    print(
        f"{options.arch}, {options.size} px, {len(test)} photographs: full is right on {right:.1%}"
    )
    print("patches   rate | over active instead of all: error, agreement | skipping: the same")
    for name, strongest in (("random", False), ("strongest", True)):
        for rate in (0.7, 0.5, 0.3):
            masks = _masks(ours, test, rate, strongest)
            active, whole = _answers(ours, test, masks), _answers(theirs, test, masks)
            print(f"{name:9} {rate:4.1f} | {_moved(active, whole)} | {_moved(whole, full)}")


def _photographs(folder: Path, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Normalised (N, 3, size, size) and labels, evenly from the whole folder."""
    found = scan_folder(folder)
    chosen = np.linspace(0, len(found.files) - 1, min(count, len(found.files))).round().astype(int)
    pixels = np.stack(
        [
            preprocess(
                (found.root / found.files[i]).read_bytes(),
                size,
                crop_ratio=_PREPROCESSING.crop_ratio,
            )
            for i in chosen
        ]
    )
    return normalise(pixels, _PREPROCESSING), torch.from_numpy(found.labels[chosen])


def _networks(arch: str, num_classes: int) -> tuple[LaudRegNet, LaudRegNet]:
    """Over active pixels and over the map, with the official granularities 4-4-2-1."""
    plain = torchvision_regnet(arch, num_classes=num_classes)
    stages = tuple(
        RegNetStage.model_validate(
            stage.model_dump() | {"paradigm": Paradigm.SPATIAL, "spatial_granularity": patch}
        )
        for stage, patch in zip(plain.stages, (4, 4, 2, 1), strict=True)
    )
    net = plain.model_copy(update={"stages": stages})
    over_map = net.model_copy(update={"squeeze_over": "map"})
    ours, theirs = LaudRegNet(net), LaudRegNet(over_map)
    with torch.no_grad():
        for block in ours.bottlenecks():
            # A masker that says how strong a patch's input is.
            block.masker_spatial.get_parameter("weight").fill_(1.0)
    return ours, theirs.eval()


@torch.no_grad()
def _settle(model: LaudRegNet, x: Tensor, labels: Tensor) -> None:
    """Batch norm's statistics and the classifier, of these photographs."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average over all batches
            module.reset_running_stats()
    model.train()
    for part in torch.split(x, _BATCH):
        model(part, None)
    model.eval()
    features = torch.cat(
        [model.features(part, None)[0] for part in torch.split(x, _BATCH)]
    ).double()
    mean, std = features.mean(0), features.std(0) + 1e-6
    inputs = (features - mean) / std
    wanted = nn.functional.one_hot(labels).double()
    centre = wanted.mean(0)
    gram = inputs.T @ inputs + _RIDGE * len(x) * torch.eye(inputs.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, inputs.T @ (wanted - centre)).T / std
    model.fc.weight.copy_(weight)
    model.fc.bias.copy_(centre - weight @ mean)


@torch.no_grad()
def _masks(model: LaudRegNet, x: Tensor, rate: float, strongest: bool) -> Masks:
    """Decisions at that rate, of the inputs that blocks have where nothing is skipped."""
    found: Masks = {}
    generator = torch.Generator().manual_seed(0)
    for batch, part in enumerate(torch.split(x, _BATCH)):

        def choose(masker: int, logits: Tensor, batch: int = batch) -> Tensor:
            order = logits if strongest else torch.rand(logits.shape, generator=generator)
            count = max(round(rate * logits.shape[1]), 1)
            units = torch.zeros_like(logits).scatter_(1, order.topk(count, dim=1).indices, 1.0)
            found[batch, masker] = units
            return torch.ones_like(logits)

        model(part, choose)
    return found


@torch.no_grad()
def _answers(model: LaudRegNet, x: Tensor, masks: Masks) -> Tensor:
    """Logits (N, classes) under those masks; none means that nothing is skipped."""
    found: list[Tensor] = []
    for batch, part in enumerate(torch.split(x, _BATCH)):

        def replay(masker: int, logits: Tensor, batch: int = batch) -> Tensor:
            return masks[batch, masker]

        found.append(model(part, replay if masks else None)[0])
    return torch.cat(found)


def _moved(one: Tensor, other: Tensor) -> str:
    """Root mean square difference over the spread of logits within a photograph; agreement."""
    spread = other - other.mean(1, keepdim=True)
    error = float((one - other).square().mean().sqrt() / spread.square().mean().sqrt())
    same = float((one.argmax(1) == other.argmax(1)).float().mean())
    return f"{error:6.1%} {same:6.1%}"


if __name__ == "__main__":
    main()
