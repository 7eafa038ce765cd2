"""The bell across processes: heard at once, and waited for without looking."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from raven_spool.drain import machine
from raven_spool.spool.wake import Bell
from raven_spool.transport.spool import SpoolTransport
from tests.faults.children import Child, Notes, wait_for_ever
from tests.faults.events import make_transport, send
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until

_HEARD_SECONDS = 0.5
_IDLE_CPU_SECONDS = 0.1
_WATCHED_SECONDS = 3.0


def lead(path: Path, url: str) -> None:
    send(make_transport(path), url)
    wait_for_ever()


def lead_briefly(path: Path, url: str) -> None:
    machine._LINGER_SECONDS = 0.05
    lead(path, url)


def park(path: Path, url: str, parked: Path) -> None:
    """As `lead`, and lets go soon."""
    machine._LINGER_SECONDS = 0.1
    transport = make_transport(path)
    send(transport, url)
    leadership = transport.flusher.spool.leadership
    wait_until(lambda: leadership.is_held, what="leading")
    wait_until(lambda: not leadership.is_held, what="letting go")
    Notes(parked).write("parked")
    wait_for_ever()


def _time_deliveries(path: Path, ingest: Ingest, count: int) -> list[float]:
    """Seconds from the send in this process to the delivery by another."""
    transport = make_transport(path, backend="none")
    took = []
    for _ in range(count):
        known = len(ingest.event_ids())
        started = time.monotonic()
        send(transport, ingest.url)
        ingest.wait_for(known + 1)
        took.append(time.monotonic() - started)
    return took


def _watch_cpu(child: Child) -> float:
    """Processor time that the child uses while nothing happens."""
    deadline, before = time.monotonic() + _WATCHED_SECONDS, child.cpu_seconds()
    wait_until(lambda: time.monotonic() > deadline)
    return child.cpu_seconds() - before


def test_leader_in_another_process_hears_an_enqueue_at_once(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with Ingest() as ingest, Child(lead, path, ingest.url) as leader:
        ingest.wait_for(1)
        took = _time_deliveries(path, ingest, 10)
        idle = _watch_cpu(leader)
    assert max(took) < _HEARD_SECONDS
    assert idle < _IDLE_CPU_SECONDS


def test_parked_runtime_in_another_process_hears_an_enqueue_at_once(tmp_path: Path) -> None:
    path, parked = tmp_path / "spool", Notes(tmp_path / "parked")
    with Ingest() as ingest, Child(park, path, ingest.url, parked.path) as child:
        parked.wait_for(1)
        idle = _watch_cpu(child)
        took = _time_deliveries(path, ingest, 5)
    assert max(took) < _HEARD_SECONDS
    assert idle < _IDLE_CPU_SECONDS


def test_follower_costs_little_while_another_leads(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with Ingest() as ingest, Child(lead, path, ingest.url):
        ingest.wait_for(1)
        with Child(lead, path, ingest.url) as follower:
            ingest.wait_for(2)
            assert _watch_cpu(follower) < _IDLE_CPU_SECONDS


def test_several_parked_processes_deliver_each_event_once(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with (
        Ingest() as ingest,
        Child(lead_briefly, path, ingest.url) as one,
        Child(lead_briefly, path, ingest.url) as two,
        Child(lead_briefly, path, ingest.url) as three,
    ):
        ingest.wait_for(3)
        _time_deliveries(path, ingest, 20)
        assert one.is_alive
        assert two.is_alive
        assert three.is_alive
        assert len(ingest.event_ids()) == len(set(ingest.event_ids())) == 23


def test_thread_of_the_same_process_hears_at_once(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with Ingest() as ingest:
        transport: SpoolTransport = make_transport(path)
        for number in range(10):
            started = time.monotonic()
            send(transport, ingest.url)
            ingest.wait_for(number + 1)
            assert time.monotonic() - started < _HEARD_SECONDS
        transport.close(5)


def ring_and_change(path: Path, seconds: float) -> None:
    """Threads ring while others find another generation, and what is opened beside stays empty."""
    sys.setswitchinterval(1e-6)
    bell, until, errors = Bell(str(path)), time.monotonic() + seconds, []

    def act(act_once: Callable[[str], object], generations: list[str]) -> None:
        try:
            while time.monotonic() < until:
                for generation in generations:
                    act_once(generation)
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=act, args=(bell.ring, ["g-1"])),
        threading.Thread(target=act, args=(bell.ring, ["g-1", "g-2"])),
        threading.Thread(target=act, args=(bell.descriptor, ["g-2", "g-3"])),
        threading.Thread(target=act, args=(lambda _: bell.silence(), [""])),
    ]
    for thread in threads:
        thread.start()
    while time.monotonic() < until:
        with (path / "beside").open("w+b") as file:
            time.sleep(1e-5)
            assert file.read() == b""
    for thread in threads:
        thread.join()
    assert not errors, errors


def test_threads_that_ring_while_the_spool_is_made_anew_stay_out_of_each_others_way(
    tmp_path: Path,
) -> None:
    """A send raised IndexError once in some rounds of eight processes on a broken spool."""
    with Child(ring_and_change, tmp_path, 1.0) as child:
        assert child.join() == 0
