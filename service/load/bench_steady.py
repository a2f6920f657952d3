"""Parts of `laud bench serve` in a closed loop: what serving adds, and what every point can do."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from engines.bench.timing import noise
from service.load.bench_plan import FULL, BenchPlan, bound_of
from service.load.bench_report import Capacity, Overhead, PointCapacity
from service.load.client import Client, LoadError, Response
from service.load.closed_loop import in_turns, saturate
from service.load.made_up import made_up_jpeg
from service.load.own_server import Process, bare_server, gained
from service.load.pictures import PictureFile
from service.load.records import OK
from service.load.target import (
    Ask,
    Call,
    Served,
    error_of,
    file_calls,
    phases_ms,
    tensor_calls,
)

Say = Callable[[str], None]

AMPLE_S = 10.0
"""A budget that nobody misses: capacity is not about deadlines."""
IN_FLIGHT = 8

_BODY = (500, 375, 50_000)
_SUBTRACTED = ("decode", "prepare", "network")
_BUSY = 0.02


@dataclass(frozen=True)
class Bench:
    """What all parts share."""

    plan: BenchPlan
    process: Process
    client: Client
    model: Served
    pictures: tuple[PictureFile, ...]
    described: str
    say: Say

    def calls(self, pictures: Sequence[PictureFile], point: str | None = None) -> tuple[Call, ...]:
        """Files to /v1, pinned or free."""
        return file_calls(self.process.server, self.model, pictures, Ask(point=point))

    def tensors(
        self, pictures: Sequence[PictureFile], point: str | None = None
    ) -> tuple[Call, ...]:
        """Pixels to /v2."""
        return tensor_calls(self.process.server, self.model, pictures, Ask(point=point))


async def overhead(bench: Bench) -> tuple[Overhead, ...]:
    """A file and a tensor, each beside the bare handler with the same body, all in turns."""
    body = made_up_jpeg(*_BODY, seed=bench.plan.seed)
    (file,) = bench.calls([body])
    (tensor,) = bench.tensors([body])
    with bare_server() as bare:
        async with Client(bare.server) as other:

            def ours(call: Call) -> Callable[[], Awaitable[Response]]:
                return lambda: bench.client.send(*call.parts(AMPLE_S))

            def theirs(call: Call) -> Callable[[], Awaitable[Response]]:
                length = len(call.body)
                head = f"POST / HTTP/1.1\r\nhost: bare\r\ncontent-length: {length}\r\n\r\n"
                return lambda: other.send(head.encode(), call.body)

            found = await in_turns(
                {
                    "file": ours(file),
                    "bare file": theirs(file),
                    "tensor": ours(tensor),
                    "bare tensor": theirs(tensor),
                },
                bench.plan.turns,
            )
    calls = {"file": file, "tensor": tensor}
    return tuple(
        overhead_of(what, len(call.body), found[what], found[f"bare {what}"])
        for what, call in calls.items()
    )


def overhead_of(
    what: str, body_bytes: int, ours: Sequence[Response], bare: Sequence[Response]
) -> Overhead:
    """The difference of medians. LoadError where an answer was no result."""
    for response in (*ours, *bare):
        if response.status != OK:
            raise LoadError(
                f"a request for overhead was answered {response.status}: {error_of(response)}"
            )
    phases = [phases_ms(response) for response in ours]
    end_to_end = [_took_ms(response) for response in ours]
    own = [
        total - sum(told.get(name, 0.0) for name in _SUBTRACTED)
        for total, told in zip(end_to_end, phases, strict=True)
    ]
    bare_ms = [_took_ms(response) for response in bare]
    names = dict.fromkeys(name for told in phases for name in told)
    return Overhead(
        what=what,
        body_bytes=body_bytes,
        end_to_end_ms=statistics.median(end_to_end),
        phases_ms={
            name: statistics.median(told.get(name, 0.0) for told in phases) for name in names
        },
        own_ms=statistics.median(own),
        bare_ms=statistics.median(bare_ms),
        overhead_ms=statistics.median(own) - statistics.median(bare_ms),
        noise=noise([one / 1e3 for one in bare_ms]),
    )


async def capacity(bench: Bench) -> Capacity:
    """Every point, pinned, in turns; CPU time by thread."""
    plan, cores = bench.plan, len(os.sched_getaffinity(0))
    engine = await _engine_threads(bench)
    rounds: dict[str, list[PointCapacity]] = {point: [] for point in bench.model.points}
    for number in range(plan.rounds):
        for point, found in rounds.items():
            bench.say(f"capacity: round {number + 1} of {plan.rounds}, point {point}")
            found.append(await _capacity_of(bench, point, engine))
    points = tuple(_median(found) for found in rounds.values())
    full = [one.throughput_hz for one in rounds[FULL]]
    return Capacity(
        points=points,
        bounds=tuple(
            bound_of(
                one,
                cores=cores,
                engine_threads=plan.engine_threads,
                decode_threads=plan.decode_threads,
            )
            for one in points
        ),
        pictures=bench.described,
        cores=cores,
        engine_threads=plan.engine_threads,
        decode_threads=plan.decode_threads,
        throughput_spread=(max(full) - min(full)) / statistics.median(full),
    )


async def _engine_threads(bench: Bench) -> frozenset[int]:
    """Threads that work although nothing is decoded, beside the main one."""
    await saturate(
        bench.client,
        bench.tensors(bench.pictures, FULL),
        in_flight=2,
        duration_s=1.0,
        slo_s=AMPLE_S,
    )
    seconds = max(bench.plan.seconds / 4, 1.0)
    before = bench.process.thread_cpu_s()
    await saturate(
        bench.client,
        bench.tensors(bench.pictures, FULL),
        in_flight=IN_FLIGHT,
        duration_s=seconds,
        slo_s=AMPLE_S,
    )
    used = gained(before, bench.process.thread_cpu_s())
    return frozenset(
        thread
        for thread, used_s in used.items()
        if thread != bench.process.pid and used_s > _BUSY * seconds
    )


async def _capacity_of(bench: Bench, point: str, engine: frozenset[int]) -> PointCapacity:
    calls = bench.calls(bench.pictures, point)
    await saturate(bench.client, calls, in_flight=IN_FLIGHT, duration_s=0.3, slo_s=AMPLE_S)
    before, client_s = bench.process.thread_cpu_s(), time.process_time()
    ran = await saturate(
        bench.client, calls, in_flight=IN_FLIGHT, duration_s=bench.plan.seconds / 2, slo_s=AMPLE_S
    )
    client_s = time.process_time() - client_s
    used = gained(before, bench.process.thread_cpu_s())
    front_s = used.pop(bench.process.pid, 0.0)
    engine_s = sum(used_s for thread, used_s in used.items() if thread in engine)
    each_ms = 1e3 / ran.answered
    return PointCapacity(
        point=point,
        accuracy=bench.model.accuracy.get(point),
        throughput_hz=ran.throughput_hz,
        front_ms=front_s * each_ms,
        decode_ms=(sum(used.values()) - engine_s) * each_ms,
        engine_ms=engine_s * each_ms,
        client_ms=client_s * each_ms,
    )


def _median(found: Sequence[PointCapacity]) -> PointCapacity:
    """Of every number, over the rounds."""
    first = found[0]
    numbers = ("throughput_hz", "front_ms", "decode_ms", "engine_ms", "client_ms")
    medians: Mapping[str, float] = {
        name: statistics.median(getattr(one, name) for one in found) for name in numbers
    }
    return PointCapacity(point=first.point, accuracy=first.accuracy, **medians)


def _took_ms(response: Response) -> float:
    return (response.done_s - response.sent_s) * 1e3
