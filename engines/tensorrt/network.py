"""An ONNX file through NVIDIA's parser and compiler, TensorRT's or that of TensorRT-RTX."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from engines.errors import EngineError, InvalidInput
from engines.export.onnx.operators import DOMAIN, VERSION
from engines.tensorrt.libraries import Library

Say = Callable[[str], None]

# Shapes that an input may have, (least, best, most), by the input's name.
Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]

_EVERY_S = 2.0


@dataclass(frozen=True)
class Order:
    """What is to be compiled.

    profiles: an optimisation profile each. capabilities: compute capabilities to compile for
    without a device; none: the device that is current. plugins: how many nodes must become plugins.
    timing_cache: of an earlier build, empty for the first; None: none is kept.
    """

    onnx: bytes
    profiles: Sequence[Shapes]
    capabilities: Sequence[int] = ()
    plugins: int = 0
    timing_cache: bytes | None = None


@dataclass(frozen=True)
class Compiled:
    """A serialised network. layers: how many the parser made of the file."""

    program: bytes
    layers: int
    timing_cache: bytes | None


class Progress:
    """Says how far the compiler is, at most every two seconds."""

    def __init__(self, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._steps: dict[str, int] = {}
        self._begin_s = self._said_s = clock()

    def phase(self, name: str, steps: int) -> None:
        """A phase of so many steps begins."""
        self._steps[name] = steps

    def step(self, name: str, done: int) -> None:
        """A phase is so far."""
        now_s = self._clock()
        if now_s - self._said_s >= _EVERY_S:
            self._said_s = now_s
            steps = self._steps.get(name, 0)
            of = f" {done + 1} of {steps}" if steps > 1 else ""
            self._say(f"  {now_s - self._begin_s:.0f} s: {name.lower()}{of}")


def compile_network(library: Library, order: Order, say: Say) -> Compiled:
    """Compile. Raises EngineError with the library's own words where it does not parse or compile
    the file, or leaves out a plugin; InvalidInput for a capability that it has not."""
    trt = library.module
    library.said.faults.clear()
    try:
        builder = trt.Builder(library.logger)
    except (RuntimeError, TypeError) as error:
        said = library.said.taken() if library.said.faults else str(error)
        raise EngineError(f"{library.title} {library.version} does not start: {said}") from None
    network = builder.create_network(_flags(trt))
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse(order.onnx):
        faults = [parser.get_error(i) for i in range(parser.num_errors)]
        said = "; ".join(_spelled(fault) for fault in faults[:3]) or library.said.taken()
        raise EngineError(f"{library.title} {library.version} cannot read the network: {said}")
    _check_plugins(library, network, order.plugins)
    config = builder.create_builder_config()
    # Plans of fp32 compute in it: what decides has to be exact.
    config.clear_flag(trt.BuilderFlag.TF32)
    _set_capabilities(library, config, order.capabilities)
    for shapes in order.profiles:
        profile = builder.create_optimization_profile()
        for name, (least, best, most) in shapes.items():
            profile.set_shape(name, least, best, most)
        if config.add_optimization_profile(profile) < 0:
            raise EngineError(f"{library.title} refuses the shapes: {library.said.taken()}")
    if order.timing_cache is not None:
        cache = config.create_timing_cache(order.timing_cache)
        if cache is None or not config.set_timing_cache(cache, False):
            say("the timing cache is of another device or version: it is made anew")
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
    config.progress_monitor = monitor = _monitor(trt, Progress(say))
    program = builder.build_serialized_network(network, config)
    del monitor
    if program is None:
        raise EngineError(
            f"{library.title} {library.version} cannot compile the network: {library.said.taken()}"
        )
    kept = None if order.timing_cache is None else bytes(config.get_timing_cache().serialize())
    return Compiled(bytes(program), network.num_layers, kept)


def known_capabilities(library: Library) -> tuple[int, ...]:
    """Those that it compiles for without a device; none where it needs one."""
    names = getattr(getattr(library.module, "ComputeCapability", None), "__members__", ())
    return tuple(sorted(int(name[2:]) for name in names if name.startswith("SM")))


def check_capabilities(library: Library, wanted: Iterable[int]) -> None:
    """Raise InvalidInput for a capability that it does not compile for."""
    known = known_capabilities(library)
    for each in wanted:
        if each not in known:
            raise InvalidInput(
                f"{library.title} does not compile for compute capability {each}; it does for: "
                f"{', '.join(map(str, known))}"
            )


def _flags(trt: Any) -> int:
    """Types as in the file, and kernels of plugins ahead of time, where that has to be said."""
    flags = 0
    for name in ("STRONGLY_TYPED", "PREFER_AOT_PYTHON_PLUGINS"):
        flag = getattr(trt.NetworkDefinitionCreationFlag, name, None)
        if flag is not None:
            flags |= 1 << int(flag)
    return flags


def check_registered(library: Library, operators: Iterable[str]) -> None:
    """Raise EngineError for an operator without its plugin, which the parser would not miss."""
    registry = library.module.get_plugin_registry()
    for name in operators:
        if registry.get_creator(name, str(VERSION), DOMAIN) is None:
            raise EngineError(
                f"the operator '{DOMAIN}::{name}' has no plugin in {library.title} "
                f"{library.version}: the plan would compute everything; update laudserve, or build "
                "with --rtx, which wants none"
            )


def _check_plugins(library: Library, network: Any, wanted: int) -> None:
    """Without its plugin a node silently becomes what its function computes."""
    if not wanted:
        return
    kinds = (str(network.get_layer(i).type) for i in range(network.num_layers))
    found = sum(kind.rpartition(".")[2].startswith("PLUGIN") for kind in kinds)
    if found < wanted:
        raise EngineError(
            f"{library.title} {library.version} took the plugins of {found} of {wanted} nodes, and "
            "of the others what they mean without: the plan would compute everything"
        )


def _set_capabilities(library: Library, config: Any, capabilities: Sequence[int]) -> None:
    if not capabilities:
        return
    check_capabilities(library, capabilities)
    kinds = library.module.ComputeCapability
    config.num_compute_capabilities = len(capabilities)
    for i, each in enumerate(capabilities):
        if not config.set_compute_capability(getattr(kinds, f"SM{each}"), i):
            raise EngineError(
                f"{library.title} refuses compute capability {each}: {library.said.taken()}"
            )


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, _parent: str | None, steps: int) -> None:
            progress.phase(name, steps)

        def step_complete(self, name: str, step: int) -> bool:
            progress.step(name, step)
            return True

        def phase_finish(self, name: str) -> None:
            """Nothing is to be said of it."""

    return Monitor()


def _spelled(fault: Any) -> str:
    said = " ".join(str(fault.desc()).split())
    node = fault.node_name()
    return f"{said} (node '{node}', {fault.node_operator()})" if node else said
