"""Servers that misbehave in every way at once: what becomes of the events of the whole system."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.events import (
    body_of,
    check_nothing_lost,
    count_repeats,
    make_transport,
    new_id,
    read_ledger,
)
from tests.support import answers, evidence
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
        transport = make_transport(path, timeout=TIMEOUT_SECONDS, wait=lambda state: 0.2)
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
