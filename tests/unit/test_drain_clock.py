"""Clocks that are set: nothing expires because of it, nothing lives for ever because of it."""

import pytest
import tenacity
from hypothesis import given, settings
from hypothesis import strategies as st

from raven_spool.drain.clock import advance, was_set_back
from raven_spool.model import State
from raven_spool.policy import Policy
from raven_spool.spool.clock import Anchor
from tests.support.drains import BACKOFF_SECONDS, BAD, BROKEN, OK, REFUSED, Process, limited
from tests.support.spools import NOW, check_ledger, discard, number_of

MINUTE, HOUR, DAY, YEAR = 60.0, 3600.0, 86400.0, 365 * 86400.0
STEPS = [HOUR, DAY, YEAR, 50 * YEAR]
HOUR_OLD = Policy(wait=tenacity.wait_fixed(10), max_age_seconds=HOUR)
DAY_OLD = Policy(wait=tenacity.wait_fixed(10), max_age_seconds=DAY)


def anchor(at, up_seconds, *, boot_id="one", spared_at=0.0):
    return Anchor(boot_id=boot_id, up_seconds=up_seconds, at=at, spared_at=spared_at)


# -- the decision -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "boot_id", "up", "now", "spared_at"),
    [
        (None, "one", 10, NOW, 0),
        (anchor(NOW, 10), "one", 70, NOW + 60, 0),
        (anchor(NOW, 10), "one", 70, NOW + 60 + 59, 0),  # put right by a little
        (anchor(NOW, 10), "one", 70, NOW + 60 + 61, NOW + 121),
        (anchor(100, 10), "one", 70, NOW, NOW),  # it learned the time
        (anchor(NOW, 10), "one", 70, NOW - YEAR, 0),
        (anchor(NOW, 10), "two", 70, NOW + YEAR, 0),  # it may have been off
        (anchor(NOW, 10, boot_id=""), "", 70, NOW + YEAR, 0),
        (anchor(NOW, 10, spared_at=NOW - 5), "one", 70, NOW + 60, NOW - 5),
        (anchor(NOW, 10, spared_at=NOW), "one", 70, NOW - YEAR, NOW - YEAR),  # not ahead
    ],
)
def test_step_forward_spares_what_was_captured_before(before, boot_id, up, now, spared_at):
    after = advance(before, boot_id, up, now)
    assert after == anchor(now, up, boot_id=boot_id, spared_at=spared_at)


@pytest.mark.parametrize(
    ("before", "boot_id", "up", "now", "is_so"),
    [
        (anchor(NOW, 10), "one", 70, NOW + 60, False),
        (anchor(NOW, 10), "one", 70, NOW + 1, False),  # put right by a little
        (anchor(NOW, 10), "one", 70, NOW - 1, True),
        (anchor(NOW, 10), "one", 7210, NOW + HOUR, True),  # an hour less than has passed
        (anchor(NOW, 10), "one", 70, NOW + YEAR, False),
        (anchor(NOW, 10), "two", 7, NOW + 20, False),
        (anchor(NOW, 10), "two", 7, NOW - 61, True),  # no time passes backwards
        (anchor(NOW, 10, boot_id=""), "", 7210, NOW + HOUR, False),  # nothing to hold it against
    ],
)
def test_clock_that_stayed_behind_was_set_back(before, boot_id, up, now, is_so):
    assert was_set_back(before, advance(before, boot_id, up, now)) is is_so


@given(st.lists(st.tuples(st.floats(-50 * YEAR, 50 * YEAR), st.floats(0, HOUR)), max_size=20))
def test_whatever_the_clock_does_nothing_is_older_than_the_time_that_passed(jumps):
    """An event that is captured first, with a clock that is then set at will."""
    now, up = NOW, 0.0
    known = advance(None, "one", up, now)
    for jump, passed in jumps:
        now, up = now + jump + passed, up + passed
        known = advance(known, "one", up, now)
        age = now - max(NOW, known.spared_at)
        assert age <= up + 60 * len(jumps) + 1


# -- the drain --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_clock_set_forward_expires_nothing_that_waits(begin, step):
    process = begin(policy=HOUR_OLD)
    process.put(*range(10))
    process.answer(process.send(), REFUSED)

    process.now += step
    process.answer(process.send(), REFUSED)  # judged too
    process.turn(HOUR - 1)

    assert len(process.deliver_all()[0]) == 10
    assert process.spool.stats()["dead"] == 0


def test_time_that_passes_after_a_step_does_count(begin):
    process = begin(policy=HOUR_OLD)
    process.put(1)
    process.answer(process.send(), REFUSED)
    process.now += YEAR
    process.answer(process.send(), REFUSED)
    process.turn(HOUR - 1)
    process.answer(process.send(), REFUSED)
    assert process.spool.get(1).state is State.READY

    process.turn(10)
    process.step()
    assert process.spool.get(1).state is State.DEAD


def test_step_between_a_send_and_its_answer_buries_nothing(begin):
    process = begin(policy=HOUR_OLD)
    process.put(1)
    send = process.send()
    process.now += YEAR
    process.answer(send, BROKEN)

    assert process.spool.get(1).state is State.READY


