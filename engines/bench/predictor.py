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
from engines.cpu.threads import available_cpus
from engines.errors import ConfigError, EngineError, InvalidInput
from engines.latency.host import Host
from engines.latency.identity import this_device
from engines.latency.measuring import MeasurePlan, measure
from engines.latency.predictor import MeasuredPredictor

_NEEDED_FOR_SCALES = ("torch",)
_SPREAD_CALLS = 200

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
        if self.seed < 0:
            raise InvalidInput(f"a seed is 0 or more, got {self.seed}")
        if len(set(self.networks)) < len(self.networks):
            raise InvalidInput(f"every network is to be named once, got {', '.join(self.networks)}")
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
    check_possible(plan)
    device = this_device()
    if host.device != device:
        raise InvalidInput(
            f"the analytic model is judged here, on {device.slug}, and needs this machine's "
            f"description, not that of {host.device.slug}; measure it with: laud measure device"
        )
    load = os.getloadavg()[0]
    judged = []
    for name in plan.networks or tuple(NETWORKS):
        subject = _subject(name, plan, say)
        judged.append(Judged(subject, [], _predictor(subject, plan, subject.threads, say)))
    begin = time.monotonic()
    begun = []
    for number in range(2):
        begun.append(time.monotonic())
        for each in judged:
            say(f"pass {number + 1} of 2: {each.subject.name}, {len(each.subject.cases)} cases")
            each.passes.append(_pass(each.subject, plan))
    say(f"both passes took {time.monotonic() - begin:.0f} s")
    online = _online(plan, judged, say)
    return judge_all(host, judged, online, begun[1] - begun[0], load)


def check_possible(plan: PredictorPlan) -> None:
    """Refuse what would come to light only after minutes of measuring; see `bench_predictor`."""
    made = [NETWORKS[name] for name in plan.networks or NETWORKS]
    missing = [name for name in _NEEDED_FOR_SCALES if find_spec(name) is None]
    if missing and any(each is not None and each[2] == "int8" for each in made):
        raise EngineError(
            f"`laud bench predictor` makes int8 scales of networks and needs {', '.join(missing)}; "
            "install with: pip install 'laudserve[bench]', or name networks that need none"
        )
    cpus = this_device().cpus
    if not 1 <= plan.threads <= cpus:
        raise InvalidInput(f"threads must be 1 to {cpus} here, got {plan.threads}")
    if plan.images is not None and not plan.images.is_dir():
        raise ConfigError(f"{plan.images}: no such folder")


def _subject(name: str, plan: PredictorPlan, say: Say) -> Subject:
    made = NETWORKS[name]
    if made is None:
        return demo(name.rpartition("-")[2], plan.threads)
    return synthetic(*made, plan.threads, MadeUpPictures(plan.seed), say)


def _predictor(subject: Subject, plan: PredictorPlan, threads: int, say: Say) -> MeasuredPredictor:
    """From a table that is taken now."""
    say(f"{subject.name}: its latency table, threads: {threads}")
    table = measure(
        subject.bundle,
        MeasurePlan(
            precisions=(subject.precision,),
            sizes=subject.sizes,
            batches=subject.batches,
            threads=(threads,),
            images=_observed_on(plan) if subject.cases[0].point else None,
            repeats=subject.repeats,
            calls=_SPREAD_CALLS,
            seed=plan.seed,
        ),
        say,
    )
    return MeasuredPredictor(
        table,
        subject.bundle,
        device=this_device(),
        precision=subject.precision,
        threads=threads,
    )


def _observed_on(plan: PredictorPlan) -> Path | None:
    """Pictures on which a table observes rates: never those that it is judged by."""
    if plan.images is None:
        return None
    judged_by = plan.images.resolve()
    there = judged_by.parent / "validation"
    return there if there.is_dir() and there != judged_by else None


def _judged_by(subject: Subject, plan: PredictorPlan) -> Pictures:
    """Other pictures than those of any table."""
    if plan.images is None:
        return MadeUpPictures(plan.seed + 1)
    return FolderPictures(plan.images, subject.bundle.manifest.preprocessing.crop_ratio)


def _pass(subject: Subject, plan: PredictorPlan) -> list[Runs]:
    """Both passes draw alike: what differs between them is the machine."""
    rng = np.random.default_rng(plan.seed)
    pictures = _judged_by(subject, plan)
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


def _online(plan: PredictorPlan, judged: Sequence[Judged], say: Say) -> tuple[OnlineCoverage, ...]:
    """Of the first network that has points; on the threads of the plan, and on all CPUs: only then
    does another process get in the way for sure."""
    of = next((each for each in judged if each.subject.cases[0].point is not None), None)
    if of is None:
        return ()
    subject = of.subject
    points = [r.point for r in subject.bundle.manifest.at(subject.precision).points]
    pictures = _judged_by(subject, plan)
    images = {size: pictures.at(size) for size in subject.sizes}
    found: list[OnlineCoverage] = []
    for threads in sorted({plan.threads, available_cpus()}):
        # Taken just before: coverage is about what changes from then on.
        predictor = _predictor(subject, plan, threads, say)
        with CpuEngine(subject.bundle, threads=threads, precision=subject.precision) as engine:
            found += online_coverage(
                engine,
                predictor,
                points,
                images,
                calls=plan.online_calls,
                settling_s=plan.settling_s,
                rng=np.random.default_rng(plan.seed),
                say=say,
            )
    return tuple(found)
