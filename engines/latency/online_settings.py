"""How fast online corrections of predictions move; `engines.latency.online` does the moving."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from engines.core import FrozenModel


class CorrectionSettings(FrozenModel):
    """How fast corrections move. Steps are in log space: 0.03 is about 3 %.

    The defaults come from simulations (the tests have them) and from the native engine beside a
    process that takes one of its cores; what each trades against what is said at its field.
    """

    target: Annotated[float, Field(ge=0.6, le=0.999)] = 0.95
    """The quantile whose coverage is maintained."""

    window: Annotated[int, Field(ge=64, le=4096)] = 512
    """Scores kept. Fewer follow a new spread sooner; the 95 % quantile of 512 is the 26th from the
    top, steady to about a percent of level. An update copies the window, so its cost grows."""

    adaptation: Annotated[float, Field(ge=0.0, le=0.1)] = 0.01
    """Gain of the level. More balances misses sooner and lets the quantile wander more. With 0.01
    any 2,000 simulated calls in a row were covered 94.1 to 95.8 %, with none 92.4 to 97.0 %."""

    prior: Annotated[int, Field(ge=1, le=4096)] = 128
    """Scores that the table's own spread counts for at the start; measured ones dilute them."""

    recent: Annotated[int, Field(ge=3, le=511)] = 31
    """Ratios whose median drift follows. It turns when half of them are new; 31 of them with a
    spread of 8 % have a median that is steady to 2 %."""

    recent_least: Annotated[int, Field(ge=3, le=511)] = 5
    """Ratios that are kept however old, so that one new one is never the median."""

    horizon_s: Annotated[float, Field(gt=0.0)] = 10.0
    """Age at which a ratio is forgotten: where requests are rare, fewer make the median."""

    step: Annotated[float, Field(gt=0.0, le=0.5)] = 0.03
    """Most that an observation moves drift towards that median in steady traffic: 16 turn the
    median after a slow-down of 2, and 23 steps are the way."""

    step_per_s: Annotated[float, Field(ge=0.0)] = 0.1
    """What time without observations adds to the next steps."""

    most_step: Annotated[float, Field(gt=0.0, le=1.0)] = 0.15
    """Most that one observation ever moves drift, after however long a time."""

    flag_above: Annotated[float, Field(gt=1.0)] = 1.25
    """The table is flagged when drift leaves 1 / this to this."""

    unflag_below: Annotated[float, Field(gt=1.0)] = 1.15
    """The flag falls when drift is back within 1 / this to this."""

    covered: Annotated[int, Field(ge=1, le=100_000)] = 2000
    """Observations over which coverage is told."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for low, high in (
            ("prior", "window"),
            ("recent_least", "recent"),
            ("step", "most_step"),
            ("unflag_below", "flag_above"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} must not exceed {high}")
        return self
