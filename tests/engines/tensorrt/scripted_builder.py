"""TensorRT's builder as far as a build talks to it, which needs a GPU: what it was asked is kept.

Its names are those of the genuine modules, which `plugins/genuine/test_used_by_builds.py` is asked
for. What it compiles is the ONNX file itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import onnx

from engines.export.onnx.operators import OPERATORS, plugin


@dataclass
class Asked:
    """All that a build asked for. registered: operators that have a plugin. taken: how many nodes
    become one; None: all that may. fails: what is said, and nothing is compiled;
    fails_with_branches: the same, of networks with branches alone. own_plugins: namespaces for
    which the library's plugins were asked for; before that it does not know RoiAlign."""

    version: str = "10.16.1.11"
    registered: set[str] = field(default_factory=lambda: {n for n in OPERATORS if plugin(n)})
    taken: int | None = None
    fails: str | None = None
    fails_with_branches: str | None = None
    own_plugins: list[str] = field(default_factory=list)
    starts: bool = True
    flags: int = 0
    cleared: list[str] = field(default_factory=list)
    profiles: list[dict[str, Any]] = field(default_factory=list)
    caches: list[bytes] = field(default_factory=list)


def scripted_tensorrt(asked: Asked) -> Any:
    """A module named tensorrt."""

    class Logger:
        """What loggers are made from."""

        Severity = SimpleNamespace(INTERNAL_ERROR="internal", ERROR="error", WARNING="warning")

    class Monitor:
        """What progress monitors are made from."""

    class Builder:
        def __init__(self, logger: Any) -> None:
            if not asked.starts:
                logger.log("error", "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self.logger = logger

        def create_network(self, flags: int) -> Any:
            asked.flags = flags
            return SimpleNamespace(num_layers=0, onnx=b"", kinds=[])

        def create_builder_config(self) -> Any:
            return Config()

        def create_optimization_profile(self) -> Any:
            shapes: dict[str, Any] = {}

            def set_shape(name: str, *given: Any) -> None:
                shapes[name] = given

            return SimpleNamespace(shapes=shapes, set_shape=set_shape)

        def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
            config.progress_monitor.phase_start("Timing", None, 2)
            assert config.progress_monitor.step_complete("Timing", 1)
            config.progress_monitor.phase_finish("Timing")
            fails = asked.fails
            if any(node.op_type == "If" for node in onnx.load_from_string(network.onnx).graph.node):
                fails = fails or asked.fails_with_branches
            if fails is not None:
                self.logger.log("error", fails)
                return None
            return bytes(network.onnx)

    class Config:
        progress_monitor: Any = None
        timing_cache: bytes | None = None

        def clear_flag(self, flag: str) -> None:
            asked.cleared.append(flag)

        def add_optimization_profile(self, profile: Any) -> int:
            asked.profiles.append(profile.shapes)
            return len(asked.profiles) - 1

        def create_timing_cache(self, content: bytes) -> bytes | None:
            asked.caches.append(content)
            return None if content.startswith(b"damaged") else content

        def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            if cache.startswith(b"other"):
                return False
            self.timing_cache = cache
            return True

        def get_timing_cache(self) -> Any:
            if self.timing_cache is None:
                return None
            return SimpleNamespace(serialize=lambda: b"timed")

    class Parser:
        num_errors = 0

        def __init__(self, network: Any, _logger: Any) -> None:
            self.network = network

        def parse(self, content: bytes) -> bool:
            nodes = onnx.load_from_string(content).graph.node
            assert asked.own_plugins or all(node.op_type != "RoiAlign" for node in nodes)
            assert all(node.op_type != "NonMaxSuppression" for node in nodes)
            may = [node for node in nodes if plugin(node.op_type) and node.domain]
            taken = len(may) if asked.taken is None else asked.taken
            kinds = ["LayerType.PLUGIN_V3"] * taken + ["LayerType.CONVOLUTION"]
            self.network.num_layers, self.network.onnx = len(kinds), content
            self.network.get_layer = lambda i: SimpleNamespace(type=kinds[i])
            return True

    def started(_logger: Any, namespace: str) -> bool:
        asked.own_plugins.append(namespace)
        return True

    registry = SimpleNamespace(
        get_creator=lambda name, version, namespace: (
            object() if name in asked.registered and (version, namespace) == ("1", "laud") else None
        )
    )
    return SimpleNamespace(
        __version__=asked.version,
        ILogger=Logger,
        IProgressMonitor=Monitor,
        Builder=Builder,
        OnnxParser=Parser,
        BuilderFlag=SimpleNamespace(TF32="TF32"),
        NetworkDefinitionCreationFlag=SimpleNamespace(
            STRONGLY_TYPED=1, PREFER_AOT_PYTHON_PLUGINS=3
        ),
        get_plugin_registry=lambda: registry,
        init_libnvinfer_plugins=started,
    )
