"""Threads run everything, one of them in order, and end when they are told."""

from __future__ import annotations

import threading
import weakref

import pytest

from service.threads import Threads

PATIENCE_S = 10.0


def test_it_runs_everything_in_order_on_one_thread_of_its_name() -> None:
    with Threads("laud-test") as thread:
        seen: list[int] = []
        futures = [thread.submit(seen.append, n) for n in range(100)]
        name = thread.submit(lambda: threading.current_thread().name)
        assert name.result(PATIENCE_S) == "laud-test"
        assert all(future.done() for future in futures)
        assert seen == list(range(100))


def test_arguments_results_and_errors_come_through() -> None:
    with Threads("laud-test") as thread:
        assert thread.submit(pow, 3, 4, mod=5).result(PATIENCE_S) == 1
        failed = thread.submit(int, "no number")
        with pytest.raises(ValueError, match="no number"):
            failed.result(PATIENCE_S)
        # It goes on, even after what would end a program.
        left = thread.submit(exec, "raise SystemExit(3)")
        with pytest.raises(SystemExit):
            left.result(PATIENCE_S)
        assert thread.submit(lambda: 7).result(PATIENCE_S) == 7


def test_the_end_comes_after_what_was_given_and_nothing_is_taken_after_it() -> None:
    thread, gate = Threads("laud-test"), threading.Event()
    blocked = thread.submit(gate.wait, PATIENCE_S)
    after = thread.submit(lambda: 7)
    thread.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="ended"):
        thread.submit(lambda: 8)
    gate.set()
    thread.shutdown()
    assert blocked.result(0)
    assert after.result(0) == 7


def test_without_work_there_is_no_thread() -> None:
    before = threading.active_count()
    with Threads("laud-test"):
        assert threading.active_count() == before


def test_what_waits_may_be_cancelled_at_the_end_or_before() -> None:
    thread, gate, begun = Threads("laud-test"), threading.Event(), threading.Event()

    def block() -> bool:
        begun.set()
        return gate.wait(PATIENCE_S)

    running = thread.submit(block)
    first, second = thread.submit(lambda: 1), thread.submit(lambda: 2)
    assert begun.wait(PATIENCE_S)
    assert first.cancel()
    thread.shutdown(wait=False, cancel_futures=True)
    assert second.cancelled()
    gate.set()
    thread.shutdown()
    assert running.result(0)


def test_it_holds_nothing_that_it_has_run() -> None:
    class Large:
        pass

    with Threads("laud-test") as thread:
        gone = threading.Event()
        large = Large()
        weakref.finalize(large, gone.set)
        thread.submit(lambda kept: None, large).result(PATIENCE_S)
        del large
        assert gone.wait(PATIENCE_S)


def test_it_holds_nothing_that_was_cancelled() -> None:
    class Large:
        pass

    with Threads("laud-test") as thread:
        gate, gone = threading.Event(), threading.Event()
        blocked = thread.submit(gate.wait, PATIENCE_S)
        large = Large()
        weakref.finalize(large, gone.set)
        assert thread.submit(lambda kept: None, large).cancel()
        del large
        gate.set()
        assert blocked.result(PATIENCE_S)
        assert gone.wait(PATIENCE_S)


def test_threads_that_a_machine_refuses_are_begun_with_what_comes_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Threads("laud-test", 2) as threads:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start"):
                threads.submit(lambda: 1)
        together = threading.Barrier(2)
        waiting = [threads.submit(together.wait, PATIENCE_S) for _ in range(2)]
        assert sorted(future.result(PATIENCE_S) for future in waiting) == [0, 1]


def test_one_thread_that_a_machine_refuses_leaves_the_work_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "laud-test_1":
            raise RuntimeError("can't start new thread")
        start(thread)

    with Threads("laud-test", 2) as threads:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            names = [threads.submit(lambda: threading.current_thread().name) for _ in range(3)]
            assert {name.result(PATIENCE_S) for name in names} == {"laud-test_0"}
        together = threading.Barrier(2)
        waiting = [threads.submit(together.wait, PATIENCE_S) for _ in range(2)]
        assert sorted(future.result(PATIENCE_S) for future in waiting) == [0, 1]


def test_several_run_side_by_side_and_all_end() -> None:
    before = threading.active_count()
    with Threads("laud-test", 3) as threads:
        together = threading.Barrier(3)
        waiting = [threads.submit(together.wait, PATIENCE_S) for _ in range(3)]
        assert sorted(future.result(PATIENCE_S) for future in waiting) == [0, 1, 2]
        names = {thread.name for thread in threading.enumerate()}
        assert names >= {"laud-test_0", "laud-test_1", "laud-test_2"}
    assert threading.active_count() == before
