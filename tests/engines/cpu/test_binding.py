"""The compiled module by itself: wrong arrays are a TypeError or ValueError, not a wrong access."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from engines.cpu import _native
from tests.engines.cpu.cases import MASKERS, NET, SIZE, bundle, load, pictures, units

UNITS = sum(units(NET, SIZE))
BLOCKS = len(NET.blocks)


def arguments(n: int = 2) -> dict[str, Any]:
    """Of a call that is right."""
    return {
        "images": pictures(n),
        "thresholds": np.zeros((n, MASKERS), np.float32),
        "caps": np.full((n, MASKERS), -1, np.int64),
        "decisions": np.ones((n, UNITS), np.uint8),
        "probabilities": np.empty((n, NET.num_classes), np.float32),
        "scores": np.empty((n, NET.num_classes), np.float32),
        "active_units": np.empty((n, MASKERS), np.int64),
        "pixels": np.empty((n, BLOCKS, 2), np.int64),
        "decided": np.empty((n, UNITS), np.uint8),
        "parts_s": np.empty(BLOCKS + 2, np.float64),
    }


@pytest.fixture(scope="module")
def native() -> Iterator[_native.Engine]:
    with load(bundle(), threads=2) as engine:
        yield engine._native


def test_a_right_call(native: _native.Engine) -> None:
    given = arguments()
    prepare_s, network_s = native.infer(**given)
    assert prepare_s >= 0
    assert network_s >= 0
    assert (given["active_units"].sum(axis=1) == UNITS).all()
    assert (given["decided"] == 1).all()
    assert native.infer(**{**given, "decisions": None})
    assert native.infer(**{**given, "decided": None})


NAMES = sorted(arguments())
OF_IMAGES = [name for name in NAMES if name != "parts_s"]


@pytest.mark.parametrize("name", OF_IMAGES)
@pytest.mark.parametrize(
    "wrong",
    [
        lambda array: array[:1],
        lambda array: np.repeat(array, 2, axis=0),
        lambda array: array[:0],
        lambda array: array[:, :-1].copy(),
        lambda array: np.repeat(array, 2, axis=1),
        lambda array: array[:, :0].copy(),
    ],
    ids=["one image", "twice the images", "no image", "one less", "twice as many", "none"],
)
def test_shapes_that_do_not_fit(
    native: _native.Engine, name: str, wrong: Callable[[Any], Any]
) -> None:
    given = arguments()
    given[name] = wrong(given[name])
    with pytest.raises(ValueError, match=r"does not fit|do not have"):
        native.infer(**given)
    native.infer(**arguments())


def test_images_have_three_channels(native: _native.Engine) -> None:
    for channels in (1, 4):
        given = {**arguments(), "images": np.zeros((2, SIZE, SIZE, channels), np.uint8)}
        with pytest.raises(ValueError, match="does not fit"):
            native.infer(**given)


@pytest.mark.parametrize("name", OF_IMAGES)
@pytest.mark.parametrize(
    "wrong",
    [
        lambda array: array.astype(np.float64),
        lambda array: array.astype(np.int16),
        lambda array: array[..., None],
        lambda array: array.reshape(-1),
        lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
        lambda array: array.tolist(),
        lambda array: array.astype(array.dtype.newbyteorder()) if array.itemsize > 1 else "",
    ],
    ids=["float64", "int16", "one axis more", "flat", "strides", "list", "byte order"],
)
def test_arrays_of_another_kind(
    native: _native.Engine, name: str, wrong: Callable[[Any], Any]
) -> None:
    given = arguments()
    given[name] = wrong(given[name])
    with pytest.raises(TypeError):
        native.infer(**given)
    native.infer(**arguments())


@pytest.mark.parametrize(
    "parts_s",
    [np.empty(BLOCKS + 1), np.empty(BLOCKS + 3), np.empty(0)],
    ids=["one less", "one more", "none"],
)
def test_one_duration_per_part(native: _native.Engine, parts_s: object) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        native.infer(**{**arguments(), "parts_s": parts_s})


@pytest.mark.parametrize(
    "parts_s",
    [
        np.empty(BLOCKS + 2, np.float32),
        np.empty((1, BLOCKS + 2)),
        np.empty(2 * (BLOCKS + 2))[::2],
        [0.0] * (BLOCKS + 2),
    ],
    ids=["float32", "one axis more", "strides", "list"],
)
def test_durations_of_another_kind(native: _native.Engine, parts_s: object) -> None:
    with pytest.raises(TypeError):
        native.infer(**{**arguments(), "parts_s": parts_s})


@pytest.mark.parametrize(
    "name", ["probabilities", "scores", "active_units", "pixels", "decided", "parts_s"]
)
def test_results_that_may_not_be_written(native: _native.Engine, name: str) -> None:
    given = arguments()
    given[name].flags.writeable = False
    with pytest.raises(TypeError):
        native.infer(**given)


def test_nothing_may_be_left_out(native: _native.Engine) -> None:
    for name in NAMES:
        given: dict[str, Any] = arguments()
        if name not in ("decisions", "decided"):
            with pytest.raises(TypeError):
                native.infer(**{**given, name: None})
        del given[name]
        with pytest.raises(TypeError):
            native.infer(**given)


def test_it_may_be_closed_twice() -> None:
    with load(bundle()) as engine:
        engine._native.close()
        engine._native.close()
        with pytest.raises(RuntimeError, match="closed"):
            engine._native.infer(**arguments())


# Building one

BACKBONE: dict[str, Any] = {
    "stem_width": 4,
    "trailing_pool": False,
    "stride_in_1x1": False,
    "bgr": False,
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "border": [0, 0, 0],
}
BLOCK: dict[str, Any] = {
    "name": "layer1.0",
    "in_channels": 4,
    "width": 2,
    "out_channels": 8,
    "stride": 1,
    "projection": True,
    "masks_space": False,
    "patch": 0,
    "groups": 0,
    "hidden": 16,
    "input_scale": 1.0,
}
WEIGHTS = {
    "conv1.weight": (4, 3, 7, 7),
    "conv1.bias": (4,),
    "layer1.0.conv1.weight": (2, 4, 1, 1),
    "layer1.0.conv1.bias": (2,),
    "layer1.0.conv2.weight": (2, 2, 3, 3),
    "layer1.0.conv2.bias": (2,),
    "layer1.0.conv3.weight": (8, 2, 1, 1),
    "layer1.0.conv3.bias": (8,),
    "layer1.0.downsample.0.weight": (8, 4, 1, 1),
    "layer1.0.downsample.0.bias": (8,),
    "fc.weight": (2, 8),
    "fc.bias": (2,),
}


def _network(backbone: dict[str, Any], classes: int) -> _native.NetworkSpec:
    return _native.NetworkSpec(
        backbone=_native.BackboneSpec(**backbone),
        classes=classes,
        output_scale=1.0,
        feature_scale=1.0,
    )


def build(
    block: dict[str, Any] | None = None, weights: dict[str, Any] | None = None, **changes: Any
) -> _native.Engine:
    classes = changes.pop("classes", 2)
    blocks = [_native.BlockSpec(**{**BLOCK, **(block or {})})]
    spec = _network({**BACKBONE, "blocks": blocks, **changes}, classes)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in WEIGHTS.items()}
    return _native.Engine(spec, {**tensors, **(weights or {})}, "fp32", "baseline", 1, False)


def test_a_right_specification() -> None:
    build().close()


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_tensors_of_another_shape_or_type_are_named(name: str) -> None:
    shape = WEIGHTS[name]
    for wrong in (
        np.zeros((shape[0] + 1, *shape[1:]), np.float32),
        np.zeros((*shape, 1), np.float32),
        np.zeros(shape, np.float64),
        np.zeros(shape, np.int8),
        np.zeros((*shape[:-1], 2 * shape[-1]), np.float32)[..., ::2],
        "no array",
        None,
    ):
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            build(weights={name: wrong})


@pytest.mark.parametrize(
    ("block", "changes"),
    [
        ({}, {"blocks": []}),
        ({}, {"mean": [0.0]}),
        ({}, {"std": []}),
        ({}, {"border": [1, 2]}),
        ({"width": 0}, {}),
        ({"in_channels": -1}, {}),
        ({"out_channels": 2**62}, {}),
        ({"patch": -1, "masks_space": True}, {}),
        ({"groups": 3}, {}),
        ({"groups": -1}, {}),
        ({"in_channels": 8}, {}),
        ({}, {"stem_width": 0}),
        ({}, {"classes": 0}),
        ({}, {"classes": -5}),
    ],
    ids=str,
)
def test_specifications_that_make_no_network(
    block: dict[str, Any], changes: dict[str, Any]
) -> None:
    """The Python face never makes one; the tensors would not fit, which is found first or last."""
    with pytest.raises(ValueError):  # noqa: PT011
        build(block, **changes)


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_threads_there_cannot_be(threads: int) -> None:
    spec = _network({**BACKBONE, "blocks": [_native.BlockSpec(**BLOCK)]}, 2)
    with pytest.raises(ValueError, match="threads must be 1 to 1024"):
        _native.Engine(spec, {}, "fp32", "baseline", threads, False)
