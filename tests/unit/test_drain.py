"""The drain over a real spool: what it says to do next, with answers and clock given by hand."""

import logging
import os
import select
import time

import freezegun
import pytest
import tenacity

from raven_spool.drain import UNACKED
from raven_spool.drive import Worker, drive
from raven_spool.model import Response, Send, State, Stop, Wait
from raven_spool.policy import Policy
from raven_spool.spool.gate import Gate
from tests.support.drains import BACKOFF_SECONDS, BAD, BROKEN, OK, REFUSED, RESET, limited
from tests.support.spools import HERE, NOW, THERE, check_ledger, event, number_of
from tests.support.waiting import wait_until

DAY = 86400.0


def numbers(sends):
    return [number_of(send.claimed.event) for send in sends]


# -- order, probing, ramp ---------------------------------------------------------------------


def test_one_worker_keeps_the_order_of_arrival(begin):
    process = begin()
    process.put(*range(100))

    sent, decision = process.deliver_all()

    assert sent == list(range(100))
    assert isinstance(decision, Wait)
    assert process.spool.stats()["delivered"] == 100


def test_refused_connection_keeps_the_same_event_first(begin):
    process = begin()
    process.put(1, 2, 3)

    process.answer(process.send(), REFUSED)
    process.turn(BACKOFF_SECONDS)

    assert numbers([process.send()]) == [1]


@pytest.mark.parametrize("outcome", [BROKEN, RESET])
def test_next_probe_is_another_event_while_the_failed_one_backs_off(begin, outcome):
    waits = iter([100.0, BACKOFF_SECONDS])  # the event's, the destination's
    process = begin(policy=Policy(wait=lambda state: next(waits)))
    process.put(1, 2, 3)

    process.answer(process.send(), outcome)
    process.turn(BACKOFF_SECONDS - 1)
    assert process.send_all() == []
    process.turn(1)

    assert numbers([process.send()]) == [2]


def test_next_probe_is_another_event_though_the_failed_one_is_due_as_well(begin):
    """With a wait that does not grow, one event that a server always refuses was always first."""
    process = begin()
    process.put(1, 2, 3)

    process.answer(process.send(), BROKEN)
    process.turn(BACKOFF_SECONDS + 5)

    assert numbers([process.send()]) == [2]


def test_worker_that_waits_hears_of_a_hold_that_is_shorter_than_its_wait(begin):
    """It was told to wait for the other's answer, 2 s; the other stopped, and a flush of ten events
    with a back-off of 0.01 s took five seconds."""
    process = begin(workers=2, policy=Policy(wait=lambda state: 0.1))
    process.put(1)
    send = process.send()
    assert isinstance(process.step(), Wait)
    process.spool.silence_bell()

    process.answer(send, BROKEN)
    assert isinstance(process.drain.step(process.now, process.ticks), Stop)

    poll = select.poll()  # other tests' spools may be open: `select` ends at 1,024 descriptors
    poll.register(process.spool.bell_descriptor(), select.POLLIN)
    assert poll.poll(0)


def test_destination_is_probed_by_one_event_then_ramps_up(begin):
    process = begin(workers=8)
    process.put(*range(1, 41))
    first = process.send_all()
    assert len(first) == 8
    for send in first:
        process.answer(send, REFUSED)

    assert process.send_all() == []
    process.turn(BACKOFF_SECONDS)
    in_flight = process.send_all()
    assert numbers(in_flight) == [1]

    for expected in (2, 4, 8):
        process.answer(in_flight.pop(0), OK)
        in_flight += process.send_all()
        assert len(in_flight) == expected


def test_ramp_falls_back_to_one_probe_at_a_new_failure(begin):
    process = begin(workers=4)
    process.put(*range(20))
    process.answer(process.send(), REFUSED)
    process.turn(BACKOFF_SECONDS)
    process.answer(process.send(), OK)

    for send in process.send_all():
        process.answer(send, REFUSED)
    process.turn(BACKOFF_SECONDS)

    assert len(process.send_all()) == 1


