"""Servers that misbehave in every way at once: what becomes of the events of the whole system."""

import itertools
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from raven_spool.spool import Spool
from tests.faults.events import (
    body_of,
    check_nothing_lost,
    count_repeats,
    make_transport,
    new_id,
    read_ledger,
)
from tests.support import answers, certificates, evidence
from tests.support.ingest import Ingest, Seen
from tests.support.waiting import wait_until

TIMEOUT_SECONDS = 0.5
_SETTLED_SECONDS = 30.0

# What a server can do to one event; after that it answers.
MISCHIEF = {
    "slow": answers.slow(0.1),
    "silence": answers.silence(),
    "trickle": answers.trickle(0.05),
    "trickle-body": answers.trickle_body(0.05),
    "endless-headers": answers.endless_headers(),
    "wrong-length": answers.wrong_length(),
    "redirect": answers.redirect("https://elsewhere.invalid/"),
    "html": answers.html(),
    "html-502": answers.html(502),
    "500": answers.status(500),
    "429": answers.too_many("1"),
    "limits": answers.limits("1:error:organization"),
    "reset": answers.reset(),
    "drop": answers.drop(),
    "half": answers.half(),
    "half-headers": answers.half_headers(),
    "garbage": answers.garbage(),
}


class Flapping:
    """Each project's server is in another trouble until it is mended; the first of all is well."""

    def __init__(self) -> None:
        self.mended = threading.Event()
        self._kinds = list(MISCHIEF)

    def __call__(self, seen: Seen) -> answers.Answer:
        project = int(seen.path.split("/")[2])
        if project < len(self._kinds) and not self.mended.is_set():
            return MISCHIEF[self._kinds[project]]
        return answers.ok()


def _send(transport, url: str, project: int) -> str:
    event_id = new_id()
    auth = {
        "X-Sentry-Auth": f"Sentry sentry_version=6, sentry_key=key{project}",
        "Content-Type": "application/json",
    }
    return transport.send(f"{url}/api/{project}/store/", body_of(event_id), auth)


def _taken(ingest: Ingest) -> Iterator[str | None]:
    """What a Sentry took: a portal's page is a 200 as well, and takes nothing."""
    for seen in ingest.requests:
        if seen.accepted and seen.answer != answers.html().name:
            yield seen.event_id


@pytest.mark.evidence
def test_every_kind_of_trouble_at_once_loses_nothing_and_holds_up_nobody(tmp_path: Path) -> None:
    path, flapping, live = tmp_path / "spool", Flapping(), len(MISCHIEF)
    with Ingest() as ingest:
        ingest.answer_by(flapping)
        transport = make_transport(path, timeout=TIMEOUT_SECONDS)
        ids = defaultdict(list)
        for _ in range(3):
            for project in range(live + 1):
                ids[project].append(_send(transport, ingest.url, project))
        started = time.monotonic()
        wait_until(lambda: set(ids[live]) <= set(ingest.event_ids()), what="the live one's events")
        took = time.monotonic() - started
        flapping.mended.set()
        every = [one for some in ids.values() for one in some]
        wait_until(
            lambda: set(every) <= set(ingest.event_ids()),
            timeout_seconds=_SETTLED_SECONDS,
            what="all events",
        )
        wait_until(lambda: transport.stats()["ready"] == 0, what="the last ack")
        transport.close(2)
        check_nothing_lost(every, ingest, path)
        taken, ledger = list(_taken(ingest)), read_ledger(path)
    assert (ledger["delivered"], ledger["dead"]) == (len(every), 0)
    assert set(taken) == set(every)
    repeats = len(taken) - len(every)
    assert repeats == 0
    # Each of the others may cost a timeout once, with four workers.
    assert took < live * TIMEOUT_SECONDS + 10
    evidence.note(
        "servers in every kind of trouble at once, then well",
        promise=6,
        tried=f"{len(MISCHIEF)} kinds",
        events=len(every),
        lost=0,
        twice=repeats,
        seen=f"the live one's last event after {took:.1f} s",
    )


@pytest.mark.evidence
def test_live_destinations_are_delivered_among_many_dead_ones(tmp_path: Path) -> None:
    """Of 300 projects in one spool one in three is silent or answers 500, others are limited."""
    path, projects = tmp_path / "spool", 300

    def answer(seen: Seen) -> answers.Answer:
        project = int(seen.path.split("/")[2])
        if project % 15 == 0:
            return answers.silence()
        if project % 3 == 0:
            return answers.status(500)
        return answers.too_many("3600") if project % 10 == 1 else answers.ok()

    def is_live(project: int) -> bool:
        return bool(project % 3) and project % 10 != 1

    with Ingest() as ingest:
        ingest.answer_by(answer)
        # A busy machine may have an answer ready late: what is not heard is sent again.
        transport = make_transport(path, timeout=1, wait=lambda state: 0.2)
        sent = {project: _send(transport, ingest.url, project) for project in range(projects)}
        live = {sent[project] for project in range(projects) if is_live(project)}
        started = time.monotonic()
        wait_until(lambda: live <= set(ingest.event_ids()), what="the first of the live ones")
        first = time.monotonic() - started
        # By now the dead are known as such.
        more = {_send(transport, ingest.url, p) for p in range(projects) if is_live(p)}
        started = time.monotonic()
        wait_until(lambda: more <= set(ingest.event_ids()), what="the live ones")
        second = time.monotonic() - started
        transport.close(2)
        check_nothing_lost([*sent.values(), *more], ingest, path)
        assert read_ledger(path)["dead"] == 0
        assert count_repeats(ingest) == 0
    evidence.note(
        "hundreds of projects in one spool, 40% of them dead: silent, answering 500, limited",
        promise=6,
        tried=f"{projects} projects",
        events=len(live) + len(more),
        lost=0,
        twice=0,
        seen=f"all live ones after {first:.1f} s, and {second:.1f} s once the dead were known",
    )


