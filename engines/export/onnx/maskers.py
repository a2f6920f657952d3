"""The small heads that decide what is computed, and the lists that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engines.export.onnx.graph import Graph
from engines.export.onnx.layers import Layers

THRESHOLDS, CAPS = "thresholds", "caps"
DECISIONS = "decisions"
"""Name of the output that says which units were active, bool (N, units of all maskers)."""

# As `engines.models.maskers` has it, which loads torch.
_CLIP = 5.0


@dataclass(frozen=True)
class Listed:
    """Names of what `partition` answers of a masker, and the side or width of its units."""

    index: str
    place: str
    count: str
    unit: int


class Maskers:
    """Adds maskers in the order of a network's thresholds, and keeps what they decided."""

    def __init__(self, graph: Graph, count: int) -> None:
        """Adds the inputs `thresholds`, float32 (N, count), and `caps`, int32 (N, count), where
        there are any maskers."""
        self._graph, self._count = graph, count
        self._decisions: list[str] = []
        if count:
            graph.input(THRESHOLDS, np.float32, ["N", count])
            graph.input(CAPS, np.int32, ["N", count])

    def patches(
        self, layers: Layers, x: str, name: str, channels: int, *, unit: int, window: int | None
    ) -> Listed:
        """Of a masker that looks at a map: a logit for each window of pixels (None: the whole map).

        unit: pixels on a side of a patch of the map that is computed.
        """
        graph = self._graph
        if window is None:
            pooled = self._mean(x, name, keepdims=1)
        elif window == 1:
            pooled = graph.wide(x)
        else:
            pooled = graph.wide(
                graph.add("AveragePool", x, out=f"{name}/pool", kernel_shape=[window] * 2,
                          strides=[window] * 2, ceil_mode=1, count_include_pad=0)
            )  # fmt: skip
        standard = self._standardised(layers, pooled, name, (1, channels, 1, 1))
        weight = graph.constant(
            f"{name}.weight",
            layers.take(f"{name}.weight", channels).reshape(1, channels, 1, 1),
            np.float32,
        )
        sums = graph.add("Conv", standard, weight, out=f"{name}/sums")
        root = graph.scalar(math.sqrt(channels), np.float32)
        scores = graph.add("Div", sums, root, out=f"{name}/scores")
        return self._partition(
            graph.add("Flatten", scores, out=f"{name}/logits", axis=1), name, unit
        )

    def groups(
        self,
        layers: Layers,
        x: str,
        name: str,
        channels: int,
        *,
        unit: int,
        hidden: int,
        count: int,
    ) -> Listed:
        """Of a masker with `hidden` units that decides on `count` groups of `unit` channels."""
        mean = self._mean(x, name, keepdims=0)
        pooled = self._standardised(layers, mean, name, (1, channels))
        inner = layers.linear(pooled, f"{name}.hidden", hidden, channels)
        logits = layers.linear(layers.relu(inner), f"{name}.out", count, hidden)
        return self._partition(logits, name, unit)

    def output(self) -> None:
        """Makes what all of them decided an output of the graph, where there are any."""
        if self._decisions:
            every = self._graph.add("Concat", *self._decisions, out=f"{DECISIONS}/all", axis=1)
            self._graph.output(DECISIONS, every, np.bool_, ["N", "units"])

    def _partition(self, logits: str, name: str, unit: int) -> Listed:
        index, place, count = self._graph.laud(
            "partition", logits, THRESHOLDS, CAPS,
            out=[f"{name}/{part}" for part in ("index", "place", "count")],
            masker=len(self._decisions),
        )  # fmt: skip
        column = self._graph.add("Unsqueeze", count, self._graph.integers(1), out=f"{name}/column")
        self._decisions.append(self._graph.add("Less", place, column, out=f"{name}/decisions"))
        return Listed(index, place, count, unit)

    def _mean(self, x: str, name: str, *, keepdims: int) -> str:
        axes = self._graph.integers(2, 3)
        mean = self._graph.add("ReduceMean", x, axes, out=f"{name}/mean", keepdims=keepdims)
        return self._graph.wide(mean)

    def _standardised(self, layers: Layers, pooled: str, name: str, shape: tuple[int, ...]) -> str:
        """As `engines.models.maskers` does, in float32."""
        graph, channels = self._graph, shape[1]
        mean, std = (
            graph.constant(
                f"{name}.{part}", layers.take(f"{name}.{part}", channels).reshape(shape), np.float32
            )
            for part in ("mean", "std")
        )
        centred = graph.add("Sub", pooled, mean, out=f"{name}/centred")
        scaled = graph.add("Div", centred, std, out=f"{name}/scaled")
        low, high = graph.scalar(-_CLIP, np.float32), graph.scalar(_CLIP, np.float32)
        return graph.add("Clip", scaled, low, high, out=f"{name}/clipped")
