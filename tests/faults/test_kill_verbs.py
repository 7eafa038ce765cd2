"""SIGKILL on both sides of each statement of the verbs that move events: rm, retry, retry --dsn,
expiry, late answers, quarantine, and the way home from memory. All of it happened, or none."""

import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from raven_spool.model import State
from raven_spool.spool import Spool
from tests.faults.children import Child, Notes, wait_for_ever
from tests.faults.events import make_transport, read_ledger, readable_ids, send, stored_ids
from tests.faults.points import Name, Point
from tests.support import evidence
from tests.support.spools import HERE, NOW, THERE, event
from tests.support.waiting import wait_until

NOWHERE = "http://127.0.0.1:9"  # backend "none": nobody goes there
_EACH = 3  # ready ones, and as many dead


def fill(path: Path) -> None:
    spool = Spool(str(path))
    for number in range(1, 2 * _EACH + 1):
        assert spool.enqueue(event(number), HERE)
    spool.bury(dead_of(spool), "HTTP 400", NOW)
    spool.finish()


def dead_of(spool: Spool) -> list[int]:
    return [key.id for key in spool.list_keys() if key.id > _EACH]


def remove(spool: Spool) -> None:
    assert spool.drop([1, 2, _EACH + 1], "rm") == 3


def retry(spool: Spool) -> None:
    assert spool.revive(dead_of(spool)) == _EACH


def send_elsewhere(spool: Spool) -> None:
    assert spool.reroute([1, _EACH + 1], THERE) == 2


def tidy(spool: Spool) -> None:
    assert spool.tidy((0.0, NOW + 1), 0, 100) == (_EACH, 0)


def answer_late(spool: Spool) -> None:
    """A 2xx for what was removed meanwhile."""
    assert spool.leadership.take()
    (lane,) = [lane for lane in spool.lanes() or () if lane.category]
    claimed = spool.claim(lane, limit=2, now=NOW)
    spool.drop([claimed[0].id], "rm")
    spool.ack(claimed)


def hold_and_forget(spool: Spool) -> None:
    (lane,) = [lane for lane, _ in spool.all_lanes() if lane.category]
    spool.hold(lane.destination_id, "", now=NOW, seconds=60, hold="backoff", reason="HTTP 503")
    spool.forget_backoff()
    spool.reopen(lane.destination_id)


def overflow(spool: Spool) -> None:
    limited = Spool(spool.path, max_events=2 * _EACH)
    for number in (101, 102):
        assert limited.enqueue(event(number), HERE)


def turn_away(spool: Spool) -> None:
    limited = Spool(spool.path, max_events=2 * _EACH, overflow="drop_newest")
    limited.enqueue(event(103), HERE)


Verb = Callable[[Spool], None]
_QUEUE = "spool.queue:EventQueue"
VERBS: dict[Verb, list[Name]] = {
    remove: [(_QUEUE, "move")],
    retry: [(_QUEUE, "revive")],
    send_elsewhere: [("spool.lanes", "_make_lane"), (_QUEUE, "_reroute")],
    tidy: [(_QUEUE, "list_dead"), (_QUEUE, "forget_graves"), (_QUEUE, "move")],
    answer_late: [(_QUEUE, "ack_many"), (_QUEUE, "deliver_dropped")],
    hold_and_forget: [
        ("spool.lanes", "hold_lane"),
        ("spool.lanes", "forget_backoff"),
        (_QUEUE, "forget_due"),
        ("spool.lanes", "open_lane"),
    ],
    overflow: [("spool.store", "write_limits"), (_QUEUE, "move"), (_QUEUE, "insert")],
    turn_away: [(_QUEUE, "turn_away")],
}
IN_STEPS = {answer_late, overflow}  # of more than one statement, of which the first may be all


def do_and_die(path: Path, verb: Verb, point: Point) -> None:
    point.arm()
    verb(Spool(str(path)))


def counts_of(path: Path) -> dict[str, int]:
    return {name: count for name, count in read_ledger(path).items() if name != "bytes"}


