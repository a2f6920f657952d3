"""The compiled module; its sources are in csrc."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

class BlockSpec:
    def __init__(
        self,
        *,
        name: str,
        in_channels: int,
        width: int,
        out_channels: int,
        stride: int,
        projection: bool,
        masks_space: bool,
        patch: int,
        groups: int,
        hidden: int,
        input_scale: float,
    ) -> None: ...

class BackboneSpec:
    def __init__(
        self,
        *,
        stem_width: int,
        trailing_pool: bool,
        stride_in_1x1: bool,
        bgr: bool,
        mean: Sequence[float],
        std: Sequence[float],
        border: Sequence[int],
        blocks: Sequence[BlockSpec],
    ) -> None: ...

class NetworkSpec:
    def __init__(
        self,
        *,
        backbone: BackboneSpec,
        classes: int,
        output_scale: float,
        feature_scale: float,
    ) -> None: ...

class DetectorSpec:
    def __init__(
        self,
        *,
        backbone: BackboneSpec,
        lasts: Sequence[int],
        units: Sequence[float],
        patches: Sequence[int],
        looks: Sequence[int],
        scales: Sequence[float],
        labels: int,
        width: int,
        head_convs: int,
        mask_convs: int,
        region: int,
        overlap: float,
        least_score: float,
        candidates: int,
        most: int,
    ) -> None: ...

class Engine:
    def __init__(
        self,
        spec: NetworkSpec,
        weights: Mapping[str, npt.NDArray[np.generic]],
        precision: str,
        isa: str,
        threads: int,
        poison: bool,
    ) -> None: ...
    def infer(
        self,
        images: npt.NDArray[np.uint8],
        thresholds: npt.NDArray[np.float32],
        caps: npt.NDArray[np.int64],
        decisions: npt.NDArray[np.uint8] | None,
        probabilities: npt.NDArray[np.float32],
        scores: npt.NDArray[np.float32],
        active_units: npt.NDArray[np.int64],
        pixels: npt.NDArray[np.int64],
        decided: npt.NDArray[np.uint8] | None,
        parts_s: npt.NDArray[np.float64],
    ) -> tuple[float, float]: ...
    def close(self) -> None: ...

class DetectorEngine:
    def __init__(
        self,
        spec: DetectorSpec,
        weights: Mapping[str, npt.NDArray[np.generic]],
        precision: str,
        isa: str,
        threads: int,
        poison: bool,
    ) -> None: ...
    def infer(
        self,
        images: npt.NDArray[np.uint8],
        thresholds: npt.NDArray[np.float32],
        caps: npt.NDArray[np.int64],
        decisions: npt.NDArray[np.uint8] | None,
        level_decisions: npt.NDArray[np.uint8] | None,
        active: npt.NDArray[np.uint8] | None,
        counts: npt.NDArray[np.int64],
        boxes: npt.NDArray[np.float32],
        scores: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        masks: npt.NDArray[np.float32] | None,
        places: npt.NDArray[np.float32] | None,
        active_units: npt.NDArray[np.int64],
        pixels: npt.NDArray[np.int64],
        decided: npt.NDArray[np.uint8] | None,
        level_units: npt.NDArray[np.int64],
        level_decided: npt.NDArray[np.uint8] | None,
        level_pixels: npt.NDArray[np.int64],
        parts_s: npt.NDArray[np.float64],
    ) -> tuple[float, float]: ...
    def close(self) -> None: ...

def suppress(
    boxes: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    overlap: float,
    kept: npt.NDArray[np.int64],
) -> int: ...
def level_of(box: npt.NDArray[np.float32], first: int, levels: int) -> int: ...
def pool_region(
    features: npt.NDArray[np.float32],
    box: npt.NDArray[np.float32],
    scale: float,
    region: npt.NDArray[np.float32],
) -> None: ...
def shrink(
    images: npt.NDArray[np.uint8],
    first: npt.NDArray[np.int32],
    weights: npt.NDArray[np.uint16],
    copies: npt.NDArray[np.uint8],
) -> None: ...
def supported_isas(precision: str) -> list[str]: ...
def chosen_isa(precision: str, most: str) -> str: ...
def kernel_units(precision: str, isa: str) -> dict[str, int]: ...
def time_layer(
    precision: str,
    isa: str,
    *,
    rows: int,
    columns: int,
    taps: int,
    inputs: int,
    outputs: int,
    residual: bool,
    group: int,
    copies: int,
    threads: int,
    calls: int,
) -> list[float]: ...
def time_reading(*, num_bytes: int, threads: int, passes: int) -> float: ...
def time_barriers(*, threads: int, count: int) -> float: ...
def time_lists(*, size: int, patch: int, calls: int) -> float: ...
def time_masker(
    precision: str, isa: str, *, size: int, channels: int, patch: int, pools: bool, calls: int
) -> float: ...
