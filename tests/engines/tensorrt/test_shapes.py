"""Buckets, and the shapes that programs are compiled for."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx")

from engines.bundle import Bundle, read_bundle
from engines.export.onnx.run import onnx_masks, onnx_model
from engines.tensorrt.shapes import (
    OBJECTS,
    buckets_alone,
    buckets_of,
    exactly,
    sizes_of,
    spanning,
)
from tests.engines.cpu import detectors
from tests.engines.int8 import bundle_of, net_of, random_weights


@pytest.fixture(scope="module")
def small() -> Bundle:
    net = net_of("spatial", "layer")
    return bundle_of(net, random_weights(net), None)


def test_sizes_are_those_of_points_and_of_their_glances() -> None:
    bundle = read_bundle("zoo:clothing")
    points = [record.point for record in bundle.manifest.points]
    glances = [point.glance.image_size for point in points if point.glance is not None]
    assert glances, "the demo has points that glance"
    assert sizes_of(bundle) == tuple(sorted({*glances, *(p.image_size for p in points)}))


def test_every_size_with_every_batch_is_a_bucket() -> None:
    found = buckets_of((40, 32, 40), (4, 1, 4), profile_each=True)
    assert [(each.image_size, each.images, each.profile) for each in found] == [
        (32, 1, 0),
        (32, 4, 1),
        (40, 1, 2),
        (40, 4, 3),
    ]
    assert {each.profile for each in buckets_of((32, 40), (1, 4), profile_each=False)} == {0}
    alone = buckets_alone(found, profile_each=True)
    assert [(each.image_size, each.images, each.profile) for each in alone] == [
        *((32, 1, 0), (40, 1, 1))
    ]
    assert {each.profile for each in buckets_alone(found, profile_each=False)} == {0}


def test_profiles_have_the_shapes_of_all_inputs(small: Bundle) -> None:
    model = onnx_model(small, "fp16")
    maskers = len(small.manifest.architecture.maskers)
    buckets = buckets_of((32, 40), (2, 8), profile_each=True)
    assert exactly(model, buckets[1]) == {
        "image": ((8, 32, 32, 3),) * 3,
        "thresholds": ((8, maskers),) * 3,
        "caps": ((8, maskers),) * 3,
    }
    assert spanning(model, buckets)["image"] == ((2, 32, 32, 3), (2, 40, 40, 3), (8, 40, 40, 3))
    assert spanning(model, buckets)["caps"] == ((2, maskers), (2, maskers), (8, maskers))


def test_a_mask_head_takes_the_pyramid_of_a_bucket_and_so_many_boxes() -> None:
    model = onnx_masks(detectors.bundle(), "fp16")
    assert model is not None
    (bucket,) = buckets_of((96,), (2,), profile_each=True)
    width = detectors.MASKED.width
    assert exactly(model, bucket) == {
        **{f"features_{i}": ((2, width, side, side),) * 3 for i, side in enumerate((24, 12, 6, 3))},
        "boxes": ((OBJECTS, 4),) * 3,
        "images": ((OBJECTS,),) * 3,
    }
