"""Threads, processes and the life of an engine. No clock is asserted."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from engines.core import Output, Paradigm
from engines.cpu.engine import CpuEngine
from engines.errors import EngineError
from tests.engines.cpu import processes
from tests.engines.cpu.alone import PATIENCE_S, run_alone
from tests.engines.cpu.cases import (
    KERNELS,
    bundle,
    load,
    net_of,
    pictures,
    point,
    same,
    stage,
    varied_points,
)

IMAGES, POINTS = pictures(5), varied_points()
LONG = net_of(stage(Paradigm.STATIC, 64, depth=6), stem_width=64)
LONG_SIZE = 384
"""Tens of milliseconds a call."""

kernels = pytest.mark.parametrize(("precision", "isa"), KERNELS)


def answer(engine: CpuEngine, i: int) -> Output:
    return engine.infer(IMAGES[i : i + 1], POINTS[i : i + 1])


@contextmanager
def engine_of(precision: str, isa: str, threads: int, seed: int = 0) -> Iterator[CpuEngine]:
    source = bundle(seed=seed, scaled=precision == "int8")
    with load(source, isa=isa, precision=precision, threads=threads) as engine:
        yield engine


# Threads


@kernels
@pytest.mark.parametrize("threads", [1, 2])
def test_one_engine_may_be_called_from_several_threads(
    precision: str, isa: str, threads: int
) -> None:
    with (
        engine_of(precision, isa, threads) as engine,
        ThreadPoolExecutor(4) as pool,
    ):
        wanted = [answer(engine, i) for i in range(5)]
        asked = [i % 5 for i in range(100)]
        found = list(pool.map(lambda i: answer(engine, i), asked))
    assert [same(one, 0, wanted[i], 0) for one, i in zip(found, asked, strict=True)] == [True] * 100


@kernels
def test_two_engines_run_at_once(precision: str, isa: str) -> None:
    with (
        engine_of(precision, isa, 2, seed=1) as one,
        engine_of(precision, isa, 2, seed=2) as other,
        ThreadPoolExecutor(2) as pool,
    ):
        wanted = [one.infer(IMAGES, POINTS), other.infer(IMAGES, POINTS)]
        assert not same(wanted[0], 0, wanted[1], 0)
        meeting = threading.Barrier(2)

        def work(engine: CpuEngine) -> list[Output]:
            meeting.wait(PATIENCE_S)
            return [engine.infer(IMAGES, POINTS) for _ in range(30)]

        for found, expected in zip(pool.map(work, (one, other)), wanted, strict=True):
            for output in found:
                assert all(same(output, i, expected, i) for i in range(5))


@pytest.mark.parametrize("threads", [1, 2])
def test_closing_lets_a_call_finish_and_refuses_the_next(threads: int) -> None:
    """Closed at every moment of a call: right answers, then an EngineError, and nothing else."""
    for _ in range(20):
        engine = load(bundle(), threads=threads)
        wanted = engine.infer(IMAGES, POINTS)
        begun = threading.Barrier(3)

        def work(
            engine: CpuEngine = engine, begun: threading.Barrier = begun
        ) -> tuple[list[Output], str]:
            found = []
            begun.wait(PATIENCE_S)
            while True:
                try:
                    found.append(engine.infer(IMAGES, POINTS))
                except EngineError as error:
                    return found, str(error)

        with ThreadPoolExecutor(2) as pool:
            workers: list[Future[tuple[list[Output], str]]] = [pool.submit(work) for _ in range(2)]
            begun.wait(PATIENCE_S)
            engine.close()
        for worker in workers:
            found, refusal = worker.result()
            assert "closed" in refusal
            assert all(same(output, 3, wanted, 3) for output in found)


def test_other_python_threads_run_while_it_infers() -> None:
    """Here the interpreter never takes the GIL away from a thread: it has to be given up.

    Several calls, since a machine may let the other thread wait for as long as one of them takes.
    """
    engine = load(bundle(LONG), threads=1, poison=False)
    images, points = pictures(1, LONG_SIZE), [point([], size=LONG_SIZE)]
    engine.infer(images, points)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    seen = []
    try:
        for _ in range(10):
            begun, ended = threading.Event(), threading.Event()

            def work(begun: threading.Event = begun, ended: threading.Event = ended) -> None:
                begun.set()
                engine.infer(images, points)
                ended.set()

            worker = threading.Thread(target=work)
            worker.start()
            begun.wait(PATIENCE_S)
            seen.append(not ended.is_set())
            worker.join()
    finally:
        sys.setswitchinterval(interval)
        engine.close()
    assert any(seen)


def test_its_threads_end_with_it() -> None:
    printed = run_alone(processes.threads_end_with_the_engine)
    assert printed.split() == ["0", "0", "1", "0", "2", "0", "15", "0"]


# Its life


def test_it_is_a_context_manager_that_closes_on_errors_too() -> None:
    engine = load(bundle())
    assert engine.__enter__() is engine
    with pytest.raises(KeyError), engine:
        raise KeyError
    with pytest.raises(EngineError, match="closed"):
        engine.infer(IMAGES, POINTS)
    engine.close()


def test_an_engine_that_is_never_closed_harms_nobody() -> None:
    engine = load(bundle(), threads=2)
    found = engine.infer(IMAGES, POINTS)
    del engine
    with load(bundle(), threads=1) as other:
        again = other.infer(IMAGES, POINTS)
    assert all(same(found, i, again, i) for i in range(5))


# Processes


def test_a_fork_is_refused_by_name_and_harms_nobody() -> None:
    assert run_alone(processes.fork_after_load) == ""


def test_a_fork_in_the_middle_of_a_call_is_refused_too() -> None:
    """The thread that infers is not there in the child, and its lock is never given back."""
    run_alone(processes.fork_while_another_thread_infers)


def test_a_process_may_end_with_a_live_engine() -> None:
    assert run_alone(processes.alive_at_the_end) == ""


MOST_GROWTH = 2**20
"""One leaked network of these would be 200 times 100 KiB."""


def test_loading_again_and_again_does_not_grow() -> None:
    growth, tasks = map(int, run_alone(processes.load_infer_unload).split())
    assert growth < MOST_GROWTH
    assert tasks == 0


@pytest.mark.parametrize(
    "calling", [processes.many_calls_of_every_size, processes.many_refused_calls]
)
def test_calls_do_not_grow(calling: Callable[[], None]) -> None:
    assert int(run_alone(calling)) < MOST_GROWTH
