"""What an exported file holds, and which bundles and names are refused. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from engines.bundle import Bundle, read_bundle
from engines.errors import BundleError, InvalidInput
from engines.export.onnx.feeds import feeds
from engines.export.onnx.operators import DOMAIN, OPERATORS, function
from engines.export.onnx.run import export_onnx, onnx_model
from tests.engines.cpu import detectors
from tests.engines.int8 import bundle_of, net_of, noise, random_weights

ALL = ("static", "spatial", "channel", "layer", "joint")


@pytest.fixture
def source() -> Bundle:
    net = net_of(*ALL)
    return bundle_of(net, random_weights(net), None)


def test_a_node_has_what_a_plugin_asks_for_and_a_function_of_its_name(source: Bundle) -> None:
    model = onnx_model(source, "fp16")
    functions = {each.name for each in model.functions}
    assert functions <= set(OPERATORS)
    own = [node for node in model.graph.node if node.domain == DOMAIN]
    assert {node.op_type for node in own} == functions
    declared = {each.name: set(each.attribute) for each in model.functions}
    for node in own:
        given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        assert given.keys() == declared[node.op_type]
        assert given.pop("plugin_namespace") == b"laud"
        assert given.pop("plugin_version") == b"1"
        assert given
        assert all(isinstance(value, int) for value in given.values()), "lists are for no parser"


@pytest.mark.parametrize(
    ("paradigm", "operators"),
    [
        ("static", set()),
        ("spatial", {"partition", "dilate", "block_conv", "block_conv_add"}),
        ("layer", {"partition", "block_conv", "block_conv_add"}),
        ("channel", {"partition", "conv_to_groups", "conv_within_groups", "conv_from_groups_add"}),
        (
            "joint",
            {
                "partition",
                "dilate",
                "block_conv_to_groups",
                "block_conv_within_groups",
                "block_conv_from_groups_add",
            },
        ),
    ],
)
def test_what_skips_is_made_of_our_operators_and_the_rest_is_standard(
    paradigm: str, operators: set[str]
) -> None:
    net = net_of(paradigm)
    model = onnx_model(bundle_of(net, random_weights(net), None), "fp32")
    assert {node.op_type for node in model.graph.node if node.domain} == operators
    standard = [
        node for node in model.graph.node if node.op_type == "Conv" and "/" not in node.name
    ]
    static = 2 + (6 if paradigm == "static" else 0)
    assert len(standard) == static, "the stem, a projection, and what does not skip"


def test_levels_of_a_pyramid_skip_with_the_operators_of_blocks() -> None:
    """Only the stem, projections and laterals, which feed finer levels, are computed everywhere."""
    source = detectors.bundle(detectors.SKIPPING, detectors.DYNAMIC)
    model = onnx_model(source, "fp16")
    onnx.checker.check_model(model, full_check=True)
    levels = [each for each in model.graph.node if each.name.startswith("dense.")]
    everywhere = [each.name for each in levels if each.op_type == "Conv" and "/" not in each.name]
    assert everywhere == [f"dense.fpn.inner_blocks.{i}.0" for i in reversed(range(4))]
    kinds = [each.op_type for each in levels if each.domain]
    # A level: smoothing and three answers; two towers of two convolutions.
    assert kinds.count("block_conv_linear_add") == 4 * 4
    assert kinds.count("block_conv_add") == 4 * 4
    shapes = {
        each.name: [d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim]
        for each in model.graph.input
    }
    count = detectors.num_maskers(detectors.SKIPPING, detectors.DYNAMIC)
    assert shapes["thresholds"] == shapes["caps"] == ["N", count]


def test_a_mask_head_is_a_file_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "nuclei.onnx"
    exported = export_onnx("zoo:nuclei", out, "fp16")
    assert exported.masks == tmp_path / "nuclei-masks.onnx"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nuclei-masks.onnx", "nuclei.onnx"]
    network, head = onnx.load(out), onnx.load(exported.masks)
    onnx.checker.check_model(head, full_check=True)
    told = [
        {each.key.removeprefix("laudserve."): each.value for each in model.metadata_props}
        for model in (network, head)
    ]
    assert [each["part"] for each in told] == ["network", "masks"]
    assert told[0]["bundle"] == told[1]["bundle"] == exported.bundle.hash
    assert json.loads(told[0]["detector"])["level_patches"] == [4, 2, 1, 1]
    outputs = {each.name: each.type for each in network.graph.output}
    for given in head.graph.input[:4]:
        assert given.type == outputs[given.name], "one file's outputs are the other's inputs"
    taken = {each.name for model in (network, head) for each in model.graph.initializer}
    assert {"conv1.weight", "instances.mask_head.1.0.weight"} <= taken


def test_a_folder_in_the_mask_heads_place(tmp_path: Path) -> None:
    (tmp_path / "nuclei-masks.onnx").mkdir()
    with pytest.raises(InvalidInput, match=r"nuclei-masks\.onnx' is a folder"):
        export_onnx("zoo:nuclei", tmp_path / "nuclei.onnx", "fp32")
    assert not (tmp_path / "nuclei.onnx").exists()


def test_half_precision_is_that_of_maps_and_not_of_what_decides(source: Bundle) -> None:
    model = onnx_model(source, "fp16")
    types = {each.name: each.data_type for each in model.graph.initializer}
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    for name, kind in types.items():
        if name.endswith((".weight", ".bias")):
            wide = "masker_" in name or name.startswith("fc.")
            assert kind == (single if wide else half), name
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    kinds = {each.name: each.type.tensor_type.elem_type for each in inferred.graph.value_info}
    for node in model.graph.node:
        if node.op_type == "partition":
            assert kinds[node.input[0]] == single


def test_images_batches_and_points_vary_in_one_file(source: Bundle) -> None:
    model = onnx_model(source, "fp32")
    shapes = {
        each.name: [d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim]
        for each in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "image": ["N", "H", "W", 3],
        "thresholds": ["N", len(source.manifest.architecture.maskers)],
        "caps": ["N", len(source.manifest.architecture.maskers)],
        "decisions": ["N", "units"],
        "probabilities": ["N", source.manifest.architecture.num_classes],
    }


def test_a_file_says_of_which_bundle_it_is(tmp_path: Path) -> None:
    out = tmp_path / "new" / "demo.onnx"
    exported = export_onnx("zoo:clothing", out, "fp16")
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    said = {each.key.removeprefix("laudserve."): each.value for each in model.metadata_props}
    bundle = read_bundle("zoo:clothing")
    assert said["bundle"] == bundle.hash == exported.bundle.hash
    assert (said["precision"], said["task"]) == ("fp16", "classification")
    assert json.loads(said["labels"]) == list(bundle.manifest.labels)
    assert json.loads(said["notices"]) == list(bundle.manifest.provenance.notices)
    points = json.loads(said["points"])
    assert points == [r.point.model_dump(mode="json") for r in bundle.manifest.points]
    assert exported.operators["partition"] == len(bundle.manifest.architecture.maskers)
    assert [path.name for path in out.parent.iterdir()] == ["demo.onnx"]


def test_the_same_bundle_makes_the_same_bytes(source: Bundle) -> None:
    one, other = (
        onnx_model(source, "fp32").SerializeToString(deterministic=True) for _ in range(2)
    )
    assert one == other


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "demo.onnx"
    out.write_bytes(b"older")
    export_onnx("zoo:clothing", out, "fp32")
    assert onnx.load(out).producer_name == "laudserve"


@pytest.mark.parametrize(
    ("name", "precision", "says"),
    [
        ("net.laud", "fp32", r"ends in \.onnx, got 'net\.laud'"),
        ("net.onnx", "int8", "unknown precision 'int8' of ONNX; there are: fp32, fp16"),
        ("folder.onnx", "fp32", "is a folder"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, name: str, precision: str, says: str) -> None:
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InvalidInput, match=says):
        export_onnx("zoo:clothing", tmp_path / name, precision)


def test_the_folder_of_a_run_is_told_from_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(BundleError, match="is the folder of a training run"):
        export_onnx(tmp_path, tmp_path / "net.onnx", "fp32")


def test_weights_that_do_not_fit(source: Bundle) -> None:
    def refused(says: str, **changed: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
        weights = {**source.weights, **changed}
        with pytest.raises(BundleError, match=says):
            onnx_model(Bundle(source.path, source.manifest, source.hash, weights), "fp16")

    name = "layer1.0.conv1.weight"
    refused("unexpected: more", more=np.zeros(1, np.float32))
    refused(f"{name} is float32 \\(1,\\) instead of floats \\(6, 5, 1, 1\\)",
            **{name: np.zeros(1, np.float32)})  # fmt: skip
    refused(f"{name} has numbers that are not finite in float16",
            **{name: np.full((6, 5, 1, 1), 1e6, np.float32)})  # fmt: skip
    left = {key: value for key, value in source.weights.items() if key != name}
    with pytest.raises(BundleError, match=f"missing: {name}"):
        onnx_model(Bundle(source.path, source.manifest, source.hash, left), "fp32")


def test_batch_norm_has_to_be_folded() -> None:
    net = net_of("static").model_copy(update={"folded": False})
    with pytest.raises(BundleError, match="folded batch norm, in our own layout"):
        onnx_model(bundle_of(net, random_weights(net), None), "fp32")


def test_images_of_one_pixel_are_refused() -> None:
    source = bundle_of(net_of("static"), random_weights(net_of("static")), None)
    record = source.manifest.points[0]
    small = record.model_copy(update={"point": record.point.model_copy(update={"image_size": 2})})
    manifest = source.manifest.model_copy(update={"points": (small,)})
    with pytest.raises(BundleError, match="'full' has images of 2 px"):
        onnx_model(Bundle(source.path, manifest, source.hash, source.weights), "fp32")


def test_a_glance_is_outside_the_network() -> None:
    manifest = read_bundle("zoo:clothing").manifest
    point = next(r.point for r in manifest.points if r.point.glance)
    images = noise(1, point.image_size)
    with pytest.raises(InvalidInput, match="run its first_look"):
        feeds(manifest.architecture, images, [point])
    first = feeds(manifest.architecture, images[:, :80, :80], [point.first_look])
    assert (first["thresholds"] == -np.inf).all()


def test_levels_of_a_pyramid_have_thresholds_and_caps_too() -> None:
    net, detector = detectors.SKIPPING, detectors.RAGGED
    count = detectors.num_maskers(net, detector)
    point = detectors.full(64, count).model_copy(
        update={"thresholds": (None,) * (count - 1) + (0.5,), "caps": (None,) * (count - 1) + (3,)}
    )
    inputs = feeds(net, noise(1, 64), [point], detector)
    assert inputs["thresholds"].tolist() == [[-np.inf] * (count - 1) + [0.5]]
    # 16, 8 and 4 pixels in patches of 5, 4 and 4.
    assert inputs["caps"].tolist()[0][-4:] == [16, 4, 1, 3]
    with pytest.raises(InvalidInput, match=f"has {count} thresholds, this network has {count - 4}"):
        feeds(net, noise(1, 64), [point])


@pytest.mark.parametrize("name", OPERATORS)
def test_a_function_refers_to_single_numbers_only(name: str) -> None:
    """TensorRT's parser takes strides that are a function's attribute for 1, and says nothing."""
    found = function(name)
    assert (found.domain, found.name) == (DOMAIN, name)
    referring = [each for node in found.node for each in node.attribute if each.ref_attr_name]
    assert referring
    assert {each.type for each in referring} == {onnx.AttributeProto.INT}
