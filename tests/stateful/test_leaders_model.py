"""Two leaders, every order of what may happen to them, to a stated depth; then the real code.

First a pure model of the protocol is explored breadth first: at every step every action. Then a
few hundred of the shortest ways to its states are walked again by two real `Spool` objects on one
directory, and every counter compared. A leader loses its lock by the lock file being unlinked:
the kernel frees a lock by itself only when its holder ends.

The protocol, as implemented:

- claims live in memory; on disk the row stays ready, so that a crash undoes them;
- before it claims, a leader checks the stored epoch and its lock file; before each send it checks
  the lock file. Who finds that another has taken over forgets its claims;
- acks and burials of an old leader stay valid, in the generation they were claimed from alone;
- a process that is stopped and goes on again needs no action of its own: in some of the orders it
  stands still for as long as there is;
- to delete a row is to deliver it; a dropped row leaves a grave, by which a late 2xx moves its
  count from dropped to delivered.
"""

import os
import shutil
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import pytest

from raven_spool.model import Claimed, Lane
from raven_spool.spool import Spool
from tests.support import evidence
from tests.support.spools import HERE, NOW, check_ledger, discard, event

EVENTS = 2
UNACKED = 1  # scaled down from 32, with one worker
DEPTH = 9
WALKS = 200

READY, DEAD, DELIVERED, DROPPED = "ready", "dead", "delivered", "dropped"


Claim = tuple[int, int]  # generation and event


@dataclass(frozen=True, slots=True)
class Leader:
    """What one process has in memory."""

    epoch: int = 0  # 0: does not lead
    generation: int = 0
    has_lock: bool = False  # its lock file is the one in the directory
    claimed: tuple[Claim, ...] = ()
    sent: Claim | None = None  # the one request under way
    answered: tuple[Claim, ...] = ()  # 2xx, not acked


@dataclass(frozen=True, slots=True)
class World:
    """Everything: the live file and those before it, two processes, what the server has seen."""

    events: tuple[str, ...] = (READY,) * EVENTS  # of the live generation
    graves: frozenset[int] = frozenset()
    epoch: int = 0
    generation: int = 0
    left_behind: tuple[str, ...] = ()  # states in quarantined files, still there to be salvaged
    leaders: tuple[Leader, Leader] = (Leader(), Leader())
    received: tuple[int, ...] = (0,) * EVENTS  # times the server got each event
    excuses: int = 0  # deaths, take-overs and quarantines: what may cause one duplicate each


Action = tuple[str, int]  # what, and by whom or to which event


def put(values: tuple, index: int, value: object) -> tuple:
    return (*values[:index], value, *values[index + 1 :])


# -- the model: each action, and when it may happen -----------------------------------------------


def act(world: World, action: Action) -> World | None:
    """The world after it; None: it can't happen now."""
    name, target = action
    if name in BY_NOBODY:
        return BY_NOBODY[name](world, target)
    return BY_LEADER[name](world, target, world.leaders[target])


def _with(world: World, who: int, leader: Leader, **changes: object) -> World:
    return replace(world, leaders=put(world.leaders, who, leader), **changes)


def take_over(world, who, leader):
    if leader.epoch or any(other.has_lock for other in world.leaders):
        return None
    epoch = world.epoch + 1
    leading = replace(leader, epoch=epoch, generation=world.generation, has_lock=True)
    return _with(world, who, leading, epoch=epoch)


def still_leads(world, leader):
    same = leader.epoch == world.epoch and leader.generation == world.generation
    return leader.has_lock and same


def claim(world, who, leader):
    """All that is ready and not in its hands; or it finds that it was superseded."""
    if not leader.epoch or leader.claimed or len(leader.answered) >= UNACKED:
        return None
    if not still_leads(world, leader):
        return _with(world, who, replace(leader, epoch=0, has_lock=False))
    held = {key for _, key in filter(None, (leader.sent, *leader.answered))}
    found = tuple(
        (world.generation, key)
        for key, state in enumerate(world.events)
        if state == READY and key not in held
    )
    return _with(world, who, replace(leader, claimed=found)) if found else None


def send(world, who, leader):
    if not leader.epoch or not leader.claimed or leader.sent is not None:
        return None
    if not leader.has_lock:
        return _with(world, who, replace(leader, epoch=0, claimed=()))
    if len(leader.answered) >= UNACKED:
        return None
    first, *rest = leader.claimed
    received = world.received
    if first[0] == world.generation:
        received = put(received, first[1], received[first[1]] + 1)
    return _with(world, who, replace(leader, claimed=tuple(rest), sent=first), received=received)