def test_failures_that_come_together_count_once(begin):
    process = begin(workers=4)
    process.put(*range(10))

    sends = process.send_all()
    process.turn(1)
    for send in sends:
        process.answer(send, BROKEN)
        process.turn(0.1)

    assert process.lane().failures == 1
    assert sum(stored.attempts for stored in process.spool.page()) == 1


def test_each_failed_probe_counts(begin):
    process = begin()
    process.put(1)
    for expected in (1, 2, 3):
        process.answer(process.send(), REFUSED)
        assert process.lane().failures == expected
        process.turn(BACKOFF_SECONDS)
    process.answer(process.send(), OK)

    assert process.lane().failures == 0
    assert process.lane().hold == ""


def test_another_process_s_failures_make_this_one_probe(begin):
    one = begin(workers=4)
    one.put(0)
    one.deliver_all()
    one.turn(5)
    one.step()
    assert not one.spool.leadership.is_held
    other = begin(workers=4)
    other.put(*range(1, 20))
    other.answer(other.send(), REFUSED)
    other.drain.end()

    one.turn(BACKOFF_SECONDS)

    assert len(one.send_all()) == 1


# -- limits -----------------------------------------------------------------------------------


def test_limit_holds_only_the_named_category(begin):
    process = begin()
    process.put(1, 2, category="error")
    process.put(11, 12, category="transaction")
    process.put(21, 22, category="error", destination=THERE)
    sent = set()
    for _ in range(6):
        decision = process.step()
        if not isinstance(decision, Send):
            break
        number = number_of(decision.claimed.event)
        sent.add(number)
        process.answer(decision, limited("60:error:organization") if number < 10 else OK)

    assert len(sent & {1, 2}) == 1
    assert sent >= {11, 12, 21, 22}
    assert isinstance(process.step(), Wait)
    process.turn(60)
    assert process.deliver_all()[0] == [1, 2]
    assert process.spool.stats()["delivered"] == 6


def test_limit_counts_nothing_against_the_event(begin):
    process = begin()
    process.put(1)
    process.answer(process.send(), limited("60:error"))

    stored = process.spool.get(1)
    assert (stored.state, stored.attempts) == (State.READY, 0)
    assert stored.next_attempt_at == NOW + 60


def test_limit_on_a_2xx_holds_what_follows(begin):
    process = begin()
    process.put(1, 2)
    process.answer(
        process.send(), Response(status=200, headers={"x-sentry-rate-limits": "60:error"})
    )

    assert isinstance(process.step(), Wait)
    assert process.spool.stats()["delivered"] == 1


def test_shorter_limit_does_not_shorten_a_longer_one(begin):
    process = begin(workers=2)
    process.put(1, 2)
    one, two = process.send_all()
    process.answer(one, limited("600:error"))
    process.answer(two, limited("5:error"))
    process.turn(500)

    assert process.send_all() == []


def test_retry_after_is_known_to_the_next_process(begin):
    first = begin()
    first.put(1)
    first.answer(first.send(), Response(status=429, headers={"retry-after": "3600"}))
    first.drain.end()

    second = begin(now=NOW + 3599)
    assert second.send_all() == []
    third = begin(now=NOW + 3600)
    second.drain.end()
    assert len(third.send_all()) == 1


def test_flush_ignores_back_off_of_destination_and_event(begin):
    process = begin()
    process.put(1)
    process.answer(process.send(), BROKEN)
    assert process.send_all() == []

    process.spool.forget_backoff()

    assert numbers(process.send_all()) == [1]


def test_flush_never_ignores_limits(begin):
    process = begin()
    process.put(1)
    process.answer(process.send(), limited("60::organization"))

    process.spool.forget_backoff()

    assert process.send_all() == []


