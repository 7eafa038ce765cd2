"""Processes that are stopped where it hurts: with the gate in hand, in the queue, leading."""

import signal
import statistics
import time
from pathlib import Path

import pytest

from raven_spool.spool.gate import Gate
from raven_spool.spool.queue import EventQueue
from tests.faults.children import Child, Notes, wait_for_ever
from tests.faults.events import (
    check_nothing_lost,
    count_repeats,
    make_transport,
    read_ledger,
    send,
    stored_ids,
)
from tests.support import answers, evidence
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until

SEND_TIMEOUT = 0.2
_MARGIN_SECONDS = 0.3  # two busy processors
_TAKEOVER_SECONDS = 4.0  # promised: about one


# -- writers --------------------------------------------------------------------------------------


def stop_with_the_gate(path: Path, returned: Path, url: str) -> None:
    """Stands still, of its own accord, in the middle of a commit."""
    original = EventQueue.insert

    def insert(self: EventQueue, rows: object) -> object:
        signal.raise_signal(signal.SIGSTOP)
        return original(self, rows)

    EventQueue.insert = insert
    _send_and_note(path, returned, url)


def stop_in_the_queue(path: Path, returned: Path, url: str) -> None:
    """Stands still while it holds the queue's lock and waits for the gate."""

    def wait_for_main(self: Gate, deadline: float) -> bool:
        signal.raise_signal(signal.SIGSTOP)
        return original(self, deadline)

    original = Gate._wait_for_main
    Gate._wait_for_main = wait_for_main
    _send_and_note(path, returned, url)


def _send_and_note(path: Path, returned: Path, url: str) -> None:
    transport = make_transport(path, backend="none")
    Notes(returned).write(send(transport, url))
    wait_until(lambda: transport.flusher.spool.volatile == 0, what="the commit")


def hold_the_gate(path: Path, ready: Path, let_go: Path) -> None:
    gate = Gate(str(path))
    assert gate.acquire(time.monotonic() + 5)
    Notes(ready).write("held")
    wait_until(let_go.exists)
    gate.release()


def _wait_for_stop(child: Child) -> None:
    state = Path(f"/proc/{child.pid}/stat")
    wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", what="the stop")


def _time_sends(path: Path, url: str, count: int) -> tuple[list[str], float]:
    transport = make_transport(path, backend="none", send_timeout=SEND_TIMEOUT)
    ids, worst = [], 0.0
    for _ in range(count):
        started = time.monotonic()
        ids.append(send(transport, url))
        worst = max(worst, time.monotonic() - started)
    return ids, worst


@pytest.mark.evidence
def test_writer_stopped_with_the_gate_makes_others_volatile_until_it_moves(
    tmp_path: Path,
) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    with Ingest() as ingest:
        before, _ = _time_sends(path, ingest.url, 1)
        with Child(stop_with_the_gate, path, returned.path, ingest.url) as stopped:
            _wait_for_stop(stopped)
            ids, worst = _time_sends(path, ingest.url, 5)
            assert worst < SEND_TIMEOUT + _MARGIN_SECONDS
            transport = make_transport(path, backend="none")
            assert transport.stats()["volatile"] == 5
            assert stored_ids(path) == before
            stopped.resume()
            wait_until(lambda: set(ids) <= set(stored_ids(path)), what="the commit")
            assert stopped.join() == 0
        assert transport.stats()["volatile"] == 0
    assert sorted(stored_ids(path)) == sorted([*before, *ids, *returned.read()])
    evidence.note(
        "SIGSTOP of a writer in the middle of its commit, SIGCONT later",
        promise=4,
        tried="1 stop",
        events=len(ids),
        lost=0,
        twice=0,
        seen=f"another process's worst send meanwhile {worst:.2f} s (send_timeout 0.2 s)",
    )


def test_writer_killed_with_the_gate_frees_it_at_once(tmp_path: Path) -> None:
    path, returned = tmp_path / "spool", tmp_path / "returned"
    with Ingest() as ingest:
        _time_sends(path, ingest.url, 1)
        with Child(stop_with_the_gate, path, returned, ingest.url) as stopped:
            _wait_for_stop(stopped)
            stopped.kill()
        ids, worst = _time_sends(path, ingest.url, 5)
    assert worst < SEND_TIMEOUT
    assert set(ids) <= set(stored_ids(path))


def test_writer_stopped_in_the_queue_holds_up_nobody(tmp_path: Path) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    ready, let_go = Notes(tmp_path / "ready"), tmp_path / "let-go"
    with Ingest() as ingest:
        _time_sends(path, ingest.url, 1)
        with Child(hold_the_gate, path, ready.path, let_go) as holder:
            ready.wait_for(1)
            with Child(stop_in_the_queue, path, returned.path, ingest.url) as stopped:
                _wait_for_stop(stopped)
                let_go.touch()
                assert holder.join() == 0
                ids, worst = _time_sends(path, ingest.url, 20)
                assert worst < SEND_TIMEOUT
                assert set(ids) <= set(stored_ids(path))
                stopped.resume()
                assert stopped.join() == 0
        assert set(returned.read()) <= set(stored_ids(path))


