"""What `laud predict` answers: one network on one device, by a table or by a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from engines.architecture import DEPTHS, MapSize, ResNet
from engines.bench.networks import architecture, asking_point
from engines.bundle import Bundle, read_bundle
from engines.core import Paradigm, static_point
from engines.errors import InvalidInput, LatencyError
from engines.latency.core import Prediction, uniform_rates
from engines.latency.corrections import Corrections
from engines.latency.devices import THIS, Mode, corrections_of, device_named, names_host
from engines.latency.gpu import network_costs, predict_gpu, target
from engines.latency.hardware import Gpu
from engines.latency.host import Host
from engines.latency.identity import this_device
from engines.latency.native import predict_native
from engines.latency.predictor import MeasuredPredictor
from engines.latency.questions import STATIC, Answer, Masker, Model, PartAnswer, Question
from engines.latency.rates import RateVector, block_rates, expected_rates
from engines.latency.shapes import (
    NETWORK_NAMES,
    NetworkShape,
    named_shape,
    shape_of,
    uniform_shape_rates,
)
from engines.latency.tables import LatencyTable, read_table, table_name
from engines.macs import BlockRates

_PATCHES = (8, 4, 2, 1)
_GROUP = 64
_SIZE = 224

Say = Callable[[str], None]


def answer(question: Question, say: Say = lambda line: None) -> tuple[Answer, ...]:
    """One answer per point of a bundle unless one, or a rate, is asked for.

    Raises InvalidInput, BundleError or LatencyError with the reason and what to do.
    """
    mode = _mode(question)
    if question.is_bundle:
        bundle = read_bundle(question.what)
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
        _native_network(question)
    device = device_named(name, mode, say)
    if isinstance(device, Gpu):
        return (_named_on_gpu(question, device),)
    return (_named_on_host(question, device),)


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


def _mode(question: Question) -> Mode:
    corrections_of(question.mode, question.corrections)
    return "paper" if question.mode == "paper" else "fixed"


def find_table(bundle: Bundle, table: Path | None) -> LatencyTable:
    """The table that was named, else this device's beside the bundle's manifest.

    Raises LatencyError where there is none or it cannot be read.
    """
    if table is None:
        table = bundle.path / table_name(this_device())
        if not table.is_file():
            raise LatencyError(
                f"'{bundle.path.name}' has not been measured on this machine: measure it with "
                "`laud measure BUNDLE`, or name a table (--table), or a device for the analytic "
                "model (--device this)"
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
    batch, middle = question.batch, predictor.ratio(0.5)
    found = []
    for point, size, known in _asked_of_bundle(question, bundle, precision):
        rates = predictor.rates(point) if point is not None else known
        median = predictor.median(rates, size=size, batch=batch)
        static = predictor.median(_resting(bundle.manifest.architecture), size=size, batch=batch)
        found.append(
            _answer(
                question,
                bundle.manifest.name,
                "measured",
                table.device.slug,
                predictor.breakdown(rates, size=size, batch=batch),
                seconds=median * middle,
                static_s=static * middle,
                quantile_s=median * predictor.ratio(question.quantile),
                precision=precision,
                threads=threads,
                size=size,
                point=point,
            )
        )
    return tuple(found)


def _analytic_of_bundle(
    question: Question, bundle: Bundle, device_name: str, mode: Mode, say: Say
) -> tuple[Answer, ...]:
    net = bundle.manifest.architecture
    scaled = bundle.manifest.quantisation is not None
    int8 = scaled and names_host(device_name)
    precision = question.precision or ("int8" if int8 else "fp32")
    asked_of = list(_asked_of_bundle(question, bundle, precision))
    device = device_named(device_name, mode, say)
    found = []
    for point, size, rates in asked_of:
        image, per_block = MapSize(size, size), block_rates(rates, net)
        name = bundle.manifest.name
        if isinstance(device, Gpu):
            shape = shape_of(net, image, name)
            found.append(_on_gpu(question, shape, per_block, device, point=point))
        else:
            asked = replace(question, precision=precision)
            found.append(_on_host(asked, name, net, image, per_block, device, point=point))
    return tuple(found)


def _asked_of_bundle(
    question: Question, bundle: Bundle, precision: str
) -> Iterator[tuple[str | None, int, RateVector]]:
    """Points with their sizes and expected rates; a rate has no point."""
    manifest = bundle.manifest
    if precision == "int8":
        manifest = manifest.at(precision)
    net = manifest.architecture
    if question.rate is not None:
        size = question.size or manifest.full.point.image_size
        channel_rate = question.rate if question.channel_rate is None else question.channel_rate
        activation = [
            channel_rate if masker.kind == "channel" else question.rate for masker in net.maskers
        ]
        if question.channel_rate is not None:
            _refuse_channel_rate(masker.kind == "channel" for masker in net.maskers)
        asking = asking_point("asking", size, len(net.maskers))
        clustered = not question.scattered
        yield None, size, expected_rates(net, asking, activation, clustered=clustered)
        return
    records = manifest.points if question.point is None else (manifest.point(question.point),)
    for record in records:
        size = question.size or record.point.image_size
        point = record.point.model_copy(update={"image_size": size})
        yield point.name, size, expected_rates(net, point, record.activation)


def _resting(net: ResNet) -> RateVector:
    """Nothing skipped, no masker asked."""
    return expected_rates(
        net, static_point("static", 1, len(net.maskers)), (1.0,) * len(net.maskers)
    )


def _named_on_gpu(question: Question, device: Gpu) -> Answer:
    paradigm = _paradigm(question)
    size = question.size or _SIZE
    kinds: Paradigm | list[Paradigm]
    if paradigm == "mix":
        kinds = [Paradigm.SPATIAL, Paradigm.SPATIAL, Paradigm.LAYER, Paradigm.LAYER]
    else:
        kinds = Paradigm(paradigm)
    shape = named_shape(
        question.what,
        kinds,
        spatial_granularity=question.patches or _PATCHES,
        channel_granularity=question.group or 2,
        image=MapSize(size, size),
    )
    rate = 1.0 if question.rate is None else question.rate
    rates = uniform_shape_rates(shape, rate, clustered=not question.scattered)
    return _on_gpu(question, shape, _with_channel_rate(question, rates), device)


def _native_network(question: Question) -> ResNet:
    """A network by name as the native engine would run it; InvalidInput for what it cannot."""
    if question.what not in DEPTHS:
        raise InvalidInput(
            f"the native engine runs {', '.join(DEPTHS)}; '{question.what}' has a model on GPUs "
            "(--device v100)"
        )
    paradigm = _paradigm(question)
    return architecture(
        question.what,
        "spatial" if paradigm == STATIC else paradigm,
        patches=question.patches or _PATCHES,
        group=question.group or _GROUP,
        mix="layer",
    )


def _named_on_host(question: Question, device: Host) -> Answer:
    net = _native_network(question)
    size = question.size or _SIZE
    image = MapSize(size, size)
    if _paradigm(question) == STATIC:
        rates = tuple(BlockRates() for _ in net.blocks)
    else:
        rate = 1.0 if question.rate is None else question.rate
        rates = uniform_rates(net, rate, image, clustered=not question.scattered)
    return _on_host(
        question, question.what, net, image, _with_channel_rate(question, rates), device
    )


def _paradigm(question: Question) -> str:
    """What a network by name skips. Raises InvalidInput where rate and paradigm disagree."""
    if question.paradigm is None:
        return STATIC if question.rate is None else "spatial"
    if (question.paradigm == STATIC) != (question.rate is None):
        raise InvalidInput(
            "a static network has no rate; leave it out"
            if question.rate is not None
            else f"paradigm '{question.paradigm}' needs a rate, such as --rate 0.5"
        )
    return question.paradigm


def _with_channel_rate(question: Question, rates: Sequence[BlockRates]) -> tuple[BlockRates, ...]:
    if question.channel_rate is None:
        return tuple(rates)
    _refuse_channel_rate(bool(rate.channel_masker) for rate in rates)
    return tuple(
        replace(rate, channel=question.channel_rate) if rate.channel_masker else rate
        for rate in rates
    )


def _refuse_channel_rate(there: Iterable[bool]) -> None:
    if not any(there):
        raise InvalidInput("no block of this network skips channels; leave the channel rate out")


def _on_gpu(
    question: Question,
    shape: NetworkShape,
    rates: Sequence[BlockRates],
    device: Gpu,
    point: str | None = None,
) -> Answer:
    if question.precision not in (None, "fp32") or question.threads is not None:
        raise InvalidInput("the model of GPUs is of fp32 and knows no threads; leave them out")
    on: Corrections = corrections_of(question.mode, question.corrections)
    batch = question.batch
    prediction = predict_gpu(shape, rates, batch=batch, device=device, corrections=on)
    everything = tuple(BlockRates() for _ in rates)
    static = predict_gpu(shape, everything, batch=batch, device=device, corrections=on)
    costs = network_costs(shape, rates, target(device, batch, on))
    maskers: dict[str, Masker] = {
        cost.name: "fused" if cost.fusion.fused else "unfused"
        for cost in costs
        if cost.fusion is not None
    }
    return _answer(
        question,
        shape.name,
        "gpu",
        device.name,
        prediction,
        seconds=prediction.total_s,
        static_s=static.total_s,
        precision="fp32",
        size=shape.image.height,
        point=point,
        corrections=on.names,
        maskers=maskers,
    )


def _on_host(
    question: Question,
    name: str,
    net: ResNet,
    image: MapSize,
    rates: Sequence[BlockRates],
    device: Host,
    point: str | None = None,
) -> Answer:
    if question.corrections:
        raise InvalidInput("corrections are of the model of GPUs; leave them out")
    precision, threads = question.precision or "fp32", question.threads or 1

    def predict(of: Sequence[BlockRates]) -> Prediction:
        return predict_native(
            net,
            image,
            of,
            batch=question.batch,
            threads=threads,
            precision=precision,
            host=device,
        )

    prediction = predict(rates)
    return _answer(
        question,
        name,
        "native",
        device.device.slug,
        prediction,
        seconds=prediction.total_s,
        static_s=predict(tuple(BlockRates() for _ in rates)).total_s,
        precision=precision,
        threads=threads,
        size=image.height,
        point=point,
    )


def _answer(
    question: Question,
    network: str,
    model: Model,
    device: str,
    prediction: Prediction,
    *,
    seconds: float,
    static_s: float,
    precision: str,
    size: int,
    threads: int | None = None,
    quantile_s: float | None = None,
    point: str | None = None,
    corrections: tuple[str, ...] | None = None,
    maskers: Mapping[str, Masker] | None = None,
) -> Answer:
    return Answer(
        network=network,
        model=model,
        device=device,
        precision=precision,
        threads=threads,
        size=size,
        batch=question.batch,
        point=point,
        rate=question.rate,
        channel_rate=question.channel_rate,
        ms=seconds * 1e3,
        ms_per_image=seconds / question.batch * 1e3,
        quantile=None if quantile_s is None else question.quantile,
        quantile_ms=None if quantile_s is None else quantile_s * 1e3,
        static_ms=static_s * 1e3,
        ratio=seconds / static_s,
        corrections=corrections,
        parts=tuple(
            PartAnswer(
                name=part.name,
                ms=part.total_s * 1e3,
                compute_ms=part.compute_s * 1e3,
                memory_ms=part.memory_s * 1e3,
                fixed_ms=part.fixed_s * 1e3,
                masker=(maskers or {}).get(part.name),
            )
            for part in prediction.parts
        ),
    )
