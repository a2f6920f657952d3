"""What tests run in processes of their own: forks, and thousands of calls that must not grow."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engines.cpu.engine import CpuEngine
from engines.errors import EngineError
from tests.engines.cpu import detectors
from tests.engines.cpu.cases import bundle, load, pictures, same, varied_points

forgotten: list[CpuEngine] = []

_STATUS = Path("/proc/self/statm")
_TASKS = Path("/proc/self/task")
_ROUNDS = 200
_WARM_UP = 50


def fork_after_load() -> None:
    """The child cannot infer but can close, load its own and end; the parent notices nothing."""
    engine, images, points = load(bundle(), threads=2), pictures(5), varied_points()
    wanted = engine.infer(images, points)

    def in_the_child() -> None:
        with pytest.raises(EngineError, match="fork"):
            engine.infer(images, points)
        with load(bundle(), threads=2) as own:
            found = own.infer(images, points)
            assert all(same(found, i, wanted, i) for i in range(5))
        engine.close()

    def without_closing() -> None:
        pass

    def that_forgets_it() -> None:
        nonlocal engine
        del engine
        gc.collect()

    for body in (in_the_child, without_closing, that_forgets_it):
        assert _child_status(body) == 0, body.__name__
        found = engine.infer(images, points)
        assert all(same(found, i, wanted, i) for i in range(5))
    engine.close()


def fork_of_a_detector() -> None:
    """The child cannot find objects but can close and load its own; the parent notices nothing."""
    size = 64
    images, points = pictures(2, size), [detectors.full(size)] * 2
    engine = detectors.load(detectors.bundle(), threads=2)
    wanted = engine.infer(images, points)

    def in_the_child() -> None:
        with pytest.raises(EngineError, match="fork"):
            engine.infer(images, points)
        with detectors.load(detectors.bundle(), threads=2) as own:
            found = own.infer(images, points)
            assert all(detectors.same(found, i, wanted, i) for i in range(2))
        engine.close()

    assert _child_status(in_the_child) == 0
    found = engine.infer(images, points)
    assert all(detectors.same(found, i, wanted, i) for i in range(2))
    engine.close()


def fork_while_another_thread_infers() -> None:
    """The engine's lock is held when the fork happens: the child must not wait for it."""
    engine, images, points = load(bundle(), threads=2), pictures(5), varied_points()
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            engine.infer(images, points)

    worker = threading.Thread(target=work)
    worker.start()

    def in_the_child() -> None:
        with pytest.raises(EngineError, match="fork"):
            engine.infer(images, points)
        engine.close()

    try:
        assert [_child_status(in_the_child) for _ in range(8)] == [0] * 8
    finally:
        ended.set()
        worker.join()
    engine.close()


def load_infer_unload() -> None:
    """Prints by how many bytes, and threads, the process grew after warming up."""
    size = 15
    source, images, points = bundle(), pictures(2, size), varied_points(size=size)
    scaled = bundle(scaled=True)

    def once(round_: int) -> None:
        with CpuEngine(scaled if round_ % 2 else source, threads=1 + round_ // 2 % 2) as engine:
            engine.infer(images, points[1:3])
            engine.infer(images[:1], points[:1])

    for round_ in range(_WARM_UP):
        once(round_)
    gc.collect()
    before, tasks = _resident(), len(os.listdir(_TASKS))
    for round_ in range(_ROUNDS):
        once(round_)
    gc.collect()
    print(_resident() - before, len(os.listdir(_TASKS)) - tasks)


def threads_end_with_the_engine() -> None:
    """Prints for several sizes how many threads came with the engine, and how many stayed."""
    images, points = pictures(5), varied_points()
    alone = len(os.listdir(_TASKS))
    for threads in (1, 2, 3, 16):
        with load(bundle(), threads=threads) as engine:
            engine.infer(images, points)
            print(len(os.listdir(_TASKS)) - alone)
        print(len(os.listdir(_TASKS)) - alone)


def memory_runs_out() -> None:
    """A batch for which there is too little is refused; smaller ones and later ones are not."""
    size, few, many = 512, 1, 64
    images, small = pictures(1, size).repeat(many, axis=0), pictures(5)
    points = varied_points(size=size)[1:2] * many
    with load(bundle(), threads=2) as engine:
        wanted = engine.infer(small, varied_points())
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        used = int(_STATUS.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 2**20, hard))
        for _ in range(2):
            with pytest.raises(EngineError, match=r"not enough memory.*\(64, 512, 512, 3\)"):
                engine.infer(images, points)
            found = engine.infer(small, varied_points())
            assert all(same(found, i, wanted, i) for i in range(5))
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        alone = engine.infer(images[:few], points[:few])
        assert same(engine.infer(images, points), many - 1, alone, 0)


def memory_runs_out_for_a_detector() -> None:
    """The same, where outputs are large too."""
    size, many = 256, 48
    images, small = pictures(1, size).repeat(many, axis=0), pictures(2, 64)
    points, few = [detectors.full(size)] * many, [detectors.full(64)] * 2
    with detectors.load(detectors.bundle(), threads=2) as engine:
        wanted = engine.infer(small, few)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        used = int(_STATUS.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        # Too little for all masks, then for them but not for maps besides.
        for room in (32, 120):
            resource.setrlimit(resource.RLIMIT_AS, (used + room * 2**20, hard))
            with pytest.raises(EngineError, match=r"not enough memory.*\(48, 256, 256, 3\)"):
                engine.infer(images, points)
            found = engine.infer(small, few)
            assert all(detectors.same(found, i, wanted, i) for i in range(2))
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        alone = engine.infer(images[:1], points[:1])
        assert detectors.same(engine.infer(images, points), many - 1, alone, 0)


def alive_at_the_end() -> None:
    """An engine with threads that nobody closes before the process ends."""
    forgotten.append(load(bundle(), threads=3))
    forgotten[0].infer(pictures(5), varied_points())


def many_calls_of_every_size() -> None:
    """Prints by how many bytes the process grew from the second to the last round of sizes."""
    sizes = (7, 33, 21, 48)
    images = {size: pictures(4, size) for size in sizes}
    with load(bundle(), threads=2) as engine:
        for round_ in range(_ROUNDS):
            for size in sizes:
                count = 1 + round_ % 4
                engine.infer(images[size][:count], varied_points(size=size)[:count])
            if round_ == _WARM_UP:
                before = _resident()
        print(_resident() - before)


def many_refused_calls() -> None:
    """Prints by how many bytes the process grew over calls that end in an error."""
    source, images = bundle(), pictures(1)
    wrong = {**source.weights, "fc.bias": np.zeros(3, np.float32)}
    broken = bundle(weights=wrong)
    with load(source, threads=2) as engine:
        for round_ in range(4 * _ROUNDS):
            for call in (
                lambda: engine.infer(images[:, :, ::-1], varied_points()[:1]),
                lambda: engine.infer(images, varied_points()[:2]),
                lambda: load(broken),
            ):
                try:
                    call()
                except Exception:
                    continue
                raise AssertionError("nothing was refused")
            if round_ == _ROUNDS:
                before = _resident()
        print(_resident() - before)


def _resident() -> int:
    """Bytes, without what was freed but is kept for the next allocation: that depends on luck."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return int(_STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _child_status(body: Callable[[], None]) -> int:
    """Of a child that runs the body and then ends as Python programs end."""
    child = os.fork()
    if child == 0:
        try:
            body()
            # Not os._exit: modules and objects are torn down as usual.
            raise SystemExit(0)
        except Exception:
            traceback.print_exc()
            raise SystemExit(1) from None
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)
