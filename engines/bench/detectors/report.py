"""What a measurement of a detector found. Milliseconds are medians of timed calls, one picture
each, from uint8 pixels on."""

from __future__ import annotations

from engines.bench.report import Machine
from engines.bench.timing import Noise, Spread
from engines.core import FrozenModel


class Form(FrozenModel):
    """One way of running OpenVINO. precision, others, preset: as `Candidate`.

    agreement: share of objects that it and our engine in fp32 both find, at IoU .95. ap50, ap:
    average precision at IoU .5, and mean over IoU .5 to .95, on the pictures, of masks where there
    are any; loss, ap_loss: ours less it. right: whether its answers count as such. dense_ms,
    whole_ms: medians over a few runs in turns, up to the dense heads' answers, and up to objects;
    None where it was not timed, being wrong.
    """

    precision: str
    others: str
    preset: str | None = None
    agreement: float
    ap50: float
    loss: float
    ap: float
    ap_loss: float
    right: bool
    dense_ms: float | None = None
    whole_ms: float | None = None

    @property
    def name(self) -> str:
        """In one line."""
        preset = f" {self.preset}" if self.preset else ""
        others = f", else {self.others}" if self.others != self.precision else ""
        return f"{self.precision}{preset}{others}"


class Rival(FrozenModel):
    """OpenVINO as it was told to run; every form that was tried, and the chosen ones.

    same: in the precision asked for, None where OpenVINO has no right form of it. dense, whole: the
    fastest right ones of their span.
    """

    engine: str
    properties: dict[str, str]
    input: str
    forms: tuple[Form, ...]
    same: Form | None
    dense: Form
    whole: Form
    judged_on: str
    versions: dict[str, str]


class Ratio(FrozenModel):
    """How many times faster ours is: of the medians, of the sums over all turns, and the quartiles
    of single turns, in which both had the same picture."""

    of_medians: float
    of_sums: float
    lower_quartile: float
    upper_quartile: float


class Span(FrozenModel):
    """One span of a call, timed. `runs` and `ratios` are by contender: own_dense, openvino_same
    (where there is one), openvino_best; `runs` has ours too, and all ways that were timed."""

    ours_ms: float
    own_dense_ms: float
    openvino_best_ms: float
    best: str
    runs: dict[str, Spread]
    ratios: dict[str, Ratio]


class Group(FrozenModel):
    """Some of the pictures. chosen: how. pictures: how many there are; timed: of which so many,
    evenly by foreground.

    foreground: mean share of a timed picture that is object, by its annotation; objects: mean that
    ours finds; activation: mean share of active units, over maskers. macs, dense_macs: mean
    multiply-accumulates before any choice, of ours and of the static detector; ideal_ratio: the
    latter over the former. dense: backbone, pyramid and dense heads; everything: up to boxes and
    masks. noise: of our own runs (A/A).
    """

    chosen: str
    pictures: int
    timed: int
    foreground: float
    objects: float
    activation: float
    macs: float
    dense_macs: float
    ideal_ratio: float
    dense: Span
    everything: Span
    noise: Noise
    too_noisy: bool


class Part(FrozenModel):
    """A part of the static detector. Milliseconds are of the faster of two calls, median over
    pictures.

    macs: multiply-accumulates; num_bytes: of the weights and maps that its convolutions read and
    write in fp32, each once; both of masks for the median number of objects. point_ms: of ours at
    the point; ours_ms: of ours with nothing skipped; openvino_ms: of the fastest whole form, by its
    own profile.
    """

    name: str
    macs: float
    num_bytes: float
    point_ms: float
    ours_ms: float
    openvino_ms: float


class DetectorReport(FrozenModel):
    """The answer of `laud bench engine` for a detector.

    against, against_size: what OpenVINO ran, and our engine as `own_dense`, with nothing skipped.
    every: all pictures; emptiest: those with the least foreground. parts: only to explain; their
    order is that of execution. ap50, ap: of our engine with nothing skipped, on the pictures
    that OpenVINO's forms were judged on.
    """

    arch: str
    bundle: str
    point: str
    size: int
    against: str
    against_size: int
    threads: int
    precision: str
    isa: str
    images: str
    repeats: int
    ap50: float
    ap: float
    every: Group
    emptiest: Group
    parts: tuple[Part, ...]
    machine: Machine
    baseline: Rival

    @property
    def too_noisy(self) -> bool:
        """Whether nothing should be concluded from either group."""
        return self.every.too_noisy or self.emptiest.too_noisy
