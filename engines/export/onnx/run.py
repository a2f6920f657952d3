"""`laud export BUNDLE --onnx`: one file, for ONNX Runtime as it is and for TensorRT plugins."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import onnx

from engines.bundle import Bundle, read_bundle
from engines.bundle import classifier as classifying
from engines.core import Paradigm
from engines.errors import BundleError, InvalidInput
from engines.export.onnx.backbone import check_network
from engines.export.onnx.classifier import classifier
from engines.export.onnx.detector import detector
from engines.export.onnx.graph import Graph, Precision, Tensors
from engines.export.onnx.layers import Layers

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
SUFFIX = ".onnx"


@dataclass(frozen=True)
class Exported:
    """A network that was written. operators: how many nodes of each of our own it has."""

    bundle: Bundle
    precision: Precision
    operators: dict[str, int]


def export_onnx(ref: str | Path, out: Path, precision: str) -> Exported:
    """Write the network of a bundle to `out` (NAME.onnx), in one step.

    precision: of maps and convolutions; what decides, and the classifier, is float32 in both.
    Raises InvalidInput for another precision or name, BundleError where the network has no such
    form.
    """
    check_onnx_output(out)
    bundle = read_bundle(ref)
    model = onnx_model(bundle, _precision(precision))
    _write(out, model.SerializeToString(deterministic=True))
    counts: dict[str, int] = {}
    for node in model.graph.node:
        if node.domain:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return Exported(bundle, _precision(precision), counts)


def onnx_model(
    bundle: Bundle, precision: Precision, *, conditional: bool = False
) -> onnx.ModelProto:
    """The network of a bundle, checked. Raises BundleError where it has no such form.

    conditional: for one image in a call, and layers that it skips are not computed (`If`).
    """
    manifest = bundle.manifest
    check_network(manifest)
    if conditional:
        _check_conditional(bundle)
    weights = Tensors(bundle.weights, str(bundle.path))
    graph = Graph(precision, str(bundle.path), conditional=conditional)
    layers = Layers(graph, weights)
    if manifest.detector is None:
        classifier(graph, layers, manifest)
    else:
        detector(graph, layers, manifest, manifest.detector)
        weights.leave("instances.")
    weights.check_all_taken()
    return graph.model(manifest.name, _metadata(bundle, precision))


def check_onnx_output(out: Path) -> None:
    """Raise InvalidInput unless a network may be written there; worth asking before the work."""
    if out.suffix != SUFFIX:
        raise InvalidInput(f"an ONNX file's name ends in {SUFFIX}, got '{out.name}'")
    if out.is_dir():
        raise InvalidInput(f"'{out}' is a folder; name a file in it")


def _precision(name: str) -> Precision:
    for known in PRECISIONS:
        if name == known:
            return known
    raise InvalidInput(f"unknown precision '{name}' of ONNX; there are: {', '.join(PRECISIONS)}")


def _check_conditional(bundle: Bundle) -> None:
    blocks = classifying(bundle, "a conditional network").manifest.architecture.blocks
    if all(block.paradigm is not Paradigm.LAYER for block in blocks):
        raise BundleError(
            f"'{bundle.path}': a conditional network has layers that are skipped whole, and this "
            "one has no stage of paradigm 'layer'"
        )


def _metadata(bundle: Bundle, precision: Precision) -> dict[str, str]:
    """What makes the file usable without its bundle; all values are text, most of it JSON."""
    manifest = bundle.manifest
    parts = manifest.model_dump(mode="json", include={"labels", "preprocessing", "architecture"})
    points = [record.point.model_dump(mode="json") for record in manifest.points]
    return {
        "laudserve.bundle": bundle.hash,
        "laudserve.version": version("laudserve"),
        "laudserve.name": manifest.name,
        "laudserve.task": manifest.task,
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
