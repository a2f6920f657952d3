"""How the convolutions of one pyramid level are computed: everywhere, or at active patches only.

With patches a map is zero where nothing is active, since a 3x3 reads beyond the border of its
patch. That is a residual of zeros, which operators pass on where they do not compute.
"""

from __future__ import annotations

from functools import cached_property

from engines.export.onnx.layers import Layers, Shape
from engines.export.onnx.maskers import Listed

# As `engines.models.detection` has it, which loads torch; half precision has the number too.
_NEVER = -30.0


class Level:
    """Adds 3x3 convolutions to a level, of all its pixels."""

    def __init__(self, layers: Layers, at: str) -> None:
        """at: what tells the level's values from those of others, whose weights are the same."""
        self._layers, self._graph = layers, layers.graph
        self._at = at

    def smooth(self, x: str, name: str, width: int) -> str:
        """A convolution without ReLU, which only this level has; 0 where nothing is active."""
        return self._layers.convolution(x, name, Shape(width, width, 3))

    def tower(self, x: str, name: str, width: int) -> str:
        """A convolution and its ReLU; 0 where nothing is active."""
        out = f"{name}/{self._at}"
        return self._layers.relu(self._layers.convolution(x, name, Shape(width, width, 3), out=out))

    def answer(self, x: str, name: str, shape: Shape) -> str:
        """A convolution without ReLU; so low that nothing is likely where nothing is active."""
        return self._layers.convolution(x, name, shape, out=f"{name}/{self._at}")


class SkippingLevel(Level):
    """The same on pixels of active patches."""

    def __init__(self, layers: Layers, at: str, like: str, patches: Listed) -> None:
        """like: a map of the level, with the channels of pyramid and towers."""
        super().__init__(layers, at)
        self._like, self._patches = like, patches

    def smooth(self, x: str, name: str, width: int) -> str:
        shape = Shape(width, width, 3)
        return self._skipping("block_conv_linear_add", x, name, shape, self._zeros, name)

    def tower(self, x: str, name: str, width: int) -> str:
        shape, out = Shape(width, width, 3), f"{name}/{self._at}"
        return self._skipping("block_conv_add", x, name, shape, self._zeros, out)

    def answer(self, x: str, name: str, shape: Shape) -> str:
        out = f"{name}/{self._at}"
        ones = self._graph.integers(1, shape.outputs, 1, 1)
        never = self._graph.add("Expand", self._never, ones, out=f"{out}/never")
        return self._skipping("block_conv_linear_add", x, name, shape, never, out)

    def _skipping(
        self, operator: str, x: str, name: str, shape: Shape, residual: str, out: str
    ) -> str:
        return self._layers.skipping(
            operator, x, [self._patches.index, self._patches.count], name, shape,
            attributes={"patch": self._patches.unit}, residual=residual, out=out,
        )  # fmt: skip

    @cached_property
    def _zeros(self) -> str:
        """In the shape of the level's maps."""
        size = self._graph.add("Shape", self._like, out=f"{self._at}/shape")
        zero = self._graph.scalar(0.0, self._graph.maps)
        return self._graph.add("Expand", zero, size, out=f"{self._at}/zeros")

    @cached_property
    def _never(self) -> str:
        """0 where a pixel is active, else _NEVER: (N, 1, h, w)."""
        graph, patches = self._graph, self._patches
        (active,) = graph.laud(
            "pixel_mask", patches.place, patches.count, self._like, out=[f"{self._at}/active"],
            patch=patches.unit,
        )  # fmt: skip
        zero, never = (graph.scalar(value, graph.maps) for value in (0.0, _NEVER))
        return graph.add("Where", active, zero, never, out=f"{self._at}/never")
