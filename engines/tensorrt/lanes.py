"""A bucket that can run: fixed memory on both sides, an execution context, and a CUDA graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import EngineError
from engines.tensorrt.buckets import Layout, layout
from engines.tensorrt.gpu import Bytes, Gpu
from engines.tensorrt.loaded import Context, Network
from engines.tensorrt.plans import Bucket

Arrays = Mapping[str, npt.NDArray[Any]]


class Lane:
    """All that is needed to run one bucket again and again, at the same addresses.

    Inputs lie side by side, outputs behind them: a call is one copy there, the network, one copy
    back, and once that ran it is one graph.
    """

    def __init__(
        self,
        gpu: Gpu,
        network: Network,
        bucket: Bucket,
        inputs: Mapping[str, Sequence[int]],
        *,
        captures: bool = True,
    ) -> None:
        """inputs: whole shapes by name. captures: False where calls cannot be a graph, which is not
        even tried then. Raises EngineError; nothing is held then."""
        self.bucket = bucket
        self._gpu = gpu
        self._graph: int | None = None
        self._captures = captures
        self._ran = False
        self._address: int | None = None
        self._memory: list[Bytes] = []
        self._context: Context = network.context(bucket.profile)
        try:
            self._given, self._found = self._placed(inputs)
        except BaseException:
            self.close()
            raise

    @property
    def captured(self) -> bool:
        """Whether calls are one graph."""
        return self._graph is not None

    @property
    def inputs(self) -> Arrays:
        """To be written before `run`."""
        return self._given

    @property
    def outputs(self) -> Arrays:
        """To be read after `run`, and before the next one overwrites them."""
        return self._found

    def run(self) -> None:
        """Answer what is in `inputs`. Raises EngineError."""
        if self._graph is not None:
            self._gpu.launch(self._graph)
        elif self._ran and self._captures:
            self._capture()
        else:
            self._enqueue()
        self._gpu.wait()
        self._ran = True

    def close(self) -> None:
        """Give everything back; a second time nothing happens."""
        if self._graph is not None:
            self._gpu.free_graph(self._graph)
            self._graph = None
        self._context.close()
        if self._address is not None:
            self._gpu.free(self._address)
            self._address = None
        # Whoever still looked at freed memory would crash.
        self._given = self._found = {}
        while self._memory:
            self._gpu.free_host(self._memory.pop())

    def _placed(self, inputs: Mapping[str, Sequence[int]]) -> tuple[Arrays, Arrays]:
        shapes = {name: tuple(shape) for name, shape in inputs.items()}
        tensors = self._context.shape(shapes)
        given = layout({name: tensors[name] for name in shapes})
        found = layout({name: each for name, each in tensors.items() if name not in shapes})
        self._address = self._gpu.allocate(given.num_bytes + found.num_bytes)
        self._behind = self._address + given.num_bytes
        self._context.place(
            {
                **_addresses(given, self._address),
                **_addresses(found, self._behind),
            }
        )
        for each in (given, found):
            memory = self._gpu.host(each.num_bytes)
            memory[:] = 0
            self._memory.append(memory)
        return given.views(self._memory[0]), found.views(self._memory[1])

    def _enqueue(self) -> None:
        if self._address is None:
            raise EngineError("the bucket has been closed")
        given, found = self._memory
        self._gpu.upload(self._address, given)
        self._context.enqueue()
        self._gpu.download(found, self._behind)

    def _capture(self) -> None:
        """The second call is remembered: the first one may have allocated, which no graph can."""
        self._gpu.begin_capture()
        try:
            self._enqueue()
        except EngineError:
            # A network that cannot be captured runs call by call; why, nobody needs to know.
            with suppress(EngineError):
                self._gpu.free_graph(self._gpu.end_capture())
            self._captures = False
        else:
            try:
                self._graph = self._gpu.end_capture()
            except EngineError:
                self._captures = False
        if self._graph is None:
            self._enqueue()
        else:
            self._gpu.launch(self._graph)


def _addresses(of: Layout, begin: int) -> dict[str, int]:
    return {name: begin + offset for name, offset in of.offsets.items()}


def zeros(arrays: Arrays, begin: int) -> None:
    """Places that no image takes: a black one that may compute nothing that can be skipped."""
    for array in arrays.values():
        array[begin:] = np.zeros((), array.dtype)
