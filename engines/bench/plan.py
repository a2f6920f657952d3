"""What `laud bench engine` was asked to measure, checked, and the network that it means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.architecture import DEPTHS, ResNet, only_resnet
from engines.bench.masks import MaskKind
from engines.bench.networks import MIXES, architecture, asking_point, synthetic_bundle
from engines.bench.timing import FEWEST_REPEATS
from engines.bundle import Bundle, classifier, read_bundle
from engines.core import MAX_IMAGE_SIZE, OperatingPoint
from engines.errors import InvalidInput
from engines.manifest import PRECISIONS

RATES_OF = ("units", "macs")

_SIZE = 224
_PATCHES = (8, 4, 2, 1)
_GROUP = 64


@dataclass(frozen=True)
class Plan:
    """What to measure, as asked; see `laud bench engine --help`.

    rate: share of units that are active or, with rate_of "macs", of the static network's
    multiply-accumulates that are executed; None with trained masks. paradigm, patches, group, mix:
    of a network by name; None means the default, and is what a bundle takes. against, against_size:
    the bundle that OpenVINO runs, nothing skipped, and its image size; None: the same.
    """

    arch: str
    precision: str = "fp32"
    masks: str = MaskKind.RANDOM
    rate: float | None = None
    rate_of: str = "units"
    paradigm: str | None = None
    patches: tuple[int, ...] | None = None
    group: int | None = None
    mix: str | None = None
    size: int | None = None
    point: str | None = None
    images: Path | None = None
    batch: int = 1
    threads: int = 1
    repeats: int = 24
    seed: int = 0
    rivals: bool = False
    cache: Path | None = None
    against: str | None = None
    against_size: int | None = None

    def __post_init__(self) -> None:
        """Raises InvalidInput for what cannot be measured, whatever the network."""
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("masks", self.masks, tuple(MaskKind))
        _one_of("rate-of", self.rate_of, RATES_OF)
        _at_least("batch", self.batch, 1)
        _at_least("threads", self.threads, 1)
        _at_least("repeats", self.repeats, FEWEST_REPEATS)
        _at_least("seed", self.seed, 0)
        for option, pixels in (("size", self.size), ("against-size", self.against_size)):
            if pixels is not None and not 1 <= pixels <= MAX_IMAGE_SIZE:
                raise InvalidInput(f"--{option} must be 1 to {MAX_IMAGE_SIZE} pixels, got {pixels}")
        if self.kind is MaskKind.TRAINED:
            self._check_trained()
        elif self.rate is None:
            raise InvalidInput(f"--masks {self.masks} needs --rate, 0 to 1")
        elif not 0.0 <= self.rate <= 1.0:
            raise InvalidInput(f"--rate must be 0 to 1, got {self.rate}")
        if self.mix is not None and self.paradigm != "mix":
            raise InvalidInput("--mix says what a mix ends in: it goes with --paradigm mix")
        if not self.synthetic:
            self._check_bundle()
        elif self.point is not None:
            raise InvalidInput(f"--point goes with a bundle; {self.arch} has only one point")

    @property
    def kind(self) -> MaskKind:
        """Where masks come from."""
        return MaskKind(self.masks)

    @property
    def synthetic(self) -> bool:
        """Whether it is a network by name, which nobody trained."""
        return self.arch in DEPTHS

    @property
    def against_another(self) -> bool:
        """Whether OpenVINO runs another network or another image size than ours."""
        return self.against is not None or self.against_size is not None

    def _check_trained(self) -> None:
        if self.synthetic:
            raise InvalidInput(
                f"nobody trained the masks of {self.arch}; name a bundle, such as zoo:clothing, "
                "or take --masks random"
            )
        if self.rate is not None:
            raise InvalidInput("trained masks have a rate of their own: leave out --rate")
        if self.images is None:
            raise InvalidInput(
                "trained masks depend on what is in the picture: name real ones with --images DIR"
            )

    def _check_bundle(self) -> None:
        for option, value in (
            ("paradigm", self.paradigm),
            ("granularity", self.patches),
            ("group", self.group),
        ):
            if value is not None:
                raise InvalidInput(f"a bundle has its own {option}: leave out --{option}")


@dataclass(frozen=True)
class Subject:
    """The network to measure, and the point to measure it at.

    again: of a point that glances, the share of images that it looks at again, by the bundle.
    """

    bundle: Bundle
    paradigm: str
    point: OperatingPoint
    again: float | None = None

    @property
    def net(self) -> ResNet:
        """Its architecture."""
        return only_resnet(self.bundle.manifest.architecture, "the benchmark")

    @property
    def size(self) -> int:
        """Pixels on a side of the image."""
        return self.point.image_size


def subject(plan: Plan) -> Subject:
    """Make or read the network. Raises BundleError or InvalidInput with the reason."""
    if plan.synthetic:
        return _synthetic(plan)
    if not is_reference(plan.arch):
        raise InvalidInput(
            f"unknown network '{plan.arch}'; there are: {', '.join(DEPTHS)}, or a bundle "
            "(NAME.laud, zoo:NAME)"
        )
    return _from_bundle(plan, classifier(read_bundle(plan.arch), "laud bench engine"))


def _synthetic(plan: Plan) -> Subject:
    paradigm = plan.paradigm or "spatial"
    net = architecture(
        plan.arch,
        paradigm,
        patches=_PATCHES if plan.patches is None else plan.patches,
        group=_GROUP if plan.group is None else plan.group,
        mix=next(iter(MIXES)) if plan.mix is None else plan.mix,
    )
    size = plan.size or _SIZE
    bundle = synthetic_bundle(plan.arch, net, size, plan.seed)
    return Subject(bundle, paradigm, bundle.manifest.points[-1].point)


def _from_bundle(plan: Plan, bundle: Bundle) -> Subject:
    manifest = bundle.manifest
    net = manifest.architecture
    paradigms = sorted({stage.paradigm.value for stage in net.stages})
    paradigm = paradigms[0] if len(paradigms) == 1 else "mix"
    if not net.maskers:
        raise InvalidInput(f"'{manifest.name}' has no masker: there is nothing to skip")
    # Only trained masks need the precision's own thresholds, and with them scales in the bundle.
    records = (manifest.at(plan.precision) if plan.kind is MaskKind.TRAINED else manifest).points
    if plan.point is not None:
        manifest.point(plan.point)
        records = tuple(record for record in records if record.point.name == plan.point)
    dynamic = [record for record in records if not record.point.skips_nothing]
    if plan.kind is not MaskKind.TRAINED:
        size = plan.size or (dynamic or list(records))[0].point.image_size
        return Subject(bundle, paradigm, asking_point("dynamic", size, len(net.maskers)))
    if plan.point is not None and plan.against_another:
        dynamic = list(records)
    if not dynamic:
        name = plan.point or "no point of it"
        raise InvalidInput(
            f"'{manifest.name}': {name} does not ask a masker or glance, nothing is skipped; to "
            "compare a "
            "smaller image with OpenVINO at a larger one, name --point and --against-size"
        )
    record = min(dynamic, key=lambda record: record.macs)
    point = record.point
    if plan.size not in (None, point.image_size):
        raise InvalidInput(
            f"the thresholds of '{point.name}' are for {point.image_size} pixels: leave out --size"
        )
    return Subject(bundle, paradigm, point, record.again)


def is_reference(arch: str) -> bool:
    """Whether that can only mean a bundle: zoo:NAME, or a path."""
    return "/" in arch or "." in arch or arch.startswith("zoo:")


def patch_sizes(text: str) -> tuple[int, ...]:
    """`8-4-2-1` as numbers; InvalidInput when it is something else."""
    try:
        return tuple(int(part) for part in text.split("-"))
    except ValueError:
        raise InvalidInput(
            f"--granularity takes one number per stage, such as 8-4-2-1, got '{text}'"
        ) from None


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidInput(f"--{option} must be one of {', '.join(known)}, got '{value}'")


def _at_least(option: str, value: int, least: int) -> None:
    if value < least:
        raise InvalidInput(f"--{option} must be at least {least}, got {value}")
