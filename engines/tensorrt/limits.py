"""What a kernel may take of a device: the gates of builds and of the compile matrix. No Triton."""

from __future__ import annotations

from typing import Protocol

from engines.tensorrt.spec import TENSOR_CORES_FROM

MOST_SHARED_BYTES = 48 * 1024
"""Shared memory that a program gets without asking; whether TensorRT would ask, nobody promises."""


class Taken(Protocol):
    """What a compiled kernel takes: see `compiling.Compiled`."""

    @property
    def arch(self) -> str: ...

    @property
    def spilled_bytes(self) -> int: ...

    @property
    def shared_bytes(self) -> int: ...


def faults(kernel: str, cc: int, taken: Taken) -> list[str]:
    """What is too much of it on a device of that compute capability: a sentence each, none where it
    fits. kernel: what to call it."""
    found = []
    if taken.spilled_bytes and cc >= TENSOR_CORES_FROM:
        found.append(f"{kernel} spills {taken.spilled_bytes} bytes on {taken.arch}")
    if taken.shared_bytes > MOST_SHARED_BYTES:
        found.append(
            f"{kernel} takes {taken.shared_bytes} bytes of shared memory on {taken.arch}, "
            f"more than {MOST_SHARED_BYTES}"
        )
    return found