def answer(world, who, leader):
    if leader.sent is None:
        return None
    answered = (*leader.answered, leader.sent)
    return _with(world, who, replace(leader, sent=None, answered=answered))


def ack(world, who, leader):
    if not leader.answered:
        return None
    events, graves = world.events, world.graves
    for generation, key in leader.answered:
        known = events[key] in (READY, DEAD) or key in graves
        if generation == world.generation and known:
            events, graves = put(events, key, DELIVERED), graves - {key}
    return _with(world, who, replace(leader, answered=()), events=events, graves=graves)


def bury(world, who, leader):
    """The server refuses what is under way for good."""
    if leader.sent is None:
        return None
    generation, key = leader.sent
    after = _with(world, who, replace(leader, sent=None))
    if generation != world.generation or world.events[key] != READY:
        return after
    return replace(after, events=put(world.events, key, DEAD))


def crash(world, who, leader):
    if leader == Leader():
        return None
    return _with(world, who, Leader(), excuses=world.excuses + 1)


def lose_lock(world, who, leader):
    """Somebody removes the lock file."""
    if not leader.has_lock:
        return None
    return _with(world, who, replace(leader, has_lock=False), excuses=world.excuses + 1)


def drop(world, key):
    """`rm`, or an eviction: the same statement, another reason."""
    if world.events[key] not in (READY, DEAD):
        return None
    return replace(world, events=put(world.events, key, DROPPED), graves=world.graves | {key})


def restore(world, key):
    """`retry` of a dead letter."""
    if world.events[key] != DEAD:
        return None
    return replace(world, events=put(world.events, key, READY))


def quarantine(world, _):
    """The file is left as it lies; in the fresh one, ids and epochs begin again."""
    if world.generation:
        return None
    return replace(
        world,
        events=(READY,) * EVENTS,  # others, under the same ids
        graves=frozenset(),
        epoch=0,
        generation=world.generation + 1,
        left_behind=(*world.left_behind, *world.events),
        received=(0,) * EVENTS,
        excuses=world.excuses + 1,
    )


BY_LEADER = {
    step.__name__: step for step in (take_over, claim, send, answer, ack, bury, crash, lose_lock)
}
BY_NOBODY = {"drop": drop, "restore": restore, "quarantine": quarantine}
ACTIONS: tuple[Action, ...] = (
    *product(BY_LEADER, (0, 1)),
    *product(("drop", "restore"), range(EVENTS)),
    ("quarantine", 0),
)


# -- exploring it -----------------------------------------------------------------------------


def explore(depth: int) -> dict[World, tuple[Action, ...]]:
    """Every world within so many actions, with one of the shortest ways to it."""
    ways: dict[World, tuple[Action, ...]] = {World(): ()}
    edge = deque(ways)
    while edge:
        world = edge.popleft()
        way = ways[world]
        if len(way) == depth:
            continue
        for action in ACTIONS:
            after = act(world, action)
            if after is not None and after not in ways:
                ways[after] = (*way, action)
                edge.append(after)
    return ways


@pytest.fixture(scope="module")
def ways():
    return explore(DEPTH)


def test_exploration_reaches_what_it_is_for(ways):
    states = {state for world in ways for state in world.events}

    assert states == {READY, DEAD, DELIVERED, DROPPED}
    assert any(all(leader.epoch for leader in world.leaders) for world in ways)
    assert any(max(world.received) > 1 for world in ways)
    assert any(world.generation for world in ways)


def test_every_event_is_in_one_state_and_counted_once(ways):
    """No event is delivered and dropped both; none is nowhere."""
    for world, way in ways.items():
        assert len(world.events) == EVENTS, way
        assert world.graves <= {k for k, s in enumerate(world.events) if s == DROPPED}, way


def test_one_leader_at_most_has_the_lock(ways):
    for world, way in ways.items():
        assert sum(leader.has_lock for leader in world.leaders) <= 1, way


def test_duplicates_are_bounded(ways):
    """Each death, take-over or quarantine resends at most what was under way or not acked."""
    workers = 1
    for world, way in ways.items():
        again = sum(count - 1 for count in world.received if count > 1)
        revived = sum(name == "restore" for name, _ in way)
        assert again <= world.excuses * (workers + UNACKED) + revived, way


def test_nothing_is_sent_twice_without_a_reason(ways):
    for world, way in ways.items():
        if not world.excuses and "restore" not in {name for name, _ in way}:
            assert max(world.received) <= 1, way


def test_delivered_events_were_received(ways):
    for world, way in ways.items():
        for key, state in enumerate(world.events):
            assert state != DELIVERED or world.received[key] or world.generation, way