# -- clocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_seconds", [-3650 * DAY, -3600.0, 0.0])
def test_limit_ends_after_its_length_though_the_clock_was_set_back(begin, jump_seconds):
    first = begin()
    first.put(1)
    first.answer(first.send(), limited("3600:error"))
    first.drain.end()

    second = begin(now=NOW + jump_seconds)
    assert second.send_all() == []
    second.turn(3599)
    assert second.send_all() == []
    second.turn(1)
    assert len(second.send_all()) == 1


def test_limit_of_a_suspended_machine_ends_by_the_wall_clock(begin):
    process = begin()
    process.put(1)
    process.answer(process.send(), limited("3600:error"))
    assert process.send_all() == []

    process.now += 8 * 3600  # the monotonic clock stands still while a laptop sleeps

    assert len(process.send_all()) == 1


def test_event_is_tried_again_though_the_clock_was_set_back(begin):
    first = begin(now=NOW + 3650 * DAY, policy=Policy(max_age_seconds=1e12))
    first.put(1, created_at=NOW)
    first.answer(first.send(), BROKEN)
    first.drain.end()

    second = begin(now=NOW)
    second.send_all()
    second.turn(3600)
    assert numbers(second.send_all()) == [1]


def test_drive_waits_out_an_outage_on_a_turned_clock(begin):
    process = begin()
    process.put(1, 2, created_at=NOW)
    outcomes = iter([REFUSED, REFUSED, OK, OK])

    class Sender:
        def send(self, request):
            return next(outcomes)

    with freezegun.freeze_time("2023-11-14 22:13:20", tick=False) as clock:
        process.drain.finish(time.monotonic() + 600)
        reason = drive(
            Worker(process.drain),
            lambda name: Sender(),
            wait=lambda decision: clock.tick(decision.seconds),
            call_for_help=lambda: None,
        )

    assert reason == "empty"
    assert process.spool.stats()["delivered"] == 2


def test_sender_that_raises_costs_its_event_an_attempt_and_nobody_else_anything(begin, caplog):
    process = begin()
    process.put(1, 2)

    class Sender:
        def send(self, request):
            if event(1).body == request.body:
                raise LookupError("unknown encoding: idna")
            return OK

    with freezegun.freeze_time("2023-11-14 22:13:20", tick=False):
        process.drain.finish(time.monotonic())
        reason = drive(
            Worker(process.drain),
            lambda name: Sender(),
            wait=lambda decision: None,
            call_for_help=lambda: None,
        )

    assert reason == "held"
    poison = process.spool.get(1)
    assert (poison.attempts, poison.reason) == (
        1,
        "no answer: the sender urllib raised LookupError",
    )
    assert process.spool.get(2).attempts == 0
    assert process.spool.stats()["ready"] == 2
    assert "idna" in caplog.text


# -- expiry -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("category", "age", "dies"),
    [
        ("check_in", 301, True),
        ("check_in", 299, False),
        ("transaction", 5 * DAY + 1, True),
        ("error", 5 * DAY + 1, False),
        ("error", 30 * DAY + 1, True),
    ],
)
def test_event_expires_by_its_category(begin, category, age, dies):
    process = begin()
    process.put(1, category=category, created_at=NOW - age)

    sends = process.send_all()

    assert bool(sends) != dies
    stored = process.spool.get(1)
    assert stored.state is (State.DEAD if dies else State.READY)
    assert stored.reason == ("expired before it could be delivered" if dies else "")


def test_old_events_of_a_held_lane_are_buried_too(begin):
    process = begin()
    process.put(1, 2)
    process.answer(process.send(), limited("80000:error"))
    process.turn(1)
    process.drain.policy = Policy(max_age_seconds=60)
    process.turn(60)
    process.step()

    assert process.spool.stats()["dead"] == 2


