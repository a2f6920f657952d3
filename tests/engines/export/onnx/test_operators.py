"""What the operators' functions compute in ONNX Runtime, against the kernels' reference.

The kernels are held to the same reference, so a plugin and a function of one name agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper
from torch import Tensor

from engines.architecture import MapSize
from engines.export.onnx.operators import DOMAIN, OPSET, WHOLE_MAP, function, plugin
from engines.tensorrt.kernels import reference
from tests.engines.export.onnx.running import Network

pytestmark = pytest.mark.torch

INFINITY = float("inf")
MOST = 2**31 - 1
SIZE = MapSize(9, 11)


def answer(
    operator: str, inputs: dict[str, Tensor], outputs: Sequence[str], **attributes: Any
) -> list[Tensor]:
    """Of a model of that one node, whose inputs have the types and ranks that are given."""

    def value(name: str, array: Tensor | None) -> Any:
        if array is None:
            return helper.make_value_info(name, onnx.TypeProto())
        kind = helper.np_dtype_to_tensor_dtype(array.numpy().dtype)
        return helper.make_tensor_value_info(name, kind, [None] * array.ndim)

    node = helper.make_node(
        operator, list(inputs), list(outputs), domain=DOMAIN, **attributes, **plugin(operator)
    )
    graph = helper.make_graph(
        [node],
        operator,
        [value(name, array) for name, array in inputs.items()],
        [value(name, None) for name in outputs],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(
        graph, opset_imports=opsets, functions=[function(operator)], ir_version=9
    )
    found = Network(model).run(**{name: array.numpy() for name, array in inputs.items()})
    return [torch.from_numpy(found[name]) for name in outputs]


def listed(units: int, seed: int = 0) -> reference.Listed:
    """Of four images: some, none, all, few."""
    torch.manual_seed(seed)
    thresholds = torch.tensor([0.0, INFINITY, -INFINITY, 0.9])
    return reference.partition(torch.randn(4, units), thresholds, torch.full((4,), MOST))


@pytest.mark.parametrize("units", [1, 7, 50])
def test_partition(units: int) -> None:
    torch.manual_seed(units)
    logits = (2 * torch.randn(4, units)).round() / 2
    thresholds, caps = torch.randn(4, 3), torch.tensor([[1, 0, 9], [9, 3, 2], [0, 99, 5]] * 2)[:4]
    wanted = reference.partition(logits, thresholds[:, 1], caps[:, 1])
    found = answer(
        "partition",
        {"logits": logits, "thresholds": thresholds, "caps": caps.int()},
        ["index", "place", "count"],
        masker=1,
    )
    assert reference.Listed(*found).equals(wanted)


@pytest.mark.parametrize("stride_before", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("patch", [1, 3, 8])
def test_dilate(patch: int, stride: int, stride_before: int) -> None:
    """The list's head: what is behind the count is nobody's business."""
    read = MapSize(-(-SIZE.height // stride_before), -(-SIZE.width // stride_before))
    size = MapSize(-(-read.height // stride), -(-read.width // stride))
    patches = listed(size.patches(patch).area)
    index, count = answer(
        "dilate",
        {
            "place": patches.place,
            "count": patches.count,
            "x": torch.zeros(4, 2, SIZE.height, SIZE.width),
        },
        ["index", "num_pixels"],
        patch=patch,
        stride=stride,
        stride_before=stride_before,
    )
    assert index.shape == (4, read.area)
    wanted = reference.dilate(patches.place, patches.count, patch, stride, read)
    assert [len(each) for each in wanted] == count.tolist()
    for row, pixels in zip(index, wanted, strict=True):
        assert torch.equal(row[: len(pixels)], pixels)


# Operator: whether it has patches, groups of inputs, groups of outputs, a residual, a ReLU.
CONVOLUTIONS = {
    "block_conv": (True, False, False, False, True),
    "block_conv_add": (True, False, False, True, True),
    "block_conv_linear_add": (True, False, False, True, False),
    "conv_to_groups": (False, False, True, False, True),
    "conv_within_groups": (False, True, True, False, True),
    "conv_from_groups_add": (False, True, False, True, True),
    "block_conv_to_groups": (True, False, True, False, True),
    "block_conv_within_groups": (True, True, True, False, True),
    "block_conv_from_groups_add": (True, True, False, True, True),
}


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("stride", "patch"), [(1, 4), (2, 3), (1, WHOLE_MAP)])
@pytest.mark.parametrize("operator", CONVOLUTIONS)
def test_convolutions(operator: str, stride: int, patch: int, kernel: int) -> None:
    blocks, read, written, add, relu = CONVOLUTIONS[operator]
    group, width = 3, 12
    size = MapSize(-(-SIZE.height // stride), -(-SIZE.width // stride))
    x = torch.randn(4, SIZE.height, SIZE.width, width)
    weight = torch.randn(kernel, kernel, width, width) / (width**0.5 * kernel)
    bias = torch.randn(width)
    residual = torch.randn(4, size.height, size.width, width) if add else None
    patches = listed(size.patches(patch).area)
    groups = listed(width // group, seed=1)
    inputs = {"x": x.permute(0, 3, 1, 2)}
    if blocks:
        inputs |= {"index": patches.index, "count": patches.count}
    if read or written:
        inputs |= {"groups": groups.index, "num_groups": groups.count}
    inputs |= {"weight": weight, "bias": bias}
    if residual is not None:
        inputs["residual"] = residual.permute(0, 3, 1, 2)
    (y,) = answer(
        operator,
        {name: array.contiguous() for name, array in inputs.items()},
        ["y"],
        stride=stride,
        **({"patch": patch} if blocks else {}),
        **({"group": group} if read or written else {}),
    )
    wanted = reference.sparse_conv(
        x,
        weight,
        bias,
        stride=stride,
        patches=patches.units if blocks else None,
        patch=None if patch == WHOLE_MAP else patch,
        read=groups.units if read else None,
        wanted=groups.units if written else None,
        residual=residual,
        relu=relu,
    )
    found = y.permute(0, 2, 3, 1).double()
    torch.testing.assert_close(found, wanted.values, rtol=0, atol=1e-5)
    assert 0 < float(wanted.written.double().mean()) <= 1


def test_masks_that_have_no_plugin() -> None:
    size, patches, groups = MapSize(5, 7), listed(6), listed(4, seed=1)
    y = torch.zeros(4, 12, size.height, size.width)
    (pixels,) = answer(
        "pixel_mask", {"place": patches.place, "count": patches.count, "y": y}, ["m"], patch=3
    )
    (channels,) = answer(
        "channel_mask", {"place": groups.place, "count": groups.count, "y": y}, ["m"], group=3
    )
    active = (patches.place < patches.count[:, None]).view(4, 1, 2, 3)
    wide = active.repeat_interleave(3, 2).repeat_interleave(3, 3)[:, :, :5, :7]
    assert torch.equal(pixels, wide)
    live = (groups.place < groups.count[:, None]).repeat_interleave(3, 1)
    assert torch.equal(channels, live[:, :, None, None])
    assert np.isclose(float(pixels.float()[2].mean()), 1.0)