def test_old_leader_touches_no_later_generation(ways):
    """In the fresh file nothing is delivered or dead before its own leader sent it."""
    for world, way in ways.items():
        for key, state in enumerate(world.events):
            if world.generation and state in (DELIVERED, DEAD):
                assert world.received[key], way


# -- the real code on the same ways ---------------------------------------------------------------


class Process:
    """One real process: what the drain does with claims, in the least form."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.begin()

    def begin(self) -> None:
        self.spool = Spool(self.path, fsync="no")
        self.claimed: list[Claimed] = []
        self.sent: Claimed | None = None
        self.answered: list[Claimed] = []

    def take_over(self) -> None:
        assert self.spool.leadership.take()

    def claim(self) -> None:
        lanes = self.spool.lanes()
        if lanes is None:
            self.spool.leadership.let_go(clean=False)
            return
        skip = {one.id for one in (self.sent, *self.answered) if one is not None}
        for lane in _in_use(lanes):
            self.claimed += self.spool.claim(lane, limit=EVENTS, now=NOW, skip=skip)

    def send(self) -> None:
        if self.spool.leadership.take():
            self.sent = self.claimed.pop(0)
        else:
            self.claimed.clear()

    def answer(self) -> None:
        self.answered.append(self.sent)
        self.sent = None

    def ack(self) -> None:
        self.spool.ack(self.answered)
        self.answered = []

    def bury(self) -> None:
        self.spool.bury([self.sent.id], "HTTP 400", NOW, generation=self.sent.generation)
        self.sent = None

    def crash(self) -> None:
        self.spool.leadership.let_go(clean=False)
        discard(self.spool)
        self.begin()

    def lose_lock(self) -> None:
        os.unlink(os.path.join(self.path, "drain.lock"))


def _in_use(lanes: list[Lane]) -> Iterator[Lane]:
    return (lane for lane in lanes if lane.category)


class Walk:
    def __init__(self, path: str) -> None:
        self.path = path
        self.operator = Spool(path, fsync="no")
        self.fill()
        self.processes = (Process(path), Process(path))

    def fill(self) -> None:
        for key in range(EVENTS):
            assert self.operator.enqueue(event(key), HERE)

    def do(self, action: Action) -> None:
        name, target = action
        match name:
            case "drop":
                assert self.operator.drop([target + 1], "rm") == 1
            case "restore":
                assert self.operator.revive([target + 1]) == 1
            case "quarantine":
                self.operator.stats()
                assert self.operator._store.quarantine(self.operator._store.generation, 1.0)
                self.fill()
            case _:
                getattr(self.processes[target], name)()

    def check(self, world: World) -> None:
        """The counters are the model's, whoever looks."""
        for spool in (self.operator, *(process.spool for process in self.processes)):
            stats = check_ledger(spool)
            found = {name: stats[name] for name in (READY, DEAD, DELIVERED, DROPPED)}
            assert found == {name: world.events.count(name) for name in found}
        for process, leader in zip(self.processes, world.leaders, strict=True):
            assert [one.id - 1 for one in process.claimed] == [key for _, key in leader.claimed]
            assert process.spool.leadership.is_held == bool(leader.epoch)

    def end(self) -> None:
        for spool in (self.operator, *(process.spool for process in self.processes)):
            discard(spool)


def sample(ways: dict[World, tuple[Action, ...]]) -> list[tuple[Action, ...]]:
    """Evenly over the longest ways; the shorter ones are their beginnings."""
    ends = sorted(way for way in ways.values() if len(way) == DEPTH)
    step = max(1, len(ends) // WALKS)
    return ends[::step][:WALKS]


@pytest.mark.evidence
def test_two_real_leaders_do_what_the_model_says(ways, tmp_path):
    walks = sample(ways)
    covered = {name for way in walks for name, _ in way}
    assert covered == {name for name, _ in ACTIONS}
    for number, way in enumerate(walks):
        path = tmp_path / str(number)
        walk, world = Walk(str(path)), World()
        try:
            for action in way:
                walk.do(action)
                world = act(world, action)
            walk.check(world)
        except AssertionError as error:
            raise AssertionError(f"the code differs from the model on the way {way}") from error
        finally:
            walk.end()
            shutil.rmtree(path)
    evidence.note(
        f"two leaders on one spool, in every order of {len(ACTIONS)} actions, {DEPTH} deep",
        promise=2,
        tried=f"{len(ways):,} states, {len(walks)} ways to them walked by the real code",
        events=EVENTS * len(walks),
        lost=0,
        seen="every counter as in the model",
    )
