"""`laud export BUNDLE --onnx`: one file, for ONNX Runtime as it is and for TensorRT plugins.

Where objects have masks there is a second one: the mask head.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import onnx

from engines.bundle import Bundle, read_bundle
from engines.errors import InvalidInput
from engines.export.onnx.backbone import check_network
from engines.export.onnx.classifier import classifier
from engines.export.onnx.detector import detector
from engines.export.onnx.graph import Graph, Precision, Tensors
from engines.export.onnx.layers import Layers
from engines.export.onnx.masks import mask_head

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
SUFFIX = ".onnx"
MASK_SUFFIX = "-masks.onnx"


@dataclass(frozen=True)
class Exported:
    """A network that was written. operators: how many nodes of each of our own it has, and how many
    branches. masks: the file of its mask head, None where it has none."""

    bundle: Bundle
    precision: Precision
    operators: dict[str, int]
    masks: Path | None = None


def export_onnx(ref: str | Path, out: Path, precision: str, *, one_image: bool = False) -> Exported:
    """Write the network of a bundle to `out` (NAME.onnx), and a mask head to NAME-masks.onnx.

    precision: of maps and convolutions; what decides, and the classifier, is float32 in both.
    one_image: it takes one at a time, and blocks that skip as a whole are branches. Raises
    InvalidInput for another precision or name, BundleError where the network has no such
    form.
    """
    check_onnx_output(out)
    bundle = read_bundle(ref)
    beside = out.with_name(f"{out.stem}{MASK_SUFFIX}")
    if _has_masks(bundle):
        check_onnx_output(beside)
    model = onnx_model(bundle, _precision(precision), one_image=one_image)
    masks = onnx_masks(bundle, _precision(precision), one_image=one_image)
    if masks is not None:
        _write(beside, masks.SerializeToString(deterministic=True))
    _write(out, model.SerializeToString(deterministic=True))
    counts: dict[str, int] = {}
    for node in model.graph.node:
        if node.domain or node.op_type == "If":
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return Exported(bundle, _precision(precision), counts, beside if masks else None)


def onnx_model(
    bundle: Bundle, precision: Precision, *, one_image: bool = False, select: bool = True
) -> onnx.ModelProto:
    """The network of a bundle, without its mask head, checked. select: whether a detector selects
    among its boxes too. Raises BundleError where it has no such form."""
    manifest = bundle.manifest
    check_network(manifest)
    weights = Tensors(bundle.weights, str(bundle.path))
    graph = Graph(precision, str(bundle.path), images=1 if one_image else None)
    layers = Layers(graph, weights)
    if manifest.detector is None:
        classifier(graph, layers, manifest)
    else:
        detector(graph, layers, manifest, manifest.detector, select=select)
        weights.leave("instances.")
    weights.check_all_taken()
    return graph.model(manifest.name, _metadata(bundle, precision, "network"))


def onnx_masks(
    bundle: Bundle, precision: Precision, *, one_image: bool = False
) -> onnx.ModelProto | None:
    """The mask head of a bundle, checked; None where it has none. BundleError as `onnx_model`."""
    detector = bundle.manifest.detector
    if detector is None or not _has_masks(bundle):
        return None
    weights = Tensors(bundle.weights, str(bundle.path))
    graph = Graph(precision, str(bundle.path), images=1 if one_image else None)
    mask_head(graph, Layers(graph, weights), detector)
    weights.leave("dense.")
    weights.check_all_taken()
    return graph.model(f"{bundle.manifest.name}-masks", _metadata(bundle, precision, "masks"))


def check_onnx_output(out: Path) -> None:
    """Raise InvalidInput unless a network may be written there; worth asking before the work."""
    if out.suffix != SUFFIX:
        raise InvalidInput(f"an ONNX file's name ends in {SUFFIX}, got '{out.name}'")
    if out.is_dir():
        raise InvalidInput(f"'{out}' is a folder; name a file in it")


def _has_masks(bundle: Bundle) -> bool:
    return bundle.manifest.detector is not None and bundle.manifest.detector.masks


def _precision(name: str) -> Precision:
    for known in PRECISIONS:
        if name == known:
            return known
    raise InvalidInput(f"unknown precision '{name}' of ONNX; there are: {', '.join(PRECISIONS)}")


def _metadata(bundle: Bundle, precision: Precision, part: str) -> dict[str, str]:
    """What makes the file usable without its bundle; all values are text, most of it JSON."""
    manifest = bundle.manifest
    told = {"labels", "preprocessing", "architecture"}
    if manifest.detector is not None:
        told.add("detector")
    parts = manifest.model_dump(mode="json", include=told)
    points = [record.point.model_dump(mode="json") for record in manifest.points]
    return {
        "laudserve.bundle": bundle.hash,
        "laudserve.version": version("laudserve"),
        "laudserve.name": manifest.name,
        "laudserve.task": manifest.task,
        "laudserve.part": part,
        "laudserve.precision": precision,
        "laudserve.points": json.dumps(points),
        "laudserve.notices": json.dumps(manifest.provenance.notices),
        **{f"laudserve.{name}": json.dumps(value) for name, value in parts.items()},
    }


def _write(out: Path, content: bytes) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_suffix(".partial")
    scratch.write_bytes(content)
    os.replace(scratch, out)
