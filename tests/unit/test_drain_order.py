"""Which of a lane's events goes out next, and how what is too old goes away."""

from dataclasses import replace

import pytest

from raven_spool.drain import sweep
from raven_spool.model import Send, State, Wait
from raven_spool.policy import Policy
from tests.support.drains import OK, REFUSED, Process, limited
from tests.support.spools import NOW, THERE, check_ledger, discard, number_of

DAY = 86400.0


@pytest.fixture
def process(tmp_path):
    return Process(tmp_path / "spool", order="newest")


def _deliver(process, count):
    numbers = []
    for _ in range(count):
        send = process.send()
        numbers.append(number_of(send.claimed.event))
        process.answer(send, OK)
    return numbers


def test_newest_go_first_and_each_eighth_is_the_oldest(process):
    process.put(*range(1, 31))
    assert _deliver(process, 18) == [
        *(1, 30, 29, 28, 27, 26, 25, 24),
        *(2, 23, 22, 21, 20, 19, 18, 17),
        *(3, 16),
    ]


def test_oldest_goes_out_under_a_constant_inflow(process):
    """As many come as go: number n of those that wait is sent in the n-th round of eight."""
    process.put(*range(100))
    sent = []
    for number in range(100, 900):
        process.put(number)
        sent += _deliver(process, 1)
    waited = range(93)  # the last of them went out as news, with the first claim
    assert [sent.index(number) for number in waited] == [8 * number for number in waited]


def test_turn_of_the_oldest_outlasts_forgotten_claims(process):
    """An inflow whose claims are forgotten after each send: a limit of another category does it."""
    process.put(*range(100))
    process.put(1000, category="session")
    sent = []
    for number in range(100, 180):
        process.put(number)
        send = process.send()
        sent.append(number_of(send.claimed.event))
        process.answer(send, replace(OK, headers=limited("1:session:key").headers))
    assert [number for number in sent if number < 10] == list(range(10))


def test_probe_of_a_destination_that_is_away_begins_with_the_oldest(process):
    process.put(1, 2, 3)
    send = process.send()
    assert number_of(send.claimed.event) == 1
    process.answer(send, REFUSED)
    process.turn(11)
    assert _deliver(process, 2) == [3, 2]


def test_each_lane_has_turns_of_its_own(process):
    process.put(1, 2, 3)
    process.put(4, 5, 6, destination=THERE)
    sent = _deliver(process, 6)
    assert [number for number in sent if number < 4] == [1, 3, 2]
    assert [number for number in sent if number > 3] == [4, 6, 5]


def test_limit_of_a_flush_is_kept(process):
    process.put(*range(20))
    process.drain.limit = 3
    sent, _ = process.deliver_all()
    assert sent == [0, 19, 18]


# -- what is too old ------------------------------------------------------------------------------


def _sweep_all(process):
    """Until the drain waits for longer than a moment; returns how often it was asked."""
    for steps in range(1, 1000):
        decision = process.step()
        if isinstance(decision, Wait) and decision.seconds > 0.1:
            return steps
        assert not isinstance(decision, Send)
        process.turn(0.01)
    raise AssertionError("no end")


def _hold_all(process, category=""):
    process.spool.hold(
        process.lane().destination_id,
        category,
        now=process.now,
        seconds=100 * DAY,
        hold="limited",
        reason="said so",
    )


def test_flood_of_expired_events_in_a_held_lane_is_swept_without_a_pause(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_AT_ONCE", 10)
    process = Process(tmp_path / "spool", policy=Policy(max_age_seconds=DAY))
    process.put(*range(200))
    process.put(500, created_at=NOW + 2 * DAY)
    _hold_all(process)
    process.turn(1.5 * DAY)
    assert _sweep_all(process) <= 25
    stats = check_ledger(process.spool)
    assert (stats["ready"], stats["dead"]) == (1, 200)
    process.turn(1.1 * DAY)
    process.put(501, created_at=process.now)
    assert _sweep_all(process) <= 30
    assert check_ledger(process.spool)["dropped_by_reason"] == {"expired": 200}
    discard(process.spool)


def test_long_dead_go_also_from_behind_those_that_died_lately(tmp_path, monkeypatch):
    """Only the first thousand by id were looked at, though they may have died last."""
    monkeypatch.setattr(sweep, "_AT_ONCE", 10)
    process = Process(tmp_path / "spool", policy=Policy(max_age_seconds=DAY))
    process.put(*range(1, 51))
    process.spool.bury([*range(26, 51)], "HTTP 400", NOW)
    process.spool.bury([*range(1, 26)], "HTTP 400", NOW + 0.9 * DAY)
    process.turn(1.5 * DAY)
    process.put(99, created_at=process.now)
    _hold_all(process)
    for _ in range(10):
        _sweep_all(process)
        process.turn(61)
    left = process.spool.page(state=State.DEAD, limit=100)
    assert sorted(one.id for one in left) == list(range(1, 26))
    discard(process.spool)


def test_held_events_expire_when_their_category_does(tmp_path):
    process = Process(tmp_path / "spool")
    process.put(1)
    process.put(2, category="transaction")
    _hold_all(process)
    process.turn(6 * DAY)
    _sweep_all(process)
    (dead,) = process.spool.page(state=State.DEAD)
    assert number_of(dead.event) == 2
    discard(process.spool)


def test_expired_events_of_an_open_lane_do_not_stay_behind_the_newest(process, monkeypatch):
    monkeypatch.setattr(sweep, "_AT_ONCE", 10)
    process.put(*range(100), created_at=NOW - 40 * DAY)
    process.put(*range(100, 120))
    _deliver(process, 20)
    _sweep_all(process)
    stats = check_ledger(process.spool)
    assert (stats["ready"], stats["dead"], stats["delivered"]) == (0, 100, 20)
