"""A network in int8 as OpenVINO's own tool, NNCF, makes it."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy as np
import openvino as ov

from engines.architecture import Stage
from engines.bench.pictures import Pictures
from engines.bundle import Bundle

PRESETS = ("performance", "mixed")
"""NNCF's: symmetric activations everywhere, or asymmetric where that is more exact."""

# NNCF would otherwise report its use to its makers; this is the switch it has.
_NO_TELEMETRY = "NNCF_CI"

Say = Callable[[str], None]


def quantised(
    core: ov.Core,
    floating: ov.Model,
    bundle: Bundle,
    pictures: Pictures,
    preset: str,
    cache: Path | None,
    say: Say,
    *,
    floats: str | None = None,
) -> ov.Model:
    """`floating`, the static network of `bundle` for one image, in int8.

    Calibrated on all `pictures`. cache: folder where the same model may lie from an earlier call,
    or is put. floats: pattern of names of nodes that stay as they are.
    """
    size = floating.input(0).shape[1]
    kept = None
    if cache is not None:
        made_from = (_identity(bundle), pictures.key, size, preset, nncf_version(), ov.__version__)
        digest = hashlib.sha256(repr(made_from).encode()).hexdigest()
        kept = cache / f"{bundle.manifest.name}-{size}-{preset}-{digest[:16]}.xml"
        if kept.is_file():
            say(f"int8 ({preset}): taken from {kept}")
            return core.read_model(kept)
    say(f"int8 ({preset}): calibrating on {pictures.source}; this may take minutes")
    with _quiet_nncf() as nncf:
        images = pictures.at(size)
        model: ov.Model = nncf.quantize(
            floating.clone(),
            nncf.Dataset([image[None] for image in images]),
            preset=nncf.QuantizationPreset(preset),
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(patterns=[floats], validate=False) if floats else None,
        )
    if kept is not None:
        _keep(model, kept)
    return model


def nncf_version() -> str:
    """Of the installed one, without loading it."""
    return metadata.version("nncf")


@contextlib.contextmanager
def _quiet_nncf() -> Iterator[ModuleType]:
    """NNCF with its progress on stderr, sending nothing anywhere."""
    os.environ.setdefault(_NO_TELEMETRY, "1")
    with contextlib.redirect_stdout(sys.stderr):
        import nncf

        nncf.set_log_level(logging.WARNING)
        yield nncf


def _keep(model: ov.Model, path: Path) -> None:
    """Save in one step: whoever finds the .xml finds all of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        new = Path(scratch) / path.name
        ov.save_model(model, new, compress_to_fp16=False)
        for file in (new.with_suffix(".bin"), new):
            os.replace(file, path.parent / file.name)


def _identity(bundle: Bundle) -> str:
    """Of the static network: the same whatever its maskers, also where it was never written."""
    manifest = bundle.manifest
    net = manifest.architecture
    stages = tuple(Stage(depth=stage.depth, width=stage.width) for stage in net.stages)
    static = net.model_copy(update={"stages": stages})
    digest = hashlib.sha256(static.model_dump_json().encode())
    digest.update(manifest.preprocessing.model_dump_json().encode())
    for name in sorted(name for name in bundle.weights if ".masker_" not in name):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(bundle.weights[name]).tobytes())
    return digest.hexdigest()
