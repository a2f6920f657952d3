"""Buckets of a plan, and the shapes that its programs are compiled for. No TensorRT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engines.bundle import Bundle
from engines.detection.architecture import STRIDES
from engines.tensorrt.network import Shapes
from engines.tensorrt.plans import Bucket

if TYPE_CHECKING:
    import onnx

OBJECTS = 64
"""How many masks are made at a time. What a picture has more takes another call; what it has fewer
is computed for nothing."""


def sizes_of(bundle: Bundle) -> tuple[int, ...]:
    """Sizes at which its points run, glances included, ascending."""
    points = [record.point for record in bundle.manifest.points]
    glances = [point.glance.image_size for point in points if point.glance is not None]
    return tuple(sorted({*(point.image_size for point in points), *glances}))


def buckets_of(
    sizes: Sequence[int], batches: Sequence[int], *, profile_each: bool
) -> tuple[Bucket, ...]:
    """Every size with every batch, ascending; each a profile of its own, or all one."""
    shapes = [(size, batch) for size in sorted(set(sizes)) for batch in sorted(set(batches))]
    return tuple(
        Bucket(image_size=size, images=batch, profile=i if profile_each else 0)
        for i, (size, batch) in enumerate(shapes)
    )


def buckets_alone(buckets: Sequence[Bucket], *, profile_each: bool) -> tuple[Bucket, ...]:
    """Those of one image, with profiles of their own program; see `buckets_of`."""
    alone = [each for each in buckets if each.images == 1]
    return tuple(
        each.model_copy(update={"profile": i if profile_each else 0})
        for i, each in enumerate(alone)
    )


def exactly(model: onnx.ModelProto, bucket: Bucket) -> Shapes:
    """The profile of one shape."""
    shape = (bucket.images, bucket.image_size)
    return _shapes(model, shape, shape, shape)


def spanning(model: onnx.ModelProto, buckets: Sequence[Bucket]) -> Shapes:
    """The profile of all shapes from the least to the most; the best is the largest image alone."""
    batches = [bucket.images for bucket in buckets]
    sizes = [bucket.image_size for bucket in buckets]
    return _shapes(
        model,
        (min(batches), min(sizes)),
        (min(batches), max(sizes)),
        (max(batches), max(sizes)),
    )


def _shapes(
    model: onnx.ModelProto, least: tuple[int, int], best: tuple[int, int], most: tuple[int, int]
) -> Shapes:
    """(images, size) each: shapes of the graph's inputs."""
    found: Shapes = {}
    for each in model.graph.input:
        dims = each.type.tensor_type.shape.dim
        least_shape, best_shape, most_shape = (
            tuple(_dimension(dim.dim_param, dim.dim_value, *of) for dim in dims)
            for of in (least, best, most)
        )
        found[each.name] = (least_shape, best_shape, most_shape)
    return found


def _dimension(name: str, value: int, images: int, size: int) -> int:
    sides = {
        f"{side}{i}": size // stride for i, stride in enumerate(STRIDES) for side in ("h", "w")
    }
    return {"N": images, "H": size, "W": size, "D": OBJECTS, **sides}.get(name, value)
