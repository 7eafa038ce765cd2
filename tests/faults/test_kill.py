"""SIGKILL and SIGSTOP at every named point between two lines that touch disk or network, and at
random instants: writers, followers, leaders, a flush of the tool, while the server flaps."""

import contextlib
import importlib
import itertools
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import pytest

from raven_spool.transport.spool import SpoolTransport
from tests.faults.children import Child, Notes, wait_for_ever
from tests.faults.events import (
    check_nothing_lost,
    count_repeats,
    make_transport,
    new_id,
    read_ledger,
    send,
)
from tests.faults.points import FIRST, OFTEN, SELDOM, Point, steady_points
from tests.support import evidence, tool
from tests.support.answers import Answer, drop, half, limits, ok, reset, silence, status
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until

WORKERS = 4
UNACKED = 32  # what the design allows beside one a worker
KILLS = 80
SOAK_KILLS = 1000
SOAK_OTHER_KILLS = 120
_WRITERS = 3
_EACH_SENDS = 10
_LIFE_SECONDS = 0.3  # a point that is not reached by then: the kill comes anyway
_TIMEOUT_SECONDS = 0.3  # of a request: a silent server holds a worker up for so long
SEND_TIMEOUT = 0.2
# Two processors, and a dozen processes that want them: a wait without bound would be 30 s.
_MARGIN_SECONDS = 3.0
_TOOL_EACH = 25  # rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How the children's transports are set."""

    backend: str = "thread"
    fsync: str = "everysec"


class Sent(NamedTuple):
    """One send that returned, as its process noted it."""

    event_id: str
    committed: bool  # False: by then it may have been volatile
    pid: int
    began: float  # monotonic seconds, which all processes share
    ended: float

    @classmethod
    def read(cls, line: str) -> "Sent":
        event_id, kind, pid, began, ended = line.split()
        return cls(event_id, kind == "committed", int(pid), float(began), float(ended))


class Stood(NamedTuple):
    """A time in which a process was stopped."""

    pid: int
    began: float
    ended: float

    def overlaps(self, sent: Sent) -> bool:
        return self.pid == sent.pid and self.began < sent.ended and sent.began < self.ended


# -- what the children do -------------------------------------------------------------------------


def live(path: Path, url: str, returned: Path, point: Point | None, setting: Setting) -> None:
    """Writers and whatever delivers, until the kill."""
    if point is not None:
        point.arm()
    transport = make_transport(
        path,
        concurrency=WORKERS,
        backend=setting.backend,
        fsync=setting.fsync,
        timeout=_TIMEOUT_SECONDS,
        send_timeout=SEND_TIMEOUT,
    )

    def write() -> None:
        for _ in range(_EACH_SENDS):
            event_id, began = new_id(), time.monotonic()
            send(transport, url, event_id)
            ended = time.monotonic()
            kind = "volatile" if _waits(transport, event_id) else "committed"
            Notes(returned).write(f"{event_id} {kind} {os.getpid()} {began} {ended}")

    if setting.backend == "gevent":
        _write_in_a_hub(write)
    for _ in range(_WRITERS):
        threading.Thread(target=write).start()
    wait_for_ever()


def _waits(transport: SpoolTransport, event_id: str) -> bool:
    """Whether it is in memory only."""
    waiting = list(transport.flusher.spool._intake._waiting)
    return any(ticket.event.event_id == event_id and not ticket.done for ticket in waiting)


def _write_in_a_hub(write: Callable[[], None]) -> None:
    import gevent

    for _ in range(_WRITERS):
        gevent.spawn(write)
    gevent.sleep(600)


def drain(path: Path, point: Point | None) -> None:
    """Writes nothing: a process that is there to deliver."""
    if point is not None:
        point.arm()
    transport = make_transport(path, concurrency=WORKERS)
    while True:
        transport.flush(0.5)
        transport.close(0)


def drain_all(path: Path, url: str) -> None:
    transport = make_transport(path)
    send(transport, url)
    assert transport.flush(60)
    transport.close()


def enqueue_some(path: Path, url: str, returned: Path, point: Point | None) -> None:
    if point is not None:
        point.arm()
    transport = make_transport(path, backend="none")
    for _ in range(5):
        Notes(returned).write(send(transport, url))


# -- what is done to them -------------------------------------------------------------------------


