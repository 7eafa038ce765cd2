"""The protocol of two leaders as a pure model: what each action does, and every order of them.

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

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

EVENTS = 2
UNACKED = 1  # scaled down from 32, with one worker

READY, DEAD, DELIVERED, DROPPED = "ready", "dead", "delivered", "dropped"


Claim = tuple[int, int]  # generation and event


@dataclass(frozen=True, slots=True)
class Leader:
    """What one process has in memory."""

    epoch: int = 0  # 0: does not lead
    generation: int = 0
    has_lock: bool = False  # its lock file is the one in the directory
    careful: bool = False  # the one before it ended without a word
    claimed: tuple[Claim, ...] = ()
    sent: Claim | None = None  # the one request under way
    answered: tuple[Claim, ...] = ()  # 2xx, not acked


@dataclass(frozen=True, slots=True)
class World:
    """Everything: the live file and those before it, two processes, what the server has seen."""

    events: tuple[str, ...] = (READY,) * EVENTS  # of the live generation
    graves: frozenset[int] = frozenset()
    epoch: int = 0
    leading: bool = False  # nobody has said good-bye since the last take-over
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


def with_leader(world: World, who: int, leader: Leader, **changes: object) -> World:
    return replace(world, leaders=put(world.leaders, who, leader), **changes)


def take_over(world, who, leader):
    if leader.epoch or any(other.has_lock for other in world.leaders):
        return None
    epoch = world.epoch + 1
    new = replace(
        leader,
        epoch=epoch,
        generation=world.generation,
        has_lock=True,
        careful=world.leading,
    )
    return with_leader(world, who, new, epoch=epoch, leading=True)


def still_leads(world, leader):
    same = leader.epoch == world.epoch and leader.generation == world.generation
    return leader.has_lock and same


def claim(world, who, leader):
    """All that is ready and not in its hands; or it finds that it was superseded."""
    if not leader.epoch or leader.claimed or len(leader.answered) >= UNACKED:
        return None
    if not still_leads(world, leader):
        return with_leader(world, who, replace(leader, epoch=0, has_lock=False, careful=False))
    held = {key for _, key in filter(None, (leader.sent, *leader.answered))}
    found = tuple(
        (world.generation, key)
        for key, state in enumerate(world.events)
        if state == READY and key not in held
    )
    return with_leader(world, who, replace(leader, claimed=found)) if found else None


def send(world, who, leader):
    if not leader.epoch or not leader.claimed or leader.sent is not None:
        return None
    if not leader.has_lock:
        return with_leader(world, who, replace(leader, epoch=0, claimed=(), careful=False))
    if len(leader.answered) >= UNACKED:
        return None
    first, *rest = leader.claimed
    received = world.received
    if first[0] == world.generation:
        received = put(received, first[1], received[first[1]] + 1)
    return with_leader(
        world, who, replace(leader, claimed=tuple(rest), sent=first), received=received
    )


def answer(world, who, leader):
    if leader.sent is None:
        return None
    answered = (*leader.answered, leader.sent)
    return with_leader(world, who, replace(leader, sent=None, answered=answered))


def ack(world, who, leader):
    if not leader.answered:
        return None
    events, graves = world.events, world.graves
    for generation, key in leader.answered:
        known = events[key] in (READY, DEAD) or key in graves
        if generation == world.generation and known:
            events, graves = put(events, key, DELIVERED), graves - {key}
    return with_leader(world, who, replace(leader, answered=()), events=events, graves=graves)


def bury(world, who, leader):
    """The server refuses what is under way for good."""
    if leader.sent is None:
        return None
    generation, key = leader.sent
    after = with_leader(world, who, replace(leader, sent=None))
    if generation != world.generation or world.events[key] != READY:
        return after
    return replace(after, events=put(world.events, key, DEAD))


def stop(world, who, leader):
    """An end in order: nothing is under way, what was answered is acked, the lead is let go."""
    if not leader.epoch or leader.sent is not None:
        return None
    after = ack(world, who, leader) or world
    is_last = leader.epoch == world.epoch and leader.generation == world.generation
    return with_leader(after, who, Leader(), leading=after.leading and not is_last)


def crash(world, who, leader):
    if leader == Leader():
        return None
    return with_leader(world, who, Leader(), excuses=world.excuses + 1)


def lose_lock(world, who, leader):
    """Somebody removes the lock file."""
    if not leader.has_lock:
        return None
    return with_leader(world, who, replace(leader, has_lock=False), excuses=world.excuses + 1)


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
        leading=False,
        generation=world.generation + 1,
        left_behind=(*world.left_behind, *world.events),
        received=(0,) * EVENTS,
        excuses=world.excuses + 1,
    )


BY_LEADER = {
    step.__name__: step
    for step in (take_over, claim, send, answer, ack, bury, stop, crash, lose_lock)
}
BY_NOBODY = {"drop": drop, "restore": restore, "quarantine": quarantine}
ACTIONS: tuple[Action, ...] = (
    *product(BY_LEADER, (0, 1)),
    *product(("drop", "restore"), range(EVENTS)),
    ("quarantine", 0),
)


# -- exploring it -----------------------------------------------------------------------------


def explore(depth: int) -> Iterator[tuple[World, tuple[Action, ...]]]:
    """Every world within so many actions, with one of the shortest ways to it, as it is found."""
    known = {World()}
    edge: deque[tuple[World, tuple[Action, ...]]] = deque([(World(), ())])
    while edge:
        world, way = edge.popleft()
        yield world, way
        if len(way) == depth:
            continue
        for action in ACTIONS:
            after = act(world, action)
            if after is not None and after not in known:
                known.add(after)
                edge.append((after, (*way, action)))
