"""Plans on disk: `NAME.plan/` with what TensorRT compiled, the ONNX file it is of, and a manifest.

A plan fits one version of one library and the devices it was compiled for; whether it fits is a
pure function of its manifest and of what is here. Loads neither TensorRT nor CUDA.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from engines.core import MAX_IMAGE_SIZE, FrozenModel
from engines.errors import PlanError
from engines.latency.files import read_model
from engines.replacing import replace_folder

ENGINE = "tensorrt"
"""The name of the engine that runs plans."""

PLAN_SCHEMA = 2
SUFFIX = ".plan"
MANIFEST, ONNX, PROGRAM = "manifest.json", "network.onnx", "network.engine"
BRANCHES_ONNX, BRANCHES_PROGRAM = "branches.onnx", "branches.engine"
MASKS_ONNX, MASKS_PROGRAM = "masks.onnx", "masks.engine"

LibraryName = Literal["tensorrt", "tensorrt_rtx"]
Precision = Literal["fp32", "fp16"]
Form = Literal["blocks", "branches"]
"""How a call of one image skips layers: by the block kernels of all calls, or by branches."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Programs = tuple[Sha256, Sha256 | None, Sha256 | None]
"""By which a latency table knows its plan: of the network, its branches and the mask head."""

Capability = Annotated[int, Field(ge=10, le=999)]
"""A device's compute capability: 86 for 8.6."""

TITLES: Mapping[LibraryName, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


class Bucket(FrozenModel):
    """A shape that a plan runs: so many images of a size. profile: which of its optimisation
    profiles has that shape."""

    image_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)]
    images: Annotated[int, Field(ge=1, le=1024)]
    profile: Annotated[int, Field(ge=0)]


class Branches(FrozenModel):
    """The network once more, for one image in a call: layers that it skips are branches (`If`).

    onnx, program: sha256 of its two files. buckets: of one image each; their profiles are of this
    program. plugins: our operators that are plugins in it.
    """

    onnx: Sha256
    program: Sha256
    buckets: Annotated[tuple[Bucket, ...], Field(min_length=1)]
    plugins: tuple[str, ...] = ()


class MaskHead(FrozenModel):
    """The head that makes masks of a detector's objects.

    onnx, program: sha256 of its two files. Its profiles are those of the plan's buckets. objects:
    how many a call takes.
    """

    onnx: Sha256
    program: Sha256
    objects: Annotated[int, Field(ge=1, le=4096)]


class PlanManifest(FrozenModel):
    """What makes a plan usable.

    bundle: hash of the bundle; name: its name. onnx, program: sha256 of the two files.
    library_version: of what compiled it, to the last digit. capabilities: of the devices that it
    was compiled for. device: the one that it was timed on; None where there was none. plugins: our
    operators that are plugins in it; the others compute everything and mask. dense: whether it is
    of the network without maskers, to compare with. branches: the second program, which skips
    layers by branches, an image at a time. masks: the one behind it that makes masks of objects.
    version: of laudserve.
    """

    schema_version: Literal[2] = 2
    name: str
    bundle: Sha256
    onnx: Sha256
    program: Sha256
    precision: Precision
    library: LibraryName
    library_version: str
    capabilities: Annotated[tuple[Capability, ...], Field(min_length=1)]
    device: str | None = None
    buckets: Annotated[tuple[Bucket, ...], Field(min_length=1)]
    plugins: tuple[str, ...] = ()
    dense: bool = False
    branches: Branches | None = None
    masks: MaskHead | None = None
    version: str

    @property
    def programs(self) -> Programs:
        """Hashes of all programs."""
        return (
            self.program,
            None if self.branches is None else self.branches.program,
            None if self.masks is None else self.masks.program,
        )

    @model_validator(mode="after")
    def _buckets_differ(self) -> Self:
        shapes = [(bucket.image_size, bucket.images) for bucket in self.buckets]
        if len(set(shapes)) != len(shapes):
            raise ValueError("two buckets have one shape")
        return self

    @model_validator(mode="after")
    def _branches_beside(self) -> Self:
        if self.branches is None:
            return self
        alone = sorted(each.image_size for each in self.buckets if each.images == 1)
        shapes = sorted((each.image_size, each.images) for each in self.branches.buckets)
        if shapes != [(size, 1) for size in alone]:
            raise ValueError("branches have a bucket for every bucket of one image, and no other")
        return self


