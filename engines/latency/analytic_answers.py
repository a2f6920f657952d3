"""Answers of the analytic models: networks by name or by shape, on a GPU or on our engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from engines.architecture import DEPTHS, MapSize, ResNet
from engines.bench.networks import architecture
from engines.core import Paradigm
from engines.errors import InvalidInput
from engines.latency.core import CALL, PartCost, Prediction, uniform_rates
from engines.latency.corrections import Corrections
from engines.latency.devices import corrections_of
from engines.latency.gpu import network_costs, predict_gpu, target
from engines.latency.hardware import Gpu
from engines.latency.host import Host
from engines.latency.native import predict_native
from engines.latency.questions import STATIC, Answer, Masker, Model, PartAnswer, Question
from engines.latency.shapes import NetworkShape, named_shape, uniform_shape_rates
from engines.macs import BlockRates

_PATCHES = (8, 4, 2, 1)
_GROUP = 64
_GPU_GROUP = 2
_SIZE = 224


def named_on_gpu(question: Question, device: Gpu) -> Answer:
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
        spatial_granularity=_PATCHES if question.patches is None else question.patches,
        channel_granularity=_GPU_GROUP if question.group is None else question.group,
        image=MapSize(size, size),
    )
    rate = 1.0 if question.rate is None else question.rate
    rates = uniform_shape_rates(shape, rate, clustered=not question.scattered)
    return on_gpu(question, shape, _with_channel_rate(question, rates), device)


def native_network(question: Question) -> ResNet:
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
        patches=_PATCHES if question.patches is None else question.patches,
        group=_GROUP if question.group is None else question.group,
        mix="layer",
    )


def named_on_host(question: Question, device: Host) -> Answer:
    net = native_network(question)
    size = question.size or _SIZE
    image = MapSize(size, size)
    if _paradigm(question) == STATIC:
        rates = tuple(BlockRates() for _ in net.blocks)
    else:
        rate = 1.0 if question.rate is None else question.rate
        rates = uniform_rates(net, rate, image, clustered=not question.scattered)
    return on_host(question, question.what, net, image, _with_channel_rate(question, rates), device)


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
    refuse_channel_rate(bool(rate.channel_masker) for rate in rates)
    return tuple(
        replace(rate, channel=question.channel_rate) if rate.channel_masker else rate
        for rate in rates
    )


def refuse_channel_rate(there: Iterable[bool]) -> None:
    if not any(there):
        raise InvalidInput("no block of this network skips channels; leave the channel rate out")


def on_gpu(
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
    return answer_of(
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


def on_host(
    question: Question,
    name: str,
    net: ResNet,
    image: MapSize,
    rates: Sequence[BlockRates],
    device: Host,
    point: str | None = None,
) -> Answer:
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
    return answer_of(
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


def answer_of(
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
    scale: float = 1.0,
    noisy: bool = False,
) -> Answer:
    """scale: what the parts are to be multiplied with to add up to `seconds`."""
    overhead_s = prediction.overhead_s
    besides = (PartCost(CALL, overhead_s, 0.0, 0.0, overhead_s),) if overhead_s else ()
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
        noisy=noisy,
        parts=tuple(
            PartAnswer(
                name=part.name,
                ms=part.total_s * scale * 1e3,
                compute_ms=None if model == "measured" else part.compute_s * 1e3,
                memory_ms=None if model == "measured" else part.memory_s * 1e3,
                fixed_ms=None if model == "measured" else part.fixed_s * 1e3,
                masker=(maskers or {}).get(part.name),
            )
            for part in (*prediction.parts, *besides)
        ),
    )
