"""A hundred hosts whose server comes back: does it fall again under what they have kept?

A simulation, its clocks turned by hand: on each host the real drain with the real policy, over a
spool in memory, and for comparison two simple clients in the same outage: one tries again each 30
seconds, one waits twice as long each time, without jitter; both send all they have once the server
answers, as fast as it does. The server takes so many requests a second, and lets others wait.
"""

import heapq
import itertools
import random
import statistics
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from _harness import Figure, publish, read_arguments

from raven_spool.config import Options
from raven_spool.drain import Drain
from raven_spool.flusher import make_policy
from raven_spool.model import Destination, Event, Failure, Fault, Outcome, Response, Send, Wait
from raven_spool.spool import Spool

_OUTAGE_SECONDS = 600.0
_WATCHED_SECONDS = 3600.0  # after it
_CAPACITY = 100.0  # requests a second
_PATIENCE_SECONDS = 5.0  # a client's timeout
_WORKERS = 4
_SPREAD_SECONDS = 10.0  # the first attempts of the hosts in the outage

_HERE = Destination(base_url="http://127.0.0.1:9", project="1", public_key="0" * 32)
_OK = Response(status=200, headers={})
_REFUSED = Failure(fault=Fault.CONNECT, message="connection refused", maybe_delivered=False)
_SILENT = Failure(fault=Fault.TIMEOUT, message="no answer in time", maybe_delivered=True)


@dataclass(slots=True)
class Server:
    """Away at first, then with a queue that it works off at a constant rate."""

    requests: Counter[int] = field(default_factory=Counter)  # by second
    free_at: float = _OUTAGE_SECONDS

    def take(self, at: float) -> tuple[Outcome, float]:
        """What comes of a request, and after how many seconds."""
        self.requests[int(at)] += 1
        if at < _OUTAGE_SECONDS:
            return _REFUSED, 0.002
        self.free_at = max(self.free_at, at) + 1 / _CAPACITY
        waited = self.free_at - at
        return (_OK, waited) if waited <= _PATIENCE_SECONDS else (_SILENT, _PATIENCE_SECONDS)


class Host(Protocol):
    @property
    def has_more(self) -> bool:
        """Whether another worker would find something to send."""

    def next(self, at: float, last: Send | Wait | None, outcome: Outcome | None) -> object:
        """What one of its workers does now: a Wait, anything else but None is a request."""


class Ours:
    """The drain of this package."""

    def __init__(self, events: int) -> None:
        self._spool = Spool(":memory:", fsync="no")
        self._began_at = time.time()
        for _ in range(events):
            self._spool.enqueue(self._make_event(), _HERE)
        self._drain = Drain(
            self._spool, make_policy(Options()), workers=_WORKERS, boot=lambda: ("", 0.0)
        )

    def _make_event(self) -> Event:
        return Event(
            event_id=uuid.UUID(int=random.getrandbits(128)).hex,
            category="error",
            endpoint="store",
            headers=(),
            body=b"{}",
            created_at=self._began_at,
        )

    @property
    def has_more(self) -> bool:
        return self._drain.has_more

    def next(self, at: float, last: Send | Wait | None, outcome: Outcome | None) -> object:
        now = self._began_at + at
        if isinstance(last, Send) and outcome is not None:
            self._drain.answered(last.claimed, outcome, now, at)
        decision = self._drain.step(now, at, waited=isinstance(last, Wait))
        return decision if isinstance(decision, Send | Wait) else None


class Simple:
    """A client that waits by the number of failures, and sends all it has between them."""

    def __init__(self, events: int, wait: Callable[[int], float]) -> None:
        self._left = events
        self._wait = wait
        self._in_flight = self._failures = 0
        self._opens_at = 0.0
        self._is_waiting = False

    @property
    def has_more(self) -> bool:
        return self._left > self._in_flight

    def next(self, at: float, last: Send | Wait | None, outcome: Outcome | None) -> object:
        self._is_waiting &= not isinstance(last, Wait)
        if outcome is not None:
            self._note(at, outcome)
        if not self.has_more or (at < self._opens_at and self._is_waiting):
            return None
        if at < self._opens_at:
            self._is_waiting = True
            return Wait(self._opens_at - at)
        self._in_flight += 1
        return "a request"

    def _note(self, at: float, outcome: Outcome) -> None:
        self._in_flight -= 1
        if isinstance(outcome, Response):
            self._left -= 1
            self._failures = 0
        elif at >= self._opens_at:
            self._failures += 1
            self._opens_at = at + self._wait(self._failures)


