"""What loading a network into native code needs, whatever stands on its backbone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from engines.architecture import Block, ResNet, only_resnet
from engines.bundle import Bundle
from engines.core import MAX_THREADS, UInt8Array
from engines.cpu import _native
from engines.cpu.threads import available_cpus
from engines.errors import BundleError, EngineError, InvalidInput
from engines.manifest import PRECISIONS, Manifest
from engines.quantisation import stem_border

ISA_VARIABLE = "LAUD_CPU_ISA"


class Choice(NamedTuple):
    """With which instruction set and how many threads a network runs here."""

    isa: str
    threads: int


def runnable(bundle: Bundle) -> ResNet:
    """The network, where native code can run it. Raises BundleError."""
    net = only_resnet(bundle.manifest.architecture, f"'{bundle.path}': the cpu engine")
    if net.official_layout or not net.folded:
        raise BundleError(
            f"'{bundle.path}': the cpu engine runs networks with folded batch norm in our own "
            "layout; export this one again, or use the reference engine"
        )
    return net


def chosen_precision(manifest: Manifest, asked: str | None) -> str:
    """None means int8 where there are scales for it, else fp32. Raises InvalidInput for another
    than PRECISIONS."""
    if asked is None:
        return "fp32" if manifest.quantisation is None else "int8"
    if asked not in PRECISIONS:
        raise InvalidInput(f"unknown precision '{asked}'; there are: {', '.join(PRECISIONS)}")
    return asked


def choose(precision: str, threads: int | None) -> Choice:
    """threads: None means every CPU this process may use. The environment's LAUD_CPU_ISA names the
    best instruction set to use. Raises InvalidInput, or EngineError where there is no such one."""
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise InvalidInput(f"threads must be 1 to {MAX_THREADS}, got {threads}")
    most = os.environ.get(ISA_VARIABLE, "")
    try:
        isa = _native.chosen_isa(precision, most)
    except ValueError as error:
        raise EngineError(f"{ISA_VARIABLE}={most}: {error}" if most else str(error)) from None
    return Choice(isa, available_cpus() if threads is None else threads)


def check_contiguous(images: UInt8Array) -> None:
    """Raise InvalidInput for images that native code would have to copy."""
    if not images.flags.c_contiguous:
        raise InvalidInput(
            "images must be contiguous in C order (see numpy.ascontiguousarray), "
            f"got strides {images.strides}"
        )


@contextmanager
def loading(bundle: Bundle) -> Iterator[None]:
    """What native code raises while it loads, as EngineError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        raise EngineError(f"'{bundle.path}' cannot be loaded here: {error}") from None


@contextmanager
def running(shape: tuple[int, ...]) -> Iterator[None]:
    """What native code raises while it runs on images of that shape, as EngineError."""
    try:
        yield
    except MemoryError:
        raise EngineError(f"not enough memory for images of shape {shape}") from None
    except RuntimeError as error:
        raise EngineError(str(error)) from None


def backbone_spec(net: ResNet, manifest: Manifest, precision: str) -> _native.BackboneSpec:
    """Stem and blocks as native code takes them; in int8 with the manifest's scales."""
    preprocessing, scales = manifest.preprocessing, manifest.quantisation
    inputs = [1.0] * len(net.blocks)
    if precision == "int8" and scales is not None:
        # A block's input has the scale of the map before it.
        inputs = [scales.stem, *(scales.trunk[block.stage] for block in net.blocks[:-1])]
    return _native.BackboneSpec(
        stem_width=net.stem_width,
        trailing_pool=net.stem_pool == "trailing",
        stride_in_1x1=net.stride_in_1x1,
        bgr=preprocessing.channel_order == "bgr",
        mean=list(preprocessing.mean),
        std=list(preprocessing.std),
        border=[int(value) for value in stem_border(preprocessing)],
        blocks=[_block_spec(*pair) for pair in zip(net.blocks, inputs, strict=True)],
    )


def _block_spec(block: Block, input_scale: float) -> _native.BlockSpec:
    return _native.BlockSpec(
        name=block.name,
        in_channels=block.in_channels,
        width=block.width,
        out_channels=block.out_channels,
        stride=block.stride,
        projection=block.projection,
        masks_space=block.paradigm.masks_space,
        patch=block.granularity.spatial or 0,
        groups=block.num_groups,
        hidden=block.channel_masker_hidden,
        input_scale=input_scale,
    )
