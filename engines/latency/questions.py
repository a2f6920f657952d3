"""What `laud predict` is asked and answers, as values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engines.bundle import MANIFEST, ZOO_PREFIX
from engines.core import MAX_IMAGE_SIZE, MAX_THREADS, FrozenModel
from engines.errors import InvalidInput

Model = Literal["measured", "native", "gpu"]
Masker = Literal["fused", "unfused"]

STATIC = "static"
PARADIGMS = (STATIC, "spatial", "channel", "layer", "mix")

_MAX_BATCH = 65536


@dataclass(frozen=True)
class Question:
    """What is to be predicted; see `laud predict --help`. None means the default.

    what: a bundle or a network by name. rate: of units that are active; channel_rate: of channel
    groups where it differs. scattered: active patches lie apart, not together. corrections: those
    of the GPU model that are on, instead of the mode's.
    """

    what: str
    device: str | None = None
    table: Path | None = None
    point: str | None = None
    rate: float | None = None
    channel_rate: float | None = None
    scattered: bool = False
    paradigm: str | None = None
    patches: tuple[int, ...] | None = None
    group: int | None = None
    size: int | None = None
    batch: int = 1
    threads: int | None = None
    precision: str | None = None
    quantile: float = 0.95
    mode: str = "fixed"
    corrections: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises InvalidInput for what makes no sense whatever is asked of."""
        for what, value, most in (
            ("batch", self.batch, _MAX_BATCH),
            ("size", self.size, MAX_IMAGE_SIZE),
            ("threads", self.threads, MAX_THREADS),
        ):
            if value is not None and not 1 <= value <= most:
                raise InvalidInput(f"{what} must be 1 to {most}, got {value}")
        if self.group is not None and self.group < 1:
            raise InvalidInput(f"a group has at least 1 channel, got {self.group}")
        if self.patches is not None and min(self.patches, default=0) < 1:
            raise InvalidInput(f"a patch is at least 1 pixel wide, got granularity {self.patches}")
        if self.scattered and self.point is not None:
            raise InvalidInput("what a point makes active is known; leave --scattered out")
        for what, rate in (("rate", self.rate), ("channel rate", self.channel_rate)):
            if rate is not None and not 0.0 <= rate <= 1.0:
                raise InvalidInput(f"the {what} must be 0 to 1, got {rate}")
        if not 0.0 < self.quantile < 1.0:
            raise InvalidInput(f"the quantile must be between 0 and 1, got {self.quantile}")
        if self.paradigm is not None and self.paradigm not in PARADIGMS:
            raise InvalidInput(
                f"unknown paradigm '{self.paradigm}'; there are: {', '.join(PARADIGMS)}"
            )
        if self.channel_rate is not None and self.rate is None:
            raise InvalidInput("a channel rate goes with a rate")
        if self.point is not None and self.rate is not None:
            raise InvalidInput("give a point or a rate, not both")

    @property
    def is_bundle(self) -> bool:
        """Whether `what` is a bundle and not a network by name."""
        return self.what.startswith(ZOO_PREFIX) or (Path(self.what) / MANIFEST).is_file()


class PartAnswer(FrozenModel):
    """Milliseconds of one part, or of what a call takes besides (`call`), per call.

    compute_ms, memory_ms, fixed_ms: None where they were not told apart. masker: fused into the
    first convolution or not, where that is a choice.
    """

    name: str
    ms: float
    compute_ms: float | None
    memory_ms: float | None
    fixed_ms: float | None
    masker: Masker | None = None


class Answer(FrozenModel):
    """One prediction. ms: median of a call with `batch` images; quantile_ms: what it takes at most
    in `quantile` of cases, where that is known. static_ms: the same with nothing skipped and no
    masker asked. model: `measured` is a latency table, the others are analytic. noisy: the table
    was taken while something else ran."""

    network: str
    model: Model
    device: str
    precision: str
    threads: int | None
    size: int
    batch: int
    point: str | None
    rate: float | None
    channel_rate: float | None
    ms: float
    ms_per_image: float
    quantile: float | None
    quantile_ms: float | None
    static_ms: float
    ratio: float
    corrections: tuple[str, ...] | None
    noisy: bool
    parts: tuple[PartAnswer, ...]
