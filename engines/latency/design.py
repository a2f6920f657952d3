"""Which paradigm and granularity each stage should have, by predicted latency at given rates.

Equal rates of different paradigms are equal shares of units, not of accuracy: a design says what is
fast, a training says what it is worth.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from itertools import product

from engines.architecture import MapSize
from engines.core import FrozenModel, Paradigm
from engines.latency.candidates import (
    GROUPS,
    PATCHES,
    STATIC,
    Candidate,
    SkipRates,
    StageShape,
    candidates,
    stages_of,
)
from engines.latency.design_costs import Costs, NetworkCost, Setting
from engines.latency.shapes import named_shape

TIE = 0.01
"""Candidates whose stage is slower than the fastest by at most this share count as equal."""
NUM_ALTERNATIVES = 10
NUM_OTHER_PARADIGMS = 5
ACTIVATIONS = tuple(i / 20 for i in range(21))

# Where stages depend on one another, this many of the combinations with the least sum of stages
# are costed as whole networks; each stage's choice is looked at again at most so many times.
_COSTED = 60
_MOST_ROUNDS = 5


class StageOption(FrozenModel):
    """One candidate for one stage, the other stages as chosen.

    seconds: of the stage, for the whole batch. ratio: over the static stage. macs_ratio: executed
    multiply-accumulates over those of the static stage. fused_blocks: in how many blocks of the
    stage masker and first convolution should be one kernel; None where nothing is to be decided.
    """

    candidate: Candidate
    seconds: float
    ratio: float
    macs_ratio: float
    fused_blocks: int | None = None


class StageDesign(FrozenModel):
    """One stage: its candidates, the first of them static, and the choice."""

    stage: StageShape
    options: tuple[StageOption, ...]
    chosen: StageOption


class NetworkDesign(FrozenModel):
    """One candidate per stage, and what a call is predicted to take with them."""

    stages: tuple[Candidate, ...]
    total_s: float
    macs_ratio: float

    @property
    def label(self) -> str:
        """In one line."""
        return " | ".join(each.label for each in self.stages)


class Design(FrozenModel):
    """The answer: per stage and for the network.

    chosen: of every stage. static: nothing skipped. alternatives: the NUM_ALTERNATIVES other
    combinations that are predicted to be fastest, best first; of granularities that the prediction
    cannot tell apart (by TIE) only one is among them. besides: with the coarsest granularities that
    are predicted to be as fast as the chosen ones; the best network of each paradigm in all stages;
    and the best NUM_OTHER_PARADIGMS with other paradigms than the chosen one in some stage, one of
    each combination of paradigms. What is an alternative is not there again. macs_ratio of networks
    is over the static stages.
    """

    setting: Setting
    rates: SkipRates
    stages: tuple[StageDesign, ...]
    chosen: NetworkDesign
    static: NetworkDesign
    alternatives: tuple[NetworkDesign, ...]
    besides: tuple[NetworkDesign, ...]


class Curve(FrozenModel):
    """Latency of one candidate for one stage over the static stage, per activation rate."""

    stage: str
    candidate: Candidate
    activations: tuple[float, ...]
    ratios: tuple[float, ...]


def design(
    costs: Costs,
    rates: SkipRates,
    *,
    patches: Sequence[int] = PATCHES,
    groups: Sequence[int] = GROUPS,
) -> Design:
    """Choose per stage what is fastest at those rates, see `choose`.

    Raises InvalidInput for a granularity below 1 and what `costs` refuses.
    """
    stages = _stages(costs.setting)
    lists = [candidates(stage, patches, groups) for stage in stages]
    choice = [STATIC] * len(stages)
    for _ in range(_MOST_ROUNDS):
        designed = [
            _stage(costs, rates, stage, s, choice, lists[s]) for s, stage in enumerate(stages)
        ]
        before, choice = choice, [each.chosen.candidate for each in designed]
        if choice == before:
            break
    static = costs.network([STATIC] * len(stages), rates)

    def network(of: Sequence[Candidate]) -> NetworkDesign:
        return _network(of, costs.network(of, rates), static)

    ranked = _ranked(designed, network)
    alternatives = [each for each in ranked if each.stages != tuple(choice)][:NUM_ALTERNATIVES]
    others: dict[tuple[Paradigm, ...], tuple[Candidate, ...]] = {}
    for each in ranked:
        if _paradigms(each.stages) != _paradigms(choice):
            others.setdefault(_paradigms(each.stages), each.stages)
    besides = dict.fromkeys(
        [
            _coarsest(designed),
            *_best_of_each_paradigm(designed),
            *list(others.values())[:NUM_OTHER_PARADIGMS],
        ]
    )
    known = {tuple(choice), *(each.stages for each in alternatives)}
    return Design(
        setting=costs.setting,
        rates=rates,
        stages=tuple(designed),
        chosen=network(choice),
        static=network([STATIC] * len(stages)),
        alternatives=tuple(alternatives),
        besides=tuple(network(each) for each in besides if each not in known),
    )


def choose(stage: StageShape, options: Sequence[StageOption]) -> StageOption:
    """The fastest. Among equals, by TIE, accuracy decides: static before anything that skips, then
    the finest granularity of what the fastest one skips (space or channels)."""
    equals = _equals(options)
    for option in equals:
        if option.candidate.paradigm is Paradigm.STATIC:
            return option
    return max(equals, key=lambda o: (stage.units(o.candidate), -o.seconds))


def curves(
    costs: Costs,
    *,
    activations: Sequence[float] = ACTIVATIONS,
    patches: Sequence[int] = PATCHES,
    groups: Sequence[int] = GROUPS,
) -> tuple[Curve, ...]:
    """Of every stage and candidate, the other stages static."""
    stages = _stages(costs.setting)
    nothing = [STATIC] * len(stages)
    whole = costs.network(nothing, SkipRates())
    found: list[Curve] = []
    for s, stage in enumerate(stages):
        for candidate in candidates(stage, patches, groups)[1:]:
            choice = [*nothing[:s], candidate, *nothing[s + 1 :]]
            seconds = [
                costs.network(choice, SkipRates(spatial=a, channel=a, layer=a)).stages[s].seconds
                for a in activations
            ]
            found.append(
                Curve(
                    stage=stage.name,
                    candidate=candidate,
                    activations=tuple(activations),
                    ratios=tuple(each / whole.stages[s].seconds for each in seconds),
                )
            )
    return tuple(found)


def _stages(setting: Setting) -> tuple[StageShape, ...]:
    return stages_of(named_shape(setting.arch, image=MapSize(setting.size, setting.size)))


def _stage(
    costs: Costs,
    rates: SkipRates,
    stage: StageShape,
    index: int,
    choice: Sequence[Candidate],
    listed: Sequence[Candidate],
) -> StageDesign:
    found = [
        costs.network([*choice[:index], each, *choice[index + 1 :]], rates).stages[index]
        for each in listed
    ]
    static = found[0]
    options = tuple(
        StageOption(
            candidate=candidate,
            seconds=cost.seconds,
            ratio=cost.seconds / static.seconds,
            macs_ratio=cost.macs / static.macs,
            fused_blocks=cost.fused_blocks,
        )
        for candidate, cost in zip(listed, found, strict=True)
    )
    return StageDesign(stage=stage, options=options, chosen=choose(stage, options))


def _equals(options: Sequence[StageOption]) -> list[StageOption]:
    """Those as fast as the fastest that skip what it skips, or nothing."""
    fastest = min(options, key=lambda option: option.seconds)
    by_channel = fastest.candidate.paradigm.masks_channels
    return [
        option
        for option in options
        if option.seconds <= fastest.seconds * (1.0 + TIE)
        and (
            option.candidate.paradigm is Paradigm.STATIC
            or option.candidate.paradigm.masks_channels == by_channel
        )
    ]


def _network(choice: Sequence[Candidate], cost: NetworkCost, static: NetworkCost) -> NetworkDesign:
    macs, whole = (sum(stage.macs for stage in of.stages) for of in (cost, static))
    return NetworkDesign(stages=tuple(choice), total_s=cost.total_s, macs_ratio=macs / whole)


def _ranked(
    stages: Sequence[StageDesign], network: Callable[[Sequence[Candidate]], NetworkDesign]
) -> list[NetworkDesign]:
    """The fastest combinations as whole networks, and the fastest combinations of paradigms; best
    first."""
    apart = [_told_apart(stage) for stage in stages]

    def seconds(options: Sequence[StageOption]) -> float:
        return sum(option.seconds for option in options)

    least = heapq.nsmallest(_COSTED, product(*apart), key=seconds)
    # One of each combination of paradigms, so that near twins do not crowd out all others.
    for paradigms in product(*({o.candidate.paradigm for o in options} for options in apart)):
        of_paradigm = (
            [o for o in options if o.candidate.paradigm is paradigm]
            for options, paradigm in zip(apart, paradigms, strict=True)
        )
        least.append(tuple(min(each, key=lambda o: o.seconds) for each in of_paradigm))
    least.sort(key=seconds)
    combinations = dict.fromkeys(
        tuple(option.candidate for option in options) for options in least[: 2 * _COSTED]
    )
    return sorted(map(network, combinations), key=lambda each: each.total_s)


def _paradigms(stages: Sequence[Candidate]) -> tuple[Paradigm, ...]:
    return tuple(each.paradigm for each in stages)


def _told_apart(stage: StageDesign) -> list[StageOption]:
    """The chosen option and, finest first, those that differ from others of their paradigm."""
    found = [stage.chosen]
    for option in sorted(stage.options, key=lambda o: -stage.stage.units(o.candidate)):
        if not any(
            option.candidate.paradigm is other.candidate.paradigm
            and abs(option.seconds - other.seconds) <= TIE * min(option.seconds, other.seconds)
            for other in found
        ):
            found.append(option)
    return found


def _coarsest(stages: Sequence[StageDesign]) -> tuple[Candidate, ...]:
    """Of the options as fast as the fastest, those with the fewest units; static stays static."""
    return tuple(
        stage.chosen.candidate
        if stage.chosen.candidate.paradigm is Paradigm.STATIC
        else min(_equals(stage.options), key=lambda o: stage.stage.units(o.candidate)).candidate
        for stage in stages
    )


def _best_of_each_paradigm(stages: Sequence[StageDesign]) -> list[tuple[Candidate, ...]]:
    found: list[tuple[Candidate, ...]] = []
    for paradigm in (Paradigm.SPATIAL, Paradigm.CHANNEL, Paradigm.LAYER):
        per_stage = [
            [o for o in stage.options if o.candidate.paradigm is paradigm] for stage in stages
        ]
        if all(per_stage):
            found.append(tuple(min(each, key=lambda o: o.seconds).candidate for each in per_stage))
    return found
