"""A machine as a file: what its calls take, so that it can be simulated elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from engines.core import FrozenModel
from engines.errors import InvalidInput
from service.policy.core import Dial, PointCost
from service.simulation.core import Machine

Seconds = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]

_MOST_BYTES = 2**20


class ProfiledPoint(FrozenModel):
    """seconds: medians of calls of 1, 2, ... images; expected ones where the point glances. Of
    such points, again: share of images looked at again; worst: seconds of these over the expected.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    image_size: Annotated[int, Field(ge=1)]
    accuracy: Share
    seconds: Annotated[tuple[Seconds, ...], Field(min_length=1, max_length=64)]
    again: Share = 1.0
    worst: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _glances(self) -> ProfiledPoint:
        if self.worst > 1.0 and self.again * self.worst >= 1.0:
            raise ValueError(
                f"point '{self.name:.64}' leaves no time for its first look: 'worst' must be less "
                "than 1 / 'again'"
            )
        return self


class MachineProfile(FrozenModel):
    """ratios: evenly spaced quantiles of measured over those medians. rested_ratio: how much longer
    a call takes after a rest. overhead_s: see `Machine`."""

    version: Literal[1] = 1
    name: str
    points: Annotated[tuple[ProfiledPoint, ...], Field(min_length=1, max_length=64)]
    ratios: Annotated[tuple[Seconds, ...], Field(min_length=1, max_length=1000)] = (1.0,)
    rested_ratio: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 1.0
    overhead_s: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> MachineProfile:
        if len({len(point.seconds) for point in self.points}) > 1:
            raise ValueError("every point needs seconds for the same batch sizes")
        names = [point.name for point in self.points]
        if len(set(names)) < len(names):
            raise ValueError("two points have one name")
        return self

    @property
    def machine(self) -> Machine:
        """To be simulated; its points by ascending seconds."""
        points = sorted(self.points, key=lambda point: point.seconds[0])
        return Machine(
            Dial(
                tuple(
                    PointCost(p.name, p.image_size, p.accuracy, p.seconds, p.again, p.worst)
                    for p in points
                )
            ),
            self.ratios,
            self.rested_ratio,
            self.overhead_s,
        )


def profile_of(name: str, machine: Machine) -> MachineProfile:
    """The file's content for a machine."""
    return MachineProfile(
        name=name,
        points=tuple(
            ProfiledPoint(
                name=point.name,
                image_size=point.image_size,
                accuracy=point.accuracy,
                seconds=point.seconds,
                again=point.again,
                worst=point.worst,
            )
            for point in machine.dial.points
        ),
        ratios=machine.ratios,
        rested_ratio=machine.rested_ratio,
        overhead_s=machine.overhead_s,
    )


def read_profile(path: Path) -> MachineProfile:
    """Raises InvalidInput that names the key that is wrong, OSError where it cannot be read."""
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise InvalidInput(f"{path} is larger than any profile ({_MOST_BYTES} bytes)")
    try:
        return MachineProfile.model_validate_json(content)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}"
            for fault in error.errors()
        )
        raise InvalidInput(f"{path} is no profile of a machine: {faults}") from None
