"""Two leaders, every order of what may happen to them, to a stated depth; then the real code.

First a pure model of the protocol (two_leaders.py) is explored breadth first: at every step every
action. Then a few hundred of the shortest ways to its states are walked again by two real `Spool`
objects on one directory, and every counter compared. A leader loses its lock by the lock file
being unlinked: the kernel frees a lock by itself only when its holder ends.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from raven_spool.model import Claimed, Lane
from raven_spool.spool import Spool
from tests.stateful.two_leaders import (
    ACTIONS,
    BY_LEADER,
    DEAD,
    DELIVERED,
    DROPPED,
    EVENTS,
    READY,
    UNACKED,
    Action,
    Leader,
    World,
    ack,
    act,
    bury,
    explore,
    put,
    still_leads,
    take_over,
    with_leader,
)
from tests.support import evidence
from tests.support.spools import HERE, NOW, check_ledger, discard, event

DEPTH = 9
SOAK_DEPTH = 12
WALKS = 100


@pytest.fixture(scope="module")
def ways():
    return dict(explore(DEPTH))


def every_event_is_in_one_state(world, way):
    """No event is delivered and dropped both; none is nowhere."""
    is_dropped = {key for key, state in enumerate(world.events) if state == DROPPED}
    return len(world.events) == EVENTS and world.graves == is_dropped


def one_leader_has_the_lock(world, way):
    return sum(leader.has_lock for leader in world.leaders) <= 1


def duplicates_are_bounded(world, way):
    """Each death, take-over or quarantine resends at most what was under way or not acked."""
    workers = 1
    again = sum(count - 1 for count in world.received if count > 1)
    revived = sum(name == "restore" for name, _ in way)
    return again <= world.excuses * (workers + UNACKED) + revived


def nothing_is_sent_twice_without_a_reason(world, way):
    has_reason = world.excuses or "restore" in {name for name, _ in way}
    return has_reason or max(world.received) <= 1


def delivered_was_received(world, way):
    """By the server of this generation: an old leader touches no later one."""
    return all(
        world.received[key]
        for key, state in enumerate(world.events)
        if state == DELIVERED or (state == DEAD and world.generation)
    )


INVARIANTS = (
    every_event_is_in_one_state,
    one_leader_has_the_lock,
    nothing_is_sent_twice_without_a_reason,
    duplicates_are_bounded,
    delivered_was_received,
)


def find_broken(found: Iterable[tuple[World, tuple[Action, ...]]]) -> tuple[str, object]:
    """The first invariant that does not hold, and the way there; else "" and how many worlds."""
    worlds = 0
    for world, way in found:
        worlds += 1
        for holds in INVARIANTS:
            if not holds(world, way):
                return holds.__name__, way
    return "", worlds


def test_exploration_reaches_what_it_is_for(ways):
    states = {state for world in ways for state in world.events}

    assert states == {READY, DEAD, DELIVERED, DROPPED}
    assert any(all(leader.epoch for leader in world.leaders) for world in ways)
    assert any(max(world.received) > 1 for world in ways)
    assert any(world.generation for world in ways)
    assert any(leader.careful for world in ways for leader in world.leaders)


def test_invariants_hold_in_every_world(ways):
    assert find_broken(ways.items()) == ("", len(ways))


@pytest.mark.soak
def test_invariants_hold_in_every_world_farther_on():
    broken, worlds = find_broken(explore(SOAK_DEPTH))
    assert not broken, worlds
    evidence.note(
        "a state model of two leaders: take-over, claim, send, answer, ack, bury, removal, "
        "revival, stop, crash, a removed lock file, quarantine, in every order",
        promise=5,
        tried=f"{worlds:,} states, all within {SOAK_DEPTH} steps",
        seen=f"no invariant broken; {WALKS} of the ways of {DEPTH} steps walked by the real code",
    )


# -- what each rule is for: without it an invariant breaks ----------------------------------------


def ack_in_any_generation(world, who, leader):
    here = tuple((world.generation, key) for _, key in leader.answered)
    return ack(world, who, replace(leader, answered=here))


def bury_in_any_generation(world, who, leader):
    if leader.sent is None:
        return None
    return bury(world, who, replace(leader, sent=(world.generation, leader.sent[1])))


def claim_what_is_under_way(world, who, leader):
    if not leader.epoch or leader.claimed or not still_leads(world, leader):
        return None
    ready = [key for key, state in enumerate(world.events) if state == READY]
    found = tuple((world.generation, key) for key in ready)
    return with_leader(world, who, replace(leader, claimed=found)) if found else None


def take_over_without_the_lock(world, who, leader):
    others = tuple(replace(other, has_lock=False) for other in world.leaders)
    after = take_over(replace(world, leaders=others), who, leader)
    other = 1 - who
    return after and replace(after, leaders=put(after.leaders, other, world.leaders[other]))


def ack_leaves_the_grave(world, who, leader):
    after = ack(world, who, leader)
    return after and replace(after, graves=world.graves)


def forget_what_was_answered(world, who, leader):
    """An end that says good-bye and acks nothing."""
    if not leader.epoch or leader.sent is not None:
        return None
    return with_leader(world, who, Leader(), leading=False)


MUTANTS = [
    ("ack", ack_in_any_generation, delivered_was_received),
    ("bury", bury_in_any_generation, delivered_was_received),
    ("claim", claim_what_is_under_way, nothing_is_sent_twice_without_a_reason),
    ("take_over", take_over_without_the_lock, one_leader_has_the_lock),
    ("ack", ack_leaves_the_grave, every_event_is_in_one_state),
    ("stop", forget_what_was_answered, nothing_is_sent_twice_without_a_reason),
]


@pytest.mark.parametrize(
    ("name", "mutant", "invariant"), MUTANTS, ids=[mutant.__name__ for _, mutant, _ in MUTANTS]
)
def test_without_its_rule_an_invariant_breaks(monkeypatch, name, mutant, invariant):
    monkeypatch.setitem(BY_LEADER, name, mutant)
    assert find_broken(explore(DEPTH))[0] == invariant.__name__


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

    def stop(self) -> None:
        if self.answered:
            self.ack()
        self.claimed.clear()
        self.spool.leadership.let_go()

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
            leadership = process.spool.leadership
            assert leadership.is_held == bool(leader.epoch)
            assert not leader.epoch or leadership.careful == leader.careful

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
