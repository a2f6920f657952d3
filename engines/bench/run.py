"""`laud bench engine`: our engine with masks, dense, and the best static engine, turn by turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec

import numpy as np

from engines.architecture import MapSize, ResNet
from engines.bench.masks import BoolArray, MaskKind, draw_masks
from engines.bench.own_engine import (
    BOTH,
    FIRST,
    OURS,
    OwnEngine,
    batches,
    dense,
    expected,
    free_rivals,
    own_engines,
)
from engines.bench.pictures import FEWEST_PICTURES, FolderPictures, MadeUpPictures, Pictures
from engines.bench.plan import Plan, Subject, subject
from engines.bench.report import Baseline, Machine, Report, Rival
from engines.bench.timing import Contender, interleave, noise, spread
from engines.bench.work import rate_for_macs
from engines.bundle import classifier, read_bundle
from engines.core import Output
from engines.cpu.engine import CpuEngine
from engines.errors import EngineError
from engines.latency.identity import cpu_name
from engines.macs import static_macs

NUM_DRAWS = 8
"""How many masks and batches a measurement goes round: one lucky mask does not decide."""

_SAME, _BEST, _DENSE = "openvino_same", "openvino_best", "own_dense"
_TOOLS = ("openvino", "nncf", "torch")

Say = Callable[[str], None]


def bench_engine(plan: Plan, say: Say = lambda line: None) -> Report:
    """Measure what `plan` says; `say` hears of progress.

    Raises EngineError where a tool is not installed or the CPU lacks the precision, and
    BundleError, ConfigError or InvalidInput with the reason.
    """
    check_installed(_TOOLS)
    load = os.getloadavg()[0]
    of = subject(plan)
    static = of.bundle
    if plan.against is not None:
        static = classifier(read_bundle(plan.against), "--against")
    pictures = _pictures(plan, of, say)
    if plan.synthetic and plan.precision == "int8":
        from engines.bench.scales import with_scales

        of = replace(of, bundle=with_scales(of.bundle, pictures, say))
        static = of.bundle if plan.against is None else static
    inputs = batches(pictures.at(of.size), plan.batch, NUM_DRAWS)
    # Takes seconds to import: bad input is refused before.
    from engines.bench.openvino_baseline import openvino_at_its_best

    with CpuEngine(of.bundle, threads=plan.threads, precision=plan.precision) as engine:
        ours = own_engines(engine, of, inputs, _decisions(plan, of))
        answers = {name: each.answers() for name, each in ours.items()}
        macs = _expected_macs(answers, of.again)
        rivals = free_rivals(engine, of, pictures, inputs, macs) if plan.rivals else {}
        size = plan.against_size or of.size
        openvino = openvino_at_its_best(
            static,
            pictures,
            batches(pictures.at(size), plan.batch, NUM_DRAWS),
            precision=plan.precision,
            threads=plan.threads,
            cache=plan.cache,
            say=say,
        )
        contenders: dict[str, Contender] = {**ours, _SAME: openvino.same}
        if openvino.best is not openvino.same:
            contenders[_BEST] = openvino.best
        contenders[_DENSE] = dense(engine, of, inputs)
        contenders.update(rivals)
        say(f"measuring {plan.repeats} turns of: {', '.join(contenders)}")
        times = interleave(contenders, repeats=plan.repeats, draws=NUM_DRAWS)
        times.setdefault(_BEST, times[_SAME])
        if of.again is not None:
            looks = zip(times[FIRST], times[BOTH], strict=True)
            times[OURS] = [expected(*each, of.again) for each in looks]
        return _report(plan, of, engine, pictures, answers, rivals, times, openvino.made, load)


def _report(
    plan: Plan,
    of: Subject,
    engine: CpuEngine,
    pictures: Pictures,
    answers: Mapping[str, list[Output]],
    rivals: Mapping[str, OwnEngine],
    times: Mapping[str, list[float]],
    made: Baseline,
    load: float,
) -> Report:
    runs = {name: spread(taken) for name, taken in times.items()}
    ms = {name: run.median_ms for name, run in runs.items()}
    split = noise(times[OURS])
    macs, dense_macs = (
        _expected_macs(answers, of.again),
        float(static_macs(of.net, MapSize(of.size, of.size))),
    )
    return Report(
        arch=plan.arch,
        bundle=None if plan.synthetic else of.bundle.hash,
        paradigm=of.paradigm,
        stages=_stages(of.net),
        point=of.point.name,
        masks=plan.masks,
        rate=plan.rate,
        rate_of=None if plan.rate is None else plan.rate_of,
        activation=float(
            np.mean([answer.activation for answer in answers[BOTH if of.point.glance else OURS]])
        ),
        size=of.size,
        batch=plan.batch,
        threads=engine.threads,
        precision=engine.precision,
        isa=engine.isa,
        images=pictures.source,
        against=plan.against or plan.arch,
        against_size=plan.against_size or of.size,
        seed=plan.seed,
        repeats=plan.repeats,
        first_size=None if of.point.glance is None else of.point.glance.image_size,
        again=of.again,
        first_ms=ms.get(FIRST),
        worst_ms=ms.get(BOTH),
        ours_ms=ms[OURS],
        openvino_same_ms=ms[_SAME],
        openvino_best_ms=ms[_BEST],
        own_dense_ms=ms[_DENSE],
        ratio_same=ms[_SAME] / ms[OURS],
        ratio_best=ms[_BEST] / ms[OURS],
        ratio_own_dense=ms[_DENSE] / ms[OURS],
        ideal_ratio=dense_macs / macs,
        macs=macs,
        dense_macs=dense_macs,
        noise=split,
        too_noisy=split.too_noisy,
        runs=runs,
        rivals=tuple(
            Rival(
                what=name,
                ms=ms[name],
                ratio=ms[name] / ms[OURS],
                size=rival.size,
                macs=_macs(rival.answers()),
            )
            for name, rival in rivals.items()
        ),
        machine=Machine(cpu=cpu_name(), cpus=os.cpu_count() or 1, load=load),
        baseline=made,
    )


def check_installed(tools: Sequence[str]) -> None:
    """Raise EngineError unless these modules are there."""
    missing = [name for name in tools if find_spec(name) is None]
    if missing:
        raise EngineError(
            f"`laud bench engine` measures against OpenVINO and needs {', '.join(missing)}; "
            "install with: pip install 'laudserve[bench]'"
        )


def _pictures(plan: Plan, of: Subject, say: Say) -> Pictures:
    if plan.images is None:
        say("no --images DIR: made-up pictures are measured, and int8 is calibrated on them")
        return MadeUpPictures(plan.seed)
    crop_ratio = of.bundle.manifest.preprocessing.crop_ratio
    return FolderPictures(plan.images, crop_ratio, max(FEWEST_PICTURES, plan.batch))


def _decisions(plan: Plan, of: Subject) -> list[tuple[BoolArray, ...]] | None:
    """Per draw and masker, (batch, units); None lets the network's own maskers decide."""
    if plan.kind is MaskKind.TRAINED or plan.rate is None:
        return None
    image = MapSize(of.size, of.size)
    draws = [
        draw_masks(of.net, image, plan.kind, plan.batch, np.random.default_rng([plan.seed, i, 0]))
        for i in range(NUM_DRAWS)
    ]
    rate = plan.rate
    if plan.rate_of == "macs":
        rate = rate_for_macs(of.net, image, draws, rate)
    return [draw.at(rate) for draw in draws]


def _expected_macs(answers: Mapping[str, list[Output]], again: float | None) -> float:
    """Mean per image, when that share of images is looked at again."""
    if again is None:
        return _macs(answers[OURS])
    return expected(_macs(answers[FIRST]), _macs(answers[BOTH]), again)


def _macs(answers: list[Output]) -> float:
    """Mean per image."""
    return float(np.mean([answer.macs for answer in answers]))


def _stages(net: ResNet) -> tuple[str, ...]:
    """Depth, width, paradigm and granularity, as `3x64 spatial S=8`."""
    found = []
    for stage in net.stages:
        text = f"{stage.depth}x{stage.width} {stage.paradigm}"
        text += f" S={stage.spatial_granularity}" if stage.spatial_granularity else ""
        text += f" G={stage.channel_granularity}" if stage.channel_granularity else ""
        found.append(text)
    return tuple(found)
