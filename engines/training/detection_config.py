"""The configuration of a training that finds objects: one YAML file with `task`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from engines.architecture import Stage
from engines.bundle import explain
from engines.core import FrozenModel, static_point
from engines.detection.architecture import STRIDE, Detector
from engines.runs import Budget, PointRequest, candidate_points
from engines.training.config import InitConfig, Rate, Share

Size = Annotated[int, Field(ge=STRIDE, le=4096, multiple_of=STRIDE)]


class SceneData(FrozenModel):
    """Annotated pictures in splits (`engines.detection.read`), and how they are varied.

    zoom: how much larger than at evaluation a picture is shown, least and most. invert, grey: how
    often colours are inverted or taken away. brightness, contrast, saturation: a factor of 1 +-
    this. hue: +- this share of the circle.
    """

    root: Path
    zoom: tuple[float, float] = (0.7, 1.5)
    invert: Share = 0.15
    grey: Share = 0.25
    brightness: Share = 0.3
    contrast: Share = 0.3
    saturation: Share = 0.3
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.05

    @model_validator(mode="after")
    def _zoom_rises(self) -> Self:
        if not 0.05 <= self.zoom[0] <= self.zoom[1] <= 20.0:
            raise ValueError(f"zoom must be two rising factors in .05 to 20, not {self.zoom}")
        return self


class DetectionDynamic(FrozenModel):
    """Train maskers to tell where objects are, and the network to answer under their masks.

    budgets: multiply-accumulates of backbone, pyramid and dense heads, relative to the static
    network at the same image size. sizes: image sizes to be exported at each of them; the full one
    where none is named. probabilities: of an object, below which patches are skipped: drawn for
    each image between these two. full_share: share of the images that skip nothing.
    statistics_images: what the maskers' inputs are standardised by. fits: how often maskers are
    fitted to the finished network at the end (`engines.training.masker_fit`); epochs may then be 0,
    and the network stays what it was. first_fits: how often they are fitted before the epochs, in
    which they then stand still (masker_rate is of no use) while the network learns to answer under
    them.
    """

    epochs: Annotated[int, Field(ge=0, le=10_000)] = 0
    budgets: tuple[Budget, ...] = ()
    sizes: tuple[Size, ...] = ()
    rate: Rate = 0.0005
    backbone_rate: Rate = 0.0015
    masker_rate: Rate = 0.01
    probabilities: tuple[Share, Share] = (0.02, 0.4)
    full_share: Share = 0.4
    statistics_images: Annotated[int, Field(ge=2)] = 32
    fits: Annotated[int, Field(ge=0, le=8)] = 0
    first_fits: Annotated[int, Field(ge=0, le=8)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.probabilities
        if not 0.0 < low <= high < 1.0:
            raise ValueError(f"probabilities must rise between 0 and 1, got {low:g} and {high:g}")
        if self.learns and not self.budgets:
            raise ValueError("dynamic training needs budgets beside epochs; fits stand for epochs")
        if self.first_fits and not self.epochs:
            raise ValueError("dynamic.first_fits come before dynamic.epochs, of which there are 0")
        return self

    @property
    def learns(self) -> bool:
        """Whether there is such a phase at all."""
        return bool(self.epochs or self.fits)

    @property
    def maskers_learn(self) -> bool:
        """Whether they learn beside the network."""
        return bool(self.epochs) and not self.first_fits


class DetectionMasks(FrozenModel):
    """Train the mask head alone behind a network that stays what it is, so that nothing else that
    was measured of it changes."""

    epochs: Annotated[int, Field(ge=0, le=10_000)] = 0
    rate: Rate = 0.0005


class DetectionConfig(FrozenModel):
    """Everything that determines a training of a detector.

    image_size: what a picture's long side is scaled to at evaluation. crop_size: pixels on a side
    of what is shown in training. sizes: smaller image sizes to export as points. rate: the step of
    fresh layers; backbone_rate: that of the backbone, relative to each tensor's root mean square.
    mask_objects: of each picture, most objects whose masks are learned in a step. mask_jitter: by
    how much of its size their boxes are off, at most. measure_every: epochs between two looks at
    the validation split. dynamic: what follows, where patches are to be skipped. masks: what comes
    last.

    With epochs 0 a finished detector is begun with: made dynamic, or, with dynamic.epochs and
    dynamic.fits 0 too, a whole bundle whose mask head alone is trained.
    """

    task: Literal["detection", "segmentation"]
    name: Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: SceneData
    init: InitConfig
    stages: Annotated[tuple[Stage, ...], Field(min_length=4, max_length=4)]
    detector: Detector = Detector()
    image_size: Size
    crop_size: Size
    sizes: tuple[Size, ...] = ()
    batch_size: Annotated[int, Field(ge=1, le=256)] = 4
    epochs: Annotated[int, Field(ge=0, le=10_000)] = 40
    rate: Rate = 0.001
    backbone_rate: Rate = 0.003
    mask_objects: Annotated[int, Field(ge=1, le=1000)] = 32
    mask_jitter: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    measure_every: Annotated[int, Field(ge=1)] = 5
    dynamic: DetectionDynamic = DetectionDynamic()
    masks: DetectionMasks = DetectionMasks()
    notices: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        source = self.init.source
        # Of a run what its static phase ended with is begun with, which fits alone are not for.
        finished = source == "bundle" if self.dynamic.epochs == 0 else source in ("bundle", "run")
        finished = finished and self.dynamic.learns
        if not self.epochs and not (finished or self.masks_alone):
            raise ValueError(
                "epochs may be 0 only where a finished detector is made dynamic, or the mask head "
                "of a bundle is trained"
            )
        if self.masks.epochs and not self.detector.masks:
            raise ValueError("masks.epochs needs detector.masks: there is no mask head")
        if self.dynamic.budgets and not (self.dynamic.learns or self.masks_alone):
            raise ValueError("dynamic.budgets needs dynamic.epochs or dynamic.fits")
        if self.detector.masks != (self.task == "segmentation"):
            raise ValueError(
                f"task '{self.task}' {'needs' if self.task == 'segmentation' else 'takes no'} "
                f"masks: detector.masks is {self.detector.masks}"
            )
        if any(stage.paradigm.masks_channels for stage in self.stages):
            raise ValueError("a detector's stages skip patches (paradigm spatial) or nothing")
        masked = any(stage.paradigm.masks_space for stage in self.stages)
        masked = masked or self.detector.level_patches is not None
        if masked != self.dynamic.learns and not self.masks_alone:
            raise ValueError(
                "stages of paradigm spatial and detector.level_patches need dynamic.epochs or "
                "dynamic.fits, which need some of them"
            )
        if self.dynamic.budgets and not masked:
            raise ValueError("dynamic.budgets: nothing skips, neither stages nor level_patches")
        if self.masks_alone and masked and not self.dynamic.budgets:
            raise ValueError("masks.epochs of a detector that skips needs its dynamic.budgets")
        unknown = set(self.dynamic.sizes) - {self.image_size, *self.sizes}
        if unknown:
            raise ValueError(f"dynamic.sizes {sorted(unknown)} are neither image_size nor in sizes")
        if any(size >= self.image_size for size in self.sizes):
            raise ValueError(f"sizes must be smaller than image_size {self.image_size}")
        for point in self.points:
            try:
                static_point(point.name, point.image_size, 0)
            except ValidationError as error:
                raise ValueError(f"point '{point.name}': {explain(error)}") from None
        return self

    @property
    def masks_alone(self) -> bool:
        """Whether all but the mask head is a bundle's, its maskers included."""
        before = self.epochs or self.dynamic.learns
        return bool(self.masks.epochs) and not before and self.init.source == "bundle"

    @property
    def crop_ratio(self) -> float:
        """The network sees whole pictures."""
        return 1.0

    @property
    def points(self) -> tuple[PointRequest, ...]:
        """The points to export: every image size with nothing skipped, `full` first, and some at
        every budget."""
        skipping = self.dynamic.sizes or (self.image_size,)
        points = candidate_points(self.image_size, self.sizes, self.dynamic.budgets)
        return tuple(p for p in points if p.budget is None or p.image_size in skipping)
