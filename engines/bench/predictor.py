"""`laud bench predictor`: predictions beside measurements that the predictors have not seen."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from engines.bench.held_out import (
    Runs,
    Subject,
    demo,
    run_case,
    synthetic,
)
from engines.bench.judging import Judged, judge_all
from engines.bench.online import CALLS, SETTLING_S, online_coverage
from engines.bench.pictures import FolderPictures, MadeUpPictures, Pictures
from engines.bench.prediction_report import (
    OnlineCoverage,
    PredictorReport,
)
from engines.core import UInt8Array
from engines.cpu.engine import CpuEngine
from engines.errors import EngineError, InvalidInput
from engines.latency.host import Host
from engines.latency.identity import this_device
from engines.latency.measuring import MeasurePlan, measure
from engines.latency.predictor import MeasuredPredictor

_NEEDED_FOR_SCALES = ("torch",)

Say = Callable[[str], None]


@dataclass(frozen=True)
class PredictorPlan:
    """What to measure; see `laud bench predictor --help`. host: measured before."""

    images: Path | None = None
    networks: tuple[str, ...] = ()
    threads: int = 1
    calls: int = 15
    online_calls: int = CALLS
    settling_s: float = SETTLING_S
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InvalidInput for what cannot be measured."""
        if self.calls < 3:
            raise InvalidInput(f"at least 3 calls make a median, got {self.calls}")
        if self.online_calls < 1 or self.settling_s < 0:
            raise InvalidInput("the online part needs at least one call and no negative time")
        unknown = [name for name in self.networks if name not in NETWORKS]
        if unknown:
            raise InvalidInput(
                f"unknown network '{unknown[0]}'; there are: {', '.join(sorted(NETWORKS))}"
            )


NETWORKS = {
    "clothing-int8": None,
    "clothing-fp32": None,
    "resnet50-spatial-int8": ("resnet50", "spatial", "int8"),
    "resnet50-channel-fp32": ("resnet50", "channel", "fp32"),
    "resnet50-mix-int8": ("resnet50", "mix", "int8"),
    "resnet101-layer-int8": ("resnet101", "layer", "int8"),
}
"""What is measured unless some are named."""


def bench_predictor(
    plan: PredictorPlan, host: Host, say: Say = lambda line: None
) -> PredictorReport:
    """Take tables, then measure held-out cases twice and compare; `say` hears of progress.

    Raises EngineError where something is not installed, ConfigError for the pictures.
    """
    _refuse_in_vain(plan, host)
    load = os.getloadavg()[0]
    # Tables are made from made-up pictures, networks judged on others: masks are held out too.
    judging = _pictures(plan)
    judged = []
    for name in plan.networks or tuple(NETWORKS):
        subject = _subject(name, plan, judging, say)
        say(f"{subject.name}: its latency table")
        table = measure(
            subject.bundle,
            MeasurePlan(
                precisions=(subject.precision,),
                sizes=subject.sizes,
                batches=subject.batches,
                threads=(subject.threads,),
                images=_calibration(plan) if subject.cases[0].point else None,
                repeats=subject.repeats,
                calls=200,
                seed=plan.seed,
            ),
            say,
        )
        predictor = MeasuredPredictor(
            table,
            subject.bundle,
            device=this_device(),
            precision=subject.precision,
            threads=subject.threads,
        )
        judged.append(Judged(subject, [], predictor))
    begin = time.monotonic()
    begun = []
    for number in range(2):
        begun.append(time.monotonic())
        for each in judged:
            say(f"pass {number + 1} of 2: {each.subject.name}, {len(each.subject.cases)} cases")
            each.passes.append(_pass(each.subject, judging, plan, number))
    say(f"both passes took {time.monotonic() - begin:.0f} s")
    online = _online(plan, judged, judging, say)
    return judge_all(host, judged, online, begun[1] - begun[0], load)


def _refuse_in_vain(plan: PredictorPlan, host: Host) -> None:
    """What would come to light only after minutes of measuring."""
    made = [NETWORKS[name] for name in plan.networks or NETWORKS]
    missing = [name for name in _NEEDED_FOR_SCALES if find_spec(name) is None]
    if missing and any(each is not None and each[2] == "int8" for each in made):
        raise EngineError(
            f"`laud bench predictor` makes int8 scales of networks and needs {', '.join(missing)}; "
            "install with: pip install 'laudserve[bench]', or name networks that need none"
        )
    device = this_device()
    if host.device != device:
        raise InvalidInput(
            f"the analytic model is judged here, on {device.slug}, and needs this machine's "
            f"description, not that of {host.device.slug}; measure it with: laud measure device"
        )
    if not 1 <= plan.threads <= device.cpus:
        raise InvalidInput(f"threads must be 1 to {device.cpus} here, got {plan.threads}")


def _subject(name: str, plan: PredictorPlan, pictures: Pictures, say: Say) -> Subject:
    made = NETWORKS[name]
    if made is None:
        return demo(name.rpartition("-")[2], plan.threads)
    return synthetic(*made, plan.threads, pictures, say)


def _calibration(plan: PredictorPlan) -> Path | None:
    """Pictures on which rates are observed: another split than the one that is judged by."""
    if plan.images is None:
        return None
    there = plan.images.parent / "validation"
    return there if there.is_dir() and there != plan.images else plan.images


def _pictures(plan: PredictorPlan) -> Pictures:
    if plan.images is None:
        return MadeUpPictures(plan.seed + 1)
    return FolderPictures(plan.images, 0.875)


def _pass(subject: Subject, pictures: Pictures, plan: PredictorPlan, number: int) -> list[Runs]:
    rng = np.random.default_rng([plan.seed, number])
    images: dict[int, UInt8Array] = {}
    with CpuEngine(subject.bundle, threads=subject.threads, precision=subject.precision) as engine:
        # Half of the calls of all cases, then the other half: a slow spell hits no case alone.
        found = [Runs() for _ in subject.cases]
        for calls in (plan.calls - plan.calls // 2, plan.calls // 2):
            for runs, case in zip(found, subject.cases, strict=True):
                if case.size not in images:
                    images[case.size] = pictures.at(case.size)
                more = run_case(engine, subject, case, images[case.size], calls, rng)
                runs.seconds += more.seconds
                runs.parts += more.parts
                runs.rates += more.rates
        return found


def _online(
    plan: PredictorPlan, judged: Sequence[Judged], pictures: Pictures, say: Say
) -> tuple[OnlineCoverage, ...]:
    for each in judged:
        subject = each.subject
        if subject.cases[0].point is None:
            continue
        points = [r.point for r in subject.bundle.manifest.at(subject.precision).points]
        images = {size: pictures.at(size) for size in subject.sizes}
        with CpuEngine(
            subject.bundle, threads=subject.threads, precision=subject.precision
        ) as engine:
            return online_coverage(
                engine,
                each.predictor,
                points,
                images,
                calls=plan.online_calls,
                settling_s=plan.settling_s,
                rng=np.random.default_rng(plan.seed),
                say=say,
            )
    return ()