# -- servers that can't be reached ----------------------------------------------------------------

_HOSTS = ("localhost", "127.0.0.1")
BROKEN_TLS = {
    "expired": lambda: certificates.expired_context(_HOSTS),
    "wrong host": lambda: certificates.server_context(("elsewhere.invalid",)),
    "plain HTTP": lambda: False,
}


def _send_tls(transport, port: int) -> str:
    return _send(transport, f"https://localhost:{port}", 1)


def _check_mended(transport, ids: list[str], ingest: Ingest, path: Path) -> None:
    ingest.wait_for(len(ids))
    wait_until(lambda: transport.stats()["ready"] == 0, what="the last ack")
    transport.close(2)
    check_nothing_lost(ids, ingest, path)
    ledger = read_ledger(path)
    assert (ledger["delivered"], ledger["dead"], count_repeats(ingest)) == (len(ids), 0, 0)


def _wait_until_tried(path: Path) -> None:
    """In vain: its destination is held for that."""
    spool = Spool(str(path))
    wait_until(lambda: any(lane.failures for lane, _ in spool.all_lanes()), what="a failed attempt")
    spool.finish()


@pytest.mark.evidence
@pytest.mark.parametrize("kind", [*BROKEN_TLS, "unknown authority"])
def test_events_wait_for_a_certificate_that_holds(tmp_path: Path, kind: str) -> None:
    path, context = tmp_path / "spool", BROKEN_TLS.get(kind, lambda: True)()
    trusted = None if kind == "unknown authority" else certificates.authority_file()
    with Ingest(tls=context) as broken:
        transport = make_transport(path, timeout=TIMEOUT_SECONDS, ca_certs=trusted)
        ids = [_send_tls(transport, broken.port) for _ in range(5)]
        _wait_until_tried(path)
        assert broken.event_ids() == []
        transport.close(0)
        if kind == "unknown authority":  # then no server can mend it
            assert read_ledger(path)["ready"] == len(ids)
            return
    with Ingest(port=broken.port, tls=True) as mended:
        transport = make_transport(path, timeout=TIMEOUT_SECONDS, ca_certs=trusted)
        ids.append(_send_tls(transport, mended.port))
        _check_mended(transport, ids, mended, path)
    evidence.note(
        f"a server whose TLS is broken, then mended: {kind}",
        promise=6,
        tried="1 way",
        events=len(ids),
        lost=0,
        twice=0,
    )


@pytest.mark.evidence
def test_server_that_takes_no_connections_holds_up_nobody(tmp_path: Path) -> None:
    """Its backlog is full, so the kernel drops what would connect, and says nothing."""
    path = tmp_path / "spool"
    with ExitStack() as full, Ingest() as live:
        listener = full.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        _fill_backlog(full, port)
        transport = make_transport(path, timeout=TIMEOUT_SECONDS)
        slow = [_send(transport, f"http://127.0.0.1:{port}", 1) for _ in range(5)]
        _wait_until_tried(path)
        ids = [_send(transport, live.url, 1) for _ in range(50)]
        live.wait_for(len(ids))
        full.close()
        with Ingest(port=port) as mended:
            mended.wait_for(len(slow))
            wait_until(lambda: transport.stats()["ready"] == 0, what="the last ack")
            transport.close(2)
            check_nothing_lost(slow, mended, path)
            assert count_repeats(mended) == count_repeats(live) == 0
    evidence.note(
        "a server whose backlog of connections is full, beside a live one, then well",
        promise=6,
        tried="1 server",
        events=len(ids) + len(slow),
        lost=0,
        twice=0,
    )


def _fill_backlog(stack: ExitStack, port: int) -> None:
    for _ in range(20):
        sock = stack.enter_context(socket.socket())
        sock.settimeout(0.2)
        try:
            sock.connect(("127.0.0.1", port))
        except TimeoutError:
            return
    raise AssertionError("it takes any number of connections")


@pytest.mark.evidence
def test_steady_server_is_served_beside_one_that_flaps_at_each_request(tmp_path: Path) -> None:
    path, kinds = tmp_path / "spool", list(MISCHIEF.values())
    course = itertools.chain.from_iterable((kind, answers.ok()) for kind in kinds)
    with Ingest() as flapping, Ingest() as steady:
        flapping.answer_with(*course)
        transport = make_transport(path, timeout=TIMEOUT_SECONDS)
        ids = [_send(transport, flapping.url, 1) for _ in kinds]
        more = [_send(transport, steady.url, 1) for _ in range(200)]
        steady.wait_for(len(more))
        tried = len(flapping.requests)
        wait_until(
            lambda: transport.stats()["ready"] == 0,
            timeout_seconds=_SETTLED_SECONDS,
            what="the last ack",
        )
        transport.close(2)
        check_nothing_lost(ids, flapping, path)
        check_nothing_lost(more, steady, path)
        ledger = read_ledger(path)
    assert (ledger["delivered"], ledger["dead"]) == (len(ids) + len(more), 0)
    assert tried < 2 * len(kinds)  # the steady one did not wait for its end
    assert count_repeats(steady) == 0
    evidence.note(
        "a server that answers each request in another way, beside a steady one",
        promise=6,
        tried=f"{len(kinds)} kinds",
        events=len(ids) + len(more),
        lost=0,
        twice=count_repeats(flapping),
    )
