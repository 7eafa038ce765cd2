"""A spool that has reached its own limits: what gives way, what is counted, whose limits hold."""

import tempfile
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raven_spool.errors import SpoolFull
from raven_spool.model import State
from raven_spool.spool import TURNED_AWAY, Spool
from raven_spool.spool.room import least_valuable
from tests.support.spools import HERE, NOW, THERE, check_ledger, discard, event, number_of

MIB = 1 << 20


def _open(tmp_path, **limits):
    return Spool(str(tmp_path / "spool"), fsync="no", **limits)


def _put(spool, *numbers, **what):
    to = what.pop("to", HERE)
    return [spool.enqueue(event(number, **what), to, timeout_seconds=5) for number in numbers]


def _kept(spool):
    return [number_of(one.event) for one in spool.page(after_id=0, limit=1000)]


# -- max_bytes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [2_000, 40_000, 400_000])
def test_oldest_give_way_to_events_of_any_size(tmp_path, size_bytes):
    spool = _open(tmp_path, max_bytes=4 * MIB)
    count = 3 * 4 * MIB // size_bytes
    for number in range(count):
        made = event(number, body=bytes([number % 251]) * size_bytes)
        assert spool.enqueue(made, HERE, timeout_seconds=5)
    stats = check_ledger(spool)
    assert stats["dropped_by_reason"]["overflow"] == stats["dropped"] > count // 3
    assert stats["used_bytes"] <= stats["max_bytes"] == 4 * MIB
    newest = spool.page(limit=1)[0]
    assert number_of(newest.event) == count - 1
    kept = [number_of(one.event) for one in spool.page(after_id=0, limit=count)]
    assert kept == list(range(kept[0], count)), "the oldest went"
    discard(spool)


def test_event_larger_than_the_spool_is_refused_and_nothing_gives_way(tmp_path):
    spool = _open(tmp_path, max_bytes=MIB)
    spool.enqueue(event(1), HERE)
    with pytest.raises(SpoolFull):
        spool.enqueue(event(2, body=b"x" * (2 * MIB)), HERE, timeout_seconds=5)
    assert spool.stats()["ready"] == 1
    discard(spool)


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_limit_holds_where_other_verbs_went_beyond_it(tmp_path, overflow):
    """To bury a large event grows a full file, and SQLite took that size for the limit then."""
    spool = _open(tmp_path, max_bytes=MIB, overflow=overflow)
    for number in range(30):
        _put(spool, number, body=b"x" * 300_000)
        spool.bury([key.id for key in spool.list_keys()], "HTTP 400", NOW)
        assert spool.stats()["used_bytes"] <= MIB
    discard(spool)


def test_newest_are_turned_away_from_a_full_file_and_counted(tmp_path):
    spool = _open(tmp_path, max_bytes=MIB, overflow="drop_newest")
    keys = _put(spool, *range(30), body=b"x" * 100_000)
    kept = sum(key > 0 for key in keys)
    assert 5 <= kept < 11
    assert keys[kept:] == [TURNED_AWAY] * (30 - kept)
    assert _kept(spool) == list(range(kept))
    stats = check_ledger(spool)
    assert stats["accepted"] == 30
    assert stats["dropped_by_reason"] == {"overflow": 30 - kept}
    assert _put(spool, 99)[0] > 0, "a small one still fits"
    discard(spool)


