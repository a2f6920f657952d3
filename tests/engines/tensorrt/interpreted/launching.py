"""Kernels launched as specifications say, on guarded memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from engines.tensorrt.kernels.convolution import sparse_conv
from engines.tensorrt.kernels.lists import dilate, partition
from engines.tensorrt.spec import KernelSpec, Signature
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
    names = [f"{name}_ptr" for name in inputs], numbers, [f"{name}_ptr" for name in outputs]
    assert [name for part in names for name in part] == list(signature.arguments)
    run(signature, grid, inputs.values(), list(numbers.values()), outputs.values())


def run(
    signature: Signature,
    grid: Sequence[int],
    inputs: Iterable[Tensor],
    numbers: Sequence[int],
    outputs: Iterable[Guarded],
) -> None:
    """The same with arguments by their place, as TensorRT passes them."""
    guarded, outputs = [Guarded(each) for each in inputs], list(outputs)
    pointers = [[each.tensor for each in part] for part in (guarded, outputs)]
    arguments = [*pointers[0], *numbers, *pointers[1]]
    given = dict(zip(signature.arguments, arguments, strict=True))
    _KERNELS[signature.kernel][tuple(grid)](**given, **signature.constants)
    for each in guarded:
        each.assert_unchanged()
    for each in outputs:
        each.assert_zones_intact()