def test_old_events_behind_many_dead_letters_are_found(begin):
    process = begin(policy=Policy(max_age_seconds=60))
    process.put(*range(1, 1102))
    process.spool.bury([*range(1, 1101)], "made so by the test", NOW + 50)
    process.answer(process.send(), limited("80000:error"))
    process.turn(61)
    process.step()

    assert process.spool.get(1101).reason == "expired before it could be delivered"
    assert process.spool.stats()["oldest_at"] is None


def test_dead_letters_live_for_max_age_and_are_counted_as_dropped(begin):
    process = begin(policy=Policy(max_age_seconds=60))
    process.put(1)
    process.answer(process.send(), BAD)
    process.turn(59)
    process.step()
    assert process.spool.stats()["dead"] == 1

    process.turn(62)
    process.step()
    stats = process.spool.stats()
    assert (stats["dead"], stats["dropped_by_reason"]) == (0, {"expired": 1})


def test_attempt_that_was_one_too_many_is_counted_once(begin):
    process = begin(policy=Policy(stop=tenacity.stop_after_attempt(1)))
    process.put(1)
    process.answer(process.send(), BROKEN)

    stored = process.spool.get(1)
    assert (stored.state, stored.attempts, len(stored.history)) == (State.DEAD, 1, 1)
    assert process.lane().failures == 1


def test_event_at_fault_is_a_dead_letter_and_the_next_goes_on(begin):
    died = []
    process = begin(on_dead=lambda event, reason: died.append((number_of(event), reason)))
    process.put(1, 2)
    process.answer(process.send(), BAD)

    assert process.spool.get(1).state is State.DEAD
    assert died == [(1, "HTTP 400 Bad Request: no event")]
    assert process.deliver_all()[0] == [2]


def test_discard_is_counted_as_dropped(begin):
    process = begin(policy=Policy(on_server_error="discard"))
    process.put(1)
    process.answer(process.send(), BROKEN)

    stats = process.spool.stats()
    assert stats["dropped_by_reason"] == {"HTTP 500 Internal Server Error": 1}
    assert process.drain.counts.dropped == 1


def test_end_does_not_wait_for_a_worker_that_hangs_in_the_disk(begin, monkeypatch):
    monkeypatch.setattr("raven_spool.drain.machine._END_PATIENCE_SECONDS", 0.05)
    first = begin()
    first.put(1)
    send = first.send()
    first.answer(send, OK)
    with first.drain._lock:
        first.drain.end()
    assert first.spool.leadership.is_held
    first.drain.end()
    assert not first.spool.leadership.is_held
    assert first.spool.stats()["delivered"] == 1


# -- a process that may not live long ---------------------------------------------------------


def test_young_process_leads_after_its_time_alone(begin):
    process = begin(leads_after_seconds=1.0)
    process.put(1)
    decision = process.step()
    assert isinstance(decision, Wait)
    assert decision.deaf
    process.turn(0.9)
    assert isinstance(process.step(), Wait)
    assert not process.spool.leadership.is_held
    process.turn(0.2)
    assert numbers([process.send()]) == [1]


@pytest.mark.parametrize("ends", [False, True])
def test_young_process_leads_at_once_for_a_flush_or_at_its_end(begin, ends):
    process = begin(leads_after_seconds=1.0)
    process.put(1)
    assert isinstance(process.step(), Wait)
    if ends:
        process.drain.finish(process.ticks + 1)
    else:
        process.drain.lead_now()
    assert numbers([process.send()]) == [1]


# -- after an unclean end ---------------------------------------------------------------------


def test_after_a_crash_events_go_one_at_a_time_and_are_counted_first(begin, monkeypatch):
    first = begin(workers=4)
    first.put(1, 2, 3)
    assert len(first.send_all()) == 3
    first.crash()

    monkeypatch.setattr("raven_spool.spool.spool._KILLS_WITHIN_SECONDS", 60)
    second = begin(workers=4)
    (probe,) = second.send_all()

    assert number_of(probe.claimed.event) == 1
    assert second.deaths() == [1, 0, 0]
    second.answer(probe, OK)
    assert len(second.send_all()) == 1


