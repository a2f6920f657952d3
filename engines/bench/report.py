"""What a measurement found. Milliseconds are medians of timed runs, from uint8 to probabilities."""

from __future__ import annotations

from engines.bench.timing import Noise, Spread
from engines.core import FrozenModel


class Candidate(FrozenModel):
    """One way of running OpenVINO, and its median over a few runs in turns with the others.

    precision: of the convolutions. others: its INFERENCE_PRECISION_HINT, the precision of what is
    not quantised. preset: NNCF's, for int8.
    """

    precision: str
    others: str
    preset: str | None = None
    ms: float

    @property
    def name(self) -> str:
        """In one line."""
        preset = f" {self.preset}" if self.preset else ""
        others = f", else {self.others}" if self.others != self.precision else ""
        return f"{self.precision}{preset}{others}"


class Baseline(FrozenModel):
    """What OpenVINO was told and which of its forms were tried.

    same: the fastest in the precision asked for; best: the fastest. calibrated_on: the pictures of
    its int8.
    """

    engine: str
    properties: dict[str, str]
    input: str
    candidates: tuple[Candidate, ...]
    same: Candidate
    best: Candidate
    calibrated_on: str
    versions: dict[str, str]


class Rival(FrozenModel):
    """A way to the same cost that needs no trained mask, on our own engine.

    ratio: how many times faster ours is than it. size: pixels of its image. macs: per image.
    """

    what: str
    ms: float
    ratio: float
    size: int
    macs: float


class Machine(FrozenModel):
    """Where it ran. load: average of the last minute, when the measurement began."""

    cpu: str
    cpus: int
    load: float


class Report(FrozenModel):
    """The answer of `laud bench engine`.

    rate, rate_of: as asked. activation: mean share of active units, over images and maskers. macs:
    mean multiply-accumulates per image, maskers included; dense_macs: of the static network. Of a
    point that glances activation is that of second looks; first_size is the size of its first look,
    first_ms what that takes, worst_ms what both take, and ours_ms the median over turns of first +
    again * (both - first), where again is the share that the bundle records; macs likewise. These
    are None for others. against, against_size: the network that OpenVINO ran with nothing skipped,
    and its image size. ratio_X is X_ms / ours_ms; ideal_ratio is dense_macs / macs. runs: of every
    contender. noise: of our own runs (A/A).
    """

    arch: str
    bundle: str | None
    paradigm: str
    stages: tuple[str, ...]
    point: str
    masks: str
    rate: float | None
    rate_of: str | None
    activation: float
    size: int
    batch: int
    threads: int
    precision: str
    isa: str
    images: str
    against: str
    against_size: int
    seed: int
    repeats: int
    first_size: int | None = None
    again: float | None = None
    first_ms: float | None = None
    worst_ms: float | None = None
    ours_ms: float
    openvino_same_ms: float
    openvino_best_ms: float
    own_dense_ms: float
    ratio_same: float
    ratio_best: float
    ratio_own_dense: float
    ideal_ratio: float
    macs: float
    dense_macs: float
    noise: Noise
    too_noisy: bool
    runs: dict[str, Spread]
    rivals: tuple[Rival, ...]
    machine: Machine
    baseline: Baseline
