"""Bundles on disk: `NAME.laud/` with `manifest.json` and `weights.safetensors`. Needs no torch.

The manifest carries a hash of itself and of the weights, so that a flipped byte, an unknown key or
a newer schema is refused before anything runs. That first hash is the bundle's identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from pydantic import ValidationError

from engines.errors import BundleError
from engines.manifest import (
    Accuracy,
    BlockScales,
    Calibration,
    DetectorScales,
    Dial,
    DialCandidate,
    Manifest,
    PointRecord,
    Preprocessing,
    Provenance,
    Quantisation,
    WeightsFile,
)
from engines.replacing import replace_folder

__all__ = [
    "Accuracy",
    "BlockScales",
    "Bundle",
    "Calibration",
    "DetectorScales",
    "Dial",
    "DialCandidate",
    "Manifest",
    "PointRecord",
    "Preprocessing",
    "Provenance",
    "Quantisation",
    "WeightsFile",
    "bundle_path",
    "check_output",
    "classifier",
    "explain",
    "finds_objects",
    "read_bundle",
    "write_bundle",
    "zoo_names",
]

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
# `engines.runs` calls it so; a run's folder is easily named in place of its bundle.
_RUN = "run.json"
ZOO_PREFIX = "zoo:"
_ZOO = Path(__file__).parent / "zoo"
_STORED = {"fp16": "float16", "fp32": "float32"}
_MAX_MANIFEST_BYTES = 16 * 2**20
_MOST_NAMES_SHOWN = 5

Weights = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. hash: 64 hex digits over manifest and weights. weights: as stored."""

    path: Path
    manifest: Manifest
    hash: str
    weights: Weights

    @property
    def ref(self) -> str:
        """What names it on a command line: its path, or `zoo:NAME`."""
        return f"{ZOO_PREFIX}{self.path.stem}" if self.path.parent == _ZOO else str(self.path)


def finds_objects(ref: str) -> bool:
    """Whether `ref` names the bundle of a detector; False also for what cannot be read."""
    try:
        return read_bundle(ref).manifest.detector is not None
    except BundleError:
        return False


def write_bundle(path: Path, manifest: Manifest, weights: Weights) -> str:
    """Write a bundle directory in one step (a kill leaves the old one or none); returns its hash.

    `manifest.weights.sha256` is filled in here. Raises BundleError when `path` is something else
    than a bundle, its name does not end in `.laud`, or the weights are not of the type it says.
    """
    check_output(path)
    _check_types(path, manifest, weights)
    # Not ascontiguousarray, which makes a vector of a scalar.
    blob = safetensors.numpy.save({k: np.asarray(v, order="C") for k, v in weights.items()})
    stamp = manifest.weights.model_copy(update={"sha256": hashlib.sha256(blob).hexdigest()})
    content = manifest.model_copy(update={"weights": stamp}).model_dump(mode="json")
    digest = _manifest_hash(content)
    replace_folder(path, {WEIGHTS: blob, MANIFEST: _spelled(digest, content)})
    return digest


def check_output(path: Path) -> None:
    """Raise BundleError unless a bundle may be written at `path`; worth asking before the work."""
    if path.suffix != ".laud":
        raise BundleError(f"a bundle's name ends in .laud, got '{path.name}'")
    if path.exists() and not (path / MANIFEST).is_file():
        raise BundleError(f"'{path}' exists and is not a bundle; choose another name")