def test_after_a_clean_end_nothing_is_careful(begin):
    first = begin(workers=4)
    first.put(1, 2, 3)
    first.answer(first.send(), OK)
    first.drain.end()

    assert len(begin(workers=4).send_all()) == 2


def test_event_that_kills_its_flusher_three_times_is_buried(begin, monkeypatch):
    monkeypatch.setattr("raven_spool.spool.spool._KILLS_WITHIN_SECONDS", 60)
    begin().put(1, 2)
    for _ in range(1 + 3):  # the first death is not counted: nothing pointed to it yet
        process = begin()
        assert numbers([process.send()]) == [1]
        process.crash()

    survivor = begin()
    assert survivor.deliver_all()[0] == [2]
    assert survivor.spool.get(1).state is State.DEAD
    assert survivor.spool.get(1).reason == "ended the flusher that sent it, 3 times"


def test_event_is_not_blamed_for_a_flusher_that_lived_on_after_it_began(begin):
    """RQ's horses end with os._exit while a slow server is still silent."""
    begin().put(1)
    for _ in range(1 + 3 + 3):
        process = begin()
        assert numbers([process.send()]) == [1]
        wait_until(lambda one=process: one.deaths() == [0])
        process.crash()

    assert begin().deliver_all()[0] == [1]


@pytest.mark.parametrize("outcome", [REFUSED, BROKEN, limited("60:error")])
def test_any_answer_clears_an_event_of_its_deaths(begin, outcome):
    first = begin()
    first.put(1)
    first.send()
    first.crash()

    second = begin()
    second.answer(second.send(), outcome)
    second.turn(60)

    assert second.deaths() == [0]


def test_careful_mode_ends(begin):
    first = begin(workers=4)
    first.put(*range(100))
    first.send()
    first.crash()

    second = begin(workers=4)
    for _ in range(UNACKED + 4 - 1):
        (only,) = second.send_all()
        second.answer(only, OK)

    assert len(second.send_all()) == 4


# -- acks -------------------------------------------------------------------------------------


def test_unacked_events_stay_within_the_bound(begin):
    workers = 4
    process = begin(workers=workers)
    process.put(*range(150))
    answered = 0
    while sends := process.send_all():
        for send in sends:
            process.answer(send, OK)
            answered += 1
            assert answered - process.spool.stats()["delivered"] <= UNACKED + workers

    assert process.spool.stats()["delivered"] == answered == 150


def test_acks_wait_for_a_batch_but_not_for_long(begin):
    process = begin()
    process.put(*range(100))
    for _ in range(5):
        process.answer(process.send(), OK)
    before = process.spool.stats()["delivered"]
    process.turn(0.3)
    process.send()

    assert (before, process.spool.stats()["delivered"]) == (0, 5)


def test_ack_while_the_spool_is_busy_is_made_up_for(begin, tmp_path):
    process = begin()
    process.put(1, 2)
    process.answer(process.send(), OK)
    process.turn(1)
    gate = Gate(str(tmp_path / "spool"))
    assert gate.acquire(0)
    try:
        busy = process.step()
        assert isinstance(busy, Wait)
    finally:
        gate.release()
        gate.close()

    assert process.deliver_all()[0] == [2]
    assert process.spool.stats()["delivered"] == 2


def test_delivered_event_is_not_resent_though_its_limit_could_not_be_stored(begin, tmp_path):
    process = begin()
    process.put(1)
    send = process.send()
    gate = Gate(str(tmp_path / "spool"))
    assert gate.acquire(0)
    try:
        process.answer(send, Response(status=200, headers={"x-sentry-rate-limits": "60:error"}))
    finally:
        gate.release()
        gate.close()

    assert process.send_all() == []
    assert process.spool.stats()["delivered"] == 1