@dataclass
class Torture:
    """Rounds of three or four processes on one spool: one dies or stops at a named point, the
    others at random instants."""

    path: Path
    ingest: Ingest
    notes: Notes
    setting: Setting
    seed: int
    kills: int = 0
    reached: int = 0
    overtaken: int = 0  # leaders whose lock file was removed while they stood still
    stood: list[Stood] = field(default_factory=list)
    most_repeats: int = 0  # of what one end of a leader may have caused

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._points = steady_points(self.seed)

    def run(self, kills: int) -> None:
        before = 0
        for number in itertools.count():
            if self.kills >= kills:
                break
            ends = self.kills + self.overtaken
            self._round(number)
            if number % 10 == 9:  # refused connections as well
                self.ingest.stop()
                self.ingest.start()
            again = count_repeats(self.ingest)
            ends = self.kills + self.overtaken - ends
            assert again - before <= ends * (WORKERS + UNACKED)
            self.most_repeats, before = max(self.most_repeats, again - before), again

    def _round(self, number: int) -> None:
        point = next(self._points)
        if number % 4 == 3:
            point = replace(point, signal=signal.SIGSTOP)
        # In every third round two that deliver what they write; else one, and one that drains.
        second = replace(self.setting, backend="none") if number % 3 else self.setting
        drains = number % 5 == 1 and number % 3 > 0
        with contextlib.ExitStack() as stack:
            if number % _TOOL_EACH == 2:
                stack.enter_context(self._tool())
            armed = Child(drain, self.path, point) if drains else self._live(point, self.setting)
            others = [self._live(self._chance.choice((next(self._points), None)), second)]
            if number % 3:
                others.append(self._live(None, self.setting) if drains else self._drain())
            for child in (armed, *others):
                stack.enter_context(child)
            self._wait_at_point(armed, point)
            for child in (*others, armed):
                self._end(child)

    def _live(self, point: Point | None, setting: Setting) -> Child:
        return Child(live, self.path, self.ingest.url, self.notes.path, point, setting)

    def _drain(self) -> Child:
        return Child(drain, self.path, None)

    def _wait_at_point(self, child: Child, point: Point) -> None:
        """Until it has died there, or has stood there for longer than others wait for it."""
        is_stop = point.signal == signal.SIGSTOP
        try:
            wait_until(
                lambda: child.is_stopped if is_stop else not child.is_alive,
                timeout_seconds=_LIFE_SECONDS,
            )
        except TimeoutError:
            return
        assert is_stop or child.exit_code == -signal.SIGKILL, point  # no end of its own
        self.reached += 1
        if is_stop:
            self._let_it_stand(child, SEND_TIMEOUT * self._chance.uniform(0.5, 2))

    def _end(self, child: Child) -> None:
        """Kill it at a random instant, now and then after it has stood still for a while."""
        _pause(self._chance.uniform(0, 0.05))
        if self._chance.random() < 0.2 and child.is_alive:
            child.stop()
            self._let_it_stand(child, self._chance.uniform(0.05, SEND_TIMEOUT))
        self.kills += 1
        child.kill()

    def _let_it_stand(self, child: Child, seconds: float) -> None:
        began = time.monotonic()
        if self._chance.random() < 0.3:  # an impatient operator: another may lead from now on
            with contextlib.suppress(FileNotFoundError):
                (self.path / "drain.lock").unlink()
                self.overtaken += 1
        _pause(seconds)
        child.resume()
        # Its end is when it runs again, a moment later; its start a moment before we saw it.
        self.stood.append(Stood(child.pid, began - 1.0, time.monotonic() + 0.5))
        _pause(0.02)

    @contextlib.contextmanager
    def _tool(self) -> Iterator[subprocess.Popen[str]]:
        """A flush from cron, killed as the others are."""
        process = tool.start("flush", "--spool", self.path, "--timeout", "5", "--quiet")
        try:
            yield process
        finally:
            self.kills += 1
            process.kill()
            tool.finish(process)


def _pause(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= deadline)


def _flap(chance: random.Random) -> Answer:
    good = (ok(),) * 12
    bad = (status(503), status(400), limits("0.02:error:key"), reset(), drop(), half())
    return chance.choice((*good, *bad, *bad, silence()))