def test_full_memory_does_not_make_sends_slow(tmp_path: Path) -> None:
    """More events than memory has room for, while a stopped process holds the gate."""
    path, returned = tmp_path / "spool", tmp_path / "returned"
    with Ingest() as ingest:
        transport = make_transport(path, backend="none", send_timeout=0.001)
        send(transport, ingest.url)
        with Child(stop_with_the_gate, path, returned, ingest.url) as stopped:
            _wait_for_stop(stopped)
            slow = 0
            ids = []
            for _ in range(1010):
                started = time.monotonic()
                ids.append(send(transport, ingest.url))
                slow += time.monotonic() - started > _MARGIN_SECONDS
            assert slow <= 1  # the thread that delivers from memory is started once
            stopped.resume()
            wait_until(lambda: transport.stats()["volatile"] == 0, what="the commits")
            assert stopped.join() == 0
        check_nothing_lost(ids, ingest, path)


# -- leaders --------------------------------------------------------------------------------------


def lead(path: Path, returned: Path, url: str) -> None:
    transport = make_transport(path)
    Notes(returned).write(send(transport, url))
    wait_for_ever()


@pytest.mark.evidence
def test_killed_leader_is_followed_within_about_a_second(tmp_path: Path) -> None:
    took = []
    for number in range(5):
        path = tmp_path / f"spool{number}"
        returned = Notes(tmp_path / f"returned{number}")
        gate = answers.Gate()
        with Ingest() as ingest, Child(lead, path, returned.path, ingest.url) as leader:
            ingest.wait_for(1)
            with Child(lead, path, returned.path, ingest.url) as follower:
                ingest.wait_for(2)
                ingest.answer_with(answers.held(gate, answers.drop()))
                sent, _ = _time_sends(path, ingest.url, 3)
                gate.wait_until_held()
                leader.kill()
                ingest.answer_with(answers.ok())
                gate.release()
                started = time.monotonic()
                wait_until(lambda ids=sent: set(ids) <= set(ingest.event_ids()), timeout_seconds=20)
                took.append(time.monotonic() - started)
                follower.kill()
    assert max(took) < _TAKEOVER_SECONDS, took
    assert statistics.median(took) < 2, took
    evidence.note(
        "SIGKILL of the leader in a request; another process takes over",
        promise=5,
        tried=f"{len(took)} kills",
        events=3 * len(took),
        lost=0,
        seen=f"all delivered after {statistics.median(took):.2f} s, at worst {max(took):.2f} s",
    )


def test_killed_leader_is_followed_by_one_that_has_long_been_idle(tmp_path: Path) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    with Ingest() as ingest, Child(lead, path, returned.path, ingest.url) as leader:
        ingest.wait_for(1)
        with Child(lead, path, returned.path, ingest.url) as follower:
            ingest.wait_for(2)
            # The follower has nothing to do for some looks, while the leader stays awake.
            for number in range(8):
                _time_sends(path, ingest.url, 1)
                ingest.wait_for(3 + number)
                _pause(ingest)
            gate = answers.Gate()
            ingest.answer_with(answers.held(gate, answers.drop()))
            sent, _ = _time_sends(path, ingest.url, 1)
            gate.wait_until_held()
            leader.kill()
            ingest.answer_with(answers.ok())
            gate.release()
            started = time.monotonic()
            wait_until(lambda: set(sent) <= set(ingest.event_ids()), timeout_seconds=20)
            assert time.monotonic() - started < _TAKEOVER_SECONDS
            assert follower.is_alive


def _pause(ingest: Ingest) -> None:
    """Half a second in which nothing is sent."""
    deadline = time.monotonic() + 0.5
    wait_until(lambda: time.monotonic() > deadline)


@pytest.mark.evidence
def test_stopped_leader_that_wakes_does_no_harm(tmp_path: Path) -> None:
    """Its lock file is removed meanwhile, as an impatient operator would; another leads."""
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    gate = answers.Gate()
    with Ingest() as ingest, Child(lead, path, returned.path, ingest.url) as old:
        ingest.wait_for(1)
        ingest.answer_with(answers.held(gate, answers.drop()))
        sent, _ = _time_sends(path, ingest.url, 50)
        gate.wait_until_held()
        old.stop()
        (path / "drain.lock").unlink()
        ingest.answer_with(answers.ok())
        with Child(lead, path, returned.path, ingest.url) as new:
            wait_until(lambda: set(sent) <= set(ingest.event_ids()), what="the new leader's work")
            old.resume()
            gate.release()
            more, _ = _time_sends(path, ingest.url, 50)
            wait_until(lambda: set(more) <= set(ingest.event_ids()), what="delivery")
            wait_until(lambda: read_ledger(path)["ready"] == 0, what="the last ack")
            new.kill()
        # What its four workers had in flight, and one more each before they look.
        assert count_repeats(ingest) <= 8
        check_nothing_lost([*sent, *more, *returned.read()], ingest, path)
        assert read_ledger(path)["delivered"] == len(set(ingest.event_ids()))
        evidence.note(
            "a stopped leader, its lock file removed, wakes beside the one that took over",
            promise=3,
            tried="1 stop",
            events=len(set(ingest.event_ids())),
            lost=0,
            twice=count_repeats(ingest),
        )


def test_stopped_leader_goes_on_after_it_was_resumed(tmp_path: Path) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    with Ingest() as ingest, Child(lead, path, returned.path, ingest.url) as leader:
        ingest.wait_for(1)
        leader.stop()
        sent, worst = _time_sends(path, ingest.url, 20)
        assert worst < SEND_TIMEOUT + _MARGIN_SECONDS
        leader.resume()
        wait_until(lambda: set(sent) <= set(ingest.event_ids()), what="delivery")
        assert count_repeats(ingest) == 0
