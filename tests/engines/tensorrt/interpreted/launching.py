"""Kernels launched as specifications say, on guarded memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from engines.tensorrt.kernels.convolution import sparse_conv
from engines.tensorrt.kernels.lists import dilate, partition
from engines.tensorrt.spec import KernelSpec
from tests.engines.tensorrt.interpreted.memory import Guarded

CC = 86
"""The interpreter runs what would be compiled for this."""

_KERNELS = {kernel.__name__: kernel for kernel in (partition, dilate, sparse_conv)}


def launch(
    spec: KernelSpec,
    grid: tuple[int, ...],
    inputs: Mapping[str, Tensor],
    numbers: Mapping[str, int],
    outputs: Mapping[str, Guarded],
) -> None:
    """Arguments by name, without `_ptr`; they have to be those of the signature, in its order.

    Afterwards only the insides of outputs may have changed.
    """
    signature = spec.signature(CC)
    guarded = {name: Guarded(value) for name, value in inputs.items()}
    arguments: dict[str, Any] = {f"{k}_ptr": v.tensor for k, v in guarded.items()}
    arguments.update(numbers)
    arguments.update({f"{k}_ptr": v.tensor for k, v in outputs.items()})
    assert list(arguments) == list(signature.arguments)
    _KERNELS[signature.kernel][grid](**arguments, **signature.constants)
    for each in guarded.values():
        each.assert_unchanged()
    for each in outputs.values():
        each.assert_zones_intact()