@dataclass(frozen=True)
class Plan:
    """A plan whose files are those of its manifest."""

    path: Path
    manifest: PlanManifest

    @property
    def onnx(self) -> Path:
        """The ONNX file that it was compiled of."""
        return self.path / ONNX

    def program(self) -> bytes:
        """What TensorRT compiled."""
        return (self.path / PROGRAM).read_bytes()

    @property
    def branches_onnx(self) -> Path:
        """The ONNX file of its branches, where it has such."""
        return self.path / BRANCHES_ONNX

    def branches_program(self) -> bytes:
        """What TensorRT compiled of that."""
        return (self.path / BRANCHES_PROGRAM).read_bytes()

    @property
    def masks_onnx(self) -> Path:
        """The ONNX file of its mask head, where it has one."""
        return self.path / MASKS_ONNX

    def masks_program(self) -> bytes:
        """What TensorRT compiled of that."""
        return (self.path / MASKS_PROGRAM).read_bytes()


@dataclass(frozen=True)
class Here:
    """What a plan would run on: the library's version, the device's name and capability."""

    library: LibraryName
    library_version: str
    device: str
    capability: int


def misfit(manifest: PlanManifest, here: Here) -> str | None:
    """Why the plan cannot run there, as a sentence without its subject; None where it can."""
    title = TITLES[manifest.library]
    if manifest.library != here.library:
        return f"is of {title}, not of {TITLES[here.library]}"
    if manifest.library_version != here.library_version:
        return (
            f"was compiled by {title} {manifest.library_version}, and {here.library_version} is "
            "installed: build it again, or install that version"
        )
    if here.capability not in manifest.capabilities:
        built = ", ".join(map(spelled, manifest.capabilities))
        return (
            f"was compiled for compute capability {built}, and {here.device} has "
            f"{spelled(here.capability)}: build it again for this device"
        )
    return None


def spelled(capability: int) -> str:
    """`8.6` for 86."""
    return f"{capability // 10}.{capability % 10}"


def sha256(content: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def check_plan_output(path: Path) -> None:
    """Raise PlanError unless a plan may be written there; worth asking before the work."""
    if path.suffix != SUFFIX:
        raise PlanError(f"a plan's name ends in {SUFFIX}, got '{path.name}'")
    if path.exists() and not (path / MANIFEST).is_file():
        raise PlanError(f"'{path}' exists and is not a plan; choose another name")
    there = next(each for each in path.absolute().parents if each.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise PlanError(f"'{path}' cannot be written: nothing can be put into '{there}'")


def write_plan(
    path: Path,
    manifest: PlanManifest,
    onnx: bytes,
    program: bytes,
    branches: tuple[bytes, bytes] | None = None,
    masks: tuple[bytes, bytes] | None = None,
) -> None:
    """Write a plan in one step: a kill leaves the old one or none. Raises PlanError, OSError.

    branches, masks: file and program of what the manifest calls so, where it has it.
    """
    check_plan_output(path)
    files = {ONNX: onnx, PROGRAM: program}
    if branches is not None:
        files[BRANCHES_ONNX], files[BRANCHES_PROGRAM] = branches
    if masks is not None:
        files[MASKS_ONNX], files[MASKS_PROGRAM] = masks
    told = (manifest.model_dump_json(indent=1) + "\n").encode()
    replace_folder(path, {**files, MANIFEST: told})


def read_plan(path: Path) -> Plan:
    """Read and verify a plan. PlanError with the reason: missing, damaged, older or newer
    than this."""
    manifest = read_plan_manifest(path)
    files = {ONNX: manifest.onnx, PROGRAM: manifest.program}
    if manifest.branches is not None:
        files[BRANCHES_ONNX] = manifest.branches.onnx
        files[BRANCHES_PROGRAM] = manifest.branches.program
    if manifest.masks is not None:
        files[MASKS_ONNX], files[MASKS_PROGRAM] = manifest.masks.onnx, manifest.masks.program
    for name, wanted in files.items():
        try:
            found = sha256((path / name).read_bytes())
        except OSError as error:
            raise PlanError(f"cannot read '{path / name}': {error.strerror}") from None
        if found != wanted:
            raise PlanError(
                f"'{path / name}' is damaged: its hash does not match the manifest; build the "
                "plan again"
            )
    return Plan(path, manifest)


def read_plan_manifest(path: Path) -> PlanManifest:
    """The manifest alone. Raises PlanError."""
    file = path / MANIFEST
    if not path.is_dir():
        raise PlanError(
            f"'{path}' is not a plan (a folder NAME{SUFFIX}); make one with: laud build BUNDLE"
        )
    return read_model(
        file,
        PlanManifest,
        newest=PLAN_SCHEMA,
        oldest=PLAN_SCHEMA,
        what="a plan's manifest",
        command="laud build BUNDLE",
        verb="build",
        fault=PlanError,
    )


def plans_in(folders: Sequence[Path]) -> list[Path]:
    """Plans that lie in those folders, by name, each once."""
    found = (path for folder in folders for path in sorted(folder.glob(f"*{SUFFIX}")))
    return list(dict.fromkeys(path for path in found if (path / MANIFEST).is_file()))
