"""What `laud bench serve` found: `_hz` per second, `_ms` milliseconds, shares of 0 to 1."""

from __future__ import annotations

from engines.bench.report import Machine
from engines.bench.timing import Noise
from engines.core import FrozenModel
from service.load.report import Bin

MOST_OVERHEAD_MS = 1.0
MOST_ATTAINMENT_APART, MOST_ACCURACY_APART = 0.02, 0.003


class Overhead(FrozenModel):
    """What serving adds to a bare handler that reads the same body; medians.

    phases_ms: what the server said of its phases. own_ms: end to end less decode, prepare and
    network. overhead_ms: own_ms less bare_ms. noise: of the bare handler with itself.
    """

    what: str
    body_bytes: int
    end_to_end_ms: float
    phases_ms: dict[str, float]
    own_ms: float
    bare_ms: float
    overhead_ms: float
    noise: Noise

    @property
    def is_small(self) -> bool:
        """Whether it is what we promise."""
        return self.overhead_ms <= MOST_OVERHEAD_MS


class PointCapacity(FrozenModel):
    """The server kept busy at one pinned point: results a second, and CPU time per result.

    front_ms: its main thread (HTTP, scheduling). client_ms: of the client beside it.
    """

    point: str
    accuracy: float | None
    throughput_hz: float
    front_ms: float
    decode_ms: float
    engine_ms: float
    client_ms: float


class Bound(FrozenModel):
    """The most that one point can give by its CPU times, and what it runs out of first."""

    point: str
    throughput_hz: float
    limiting: str


class Capacity(FrozenModel):
    """All points, in turns; medians over the rounds. noise: `full` with itself."""

    points: tuple[PointCapacity, ...]
    bounds: tuple[Bound, ...]
    pictures: str
    cores: int
    engine_threads: int
    decode_threads: int
    throughput_spread: float


class Lag(FrozenModel):
    """How punctual the event loop was under load, and how long the policy thought.

    sustained_hz: the highest rate, in an open loop, of which `level` were in time with `slo_ms`.
    rate_hz: offered, `share` of that; attainment: there. server_cores, client_cores: CPU seconds a
    second at it. send_lag_p99_ms: how late the client itself was.
    """

    pictures: str
    slo_ms: float
    level: float
    sustained_hz: float
    share: float
    rate_hz: float
    attainment: float
    server_cores: float
    client_cores: float
    send_lag_p99_ms: float
    loop_lag_p99_ms: float | None
    decision_p99_ms: float | None


class Goodput(FrozenModel):
    """The highest rates at which `attainment` of everything sent was in time, in turns.

    ours_hz, full_hz: medians of the searches. bound_ratio: cheapest point over `full` by CPU times;
    engine_ratio: by the engine's alone. of_bound: ratio over bound_ratio. limiting: what the
    cheapest point runs out of first. client_was_late: runs whose client was not on time.
    """

    slo_ms: float
    attainment: float
    ours_hz: float
    full_hz: float
    ours_searches_hz: tuple[float, ...]
    full_searches_hz: tuple[float, ...]
    ratio: float
    bound_ratio: float
    engine_ratio: float
    of_bound: float
    limiting: str
    client_was_late: int


class Contention(FrozenModel):
    """A busy process beside the server, from `begin_s` to `end_s`.

    recovered_s: how long after its beginning attainment was above 99 % again, for the rest of its
    time; None never. accuracy_back_s: how long after its end accuracy was what it was before.
    """

    rate_hz: float
    slo_ms: float
    begin_s: float
    end_s: float
    attainment_before: float
    attainment_during: float
    attainment_after: float
    recovered_s: float | None
    accuracy_before: float | None
    accuracy_during: float | None
    accuracy_back_s: float | None
    seconds: tuple[Bin, ...]


class TablePoint(FrozenModel):
    """ms: of calls of 1, 2, ... images. own_ms: of one, by the proportions of the server's own
    table, which it decides by."""

    point: str
    accuracy: float
    ms: tuple[float, ...]
    own_ms: float


class Table(FrozenModel):
    """The machine that the simulator was given: what the server's answers told, at 80 % load.

    p95_ratio: 95th percentile of a call over its median. rested_ratio: how much longer one takes
    after a rest. front_ms: CPU time of the event loop a request. entry_ms: of a lonely request
    before it waits, besides; answer_ms: from engine done to the client, the median. capacity_hz:
    answers a second at `full`. budgets_ms: of 70, 20 and 10 % of the requests.
    """

    policy: str
    points: tuple[TablePoint, ...]
    p95_ratio: float
    rested_ratio: float
    decode_ms: float
    front_ms: float
    entry_ms: float
    answer_ms: float
    capacity_hz: float
    budgets_ms: tuple[float, ...]


class Found(FrozenModel):
    """attainment: share in time. accuracy: of the answers in time; None of none."""

    attainment: float
    accuracy: float | None


class AgreementCell(FrozenModel):
    """The same requests to the server and to the simulator. load: of the capacity of `full`.

    simulated: on the table, nothing known of the load. rehearsed: knowing what calls, requests and
    answers took in a run of other arrivals at the same load; None without one. replayed: with the
    luck of this very run, how much longer than the table's calls took at that time and how long
    requests were on their way; None where no answer told. speed: median of the former.
    """

    policy: str
    load: float
    cv2: float
    rate_hz: float
    requests: int
    server: Found
    simulated: Found
    rehearsed: Found | None = None
    replayed: Found | None
    speed: float | None
    client_was_late: bool

    @property
    def foreseen(self) -> bool:
        """Whether it is within that although it knew nothing of the load."""
        return _are_near(self.server, self.simulated)

    @property
    def rehearsed_well(self) -> bool:
        """Whether it is within that knowing the load, but nothing of the run."""
        return _are_near(self.server, self.rehearsed)

    @property
    def agrees(self) -> bool:
        """Whether the simulator is within what we promise, with the luck that the run had."""
        return _are_near(self.server, self.replayed)


class Agreement(FrozenModel):
    """Tables and cells of each policy, in turn."""

    tables: tuple[Table, ...]
    cells: tuple[AgreementCell, ...]


def apart(server: Found, simulated: Found) -> tuple[float, float | None]:
    """Simulated less measured, of attainment and of accuracy, in shares of 1."""
    attainment = simulated.attainment - server.attainment
    if simulated.accuracy is None or server.accuracy is None:
        return attainment, None
    return attainment, simulated.accuracy - server.accuracy


def _are_near(server: Found, simulated: Found | None) -> bool:
    if simulated is None:
        return False
    attainment, accuracy = apart(server, simulated)
    return abs(attainment) <= MOST_ATTAINMENT_APART and (
        accuracy is None or abs(accuracy) <= MOST_ACCURACY_APART
    )


class ServeBench(FrozenModel):
    """The answer of `laud bench serve`; parts that were not asked for are None."""

    bundle: str
    machine: Machine
    overhead: tuple[Overhead, ...] | None = None
    capacity: Capacity | None = None
    lag: Lag | None = None
    goodput: Goodput | None = None
    contention: Contention | None = None
    agreement: Agreement | None = None
