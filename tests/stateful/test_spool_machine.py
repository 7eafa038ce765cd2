"""The spool on disk against a dict: any order of verbs, by two processes, with crashes between.

Two `Spool` objects over one directory stand for two processes: all they share is the directory
(flock and SQLite tell them apart). One of them at a time leads.
"""

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from raven_spool.model import Claimed, State
from raven_spool.spool import TURNED_AWAY, Spool
from tests.support.spools import HERE, NOW, THERE, discard, event, number_of

CAP_BYTES = 1 << 20  # the smallest there is, so that a few large events fill it
DESTINATIONS = {"here": HERE, "there": THERE}
CATEGORIES = ("error", "transaction")
# With few values and many repeats: rare sizes would hide behind common ones.
BODIES = st.sampled_from([b"", b"{}", b"x" * 1000, b"y" * 100_000])


@dataclass
class Known:
    """What the model knows of one stored event."""

    number: int
    lane: tuple[str, str]
    body: bytes
    state: State = State.READY
    attempts: int = 0
    due: float = 0.0


@dataclass
class Model:
    stored: dict[int, Known] = field(default_factory=dict)  # by id
    accepted: int = 0
    delivered: int = 0
    dropped: Counter = field(default_factory=Counter)
    graves: dict[int, str] = field(default_factory=dict)  # id -> the reason it was dropped for
    holds: dict[tuple[str, str], tuple[str, float]] = field(default_factory=dict)

    def count(self, state):
        return sum(known.state is state for known in self.stored.values())

    def deliver(self, key):
        if self.stored.pop(key, None) is not None:
            self.delivered += 1
        elif key in self.graves:
            self.dropped[self.graves.pop(key)] -= 1
            self.delivered += 1

    def drop(self, key, reason):
        del self.stored[key]
        self.dropped[reason] += 1
        self.graves[key] = reason


