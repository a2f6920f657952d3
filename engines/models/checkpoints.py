"""Strict import of weights: torchvision's names and the official LAUDNet names.

A missing or unexpected name, or a wrong shape, is a CheckpointError that lists them; nothing is
loaded half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from engines.architecture import DEPTHS, REGNET_STAGES, RegNet, RegNetStage, ResNet, Stage
from engines.bundle import explain
from engines.core import Paradigm
from engines.errors import CheckpointError, InvalidInput
from engines.models.names import foreign_name
from engines.models.network import LaudNetwork
from engines.models.regnet import LaudRegNet, network_of
from engines.models.resnet import LaudResNet

State = Mapping[str, Tensor | npt.NDArray[np.generic]]

_OFFICIAL_PARADIGMS = {
    "spatial": Paradigm.SPATIAL,
    "channel": Paradigm.CHANNEL,
    "layer": Paradigm.LAYER,
    "both": Paradigm.SPATIAL_CHANNEL,
}
_RESNETS = {
    arch: tuple(Stage(depth=d, width=w) for d, w in zip(depths, (64, 128, 256, 512), strict=True))
    for arch, depths in DEPTHS.items()
}
_MOST_NAMES_SHOWN = 20


def load_strictly(
    module: nn.Module,
    state: State,
    *,
    fresh: Sequence[str] = (),
    spelled: Callable[[str], str] = str,
) -> None:
    """Load `state` into `module`; parameters whose name contains one of `fresh` stay as they are.

    spelled: from a parameter's name in `module` to its name in `state`. Raises CheckpointError
    listing every missing name, unexpected name and wrong shape, as `state` spells them.
    """
    own_state = module.state_dict()
    ours = {spelled(name): name for name in own_state}
    wanted = {
        name: own_state[own] for name, own in ours.items() if not any(part in own for part in fresh)
    }
    given = {name: _tensor(name, value) for name, value in state.items()}
    faults = [
        *_listed("missing", sorted(wanted.keys() - given.keys())),
        *_listed("unexpected", sorted(given.keys() - wanted.keys())),
        *_listed(
            "wrong shape",
            [
                f"{name} {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
                for name in wanted
                if name in given and given[name].shape != wanted[name].shape
            ],
        ),
    ]
    if faults:
        raise CheckpointError("the weights do not fit the network: " + "; ".join(faults))
    taken = {ours[name]: value for name, value in given.items()}
    module.load_state_dict({**own_state, **taken}, strict=True)


def _listed(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:_MOST_NAMES_SHOWN])
    more = len(names) - _MOST_NAMES_SHOWN
    return [f"{what}: {shown}{f' and {more} more' if more > 0 else ''}"]


def _tensor(name: str, value: Tensor | npt.NDArray[np.generic]) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic):
        try:
            return torch.from_numpy(np.array(value))
        except (TypeError, ValueError):
            raise CheckpointError(f"'{name}' has elements of type {value.dtype}") from None
    raise CheckpointError(f"'{name}' is a {type(value).__name__}, not an array or a tensor")


def torchvision_resnet(
    arch: str, *, num_classes: int = 1000, stages: Sequence[Stage] | None = None
) -> ResNet:
    """The architecture of torchvision's `resnet50` or `resnet101`; `stages` adds paradigms."""
    return ResNet(stages=tuple(stages or _plain(arch, _RESNETS)), num_classes=num_classes)


def torchvision_regnet(
    arch: str, *, num_classes: int = 1000, stages: Sequence[RegNetStage] | None = None
) -> RegNet:
    """The architecture of torchvision's `regnet_y_400mf` or `regnet_y_800mf`; `stages` adds
    paradigms."""
    return RegNet(stages=tuple(stages or _plain(arch, REGNET_STAGES)), num_classes=num_classes)


@overload
def load_torchvision(net: ResNet, state: State) -> LaudResNet: ...
@overload
def load_torchvision(net: RegNet, state: State) -> LaudRegNet: ...
def load_torchvision(net: ResNet | RegNet, state: State) -> LaudNetwork:
    """A network of `net` with torchvision's weights, maskers fresh (everything active)."""
    if net.folded:
        raise InvalidInput("torchvision weights carry batch norm: the architecture is not folded")
    model = network_of(net)
    load_strictly(model, state, fresh=("masker_",), spelled=foreign_name(net))
    return model.eval()


def load_official(
    arch: str,
    state: State,
    paradigm: str,
    spatial_granularity: Sequence[int] | None = None,
    channel_granularity: Sequence[int] | None = None,
) -> LaudNetwork:
    """A network in the official layout with the weights of an official LAUDNet checkpoint.

    arch: `resnet50`, `resnet101`, `regnet_y_400mf` or `regnet_y_800mf`. state: names to arrays or
    tensors, in the official naming. paradigm: `spatial`, `channel`, `layer` or `both`.
    Granularities: one per stage; the spatial one is ignored under `channel` and `layer`, the
    channel one under `spatial` and `layer`.
    Returns it in eval mode; `model(x)` gives (logits, masks). A RegNet takes the means of its
    squeeze-and-excitation over whole maps, as the official code does.
    """
    plain = _plain(arch, {**_RESNETS, **REGNET_STAGES})
    if not isinstance(paradigm, str) or paradigm not in _OFFICIAL_PARADIGMS:
        raise InvalidInput(
            f"unknown paradigm '{paradigm}'; there are: {', '.join(_OFFICIAL_PARADIGMS)}"
        )
    chosen, count = _OFFICIAL_PARADIGMS[paradigm], len(plain)
    spatial = _per_stage("spatial", spatial_granularity, paradigm in ("spatial", "both"), count)
    channel = _per_stage("channel", channel_granularity, chosen.masks_channels, count)
    content = {
        "stages": [
            stage.model_dump()
            | {"paradigm": chosen, "spatial_granularity": s, "channel_granularity": c}
            for stage, s, c in zip(plain, spatial, channel, strict=True)
        ],
        "num_classes": _num_classes(state),
        "official_layout": True,
    }
    try:
        net = (
            RegNet.model_validate({**content, "squeeze_over": "map"})
            if arch in REGNET_STAGES
            else ResNet.model_validate(content)
        )
    except ValidationError as error:
        raise InvalidInput(explain(error)) from None
    model = network_of(net)
    load_strictly(model, state, spelled=foreign_name(net))
    return model.eval()


_S = TypeVar("_S", bound=Stage)


def _plain(arch: str, known: Mapping[str, tuple[_S, ...]]) -> tuple[_S, ...]:
    """The stages of an architecture without paradigms."""
    if not isinstance(arch, str) or arch not in known:
        raise InvalidInput(f"unknown arch '{arch}'; there are: {', '.join(known)}")
    return known[arch]


def _per_stage(
    kind: str, granularity: Sequence[int] | None, needed: bool, count: int
) -> tuple[int | None, ...]:
    if not needed:
        return (None,) * count
    given = tuple(granularity) if isinstance(granularity, Iterable) else ()
    if len(given) != count:
        raise InvalidInput(
            f"{kind}_granularity needs {count} numbers, one per stage, got {granularity}"
        )
    return given


def _num_classes(state: State) -> int:
    if "fc.weight" not in state:
        raise CheckpointError("the weights do not fit the network: missing: fc.weight")
    weight = _tensor("fc.weight", state["fc.weight"])
    # A scalar has the wrong shape, which is said together with all other faults.
    return weight.shape[0] if weight.ndim and weight.shape[0] else 1
