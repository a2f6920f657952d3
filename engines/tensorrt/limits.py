"""What a kernel may take of a device: the gates of builds and of the compile matrix. No Triton."""

from __future__ import annotations

from typing import Protocol

from engines.tensorrt.spec import TENSOR_CORES_FROM

MOST_SHARED_BYTES = 48 * 1024
"""Shared memory that a program gets without asking; whether TensorRT would ask, nobody promises."""


class Needs(Protocol):
    """What a compiled kernel takes: see `compiling.Compiled`."""

    @property
    def arch(self) -> str: ...

    @property
    def spilled_bytes(self) -> int: ...

    @property
    def shared_bytes(self) -> int: ...


def faults(kernel: str, cc: int, needs: Needs) -> list[str]:
    """What is too much of it on a device of that compute capability: a sentence each, none where it
    fits. kernel: what to call it."""
    found = []
    if needs.spilled_bytes and cc >= TENSOR_CORES_FROM:
        found.append(f"{kernel} spills {needs.spilled_bytes} bytes on {needs.arch}")
    if needs.shared_bytes > MOST_SHARED_BYTES:
        found.append(
            f"{kernel} takes {needs.shared_bytes} bytes of shared memory on {needs.arch}, "
            f"more than {MOST_SHARED_BYTES}"
        )
    return found
