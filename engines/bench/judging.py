"""From tables and held-out runs to the report of `laud bench predictor`."""

from __future__ import annotations

import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from engines.architecture import MapSize, only_resnet
from engines.bench.held_out import Held, Runs, Subject, point_of, rates_before
from engines.bench.prediction_report import (
    Accuracy,
    AccuracyWithBlocks,
    Case,
    Comparison,
    OnlineCoverage,
    PredictorReport,
    errors,
)
from engines.bench.report import Machine
from engines.bench.timing import MOST_DIFFERENCE
from engines.latency.core import Prediction
from engines.latency.host import Host
from engines.latency.native import predict_native
from engines.latency.predictor import MeasuredPredictor
from engines.latency.rates import FloatArray, RateVector, block_rates

_TARGET = 0.95


@dataclass
class Judged:
    """A subject with its predictor, and the runs of its cases in both passes."""

    subject: Subject
    passes: list[list[Runs]]
    predictor: MeasuredPredictor


@dataclass
class _Collected:
    """Comparisons in the making."""

    predicted: list[float]
    measured: list[float]
    again: list[float]

    @classmethod
    def empty(cls) -> _Collected:
        return cls([], [], [])

    def add(self, predicted: float, measured: float, again: float) -> None:
        self.predicted.append(predicted)
        self.measured.append(measured)
        self.again.append(again)

    @property
    def comparison(self) -> Comparison:
        return Comparison(self.predicted, self.measured, self.again)


def judge_all(
    host: Host,
    judged: Sequence[Judged],
    online: tuple[OnlineCoverage, ...],
    apart_s: float,
    load: float,
) -> PredictorReport:
    """Compare what was predicted with both passes; apart_s: seconds between them."""
    whole: Mapping[str, _Collected] = {
        what: _Collected.empty() for what in ("measured", "rates_only", "analytic")
    }
    blocks = {what: _Collected.empty() for what in ("measured", "analytic")}
    covered = {"measured": 0, "rates_only": 0, "analytic": 0}
    sharpness: list[float] = []
    cases: list[Case] = []
    calls = 0
    noise = host.noise_ratio
    for each in judged:
        predictor, subject = each.predictor, each.subject
        q95 = predictor.ratio(_TARGET)
        middle = predictor.ratio(0.5)
        sharpness.append(q95 / middle)
        for i, case in enumerate(subject.cases):
            first, second = each.passes[0][i], each.passes[1][i]
            known = first.rates if case.point is None else [predictor.rates(case.point)]
            table_s, table_blocks = _medians(known, partial(_by_table, predictor, case))
            known = first.rates if case.point is None else [rates_before(subject, case)]
            model_s, model_blocks = _medians(known, partial(_by_model, host, subject, case))
            before_s = _known_before(predictor, subject, case)
            medians = (first.median_s, second.median_s)
            whole["measured"].add(table_s * middle, *medians)
            whole["rates_only"].add(before_s * middle, *medians)
            whole["analytic"].add(model_s, *medians)
            seconds = first.seconds + second.seconds
            calls += len(seconds)
            for what, limit in (
                ("measured", table_s * q95),
                ("rates_only", before_s * q95),
                ("analytic", model_s * noise),
            ):
                covered[what] += sum(s <= limit for s in seconds)
            taken = [np.median(runs.parts, axis=0)[1:-1] for runs in (first, second)]
            for b, (once, again) in enumerate(zip(*taken, strict=True)):
                blocks["measured"].add(table_blocks[b], once, again)
                blocks["analytic"].add(model_blocks[b], once, again)
            cases.append(
                Case(
                    network=subject.name,
                    precision=subject.precision,
                    threads=subject.threads,
                    size=case.size,
                    batch=case.batch,
                    kind=case.kind,
                    rate=None if case.point else (case.spatial, case.channel),
                    held_out=case.held_out,
                    measured_ms=first.median_s * 1e3,
                    again_ms=second.median_s * 1e3,
                    predicted_ms=table_s * middle * 1e3,
                    predicted_p95_ms=table_s * q95 * 1e3,
                    rates_only_ms=before_s * middle * 1e3,
                    analytic_ms=model_s * 1e3,
                )
            )
    sharp = {
        "measured": float(np.median(sharpness)),
        "rates_only": float(np.median(sharpness)),
        "analytic": noise,
    }

    def judge(what: str) -> Accuracy:
        return Accuracy(
            **errors(whole[what].comparison).model_dump(),
            coverage95=covered[what] / calls,
            sharpness=sharp[what],
        )

    def with_blocks(what: str) -> AccuracyWithBlocks:
        return AccuracyWithBlocks(
            **judge(what).model_dump(), blocks=errors(blocks[what].comparison)
        )

    top = with_blocks("measured")
    return PredictorReport(
        **top.model_dump(),
        too_noisy=top.repeat_ape > MOST_DIFFERENCE,
        rates_only=judge("rates_only"),
        analytic=with_blocks("analytic"),
        online=online,
        microseconds_per_call=_microseconds(judged[0]),
        passes_apart_s=apart_s,
        machine=Machine(cpu=host.device.cpu, cpus=host.device.cpus, load=load),
        cases=tuple(cases),
    )


def _medians(
    rates: Sequence[RateVector], predict: Callable[[RateVector], Prediction]
) -> tuple[float, FloatArray]:
    """Medians over calls, each predicted at its own rates: of the call, and of every block.

    A block that is skipped whole takes nothing or all of its time: its mean rate has no median.
    """
    found = [predict(each) for each in rates]
    parts = [[part.total_s for part in each.parts[1:-1]] for each in found]
    total = float(np.median([each.total_s for each in found]))
    return total, np.asarray(np.median(parts, axis=0), np.float64)


def _known_before(predictor: MeasuredPredictor, subject: Subject, case: Held) -> float:
    """Seconds from what is known before the images are seen."""
    if case.point is not None:
        return predictor.median(case.point, batch=case.batch)
    return predictor.median(rates_before(subject, case), size=case.size, batch=case.batch)


def _by_table(predictor: MeasuredPredictor, case: Held, rates: RateVector) -> Prediction:
    return predictor.breakdown(rates, size=case.size, batch=case.batch)


def _by_model(host: Host, subject: Subject, case: Held, rates: RateVector) -> Prediction:
    net = only_resnet(subject.bundle.manifest.architecture, "the benchmark")
    point = point_of(subject, case)
    return predict_native(
        net,
        MapSize(point.image_size, point.image_size),
        block_rates(rates, net),
        batch=case.batch,
        threads=subject.threads,
        precision=subject.precision,
        host=host,
    )


def _microseconds(each: Judged) -> float:
    """One prediction from rates, with a quantile."""
    rates, case = each.passes[0][-1].mean_rates, each.subject.cases[-1]
    predictor = each.predictor
    taken = timeit.repeat(
        lambda: predictor.predict(rates, size=case.size, batch=case.batch, quantile=_TARGET),
        number=1000,
        repeat=7,
    )
    return float(np.median(taken)) / 1000 * 1e6
