"""What `laud simulate` and `laud whatif` share: the machine that they simulate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from service.policy.core import Policy
    from service.simulation.core import Machine
    from service.simulation.report import Interval

_WIDTH = 130
_LEAST_SHARE = 0.005

BUNDLE = Annotated[
    str | None, typer.Argument(help="zoo:NAME or NAME.laud [zoo:clothing, without --profile].")
]
PROFILE = Annotated[
    Path | None,
    typer.Option("--profile", help="JSON of --save-profile instead of measuring a bundle here."),
]
SAVE_PROFILE = Annotated[
    Path | None, typer.Option(help="Write what calls take here, for --profile elsewhere.")
]
TABLE = Annotated[
    Path | None,
    typer.Option(
        help="Latency table of `laud measure` [the bundle's of this machine, else measured]."
    ),
]
THREADS = Annotated[int | None, typer.Option(help="Threads of the engine [every CPU it may use].")]
PRECISION = Annotated[str | None, typer.Option(help="fp32, bf16 or int8 [the best there is].")]
MAX_BATCH = Annotated[
    int | None, typer.Option(help="Most images in a call, when it is measured [as served].")
]
DECODE_MS = Annotated[
    float, typer.Option(help="Milliseconds to decode a picture, beside the engine.")
]
OVERHEAD_MS = Annotated[
    float | None,
    typer.Option(help="Milliseconds of a request besides waiting, decoding and running [0]."),
]


def the_machine(
    bundle: str | None,
    profile: Path | None,
    save: Path | None,
    *,
    table: Path | None,
    threads: int | None,
    precision: str | None,
    max_batch: int | None,
    overhead_ms: float | None,
) -> tuple[str, Machine]:
    """Name and machine: from a file, or of a bundle on this one. LaudError, OSError."""
    from engines.errors import InvalidInput
    from service.simulation.files import profile_of, read_profile

    if profile is not None:
        if bundle is not None or table is not None:
            raise InvalidInput("--profile stands for a bundle and its table; give one of them")
        found = read_profile(profile)
        name, machine = found.name, found.machine
    else:
        name, machine = _measured(bundle or "zoo:clothing", table, threads, precision, max_batch)
    if overhead_ms is not None:
        machine = replace(machine, overhead_s=_seconds("--overhead-ms", overhead_ms))
    if save is not None:
        content = profile_of(name, machine).model_dump_json(indent=1)
        save.write_text(content + "\n", encoding="utf-8")
    return name, machine


def decode_s(decode_ms: float) -> float:
    """Seconds; InvalidInput where it is no duration."""
    return _seconds("--decode-ms", decode_ms)


def the_policy(name: str) -> Policy:
    """The policy of that name; InvalidInput lists those there are."""
    from engines.errors import InvalidInput
    from service.policy import policy_named

    try:
        return policy_named(name)
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def wide_console() -> Console:
    """For tables, which a narrow terminal may wrap but never cuts."""
    from rich.console import Console

    narrow = Console()
    return Console(width=max(narrow.width, _WIDTH))


def points_used(shares: Mapping[str, float]) -> str:
    """Shares of answers by point, the most used first."""
    ordered = sorted(shares.items(), key=lambda one: -one[1])
    return ", ".join(f"{name} {share:.0%}" for name, share in ordered if share >= _LEAST_SHARE)


def decimals(found: Interval | None, number: int) -> str:
    """The mean; a dash where there is none."""
    return "-" if found is None else f"{found.mean:.{number}f}"


def _seconds(option: str, milliseconds: float) -> float:
    from engines.errors import InvalidInput

    if not 0.0 <= milliseconds <= 60_000.0:
        raise InvalidInput(f"{option} must be 0 to 60000 milliseconds, got {milliseconds}")
    return milliseconds / 1e3


def _measured(
    bundle: str,
    table: Path | None,
    threads: int | None,
    precision: str | None,
    max_batch: int | None,
) -> tuple[str, Machine]:
    """As the service would at its start: every point loaded, tried and profiled."""
    import asyncio

    from service.costs import costs_of
    from service.executor import Executor
    from service.logs import configure_logs
    from service.profile import DEFAULT_RATIOS, Profile
    from service.settings import load_settings
    from service.simulation.core import Machine

    settings = load_settings(
        options={
            "bundles": bundle,
            "threads": threads,
            "precision": precision,
            "max_batch": max_batch,
            "latency_tables": None if table is None else str(table),
        }
    )
    # What the executor logs would be taken for output.
    configure_logs("console", "warning")
    executor = Executor(settings)

    async def start() -> None:
        try:
            await executor.start()
        finally:
            await executor.stop()

    asyncio.run(start())
    (model,) = executor.models.values()
    found = executor.profiles[model.name]
    ratios, rested_ratio = DEFAULT_RATIOS, 1.0
    if isinstance(found, Profile):
        ratios, rested_ratio = found.ratios, found.rested_ratio
    return model.name, Machine(costs_of(model, found).dial, ratios, rested_ratio)
