"""Images that wait, and dials of round numbers, for tests of scheduling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.policy.core import Decision, Dial, Host, PointCost, Policy, View


@dataclass(eq=False)
class Image:
    """See `service.policy.core.Waiting`; `name` is for people who read a failure."""

    deadline_s: float
    allowed: tuple[int, ...] = (0, 1, 2)
    arrived_s: float = 0.0
    model: str = "model"
    degrade: bool = True
    prepare_s: float = 0.0
    num_bytes: int = 1
    name: str = ""

    def __repr__(self) -> str:
        return f"<{self.name or id(self)} due {self.deadline_s}>"


def dial(
    seconds: Sequence[float] = (1.0, 2.0, 4.0),
    accuracies: Sequence[float] = (0.7, 0.8, 0.9),
    *,
    fixed_s: float = 0.0,
    max_batch: int = 2,
    sizes: Sequence[int] | None = None,
    again: Sequence[float] | None = None,
    worst: Sequence[float] | None = None,
) -> Dial:
    """Points p0, p1, ...; n images take `fixed_s` and n times the rest of what one takes.

    again, worst: of points that glance, see `PointCost`; 1 where one does not.
    """
    return Dial(
        tuple(
            PointCost(
                name=f"p{k}",
                image_size=32 if sizes is None else sizes[k],
                accuracy=accuracy,
                seconds=tuple(fixed_s + n * (one_s - fixed_s) for n in range(1, max_batch + 1)),
                again=1.0 if again is None else again[k],
                worst=1.0 if worst is None else worst[k],
            )
            for k, (one_s, accuracy) in enumerate(zip(seconds, accuracies, strict=True))
        )
    )


def view(
    *deadlines_s: float | Image,
    of: Dial | None = None,
    now_s: float = 0.0,
    free_s: float = 0.0,
    margin: float = 1.0,
    rate_hz: float = 0.0,
    cv2: float = 1.0,
    host: Host | None = None,
    usual: float | None = None,
) -> View:
    """What a policy sees: images by their deadlines, or as given. usual: as `margin` is, unless
    given: all calls are alike."""
    images = [one if isinstance(one, Image) else Image(one) for one in deadlines_s]
    return View(
        now_s,
        free_s,
        images,
        of or dial(),
        margin,
        rate_hz,
        cv2,
        host=host or Host(),
        usual=margin if usual is None else usual,
    )


def decide(policy: Policy, seen: View) -> list[tuple[int, int]]:
    """Position and point of every image of the first decision."""
    return pairs(policy.decide(seen, policy.start())[0])


def pairs(decision: Decision) -> list[tuple[int, int]]:
    """Position and point of every image."""
    return [(choice.position, choice.point) for choice in decision.choices]