class SpoolMachine(RuleBasedStateMachine):
    @initialize(
        most=st.sampled_from([0, 3, 12]), overflow=st.sampled_from(["drop_oldest", "drop_newest"])
    )
    def begin(self, most, overflow):
        self.most, self.overflow = most, overflow
        self.path = tempfile.mkdtemp(prefix="spool-machine-")
        self.model = Model()
        self.now = NOW
        self.number = 0
        self.live: dict[int, Claimed] = {}  # the leader's claims, by id
        self.past: list[Claimed] = []  # those that were answered, or whose leader died
        self.leader = 0
        self.spools = [self._open(), self._open()]

    def _open(self):
        """The first that opens it sets the limits, the others find them there."""
        if hasattr(self, "spools"):
            return Spool(self.path + "/spool", fsync="no")
        return Spool(
            self.path + "/spool",
            fsync="no",
            max_bytes=CAP_BYTES,
            max_events=self.most,
            overflow=self.overflow,
        )

    @property
    def spool(self):
        """The leading process."""
        leading = self.spools[self.leader]
        assert leading.leadership.take()
        return leading

    # -- enqueue ------------------------------------------------------------------------------

    @rule(
        to=st.sampled_from(sorted(DESTINATIONS)),
        category=st.sampled_from(CATEGORIES),
        body=BODIES,
        by=st.integers(0, 1),
        repeat=st.sampled_from([1, 1, 1, 5]),
    )
    def enqueue(self, to, category, body, by, repeat):
        for _ in range(repeat):
            self.number += 1
            made = event(self.number, category=category, body=body, created_at=self.now)
            before = self._overflowed()
            key = self.spools[by].enqueue(made, DESTINATIONS[to])
            self.model.accepted += 1
            if key == TURNED_AWAY:
                assert self.overflow == "drop_newest"
                assert self._overflowed() == before + 1
                self.model.dropped["overflow"] += 1
                continue
            self._learn_of_evictions(self._overflowed() - before)
            (newest,) = self.spools[by].page(limit=1)
            assert newest.id not in self.model.stored
            assert newest.id == key
            self.model.stored[newest.id] = Known(self.number, (to, category), body)
            assert not self.most or len(self.model.stored) <= self.most

    def _overflowed(self):
        return self.spools[0].stats()["dropped_by_reason"].get("overflow", 0)

    def _learn_of_evictions(self, count):
        """Dead letters first, then the least valuable, of each the oldest: how many is the
        spool's choice, which is not."""
        assert not count or self.overflow == "drop_oldest"

        def worth(key):
            known = self.model.stored[key]
            ready = known.state is State.READY
            return ready, -CATEGORIES.index(known.lane[1]) if ready else 0, key

        for key in sorted(self.model.stored, key=worth)[:count]:
            self.model.drop(key, "overflow")

    # -- claim --------------------------------------------------------------------------------

    def _claimable(self, lane):
        ready = [
            (known.due, key)
            for key, known in self.model.stored.items()
            if known.lane == lane
            and known.state is State.READY
            and key not in self.live
            and known.due <= self.now
        ]
        retries = sorted(key for due, key in ready if due > 0)
        return retries + sorted(key for due, key in ready if due == 0)

    @precondition(lambda self: self.model.stored)
    @rule(choice=st.data(), limit=st.integers(1, 5), later=st.sampled_from([0.0, 1.0, 100.0]))
    def claim(self, choice, limit, later):
        self.now += later
        wanted = choice.draw(
            st.sampled_from(sorted({one.lane for one in self.model.stored.values()}))
        )
        lane = self._lanes()[wanted]
        expected = sorted(self._claimable(wanted)[:limit])
        found = self.spool.claim(lane, limit=limit, now=self.now, skip=set(self.live))
        assert [one.id for one in found] == expected
        for one in found:
            known = self.model.stored[one.id]
            assert one.id not in self.live
            assert (number_of(one.event), one.event.body) == (known.number, known.body)
            assert (one.attempts, one.event.category) == (known.attempts, wanted[1])
            assert one.destination == DESTINATIONS[wanted[0]]
            self.live[one.id] = one

    def _lanes(self):
        """The spool's lanes by their names in the model."""
        names = {destination: name for name, destination in DESTINATIONS.items()}
        return {
            (names[to], lane.category): lane for lane, to in self.spools[self.leader].all_lanes()
        }

    # -- what becomes of a claim --------------------------------------------------------------

    def _end(self, choice):
        """One live claim is answered."""
        key = choice.draw(st.sampled_from(sorted(self.live)))
        self.past.append(self.live[key])
        return self.live.pop(key)

    @precondition(lambda self: self.live)
    @rule(choice=st.data())
    def ack(self, choice):
        claimed = self._end(choice)
        self.spool.ack([claimed])
        self.model.deliver(claimed.id)

    @precondition(lambda self: self.past)
    @rule(choice=st.data(), by=st.integers(0, 1))
    def ack_late_or_twice(self, choice, by):
        claimed = choice.draw(st.sampled_from(self.past))
        self.spools[by].ack([claimed, claimed])
        self.model.deliver(claimed.id)
        self.live.pop(claimed.id, None)

    @precondition(lambda self: self.live)
    @rule(choice=st.data(), due=st.sampled_from([0.0, 1.0, 30.0]))
    def nack(self, choice, due):
        claimed = self._end(choice)
        due = due and self.now + due
        self.spool.nack(claimed, now=self.now, due=due, what="HTTP 500", unanswered=False)
        known = self.model.stored.get(claimed.id)
        if known is not None:
            known.attempts += 1
            known.due = due

    @precondition(lambda self: self.live)
    @rule(choice=st.data())
    def bury(self, choice):
        claimed = self._end(choice)
        self.spool.bury([claimed.id], "HTTP 400", self.now, generation=claimed.generation)
        if claimed.id in self.model.stored:
            self.model.stored[claimed.id].state = State.DEAD

    @precondition(lambda self: self.live)
    @rule(choice=st.data(), by=st.integers(0, 1))
    def drop_in_flight(self, choice, by):
        claimed = self._end(choice)
        was_there = claimed.id in self.model.stored
        assert self.spools[by].drop([claimed.id], "rm") == was_there
        if was_there:
            self.model.drop(claimed.id, "rm")

    @precondition(lambda self: self.model.stored)
    @rule(choice=st.data())
    def answer_for_another_generation(self, choice):
        key = choice.draw(st.sampled_from(sorted(self.model.stored)))
        strange = Claimed(
            id=key,
            generation="g-other",
            lane=2,
            destination=HERE,
            event=event(key),
            attempts=0,
            last_unanswered=False,
        )
        self.spool.ack([strange])
        self.spool.nack(strange, now=self.now, due=9.0, what="late", unanswered=False)
        self.spool.bury([key], "late", self.now, generation="g-other")
        assert self.spool.drop([key], "late", generation="g-other") == 0

    # -- operators ----------------------------------------------------------------------------

    @precondition(lambda self: self.model.stored)
    @rule(choice=st.data(), by=st.integers(0, 1))
    def drop(self, choice, by):
        key = choice.draw(st.sampled_from(sorted(self.model.stored)))
        assert self.spools[by].drop([key, key], "rm") == 1
        assert self.spools[by].drop([key], "rm") == 0
        self.model.drop(key, "rm")

    @precondition(lambda self: self.model.stored)
    @rule(choice=st.data(), by=st.integers(0, 1))
    def revive(self, choice, by):
        key = choice.draw(st.sampled_from(sorted(self.model.stored)))
        known = self.model.stored[key]
        revived = self.spools[by].revive([key])
        assert revived == (known.state is State.DEAD)
        if revived:
            known.state, known.attempts, known.due = State.READY, 0, 0.0

    @precondition(lambda self: self.model.stored)
    @rule(choice=st.data(), to=st.sampled_from(sorted(DESTINATIONS)), by=st.integers(0, 1))
    def reroute(self, choice, to, by):
        """Of two events, in any state, claimed or not."""
        keys = choice.draw(
            st.lists(
                st.sampled_from(sorted(self.model.stored)), min_size=1, max_size=2, unique=True
            )
        )
        assert self.spools[by].reroute(keys, DESTINATIONS[to]) == len(keys)
        assert self.spools[by].reroute(keys, DESTINATIONS[to], generation="g-other") == 0
        for key in keys:
            known = self.model.stored[key]
            known.lane = (to, known.lane[1])
            known.state, known.attempts, known.due = State.READY, 0, 0.0

    # -- lanes --------------------------------------------------------------------------------

    @precondition(lambda self: self.model.accepted)
    @rule(
        choice=st.data(),
        hold=st.sampled_from(["backoff", "limited"]),
        seconds=st.sampled_from([5.0, 50.0]),
        by=st.integers(0, 1),
    )
    def hold(self, choice, hold, seconds, by):
        lanes = self._lanes()
        name = choice.draw(st.sampled_from(sorted(lanes)))
        self.spools[by].hold(
            lanes[name].destination_id,
            name[1],
            now=self.now,
            seconds=seconds,
            hold=hold,
            reason="said so",
        )
        before, until = self.model.holds.get(name, ("", 0.0))
        if not (before == "limited" and until > self.now + seconds):
            self.model.holds[name] = (hold, self.now + seconds)

    @precondition(lambda self: self.model.accepted)
    @rule(choice=st.data(), by=st.integers(0, 1))
    def reopen(self, choice, by):
        lanes = self._lanes()
        to, category = choice.draw(st.sampled_from(sorted(lanes)))
        self.spools[by].reopen(lanes[to, category].destination_id)
        if self.model.holds.get((to, ""), ("", 0.0))[0] == "backoff":
            self.model.holds[(to, "")] = ("", 0.0)

    @rule(by=st.integers(0, 1))
    def forget_backoff(self, by):
        self.spools[by].forget_backoff()
        for lane, (hold, _) in self.model.holds.items():
            if hold == "backoff":
                self.model.holds[lane] = (hold, 0.0)
        for known in self.model.stored.values():
            if known.state is State.READY:
                known.due = 0.0

    # -- processes ----------------------------------------------------------------------------

    @rule(by=st.integers(0, 1))
    def reopen_the_spool(self, by):
        before = self.spools[by].stats()
        discard(self.spools[by])
        self.spools[by] = self._open()
        assert self.spools[by].stats() == before
        if by == self.leader:
            self._forget_claims()

    @rule()
    def leader_crashes(self):
        """Its claims die with it; the other process leads."""
        self.spool.leadership.let_go(clean=False)
        self._forget_claims()
        self.leader = 1 - self.leader
        assert self.spool.leadership.careful

    def _forget_claims(self):
        self.past += self.live.values()
        self.live.clear()

    @rule()
    def second_process_cannot_lead(self):
        assert self.spool.leadership.is_held
        assert not self.spools[1 - self.leader].leadership.take()

    # -- invariants ---------------------------------------------------------------------------

    @invariant()
    def counters_are_the_model_s(self):
        for spool in self.spools:
            stats = spool.stats()
            assert stats["accepted"] == self.model.accepted
            assert stats["ready"] == self.model.count(State.READY)
            assert stats["dead"] == self.model.count(State.DEAD)
            assert stats["delivered"] == self.model.delivered
            assert stats["dropped_by_reason"] == {**+self.model.dropped}
            assert stats["bytes"] == sum(len(known.body) for known in self.model.stored.values())

    @invariant()
    def nothing_vanishes(self):
        stats = self.spools[0].stats()
        kept = stats["ready"] + stats["dead"] + stats["delivered"] + stats["dropped"]
        assert stats["accepted"] == kept

    @invariant()
    def counters_are_those_of_the_table(self):
        rows = self.spools[1]._read(
            lambda queue: queue.connection.execute(
                "SELECT lane, SUM(status < 2), SUM(status >= 2) FROM ack_queue_events GROUP BY lane"
            ).fetchall()
        )
        ready = {lane: count for lane, count, _ in rows if count}
        assert {
            lane.id: lane.ready for lane, _ in self.spools[0].all_lanes() if lane.ready
        } == ready
        assert sum(dead for *_, dead in rows) == self.model.count(State.DEAD)

    @invariant()
    def each_lane_adds_up(self):
        rows = self.spools[1]._read(
            lambda queue: queue.connection.execute(
                "SELECT accepted, ready + dead + delivered + "
                "(SELECT TOTAL(events) FROM drops WHERE lane = lanes.id), "
                "bytes, (SELECT TOTAL(size) FROM ack_queue_events WHERE lane = lanes.id), "
                "dead, (SELECT COUNT(*) FROM ack_queue_events WHERE lane = lanes.id "
                "AND status = 9) FROM lanes"
            ).fetchall()
        )
        for accepted, kept, size, sizes, dead, letters in rows:
            assert (accepted, size, dead) == (kept, sizes, letters)

    @invariant()
    def lanes_are_held_as_in_the_model(self):
        for name, lane in self._lanes().items():
            assert (lane.hold, lane.open_at) == self.model.holds.get(name, ("", 0.0))

    @invariant()
    def pages_list_what_is_stored(self):
        for state in (None, State.READY, State.DEAD):
            listed = list(_walk(self.spools[0], state))
            wanted = [
                key for key, known in self.model.stored.items() if state in (None, known.state)
            ]
            assert [stored.id for stored in listed] == sorted(wanted, reverse=True)
        for stored in listed:
            known = self.model.stored[stored.id]
            assert (stored.state, stored.attempts) == (known.state, known.attempts)
            assert (number_of(stored.event), stored.event.body) == (known.number, known.body)

    def teardown(self):
        if not hasattr(self, "spools"):
            return
        try:
            check = self.spools[0]._read(
                lambda queue: queue.connection.execute("PRAGMA integrity_check").fetchall()
            )
            assert check == [("ok",)]
        finally:
            for spool in self.spools:
                discard(spool)
            shutil.rmtree(self.path)


def _walk(spool, state):
    """All pages, three events each."""
    before_id = None
    while page := spool.page(state=state, before_id=before_id, limit=3):
        yield from page
        before_id = page[-1].id


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(
    max_examples=settings.default.max_examples // 2, stateful_step_count=50
)