def _torture(
    tmp_path: Path, kills: int, setting: Setting | None = None, *, reaches: float = 0.05
) -> None:
    path, notes = tmp_path / "spool", Notes(tmp_path / "returned")
    setting, chance = setting or Setting(), random.Random(1)
    with Ingest() as ingest:
        with Child(enqueue_some, path, ingest.url, tmp_path / "first", None) as first:
            assert first.join() == 0
        made = (path / "current").read_text()
        ingest.answer_by(lambda seen: _flap(chance))
        torture = Torture(path, ingest, notes, setting, seed=kills)
        torture.run(kills)
        assert torture.reached >= kills * reaches, f"only {torture.reached} points were reached"
        ingest.answer_with(ok())
        with Child(drain_all, path, ingest.url) as last:
            assert last.join(90) == 0
        sends = list(map(Sent.read, notes.read()))
        committed = [sent.event_id for sent in sends if sent.committed]
        check_nothing_lost([*Notes(tmp_path / "first").read(), *committed], ingest, path)
        ledger = read_ledger(path)
        assert ledger["ready"] == ledger["dropped"] == 0
        assert ledger["accepted"] >= len(committed)
        assert ledger["delivered"] <= len(set(ingest.event_ids()))
        worst = _worst_seconds(sends, torture.stood)
        patience = SEND_TIMEOUT + _TIMEOUT_SECONDS * (setting.backend == "inline")
        assert worst < patience + _MARGIN_SECONDS
        _note(torture, sends, worst, count_repeats(ingest))
    assert (path / "current").read_text() == made  # never a reason to begin another file


def _worst_seconds(sends: list[Sent], stood: list[Stood]) -> float:
    """Of the sends of processes that were not stopped themselves meanwhile."""
    return max(
        sent.ended - sent.began for sent in sends if not any(one.overlaps(sent) for one in stood)
    )


def _note(torture: Torture, sends: list[Sent], worst: float, repeats: int) -> None:
    setting = torture.setting
    volatile = sum(not sent.committed for sent in sends)
    evidence.note(
        "SIGKILL, SIGSTOP and SIGCONT of writers, followers, leaders and the tool, at named points "
        "and random instants, while the server flaps between 200, 400, 429, 503, reset, half "
        f"answers, silence and refusal (backend={setting.backend}, fsync={setting.fsync})",
        promise=1,
        tried=f"{torture.kills} kills ({torture.reached} points met), {len(torture.stood)} stops",
        events=len(sends) - volatile,
        lost=0,
        twice=repeats,
        seen=f"worst send {worst:.2f} s; {volatile} volatile; "
        f"{torture.overtaken} leaders overtaken; at most {torture.most_repeats} again in a round",
    )


def test_kills_at_named_and_random_instants_lose_nothing(tmp_path: Path) -> None:
    _torture(tmp_path, KILLS)


@pytest.mark.soak
def test_a_thousand_kills_lose_nothing(tmp_path: Path) -> None:
    _torture(tmp_path, SOAK_KILLS)


SETTINGS = [Setting(fsync="always"), Setting(backend="inline"), Setting(backend="gevent")]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda one: f"{one.backend}-{one.fsync}")
def test_kills_under_other_settings_lose_nothing(tmp_path: Path, setting: Setting) -> None:
    _torture(tmp_path, 12, setting, reaches=0)


@pytest.mark.soak
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda one: f"{one.backend}-{one.fsync}")
def test_many_kills_under_other_settings_lose_nothing(tmp_path: Path, setting: Setting) -> None:
    _torture(tmp_path, SOAK_OTHER_KILLS, setting)


def test_every_point_is_still_there() -> None:
    for owner, name in [*OFTEN, *SELDOM, *FIRST]:
        module, _, kind = owner.partition(":")
        found = importlib.import_module(f"raven_spool.{module}")
        assert hasattr(getattr(found, kind) if kind else found, name), (owner, name)


@pytest.mark.parametrize(
    "point",
    [Point(owner, name, side, 1) for owner, name in FIRST for side in ("before", "after")],
    ids=str,
)
def test_a_kill_while_a_spool_is_made_leaves_one_that_opens(tmp_path: Path, point: Point) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    with Ingest() as ingest:
        with Child(enqueue_some, path, ingest.url, returned.path, point) as killed:
            assert killed.join() == -signal.SIGKILL
        with (
            Child(enqueue_some, path, ingest.url, returned.path, None) as one,
            Child(enqueue_some, path, ingest.url, returned.path, None) as other,
        ):
            assert one.join() == other.join() == 0
        check_nothing_lost(returned.read(), ingest, path)
        assert read_ledger(path)["ready"] == len(returned.read())