@pytest.mark.parametrize("limit", [{"max_bytes": MIB}, {"max_events": 40}])
@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_threads_at_the_limit_are_never_refused(tmp_path, limit, overflow):
    """Each had made room for itself after a commit they shared had failed; the second found room
    enough, took the disk for full, and its event went into memory."""
    spool = _open(tmp_path, overflow=overflow, **limit)
    failed = []

    def send(first):
        try:
            _put(spool, *range(first, first + 60), body=b"x" * 4000)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=send, args=(1000 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    stats = check_ledger(spool)
    assert (stats["accepted"], spool.volatile) == (480, 0)
    assert stats["used_bytes"] <= stats["max_bytes"]
    assert stats["ready"] <= (stats["max_events"] or 480)
    discard(spool)


# -- both -----------------------------------------------------------------------------------------

MOST, PAGES = 20, 64  # 256 KiB, the least there can be
SIZES = st.one_of(st.integers(0, 3000), st.integers(0, 60_000), st.integers(0, 400_000))
CATEGORIES = st.sampled_from(["error", "transaction", "session"])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(SIZES, CATEGORIES), min_size=10, max_size=40))
def test_no_more_gives_way_than_must_and_nothing_in_vain(events):
    with tempfile.TemporaryDirectory() as path:
        spool = Spool(path, fsync="no", max_bytes=PAGES * 4096, max_events=MOST)
        for number, (size, category) in enumerate(events):
            _check_what_gives_way(spool, number, size, category)
        check_ledger(spool)
        discard(spool)


