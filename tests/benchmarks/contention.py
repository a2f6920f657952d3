"""How much slower the native engine gets when another process holds one of its cores.

    python tests/benchmarks/contention.py [BUNDLE] [--threads 2] [--calls 300] [--precision fp32]

Prints JSON: median milliseconds of a call while the machine is quiet and while a process pinned to
one core does nothing but count, taken in turns, and their ratio. Needs two free cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from multiprocessing.synchronize import Event

import numpy as np

from engines.bundle import read_bundle
from engines.cpu.engine import CpuEngine

ROUNDS = 5


def hold_core(core: int, running: Event, ended: Event) -> None:
    """Keep `core` busy while `running` is set."""
    os.sched_setaffinity(0, {core})
    while not ended.is_set():
        if running.wait(timeout=0.1):
            for _ in range(100_000):
                pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", nargs="?", default="zoo:clothing")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--precision", default=None)
    wanted = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    running, ended = context.Event(), context.Event()
    core = min(os.sched_getaffinity(0))
    hog = context.Process(target=hold_core, args=(core, running, ended), daemon=True)
    hog.start()
    bundle = read_bundle(wanted.bundle)
    point = bundle.manifest.full.point
    size = point.image_size
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    times: dict[str, list[float]] = {"quiet": [], "contended": []}
    with CpuEngine(bundle, threads=wanted.threads, precision=wanted.precision) as engine:
        engine.infer(image, [point])
        for _ in range(ROUNDS):
            for state, found in times.items():
                if state == "contended":
                    running.set()
                else:
                    running.clear()
                time.sleep(0.2)
                for _ in range(wanted.calls // ROUNDS):
                    begin = time.perf_counter()
                    engine.infer(image, [point])
                    found.append(time.perf_counter() - begin)
        precision = engine.precision
    ended.set()
    running.set()
    hog.join()
    quiet, contended = (1000 * statistics.median(found) for found in times.values())
    print(
        json.dumps(
            {
                "precision": precision,
                "threads": wanted.threads,
                "quiet_ms": round(quiet, 3),
                "contended_ms": round(contended, 3),
                "ratio": round(contended / quiet, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
