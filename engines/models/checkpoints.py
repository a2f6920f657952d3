"""Strict import of weights: torchvision's names and the official LAUDNet names.

A missing or unexpected name, or a wrong shape, is a CheckpointError that lists them; nothing is
loaded half.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from engines.architecture import DEPTHS, ResNet, Stage
from engines.bundle import explain
from engines.core import Paradigm
from engines.errors import CheckpointError, InvalidInput
from engines.models.resnet import LaudResNet

State = Mapping[str, Tensor | npt.NDArray[np.generic]]

_OFFICIAL_PARADIGMS = {
    "spatial": Paradigm.SPATIAL,
    "channel": Paradigm.CHANNEL,
    "layer": Paradigm.LAYER,
    "both": Paradigm.SPATIAL_CHANNEL,
}
_WIDTHS = (64, 128, 256, 512)
_MOST_NAMES_SHOWN = 20


def load_strictly(module: nn.Module, state: State, *, fresh: Sequence[str] = ()) -> None:
    """Load `state` into `module`; parameters whose name contains one of `fresh` stay as they are.

    Raises CheckpointError listing every missing name, unexpected name and wrong shape.
    """
    wanted = {
        name: value
        for name, value in module.state_dict().items()
        if not any(part in name for part in fresh)
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
    module.load_state_dict({**module.state_dict(), **given}, strict=True)


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
    plain = tuple(Stage(depth=d, width=w) for d, w in zip(_depths(arch), _WIDTHS, strict=True))
    return ResNet(stages=tuple(stages) if stages else plain, num_classes=num_classes)


def load_torchvision(net: ResNet, state: State) -> LaudResNet:
    """A network of `net` with torchvision's ResNet weights, maskers fresh (everything active)."""
    if net.folded:
        raise InvalidInput("torchvision weights carry batch norm: the architecture is not folded")
    model = LaudResNet(net)
    load_strictly(model, state, fresh=("masker_",))
    return model.eval()


def load_official(
    arch: str,
    state: State,
    paradigm: str,
    spatial_granularity: Sequence[int] | None = None,
    channel_granularity: Sequence[int] | None = None,
) -> LaudResNet:
    """A network in the official layout with the weights of an official LAUDNet checkpoint.

    arch: `resnet50` or `resnet101`. state: names to arrays or tensors, in the official naming.
    paradigm: `spatial`, `channel`, `layer` or `both`. Granularities: one per stage; the spatial one
    is ignored under `channel` and `layer`, the channel one under `spatial` and `layer`.
    Returns it in eval mode; `model(x)` gives (logits, masks).
    """
    if paradigm not in _OFFICIAL_PARADIGMS:
        raise InvalidInput(
            f"unknown paradigm '{paradigm}'; there are: {', '.join(_OFFICIAL_PARADIGMS)}"
        )
    chosen, depths = _OFFICIAL_PARADIGMS[paradigm], _depths(arch)
    spatial = _per_stage("spatial", spatial_granularity, paradigm in ("spatial", "both"))
    channel = _per_stage("channel", channel_granularity, chosen.masks_channels)
    try:
        stages = tuple(
            Stage(
                depth=depth,
                width=width,
                paradigm=chosen,
                spatial_granularity=s,
                channel_granularity=c,
            )
            for depth, width, s, c in zip(depths, _WIDTHS, spatial, channel, strict=True)
        )
    except ValidationError as error:
        raise InvalidInput(explain(error)) from None
    model = LaudResNet(ResNet(stages=stages, num_classes=_num_classes(state), official_layout=True))
    load_strictly(model, state)
    return model.eval()


def _depths(arch: str) -> tuple[int, ...]:
    try:
        return DEPTHS[arch]
    except KeyError:
        raise InvalidInput(f"unknown arch '{arch}'; there are: {', '.join(DEPTHS)}") from None


def _per_stage(
    kind: str, granularity: Sequence[int] | None, needed: bool
) -> tuple[int | None, ...]:
    if not needed:
        return (None,) * len(_WIDTHS)
    given = tuple(granularity) if isinstance(granularity, Iterable) else ()
    if len(given) != len(_WIDTHS):
        raise InvalidInput(
            f"{kind}_granularity needs {len(_WIDTHS)} numbers, one per stage, got {granularity}"
        )
    return given


def _num_classes(state: State) -> int:
    if "fc.weight" not in state:
        raise CheckpointError("the weights do not fit the network: missing: fc.weight")
    weight = _tensor("fc.weight", state["fc.weight"])
    # A scalar has the wrong shape, which is said together with all other faults.
    return weight.shape[0] if weight.ndim and weight.shape[0] else 1