CLIENTS: Mapping[str, Callable[[int], Host]] = {
    "raven_spool": Ours,
    "each 30 s": partial(Simple, wait=lambda failures: 30.0),
    "doubled, no jitter": partial(Simple, wait=lambda failures: min(300.0, 2.0 ** (failures - 1))),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What the server saw."""

    peak: int  # requests in a second, after its return
    saturated: int  # seconds in which it was asked for 95% of its capacity or more
    wasted: int  # while it was away, and without an answer afterwards
    done_after: float  # seconds after its return
    requests: Mapping[int, int]  # by second


def run(make_host: Callable[[int], Host], hosts: int, events: int, seed: int) -> Course:
    """One outage of so many hosts."""
    random.seed(seed)
    server, order = Server(), itertools.count()
    living: Counter[Host] = Counter()  # workers
    agenda: list[tuple[float, int, Host, object, Outcome | None]] = []

    def plan(at: float, host: Host, last: object, outcome: Outcome | None) -> None:
        heapq.heappush(agenda, (at, next(order), host, last, outcome))

    for _ in range(hosts):
        host = make_host(events)
        living[host] = 1
        plan(random.uniform(0, _SPREAD_SECONDS), host, None, None)
    unanswered, done_at, answered = 0, 0.0, 0
    ends_at = _OUTAGE_SECONDS + _WATCHED_SECONDS
    while agenda and answered < hosts * events and agenda[0][0] < ends_at:
        at, _, host, last, outcome = heapq.heappop(agenda)
        if isinstance(outcome, Response):
            answered, done_at = answered + 1, at
        unanswered += isinstance(outcome, Failure)
        decision = host.next(at, last, outcome)  # type: ignore[arg-type]
        if isinstance(decision, Wait):
            plan(at + decision.seconds, host, decision, None)
        elif decision is None:
            living[host] -= 1
        else:
            said, seconds = server.take(at)
            plan(at + seconds, host, decision, said)
            if host.has_more and living[host] < _WORKERS:
                living[host] += 1
                plan(at, host, None, None)
    after = {at: count for at, count in server.requests.items() if at >= _OUTAGE_SECONDS}
    return Course(
        peak=max(after.values()),
        saturated=sum(count >= 0.95 * _CAPACITY for count in after.values()),
        wasted=unanswered,
        done_after=done_at - _OUTAGE_SECONDS,
        requests=dict(sorted(server.requests.items())),
    )


# -- what comes out -------------------------------------------------------------------------------


def list_figures(courses: Mapping[str, list[Course]]) -> Iterator[Figure]:
    ours, *others = courses

    def figure(key: str, asks: str, unit: str, read: Callable[[Course], float]) -> Figure:
        parts = {name: statistics.median(map(read, courses[name])) for name in others}
        return Figure(
            key=key, asks=asks, unit=unit, rounds=[read(one) for one in courses[ours]], parts=parts
        )

    yield figure("peak", "most requests in a second after the return", "", lambda one: one.peak)
    yield figure(
        "saturated",
        "seconds at 95% of the server's capacity or more",
        "s",
        lambda one: one.saturated,
    )
    yield figure("wasted", "requests without an answer, in all", "", lambda one: one.wasted)
    yield figure(
        "done", "seconds after the return until all is delivered", "s", lambda one: one.done_after
    )


_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 900, 320, 60, 40, 30
_COLOURS = ("#125", "#c33", "#e90")
_SHOWN_SECONDS = 420  # after the return; and a minute before it


def draw(courses: Mapping[str, list[Course]]) -> Iterator[str]:
    """Requests a second, a curve for each client."""
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">'
    )
    yield f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
    most = max(course[0].peak for course in courses.values())
    for share in (0.25, 0.5, 0.75, 1.0):
        y = _place_y(most * share, most)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{y}" y2="{y}" stroke="#ddd"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{most * share:.0f}</text>'
    for minute in range(-1, _SHOWN_SECONDS // 60 + 1):
        x = _place_x(minute * 60)
        yield f'<text x="{x}" y="{_HEIGHT - 14}" text-anchor="middle">{minute} min</text>'
    x = _place_x(0)
    yield f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="#999"/>'
    for course, colour in reversed(list(zip(courses.values(), _COLOURS, strict=True))):
        yield draw_curve(course[0], most, colour)
    for number, (name, colour) in enumerate(zip(courses, _COLOURS, strict=True)):
        place = f'x="{_LEFT + 20 + 180 * number}" y="18"'
        yield f'<text {place} fill="{colour}">{name}: requests a second</text>'
    yield "</svg>"


def draw_curve(course: Course, most: int, colour: str) -> str:
    counts = {at - int(_OUTAGE_SECONDS): count for at, count in course.requests.items()}
    points = (
        f"{_place_x(second)},{_place_y(counts.get(second, 0), most)}"
        for second in range(-60, _SHOWN_SECONDS)
    )
    return f'<polyline fill="none" stroke="{colour}" points="{" ".join(points)}"/>'


def _place_x(second: float) -> float:
    wide = _WIDTH - _LEFT - 20
    return round(_LEFT + wide * (second + 60) / (_SHOWN_SECONDS + 60), 1)


def _place_y(count: float, most: int) -> float:
    return round(_HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * count / most, 1)


def main() -> None:
    arguments = read_arguments(__doc__ or "")
    hosts, events, rounds = (20, 10, 2) if arguments.quick else (100, 50, 5)
    courses = {
        name: [run(make, hosts, events, seed) for seed in range(rounds)]
        for name, make in CLIENTS.items()
    }
    conditions = {
        "hosts": hosts,
        "events_of_each": events,
        "outage_seconds": _OUTAGE_SECONDS,
        "server_takes_a_second": _CAPACITY,
        "workers_of_each": _WORKERS,
    }
    publish(list(list_figures(courses)), arguments, conditions)
    if arguments.out:
        Path(arguments.out).with_name("outage.svg").write_text("\n".join(draw(courses)) + "\n")


if __name__ == "__main__":
    main()
