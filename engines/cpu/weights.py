"""A bundle's tensors as the native engine takes them. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from engines.architecture import Block, ResNet, only_resnet
from engines.bundle import Bundle
from engines.errors import BundleError
from engines.quantisation import STEM_KERNEL, QuantisedLayer, quantise_network

PATCH_MASKER = ("mean", "std", "weight")
"""Tensors of a masker of patches, a number per channel each."""

_MOST_FAULTS_SHOWN = 20

Shapes = dict[str, tuple[int, ...]]
Floats = dict[str, npt.NDArray[np.float32]]


def backbone_shapes(net: ResNet) -> Shapes:
    """Names and shapes of a folded backbone's tensors, in execution order."""
    shapes = dict(convolution("conv1", net.stem_width, 3, STEM_KERNEL))
    for block in net.blocks:
        shapes.update(_block(block))
    return shapes


def expected_shapes(net: ResNet) -> Shapes:
    """Those of a whole network: the backbone's, and the classifier's."""
    shapes = backbone_shapes(net)
    shapes["fc.weight"] = (net.num_classes, net.num_features)
    shapes["fc.bias"] = (net.num_classes,)
    return shapes


def checked_weights(bundle: Bundle, wanted: Shapes | None = None) -> Floats:
    """The bundle's tensors as contiguous float32; 16-bit numbers are widened.

    wanted: which there have to be; None: those of a classifier. Raises BundleError listing every
    missing or unexpected name, every wrong shape or type, and maskers whose numbers are not finite
    or that divide by nothing.
    """
    if wanted is None:
        wanted = expected_shapes(only_resnet(bundle.manifest.architecture, "the cpu engine"))
    given = bundle.weights
    faults = [f"missing: {name}" for name in sorted(wanted.keys() - given.keys())]
    faults += [f"unexpected: {name}" for name in sorted(given.keys() - wanted.keys())]
    for name in wanted.keys() & given.keys():
        array, of_masker = given[name], "masker" in name
        if array.shape != wanted[name]:
            faults.append(f"wrong shape: {name} {array.shape} instead of {wanted[name]}")
        elif array.dtype.kind != "f":
            faults.append(f"wrong type: {name} has elements of type {array.dtype}")
        elif of_masker and not np.isfinite(array).all():
            faults.append(f"not finite: {name}")
        elif of_masker and name.endswith(".std") and np.any(np.asarray(array, np.float32) <= 0):
            faults.append(f"not positive: {name}")
    if faults:
        shown = "; ".join(faults[:_MOST_FAULTS_SHOWN])
        more = len(faults) - _MOST_FAULTS_SHOWN
        raise BundleError(
            f"'{bundle.path}': the weights do not fit the network: {shown}"
            f"{f' and {more} more' if more > 0 else ''}"
        )
    return {name: np.ascontiguousarray(given[name], np.float32) for name in wanted}


def native_tensors(bundle: Bundle, precision: str) -> dict[str, npt.NDArray[np.generic]]:
    """Tensors by the names that the native engine asks for.

    In int8 a layer NAME has NAME.weight (int8), NAME.scale and NAME.bias (float32, one per output
    channel); the last one of a block also NAME.residual, and a projection NAME:skipped.scale and
    .bias. Raises BundleError as `checked_weights` does, and without scales where int8 is asked.
    """
    floats = checked_weights(bundle)
    if precision != "int8":
        return dict(floats)
    manifest = bundle.manifest
    if manifest.quantisation is None:
        raise without_scales(bundle)
    tensors: dict[str, npt.NDArray[np.generic]] = {
        name: value for name, value in floats.items() if ".masker_" in name
    }
    layers = quantise_network(
        only_resnet(manifest.architecture, "the cpu engine"),
        floats,
        manifest.quantisation,
        manifest.preprocessing,
    )
    return {**tensors, **layer_tensors(layers)}


def layer_tensors(layers: Mapping[str, QuantisedLayer]) -> dict[str, npt.NDArray[np.generic]]:
    """Quantised layers under the names that native code asks for."""
    tensors: dict[str, npt.NDArray[np.generic]] = {}
    for name, layer in layers.items():
        tensors[f"{name}.weight"] = np.ascontiguousarray(layer.weight)
        tensors[f"{name}.scale"] = np.ascontiguousarray(layer.scale, np.float32)
        tensors[f"{name}.bias"] = np.ascontiguousarray(layer.bias, np.float32)
        tensors[f"{name}.residual"] = np.array([layer.residual], np.float32)
    return tensors


def without_scales(bundle: Bundle) -> BundleError:
    """What says that there are none, and how to make some."""
    return BundleError(
        f"'{bundle.path}' has no scales for int8; make a bundle that has them with: "
        f"laud export {bundle.ref} -o NAME.laud --int8 --calibrate DIR"
    )


def convolution(
    name: str, outputs: int, inputs: int, kernel: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Its weight and bias."""
    yield f"{name}.weight", (outputs, inputs, kernel, kernel)
    yield f"{name}.bias", (outputs,)


def _block(block: Block) -> Iterator[tuple[str, tuple[int, ...]]]:
    channels, width, name = block.in_channels, block.width, block.name
    yield from convolution(f"{name}.conv1", width, channels, 1)
    yield from convolution(f"{name}.conv2", width, width, 3)
    yield from convolution(f"{name}.conv3", block.out_channels, width, 1)
    if block.projection:
        yield from convolution(f"{name}.downsample.0", block.out_channels, channels, 1)
    if block.paradigm.masks_space:
        for part in PATCH_MASKER:
            yield f"{name}.masker_spatial.{part}", (channels,)
    if block.paradigm.masks_channels:
        masker, hidden = f"{name}.masker_channel", block.channel_masker_hidden
        for part in ("mean", "std"):
            yield f"{masker}.{part}", (channels,)
        yield f"{masker}.hidden.weight", (hidden, channels)
        yield f"{masker}.hidden.bias", (hidden,)
        yield f"{masker}.out.weight", (block.num_groups, hidden)
        yield f"{masker}.out.bias", (block.num_groups,)
