"""The spool on disk against a dict: any order of verbs, by two processes, with crashes between.

Two `Spool` objects over one directory stand for two processes: all they share is the directory
(flock and SQLite tell them apart). One of them at a time leads. Now and then there is a third, a
real one: a forked child that enqueues, and ends or is killed in the middle.
"""

import os
import shutil
import signal
import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from raven_spool.model import Claimed, State
from raven_spool.spool import TURNED_AWAY, Spool
from raven_spool.spool.inspection import ASIDE
from tests.stateful.spool_model import Known, Model, die_at_insert, in_child
from tests.support import evidence
from tests.support.spools import HERE, NOW, THERE, discard, event, number_of

CAP_BYTES = 1 << 20  # the smallest there is, so that a few large events fill it
_HOUR_SECONDS = 3600.0
_YEAR_SECONDS = 365 * 24 * _HOUR_SECONDS
_FARTHEST_SECONDS = _HOUR_SECONDS  # what is due later was written before the clock jumped back
DESTINATIONS = {"here": HERE, "there": THERE}
CATEGORIES = ("error", "transaction")
# With few values and many repeats: rare sizes would hide behind common ones.
BODIES = st.sampled_from([b"", b"{}", b"x" * 1000, b"y" * 100_000])


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

    def _claimable(self, lane, limit):
        ready = sorted(
            (known.due, key)
            for key, known in self.model.stored.items()
            if known.lane == lane
            and known.state is State.READY
            and not self.now < known.due <= self.now + _FARTHEST_SECONDS
        )
        looked_at = limit + len(self.live)
        retries = sorted([key for due, key in ready if due > 0][:looked_at])
        fresh = [key for due, key in ready if due == 0]
        return [key for key in retries + fresh if key not in self.live][:limit]

    @precondition(lambda self: self.model.stored)
    @rule(choice=st.data(), limit=st.integers(1, 5), later=st.sampled_from([0.0, 1.0, 100.0]))
    def claim(self, choice, limit, later):
        self.now += later
        wanted = choice.draw(
            st.sampled_from(sorted({one.lane for one in self.model.stored.values()}))
        )
        lane = self._lanes()[wanted]
        expected = sorted(self._claimable(wanted, limit))
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
        if claimed.generation == self.spool._store.generation:  # else it was of a broken file
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

    # -- time and the file ----------------------------------------------------------------------

    @rule(seconds=st.sampled_from([_HOUR_SECONDS, 7 * _HOUR_SECONDS, 2 * _YEAR_SECONDS]))
    def clock_jumps(self, seconds):
        """Back or forth: further than any back-off is long."""
        self.now += seconds if self.now < NOW else -seconds

    @precondition(lambda self: len(self.model.stored) > 3 and self.number % 3 == 0)
    @rule(by=st.integers(0, 1))
    def file_is_emptied(self, by):
        """Whoever meets it begins a fresh one; ids begin again, and old claims mean nothing."""
        generation = self.spools[by]._store.generation
        with open(f"{self.path}/spool/current") as current:
            database = f"{self.path}/spool/{current.read().strip()}/data.db"
        os.close(os.open(database + ".new", os.O_CREAT | os.O_WRONLY, 0o600))
        os.replace(database + ".new", database)
        assert self.spools[by].stats()["accepted"] == 0
        assert self.spools[by]._store.generation != generation
        self.spools[self.leader].leadership.let_go(clean=False)
        self._forget_claims()
        self.model = Model()

    # -- processes ----------------------------------------------------------------------------

    @rule(by=st.integers(0, 1))
    def child_enqueues(self, by):
        """Forked while both have the file open; it uses what it was given."""
        before = self._look()
        (made,) = self._make(1)
        assert in_child(lambda: self.spools[by].enqueue(made, HERE)) == 0
        self._learn_of_child(before, [made])

    @rule(by=st.integers(0, 1), side=st.sampled_from(["before", "after"]))
    def child_is_killed(self, by, side):
        """In the middle of its second commit; a spool that it has open it never closes."""
        before = self._look()
        first, second = self._make(2)

        def enqueue_and_die():
            fresh = self._open()
            fresh.enqueue(first, HERE)
            die_at_insert(side)
            (fresh, self.spools[by])[by].enqueue(second, HERE)

        code = in_child(enqueue_and_die)
        if code == 0:  # nothing was inserted: the spool is full, and turns away what comes
            assert self.overflow == "drop_newest"
            assert self.model.count(State.READY) + self.model.count(State.DEAD) > 0
        else:
            assert code == -signal.SIGKILL
        is_whole = code == 0 or side == "after"
        self._learn_of_child(before, [first, second] if is_whole else [first])

    def _make(self, count):
        self.number += count
        numbers = range(self.number - count + 1, self.number + 1)
        return [event(number, created_at=self.now) for number in numbers]

    def _look(self):
        return self.spools[0].stats()["accepted"], self._overflowed()

    def _learn_of_child(self, before, made):
        """What it committed before its end is there, or was turned away; nothing else is."""
        accepted, overflowed = (now - then for now, then in zip(self._look(), before, strict=True))
        assert accepted == len(made)
        self.model.accepted += accepted
        known = {known.number for known in self.model.stored.values()}
        newest = {number_of(one.event): one.id for one in self.spools[0].page(limit=len(made))}
        there = {number: key for number, key in newest.items() if number not in known}
        for number, key in there.items():
            self.model.stored[key] = Known(number, ("here", "error"), b"{}")
        turned_away = len(made) - len(there)
        assert not turned_away or self.overflow == "drop_newest"
        self.model.dropped["overflow"] += turned_away
        self._learn_of_evictions(overflowed - turned_away)

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
            # A file that was emptied lies aside until somebody leads.
            faults = self.spools[0].inspection.look()
            assert [fault for fault in faults if fault.about != ASIDE] == []
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


STEPS = 50
RUNS, SOAK_RUNS = 12, 150

TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(max_examples=RUNS, stateful_step_count=STEPS)


@pytest.mark.soak
def test_spool_machine_farther_on():
    long = settings(max_examples=SOAK_RUNS, stateful_step_count=STEPS)
    run_state_machine_as_test(SpoolMachine, settings=long)
    evidence.note(
        "the verbs of the spool in random orders against a dict: enqueue, claim, ack, nack, bury, "
        "removal, revival, rerouting, overflow, forks, kills, clock jumps, an empty file",
        promise=2,
        tried=f"{SOAK_RUNS} runs of up to {STEPS} steps",
        seen="every counter, lane and listing as in the dict after each step",
    )