def test_delivered_event_is_not_resent_though_the_clock_could_not_be_noted(begin, tmp_path):
    """A minute after the last note of both clocks the next is due."""
    process = begin()
    process.put(1)
    send = process.send()
    process.turn(61)
    gate = Gate(str(tmp_path / "spool"))
    assert gate.acquire(0)
    try:
        process.answer(send, OK)
    finally:
        gate.release()
        gate.close()

    assert process.send_all() == []
    assert process.spool.stats()["delivered"] == 1


# -- many destinations ------------------------------------------------------------------------


def test_dead_destination_does_not_starve_a_live_one(begin):
    process = begin()
    process.put(*range(1000), destination=THERE)
    process.answer(process.send(), REFUSED)
    process.put(*range(1000, 1005), destination=HERE)

    assert process.deliver_all()[0] == [1000, 1001, 1002, 1003, 1004]


def test_lanes_take_turns(begin):
    process = begin()
    process.put(*range(100), destination=THERE)
    process.put(*range(100, 110), destination=HERE)

    sent, _ = process.deliver_all()

    assert max(sent.index(number) for number in range(100, 110)) < 60


def test_event_without_a_sender_here_waits_for_a_process_that_has_it(begin):
    process = begin(can_send=lambda sender: False)
    process.put(1)
    assert process.send_all() == []
    process.drain.end()

    assert len(begin().send_all()) == 1


def test_lane_changed_by_another_process_is_seen_at_the_next_look(begin):
    process, other = begin(), begin()
    process.put(1)
    process.answer(process.send(), REFUSED)
    assert process.send_all() == []

    other.spool.reopen(process.lane().destination_id)
    sends = process.send_all()
    process.answer(sends[0], OK)
    other.spool.hold(
        process.lane().destination_id, "error", now=NOW, seconds=60, hold="limited", reason=""
    )
    process.put(2)

    assert numbers(sends) == [1]
    assert process.send_all() == []


# -- leading ----------------------------------------------------------------------------------


def take_lock_away(process):
    os.unlink(os.path.join(process.spool.path, "drain.lock"))


def test_second_process_follows_until_the_leader_ends(begin):
    leader, follower = begin(), begin()
    leader.put(1, 2)
    leader.answer(leader.send(), OK)

    decision = follower.step()
    assert isinstance(decision, Wait)
    assert decision.deaf
    assert decision.seconds <= 1.0
    leader.drain.end()

    assert numbers(follower.send_all()) == [2]


def test_old_leader_drops_its_claims_at_a_take_over(begin):
    old, new = begin(workers=2), begin()
    old.put(*range(10))
    under_way = old.send()
    assert old.drain.has_more
    take_lock_away(old)
    assert numbers([new.send()]) == [0]

    assert old.send_all() == []
    assert not old.drain.has_more
    old.answer(under_way, OK)
    old.drain.end()

    assert old.spool.stats()["delivered"] == 1


def test_take_over_resends_no_more_than_was_under_way(begin):
    old, new = begin(workers=3), begin()
    old.put(*range(10))
    under_way = old.send_all()
    take_lock_away(old)
    sent, _ = new.deliver_all()
    for send in under_way:
        old.answer(send, OK)
    old.send_all()
    old.drain.end()

    assert sent == list(range(10))
    assert check_ledger(old.spool)["delivered"] == 10


def test_late_answers_for_a_quarantined_file_leave_the_new_one_alone(begin):
    old, other = begin(workers=3), begin()
    old.put(1, 2, 3)
    one, two, three = old.send_all()
    broken = other.spool._store.generation or old.spool._store.generation
    assert other.spool._store.quarantine(broken, 1.0)
    other.put(11, 12, 13)

    old.answer(one, OK)
    old.answer(two, BAD)
    old.answer(three, BROKEN)
    old.turn(1)
    old.step()

    stats = check_ledger(other.spool)
    assert (stats["accepted"], stats["ready"], stats["dead"]) == (3, 3, 0)
    assert [stored.attempts for stored in other.spool.page()] == [0, 0, 0]


