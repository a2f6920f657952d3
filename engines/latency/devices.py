"""Devices by the name that a user gives: a GPU, this machine, or a machine measured before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from engines.errors import InvalidInput
from engines.latency.corrections import FIXED, PAPER, Corrections
from engines.latency.hardware import GPU_NAMES, Gpu, gpu
from engines.latency.host import Host, read_host
from engines.latency.identity import this_device

THIS = "this"

Mode = Literal["paper", "fixed"]
Say = Callable[[str], None]


def device_named(name: str, mode: Mode = "fixed", say: Say = lambda line: None) -> Gpu | Host:
    """`v100` and other GPUs (with the paper's constants in paper mode), THIS, or FILE.json.

    THIS is measured now, which takes half a minute; `say` hears of it. Raises InvalidInput for an
    unknown name, LatencyError for a file that describes no machine.
    """
    if names_host(name):
        if mode == "paper":
            raise InvalidInput(f"paper mode reproduces the published model of GPUs, not '{name}'")
        if name == THIS:
            from engines.latency.host_measuring import measure_host

            say("measuring this machine; `laud measure device -o FILE.json` keeps the result")
            return measure_host(say)
        return read_host(Path(name))
    try:
        return gpu(name, "paper" if mode == "paper" else "datasheet")
    except InvalidInput as error:
        raise InvalidInput(
            f"{error}; besides: {THIS}, or the FILE.json of `laud measure device -o FILE.json`"
            if name not in GPU_NAMES
            else str(error)
        ) from None


def names_host(name: str) -> bool:
    """Whether that is a machine with our native engine, and not a GPU."""
    return name == THIS or name.endswith(".json")


def check_runs(name: str, precision: str, threads: int) -> None:
    """Refuse what this machine cannot run, before THIS is measured for half a minute.

    A machine in a file is checked when it is read. Raises InvalidInput.
    """
    if name != THIS:
        return
    device = this_device()
    if precision not in device.isa:
        raise InvalidInput(
            f"this machine does not run '{precision}'; it runs: {', '.join(device.isa)}"
        )
    if not 1 <= threads <= device.cpus:
        raise InvalidInput(f"threads must be 1 to {device.cpus} here, got {threads}")


def corrections_of(mode: str, only: tuple[str, ...] = ()) -> Corrections:
    """What a mode corrects; `only` names corrections that replace the mode's set.

    Raises InvalidInput for an unknown mode or name.
    """
    if mode not in ("paper", "fixed"):
        raise InvalidInput(f"unknown mode '{mode}'; there are: paper, fixed")
    if only:
        return Corrections.named(only)
    return PAPER if mode == "paper" else FIXED