def _check_what_gives_way(spool, number, size, category):
    before = {one.id: len(one.event.body) for one in spool.page(after_id=0, limit=100)}
    used = spool.stats()["used_bytes"] // 4096
    order = spool._read(lambda queue: least_valuable(queue, 100)) if before else []
    try:
        made = event(number, body=bytes(size), category=category)
        key = spool.enqueue(made, HERE, timeout_seconds=5)
    except SpoolFull:
        key = None
    after = [one.id for one in spool.page(after_id=0, limit=100)]
    gone = [one for one in order if one not in after]
    assert gone == order[: len(gone)], "in their order"
    if key is None:
        assert not gone, f"{size} B can't fit, and yet {len(gone)} gave way"
        return
    assert after[-1] == key
    assert len(after) <= MOST
    assert spool.stats()["used_bytes"] <= PAGES * 4096
    wanted = 17 + size // 4096
    if len(before) < MOST and used + wanted < PAGES:
        assert not gone
    elif used + wanted < PAGES:
        assert len(gone) == 1, "one for one"
    else:  # a twentieth more at most, and the last was still needed
        assert sum(before[one] for one in gone[:-1]) <= (wanted + 2 * PAGES // 20) * 4096


# -- max_events -----------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 7, 100])
def test_oldest_give_way_to_more_events_than_may_be_kept(tmp_path, most):
    spool = _open(tmp_path, max_events=most)
    for number in range(3 * most + 20):
        _put(spool, number)
        assert spool.stats()["ready"] <= most
    stats = check_ledger(spool)
    assert stats["ready"] >= most - most // 20
    assert stats["dropped_by_reason"] == {"overflow": stats["dropped"]}
    assert _kept(spool) == list(range(3 * most + 20))[-stats["ready"] :]
    discard(spool)


def test_newest_are_turned_away_where_that_is_the_rule(tmp_path):
    spool = _open(tmp_path, max_events=3, overflow="drop_newest")
    assert [key > 0 for key in _put(spool, 1, 2, 3, 4, 5)] == [True] * 3 + [False] * 2
    spool.drop([1], "removed")
    assert _put(spool, 6)[0] > 0
    assert _kept(spool) == [2, 3, 6]
    assert check_ledger(spool)["dropped_by_reason"] == {"overflow": 2, "removed": 1}
    discard(spool)


def test_dead_letters_go_first_then_the_least_valuable(tmp_path):
    spool = _open(tmp_path, max_events=8)
    _put(spool, 1, 2)
    _put(spool, 3, 4, category="transaction")
    _put(spool, 5, 6, category="session")
    _put(spool, 7, category="session", to=THERE)
    (dead,) = _put(spool, 8)
    spool.bury([dead], "HTTP 400", NOW)
    gone = []
    for number in range(10, 19):
        before = set(_kept(spool))
        _put(spool, number)
        gone += sorted(before - set(_kept(spool)))
    assert gone == [8, 5, 6, 7, 3, 4, 1, 2, 10]
    assert spool.page(state=State.DEAD) == []
    check_ledger(spool)
    discard(spool)


def test_event_in_flight_that_gave_way_and_arrived_counts_as_delivered(tmp_path):
    spool = _open(tmp_path, max_events=1)
    _put(spool, 1)
    assert spool.leadership.take()
    lane = next(lane for lane, _ in spool.all_lanes() if lane.ready)
    claimed = spool.claim(lane, limit=1, now=NOW)
    _put(spool, 2)
    assert check_ledger(spool)["dropped_by_reason"] == {"overflow": 1}
    spool.ack(claimed)
    stats = check_ledger(spool)
    assert (stats["delivered"], stats["dropped"]) == (1, 0)
    discard(spool)


def test_graves_do_not_pile_up_where_nobody_drains(tmp_path, monkeypatch):
    """A grave for each event that gave way filled the file in the end."""
    monkeypatch.setattr("raven_spool.spool.queue._KEPT_GRAVES", 50)
    spool = _open(tmp_path, max_events=20)
    _put(spool, *range(300))
    graves = "SELECT COUNT(*) FROM graves"
    (count,) = spool._read(lambda queue: queue.connection.execute(graves).fetchone())
    assert count <= 51
    discard(spool)


# -- whose limits ---------------------------------------------------------------------------------


def test_who_says_nothing_keeps_to_what_the_others_have_set(tmp_path):
    one = _open(tmp_path, max_events=5, overflow="drop_newest")
    _put(one, 1, 2, 3, 4, 5)
    other = _open(tmp_path)
    assert _put(other, 6) == [TURNED_AWAY]
    stats = other.stats()
    assert (stats["max_events"], stats["overflow"]) == (5, "drop_newest")
    discard(one)
    discard(other)


def test_last_to_set_a_limit_is_heard_by_those_at_work(tmp_path):
    one = _open(tmp_path, max_events=5)
    _put(one, 1, 2, 3, 4, 5)
    other = _open(tmp_path, max_events=3)
    assert other.stats()["max_events"] == 3
    _put(one, 6)
    assert len(_kept(one)) == 3
    discard(one)
    again = _open(tmp_path, max_events=0)
    _put(again, *range(10, 20))
    assert again.stats()["ready"] == 13
    assert other.stats()["max_events"] == 0
    discard(other)
    discard(again)


def test_two_that_differ_do_not_take_turns_for_ever(tmp_path):
    one, other = _open(tmp_path, max_events=5), _open(tmp_path, max_events=3)
    for spool in (one, other, one, other):
        spool.stats()
    generation = (tmp_path / "spool" / "current").stat().st_ino
    for spool in (one, other, one, other):
        assert spool.stats()["max_events"] == 3
    assert (tmp_path / "spool" / "current").stat().st_ino == generation
    discard(one)
    discard(other)


def test_limits_go_on_into_a_file_begun_anew(tmp_path):
    one = _open(tmp_path, max_events=3)
    _put(one, 1)
    other = _open(tmp_path)
    other.stats()
    database = next((tmp_path / "spool").glob("g-*/data.db"))
    discard(one)
    database.unlink()
    _put(other, *range(2, 9))
    assert other.stats()["max_events"] == 3
    assert len(_kept(other)) == 3
    discard(other)


@pytest.mark.parametrize("stored", ["x", "[]", '{"max_events": "9"}', '{"overflow": "x"}', None, 7])
def test_limits_that_nobody_understands_count_as_not_set(tmp_path, stored):
    one = _open(tmp_path)
    _put(one, 1)
    write = "INSERT OR REPLACE INTO meta VALUES ('limits', ?)"
    one._write(lambda queue: queue.connection.execute(write, (stored,)))
    discard(one)
    other = _open(tmp_path)
    _put(other, 2)
    assert (other.stats()["max_events"], other.stats()["overflow"]) == (0, "drop_oldest")
    discard(other)