def test_stop_by_delay_does_not_hear_of_a_step(begin):
    process = begin(policy=Policy(stop=tenacity.stop_after_delay(HOUR)))
    process.put(1)
    send = process.send()
    process.now += YEAR
    process.answer(send, BROKEN)

    assert process.spool.get(1).state is State.READY


def test_events_of_a_held_lane_are_spared_too(begin):
    process = begin(policy=HOUR_OLD)
    process.put(1, 2, 3)
    process.answer(process.send(), limited("80000:error"))
    process.now += DAY / 2
    process.turn(61)
    process.step()

    assert process.spool.stats()["dead"] == 0


def test_dead_letters_outlive_a_step_and_go_after_their_time(begin):
    process = begin(policy=HOUR_OLD)
    process.put(1)
    process.answer(process.send(), BAD)
    process.now += YEAR
    process.turn(61)
    process.step()
    assert process.spool.stats()["dead"] == 1

    process.turn(HOUR + 1)
    process.step()
    assert process.spool.stats()["dropped_by_reason"] == {"expired": 1}


def test_step_is_seen_by_the_next_leader_of_the_same_boot(begin):
    first = begin(policy=HOUR_OLD, boot_id="one")
    first.put(1)
    first.answer(first.send(), REFUSED)
    first.drain.end()

    second = begin(policy=HOUR_OLD, boot_id="one", now=NOW + YEAR)
    assert second.deliver_all()[0] == [1]


def test_machine_that_was_off_for_a_year_expires_what_waits(begin):
    first = begin(policy=HOUR_OLD, boot_id="one")
    first.put(1)
    first.answer(first.send(), REFUSED)
    first.drain.end()

    second = begin(policy=HOUR_OLD, boot_id="two", now=NOW + YEAR)
    assert second.deliver_all()[0] == []
    assert second.spool.get(1).state is State.DEAD


@pytest.mark.parametrize("created_at", [0.0, 100.0, NOW + YEAR])
def test_event_with_an_absurd_time_never_expires(begin, created_at):
    """Captured in 1970 before any process led, or under a clock that was set back since."""
    process = begin(policy=HOUR_OLD)
    process.put(1, created_at=created_at)
    process.answer(process.send(), BROKEN)
    process.turn(61)

    assert process.deliver_all()[0] == [1]


@pytest.mark.parametrize("jump", [-50 * YEAR, -HOUR, -2 * MINUTE, HOUR, 50 * YEAR])
def test_back_off_lasts_as_long_whichever_way_the_clock_goes(begin, jump):
    """An event's own too: it was an hour where the clock was set back by less than that."""
    process = begin()
    process.put(1)
    process.answer(process.send(), BROKEN)
    process.step()
    process.now += jump
    process.turn(BACKOFF_SECONDS)

    assert process.deliver_all()[0] == [1]


@pytest.mark.parametrize("boot_id", ["one", "two"])
def test_step_back_is_seen_by_the_next_leader(begin, boot_id):
    first = begin(boot_id="one")
    first.put(1)
    first.answer(first.send(), BROKEN)
    first.drain.end()

    second = begin(boot_id=boot_id, now=NOW - HOUR / 2)
    second.step()
    second.turn(BACKOFF_SECONDS)
    assert second.deliver_all()[0] == [1]


def test_limit_ends_for_processes_that_never_stay(begin):
    """A flush from cron each minute, after a limit that was noted under a clock a year ahead."""
    first = begin(now=NOW + YEAR)
    first.put(1, created_at=NOW + YEAR)
    first.answer(first.send(), limited("120:error"))
    first.drain.end()

    for minute in (0, 1):
        cron = begin(now=NOW + minute * MINUTE)
        assert cron.send_all() == []
        cron.drain.end()
    assert begin(now=NOW + 2 * MINUTE).deliver_all()[0] == [1]


def test_limit_counts_after_the_clock_was_set_back(begin):
    """A limit never shortens a limit; one of a clock a year ahead must not outlast all others."""
    process = begin(now=NOW + YEAR)
    process.put(1, created_at=NOW + YEAR)
    process.answer(process.send(), limited("1:error"))
    process.step()
    process.now -= YEAR
    process.turn(2)
    process.answer(process.send(), limited("60:error"))

    process.turn(59)
    assert process.send_all() == []
    process.turn(2)
    assert process.deliver_all()[0] == [1]


@settings(max_examples=10)
@given(
    st.lists(
        st.tuples(
            st.floats(-50 * YEAR, 50 * YEAR),
            st.sampled_from([OK, BROKEN, REFUSED, limited("30:error")]),
        ),
        max_size=8,
    )
)
def test_storm_of_jumps_loses_nothing(tmp_path_factory, jumps):
    process = Process(tmp_path_factory.mktemp("jumps") / "spool", policy=DAY_OLD)
    process.put(*range(5))
    process.answer(process.send(), REFUSED)
    delivered = []
    for jump, outcome in jumps:
        process.now = max(0.0, process.now + jump)  # no system takes one before 1970
        for send in process.send_all():
            process.answer(send, outcome)
            delivered += [number_of(send.claimed.event)] if outcome is OK else []
        process.turn(31)
    process.turn(HOUR + 1)  # the longest back-off there is
    delivered += process.deliver_all()[0]
    assert sorted(delivered) == list(range(5))
    assert check_ledger(process.spool)["dead"] == 0
    discard(process.spool)
