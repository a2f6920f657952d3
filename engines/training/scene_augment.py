"""Random variation of an annotated picture by torchvision's transforms (v2): zoom, crop, the eight
symmetries of a square, colours. What is drawn comes from the generator that is passed, so that any
thread may call it and a resumed training sees the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from engines.core import Float32Array, UInt8Array
from engines.detection.letterbox import GREY
from engines.detection.scenes import BoolArray, Int64Array, Scene
from engines.training.detection_config import SceneData

# What a crop leaves of an object has to be this share of it, or it is not worth finding.
_LEAST_VISIBLE = 0.25
_LEAST_SIDE = 1.0


@dataclass(frozen=True, eq=False)
class Shown:
    """A varied picture: pixels (size, size, 3) and the objects that are visible in it.

    boxes (N, 4), labels (N,), masks (N, size, size) or None.
    """

    pixels: UInt8Array
    boxes: Float32Array
    labels: Int64Array
    masks: BoolArray | None


def show(
    pixels: UInt8Array,
    scene: Scene,
    *,
    image_size: int,
    size: int,
    rng: np.random.Generator,
    spec: SceneData,
) -> Shown:
    """A random variation of the picture (H, W, 3) of `scene`, `size` pixels on a side.

    image_size: what its long side is scaled to, but for the zoom. A picture that is smaller lies in
    the upper left corner, the rest is grey. Ignored objects are left out.
    """
    height, width = pixels.shape[:2]
    zoom = math.exp(rng.uniform(*np.log(spec.zoom)))
    scale = zoom * image_size / max(height, width)
    side_x, side_y = (min(max(round(size / scale), 1), side) for side in (width, height))
    left = int(rng.integers(width - side_x + 1))
    top = int(rng.integers(height - side_y + 1))
    cut = (left, top, left + side_x, top + side_y)
    kept, boxes, masks = _visible(scene, cut)
    out = (
        min(max(round(side_y * scale), 1), size),
        min(max(round(side_x * scale), 1), size),
    )
    picture = torch.from_numpy(pixels[top : cut[3], left : cut[2]].copy()).permute(2, 0, 1)
    image = F.resize(tv_tensors.Image(picture), list(out), antialias=True)
    moved = F.resize(
        tv_tensors.BoundingBoxes(
            torch.from_numpy(boxes), format="XYXY", canvas_size=(side_y, side_x)
        ),
        list(out),
    )
    image = _coloured(image, rng, spec)
    rest = [0, 0, size - out[1], size - out[0]]
    image, moved = F.pad(image, rest, fill=GREY), F.pad(moved, rest)
    objects = None
    if masks is not None:
        grown = tv_tensors.Mask(torch.from_numpy(masks))
        if len(masks):
            grown = F.resize(grown, list(out), interpolation=F.InterpolationMode.NEAREST)
            objects = F.pad(grown, rest)
        else:
            objects = tv_tensors.Mask(torch.zeros((0, size, size), dtype=torch.bool))
    swap, across, down = rng.random(3) < 0.5
    shown, known, seen = image.as_subclass(torch.Tensor), moved.as_subclass(torch.Tensor), None
    if objects is not None:
        seen = objects.as_subclass(torch.Tensor)
    if swap:
        shown, known = shown.transpose(1, 2), known[:, [1, 0, 3, 2]]
        seen = None if seen is None else seen.transpose(1, 2)
    for is_flipped, axis, flip in ((across, 0, F.horizontal_flip), (down, 1, F.vertical_flip)):
        if is_flipped:
            shown, known = flip(shown), _mirrored(known, axis, size)
            seen = None if seen is None else flip(seen)
    large = ((known[:, 2:] - known[:, :2]) >= _LEAST_SIDE).all(dim=1).numpy()
    return Shown(
        np.ascontiguousarray(shown.permute(1, 2, 0).numpy()),
        np.ascontiguousarray(known.numpy()[large], np.float32),
        scene.labels[kept][large],
        None if seen is None else np.ascontiguousarray(seen.numpy()[large]),
    )


def _visible(
    scene: Scene, cut: tuple[int, int, int, int]
) -> tuple[Int64Array, Float32Array, BoolArray | None]:
    """Which objects a cut shows enough of, their boxes in it and their masks (N, h, w)."""
    origin = np.array(cut[:2] * 2, np.float32)
    limits = np.array([cut[2] - cut[0], cut[3] - cut[1]] * 2, np.float32)
    boxes = np.clip(scene.boxes - origin, 0, limits)
    shares = _areas(boxes) / np.maximum(_areas(scene.boxes), 1e-6)
    kept = np.flatnonzero((shares >= _LEAST_VISIBLE) & ~scene.ignored)
    if scene.masks is None:
        return kept, boxes[kept], None
    windows: list[BoolArray] = []
    seen: list[int] = []
    for i in kept.tolist():
        window = scene.masks[i].window(*cut)
        if window.sum() >= _LEAST_VISIBLE * scene.masks[i].area:
            # What is visible of an object may be narrower than what is left of its box.
            rows, columns = (np.flatnonzero(window.any(axis=axis)) for axis in (1, 0))
            boxes[i] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            windows.append(window)
            seen.append(i)
    kept = np.array(seen, np.int64)
    empty = np.zeros((0, cut[3] - cut[1], cut[2] - cut[0]), np.bool_)
    return kept, boxes[kept], np.stack(windows) if windows else empty


def _areas(boxes: Float32Array) -> Float32Array:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _mirrored(boxes: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    boxes = boxes.clone()
    boxes[:, [axis, axis + 2]] = size - boxes[:, [axis + 2, axis]]
    return boxes


def _coloured(image: torch.Tensor, rng: np.random.Generator, spec: SceneData) -> torch.Tensor:
    inverted, grey = rng.random() < spec.invert, rng.random() < spec.grey
    factors = {
        name: 1.0 + getattr(spec, name) * rng.uniform(-1, 1)
        for name in ("brightness", "contrast", "saturation")
    }
    hue = spec.hue * rng.uniform(-1, 1)
    if grey:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    else:
        image = F.adjust_saturation(image, factors["saturation"])
        if spec.hue:
            image = F.adjust_hue(image, hue)
    image = F.adjust_contrast(
        F.adjust_brightness(image, factors["brightness"]), factors["contrast"]
    )
    return F.invert(image) if inverted else image