@pytest.mark.evidence
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_a_kill_in_a_verb_leaves_all_of_it_or_none(tmp_path: Path, verb: Verb) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    fill(before)
    fill(after)
    verb(Spool(str(after)))
    points = [Point(*name, side, 1) for name in VERBS[verb] for side in ("before", "after")]
    for number, point in enumerate(points):
        path = tmp_path / str(number)
        fill(path)
        with Child(do_and_die, path, verb, point) as child:
            assert child.join() == -signal.SIGKILL, point
        found = counts_of(path)
        assert verb in IN_STEPS or found in (counts_of(before), counts_of(after)), point
        assert len(set(stored_ids(path))) == found["ready"] + found["dead"]
        again = Spool(str(path))  # and the next process goes on from there
        assert len(again.page(state=State.READY)) == found["ready"]
        again.finish()
    evidence.note(
        f"SIGKILL before and after each statement of a verb: {verb.__name__.replace('_', ' ')}",
        promise=2,
        tried=f"{len(points)} kills",
        events=2 * _EACH * len(points),
        lost=0,
    )


# -- from memory to the disk, and to another file -------------------------------------------------


def come_home(path: Path, returned: Path, point: Point) -> None:
    """Sends while something lies in the way, and then while it is gone."""
    point.arm()
    transport = make_transport(path / "spool", backend="none")
    for _ in range(3):
        send(transport, NOWHERE)
    path.unlink()
    transport.flusher.spool.look_again()
    for _ in range(3):
        event_id = send(transport, NOWHERE)
        if transport.flusher.spool.volatile == 0:
            Notes(returned).write(event_id)
    wait_until(lambda: transport.flusher.volatile == 0, what="the way home")
    wait_for_ever()


HOME = [
    ("flusher:Flusher", "_bring_home", 1),
    (_QUEUE, "insert", 4),  # three went into memory
    (_QUEUE, "insert", 5),
    (_QUEUE, "move", 1),
    (_QUEUE, "move", 2),
]


@pytest.mark.parametrize(("owner", "name", "nth"), HOME)
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_kill_on_the_way_home_repeats_nothing(
    tmp_path: Path, owner: str, name: str, nth: int, side: str
) -> None:
    """What was in memory alone is lost, as promised; what was on the disk is there, once."""
    path, returned = tmp_path / "state", Notes(tmp_path / "returned")
    path.write_text("in the way")
    with Child(come_home, path, returned.path, Point(owner, name, side, nth)) as child:
        assert child.join() == -signal.SIGKILL
    stored = stored_ids(path / "spool") if (path / "spool" / "current").exists() else []
    assert set(returned.read()) <= set(stored)
    assert max(Counter(stored).values(), default=0) <= 1


def quarantine(path: Path, returned: Path, point: Point | None) -> None:
    if point is not None:
        point.arm()
    transport = make_transport(path, backend="none")
    for _ in range(3):
        Notes(returned).write(send(transport, NOWHERE))
    transport.close(0)  # its log goes into the file, so that a broken file is all there is


QUARANTINE = [
    ("spool.store:Store", "_quarantine"),
    ("spool.store:Store", "_begin"),
    ("spool.store:Store", "_connect"),
    ("spool.places:DiskPlace", "publish"),
    ("spool.places", "replace"),
]


@pytest.mark.parametrize(("owner", "name"), QUARANTINE)
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_kill_in_a_quarantine_is_followed_by_one_fresh_file(
    tmp_path: Path, owner: str, name: str, side: str
) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    with Child(quarantine, path, tmp_path / "lost", None) as first:
        assert first.join() == 0
    broken = (path / "current").read_text()
    (path / broken.strip() / "data.db").write_bytes(b"\xff" * 8192)
    nth = 2 if name == "_connect" else 1  # the first is to the file that is broken
    with Child(quarantine, path, returned.path, Point(owner, name, side, nth)) as killed:
        assert killed.join() == -signal.SIGKILL
    with (
        Child(quarantine, path, returned.path, None) as one,
        Child(quarantine, path, returned.path, None) as other,
    ):
        assert one.join() == other.join() == 0
    assert (path / "current").read_text() != broken
    assert set(returned.read()) <= set(stored_ids(path))
    assert set(stored_ids(path)) <= set(readable_ids(path))
    read_ledger(path)
