"""What `laud predict` answers: one network on one device, by a table or by a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from engines.architecture import MapSize, ResNet, only_resnet
from engines.bench.networks import asking_point
from engines.bundle import Bundle, classifier, read_bundle
from engines.core import static_point
from engines.errors import InvalidInput, LatencyError
from engines.latency.analytic_answers import (
    answer_of,
    named_on_gpu,
    named_on_host,
    native_network,
    on_gpu,
    on_host,
    refuse_channel_rate,
)
from engines.latency.devices import (
    THIS,
    Mode,
    check_runs,
    corrections_of,
    device_named,
    names_host,
)
from engines.latency.hardware import Gpu
from engines.latency.identity import this_device
from engines.latency.predictor import MeasuredPredictor
from engines.latency.questions import Answer, Question
from engines.latency.rates import (
    RateVector,
    block_rates,
    expected_rates,
    second_look_rates,
)
from engines.latency.shapes import (
    NETWORK_NAMES,
    shape_of,
)
from engines.latency.tables import LatencyTable, read_table, table_name

Say = Callable[[str], None]


def answer(question: Question, say: Say = lambda line: None) -> tuple[Answer, ...]:
    """One answer per point of a bundle unless one, or a rate, is asked for.

    Raises InvalidInput, BundleError or LatencyError with the reason and what to do.
    """
    mode = _mode(question)
    if question.is_bundle:
        bundle = classifier(read_bundle(question.what), "laud predict")
        _refuse_of_bundle(question)
        if question.device is None:
            return _measured(question, bundle)
        return _analytic_of_bundle(question, bundle, question.device, mode, say)
    if question.what not in NETWORK_NAMES:
        raise InvalidInput(
            f"'{question.what}' is neither a bundle (NAME.laud, zoo:NAME) nor one of: "
            f"{', '.join(NETWORK_NAMES)}"
        )
    if question.point is not None or question.table is not None:
        raise InvalidInput("points and tables are of bundles; a network by name takes a rate")
    name = question.device or THIS
    if names_host(name):
        # What cannot be costed is refused before this machine is measured for half a minute.
        _refuse_of_host(question, name, question.precision or "fp32")
        native_network(question)
    device = device_named(name, mode, say)
    if isinstance(device, Gpu):
        return (named_on_gpu(question, device),)
    return (named_on_host(question, device),)


def _refuse_of_bundle(question: Question) -> None:
    for what in ("paradigm", "patches", "group"):
        if getattr(question, what) is not None:
            raise InvalidInput(f"a bundle has its {what} already; leave it out")
    if question.device is None and (question.mode != "fixed" or question.corrections):
        raise InvalidInput(
            "mode and corrections are of the model of GPUs (--device v100), a table has none"
        )
    if question.device is not None and question.table is not None:
        raise InvalidInput("give a latency table or a device for the analytic model, not both")


def _refuse_of_host(question: Question, name: str, precision: str) -> None:
    if question.corrections:
        raise InvalidInput("corrections are of the model of GPUs; leave them out")
    check_runs(name, precision, question.threads or 1)


def _mode(question: Question) -> Mode:
    corrections_of(question.mode, question.corrections)
    return "paper" if question.mode == "paper" else "fixed"


def find_table(bundle: Bundle, table: Path | None) -> LatencyTable:
    """The table that was named, else this device's beside the bundle's manifest or in this folder.

    Raises LatencyError where there is none or it cannot be read.
    """
    if table is None:
        name = table_name(this_device())
        # A bundle of the package has its table where `laud measure` writes it: in this folder.
        places = (bundle.path / name, Path(name))
        table = next((place for place in places if place.is_file()), None)
        if table is None:
            raise LatencyError(
                f"'{bundle.ref}' has not been measured on this machine: there is no '{places[0]}' "
                f"and no '{name}' here; measure it with `laud measure {bundle.ref}`, or name a "
                "table (--table), or a device for the analytic model (--device this)"
            )
    return read_table(table)


def _measured(question: Question, bundle: Bundle) -> tuple[Answer, ...]:
    table = find_table(bundle, question.table)
    scaled = bundle.manifest.quantisation is not None
    precision = question.precision or ("int8" if scaled else "fp32")
    threads = question.threads or max(
        (p.threads for p in table.profiles if p.precision == precision), default=1
    )
    predictor = MeasuredPredictor(
        table, bundle, device=this_device(), precision=precision, threads=threads
    )
    net = only_resnet(bundle.manifest.architecture, "latency prediction")
    batch, middle = question.batch, predictor.ratio(0.5)
    found = []
    for asked in _asked_of_bundle(question, bundle, precision):
        size, what = asked.size, asked.rates if asked.point is None else asked.point
        median = predictor.median(what, size=size, batch=batch)
        quantile_s = median * predictor.ratio(question.quantile)
        if asked.first is not None:
            quantile_s = predictor.predict(what, batch=batch, quantile=question.quantile)
        static = predictor.median(_resting(net), size=size, batch=batch)
        found.append(
            answer_of(
                question,
                bundle.manifest.name,
                "measured",
                table.device.slug,
                predictor.breakdown(what, size=size, batch=batch),
                seconds=median * middle,
                static_s=static * middle,
                quantile_s=quantile_s,
                scale=middle,
                noisy=predictor.noisy,
                precision=precision,
                threads=threads,
                size=size,
                point=asked.point,
            )
        )
    return tuple(found)


def _analytic_of_bundle(
    question: Question, bundle: Bundle, device_name: str, mode: Mode, say: Say
) -> tuple[Answer, ...]:
    net = only_resnet(bundle.manifest.architecture, "latency prediction")
    scaled = bundle.manifest.quantisation is not None
    int8 = scaled and names_host(device_name)
    precision = question.precision or ("int8" if int8 else "fp32")
    asked_of = list(_asked_of_bundle(question, bundle, precision))
    if names_host(device_name):
        _refuse_of_host(question, device_name, precision)
    device = device_named(device_name, mode, say)

    def look(size: int, rates: RateVector, point: str | None) -> Answer:
        image, per_block = MapSize(size, size), block_rates(rates, net)
        name = bundle.manifest.name
        if isinstance(device, Gpu):
            return on_gpu(question, shape_of(net, image, name), per_block, device, point=point)
        as_asked = replace(question, precision=precision)
        return on_host(as_asked, name, net, image, per_block, device, point=point)

    found = []
    for asked in asked_of:
        whole = look(asked.size, asked.rates, asked.point)
        if asked.first is not None:
            whole = _both_looks(look(*asked.first, asked.point), whole, asked.again)
        found.append(whole)
    return tuple(found)


def _both_looks(first: Answer, second: Answer, again: float) -> Answer:
    """What is expected where every image has the first look and that share the second, whose size
    the answer has."""

    def added(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a + again * b

    ms = first.ms + again * second.ms
    parts = tuple(
        b.model_copy(
            update={
                what: added(getattr(a, what), getattr(b, what))
                for what in ("ms", "compute_ms", "memory_ms", "fixed_ms")
            }
        )
        for a, b in zip(first.parts, second.parts, strict=True)
    )
    return second.model_copy(
        update={
            "ms": ms,
            "ms_per_image": ms / second.batch,
            "ratio": ms / second.static_ms,
            "parts": parts,
        }
    )


@dataclass(frozen=True)
class _Asked:
    """A point, or a rate without one, with its size and expected rates. first: of a point that
    glances size and rates of its first look; again: share of images that have another."""

    point: str | None
    size: int
    rates: RateVector
    first: tuple[int, RateVector] | None = None
    again: float = 1.0


def _asked_of_bundle(question: Question, bundle: Bundle, precision: str) -> Iterator[_Asked]:
    """All that is to be predicted."""
    manifest = bundle.manifest
    if precision == "int8":
        manifest = manifest.at(precision)
    net = only_resnet(manifest.architecture, "latency prediction")
    if question.rate is not None:
        size = question.size or manifest.full.point.image_size
        channel_rate = question.rate if question.channel_rate is None else question.channel_rate
        activation = [
            channel_rate if masker.kind == "channel" else question.rate for masker in net.maskers
        ]
        if question.channel_rate is not None:
            refuse_channel_rate(masker.kind == "channel" for masker in net.maskers)
        asking = asking_point("asking", size, len(net.maskers))
        clustered = not question.scattered
        yield _Asked(None, size, expected_rates(net, asking, activation, clustered=clustered))
        return
    records = manifest.points if question.point is None else (manifest.point(question.point),)
    for record in records:
        size = question.size or record.point.image_size
        point = record.point.model_copy(update={"image_size": size})
        rates = expected_rates(net, point, second_look_rates(record))
        if record.again is None:
            yield _Asked(point.name, size, rates)
            continue
        if question.size is not None:
            raise InvalidInput(
                f"point '{point.name}' looks at two sizes of an image; leave the size out, or name "
                "another point"
            )
        first = point.first_look
        resting = expected_rates(net, first, (1.0,) * len(record.activation))
        yield _Asked(point.name, size, rates, (first.image_size, resting), record.again)


def _resting(net: ResNet) -> RateVector:
    """Nothing skipped, no masker asked."""
    return expected_rates(
        net, static_point("static", 1, len(net.maskers)), (1.0,) * len(net.maskers)
    )