def test_idle_leader_lets_go(begin):
    process = begin()
    process.put(1)
    process.deliver_all()
    assert process.spool.leadership.is_held

    process.turn(5)
    decision = process.step()

    assert isinstance(decision, Wait)
    assert decision.seconds >= 60
    assert not process.spool.leadership.is_held


def test_one_worker_waits_for_all(begin):
    process = begin(workers=3)
    process.put(1)
    process.send()
    now, ticks = process.now, process.ticks

    assert isinstance(process.drain.step(now, ticks), Wait)
    assert process.drain.step(now, ticks) == Stop("another worker waits")
    assert isinstance(process.drain.step(now, ticks, waited=True), Wait)


# -- finishing --------------------------------------------------------------------------------


def test_finish_ends_when_the_spool_is_empty(begin):
    process = begin()
    process.put(1, 2)
    process.drain.finish(process.ticks + 60)

    assert process.deliver_all() == ([1, 2], Stop("empty"))


def test_finish_ends_when_all_that_is_left_is_held(begin):
    process = begin()
    process.put(1, 2)
    process.drain.finish(process.ticks + 60)
    process.answer(process.send(), limited("61:error"))

    assert process.step() == Stop("held")


def test_finish_waits_out_a_hold_that_ends_in_time(begin):
    process = begin()
    process.put(1)
    process.drain.finish(process.ticks + 60)
    process.answer(process.send(), limited("59:error"))

    for _ in range(60):
        decision = process.step()
        if not isinstance(decision, Wait):
            break
        process.turn(decision.seconds)
    assert isinstance(decision, Send)


def test_finish_does_not_wait_for_another_leader(begin):
    leader, flush = begin(), begin()
    leader.put(1)
    leader.send()
    flush.drain.finish(flush.ticks + 60)

    assert flush.step() == Stop("another process drains this spool")


def test_limit_stops_after_so_many_sends(begin):
    process = begin(workers=2)
    process.put(*range(10), destination=HERE)
    process.put(*range(10, 20), destination=THERE)
    process.drain.limit = 3
    process.drain.finish(process.ticks + 60)

    sent, decision = process.deliver_all()

    assert len(sent) == 3
    assert decision == Stop("limit reached")
    assert process.spool.stats()["delivered"] == 3


def test_stop_leaves_the_rest(begin):
    process = begin()
    process.put(1, 2)
    process.answer(process.send(), OK)
    process.drain.stop()

    assert process.step() == Stop("stopped")
    stats = process.spool.stats()
    assert (stats["ready"], stats["delivered"]) == (1, 1)


# -- callbacks --------------------------------------------------------------------------------


def test_callbacks_run_outside_the_lock(begin):
    seen = []

    def look(delivered):
        # Under the drain's lock this would wait for itself for ever.
        seen.append((number_of(delivered), process.drain.step(process.now, process.ticks)))

    process = begin(on_delivered=look)
    process.put(1)
    process.answer(process.send(), OK)
    process.step()

    assert [number for number, _ in seen] == [1]


def test_callback_that_raises_is_logged_and_harms_nothing(begin, caplog):
    seen = []

    def fail(delivered):
        seen.append(number_of(delivered))
        raise ValueError("a user's mistake")

    process = begin(on_delivered=fail)
    process.put(1, 2, 3)
    with caplog.at_level(logging.ERROR, "raven.spool"):
        process.deliver_all()

    assert seen == [1, 2, 3]
    assert [record.message for record in caplog.records] == ["a callback failed"] * 3
    assert process.spool.stats()["delivered"] == 3


def test_outage_is_logged_once_and_its_end_once(begin, caplog):
    process = begin()
    process.put(1)
    with caplog.at_level(logging.INFO, "raven.spool"):
        for _ in range(3):
            process.answer(process.send(), REFUSED)
            process.turn(BACKOFF_SECONDS)
        process.answer(process.send(), OK)

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert HERE.public_key not in caplog.text