def read_bundle(ref: str | Path) -> Bundle:
    """Read and verify the bundle at a path, or `zoo:NAME` that ships in the package.

    Raises BundleError with the reason when it is missing, damaged, newer than this version, or has
    keys that this version does not know.
    """
    path = bundle_path(ref)
    content, spelling = _read_manifest(path)
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleError(
            f"'{path}' has schema version {version}, this laudserve reads up to {SCHEMA_VERSION}; "
            "install a newer laudserve"
        )
    digest = content.pop("hash", None)
    try:
        manifest = Manifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise BundleError(f"'{path / MANIFEST}' is not valid: {explain(error)}") from None
    # The spelling is compared too: 1e-5 and 1E-5, or a blank and a line end, hash alike.
    if digest != _manifest_hash(content) or spelling != _spelled(digest, content):
        raise BundleError(
            f"'{path / MANIFEST}' was changed after it was written: its hash does not match; "
            "export the bundle again"
        )
    try:
        blob = (path / WEIGHTS).read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read '{path / WEIGHTS}': {error.strerror}") from None
    if hashlib.sha256(blob).hexdigest() != manifest.weights.sha256:
        raise BundleError(
            f"'{path / WEIGHTS}' is damaged: its hash does not match the manifest; "
            "copy or export the bundle again"
        )
    try:
        weights = safetensors.numpy.load(blob)
    except safetensors.SafetensorError as error:
        raise BundleError(f"'{path / WEIGHTS}' is not a safetensors file: {error}") from None
    except KeyError as error:
        raise BundleError(f"'{path / WEIGHTS}' has numbers of type {error}, unknown here") from None
    _check_types(path, manifest, weights)
    return Bundle(path=path, manifest=manifest, hash=str(digest), weights=weights)


def classifier(bundle: Bundle, who: str) -> Bundle:
    """The same, where it labels images; BundleError says that `who` takes no other task."""
    if bundle.manifest.task == "classification":
        return bundle
    raise BundleError(
        f"{who} takes bundles that label images, '{bundle.path.name}' is of task "
        f"'{bundle.manifest.task}'"
    )


def bundle_path(ref: str | Path) -> Path:
    """Where a bundle lies; BundleError (listing the zoo's names) when there is none."""
    text = str(ref)
    if text.startswith(ZOO_PREFIX):
        name = text.removeprefix(ZOO_PREFIX)
        known = zoo_names()
        if name not in known:
            raise BundleError(
                f"no bundle '{text}' ships with laudserve; there are: "
                f"{', '.join(ZOO_PREFIX + n for n in known) or 'none'}"
            )
        return _ZOO / f"{name}.laud"
    path = Path(ref)
    if not path.is_dir():
        raise BundleError(f"'{path}' is not a bundle directory (NAME.laud) nor zoo:NAME")
    return path


def zoo_names() -> tuple[str, ...]:
    """Names of the bundles that ship in the package."""
    return tuple(sorted(p.stem for p in _ZOO.glob("*.laud") if p.is_dir()))


def explain(error: ValidationError) -> str:
    """A validation error in one line: where and what, for each fault."""
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'value'}: {fault['msg']}" for fault in error.errors()
    )


def _check_types(path: Path, manifest: Manifest, weights: Weights) -> None:
    wanted = _STORED[manifest.weights.dtype]
    # Batch norm's counters are whole numbers whatever the weights.
    wrong = [
        f"{name} ({array.dtype})"
        for name, array in weights.items()
        if array.dtype != wanted and array.dtype.kind not in "iu"
    ]
    if wrong:
        raise BundleError(
            f"'{path}': its manifest says {manifest.weights.dtype} weights, but these are not: "
            f"{', '.join(wrong[:_MOST_NAMES_SHOWN])}"
        )


def _read_manifest(path: Path) -> tuple[dict[str, Any], bytes]:
    file = path / MANIFEST
    try:
        if file.stat().st_size > _MAX_MANIFEST_BYTES:
            raise BundleError(f"'{file}' is larger than {_MAX_MANIFEST_BYTES} bytes")
        spelling = file.read_bytes()
        content = json.loads(spelling.decode("utf-8"))
    except OSError as error:
        if (path / _RUN).is_file():
            made = ", ".join(f"'{found}'" for found in sorted(path.glob("*.laud")))
            raise BundleError(
                f"'{path}' is the folder of a training run; "
                + (f"its bundle is {made}" if made else "make a bundle of it with laud export")
            ) from None
        raise BundleError(f"cannot read '{file}': {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"'{file}' is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise BundleError(f"'{file}' is not a JSON object")
    return content, spelling


def _spelled(digest: str, content: Mapping[str, Any]) -> bytes:
    """The manifest's file, to the byte."""
    text = json.dumps({"hash": digest, **content}, indent=1, ensure_ascii=False)
    return f"{text}\n".encode()


def _manifest_hash(content: Mapping[str, Any]) -> str:
    """sha256 of the manifest without its own hash, in one canonical spelling."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
