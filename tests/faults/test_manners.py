"""What a server sees that is in trouble: one probe at a time, and nothing while it said to wait."""

from itertools import pairwise
from pathlib import Path

import pytest

from tests.faults.children import Child, wait_for_ever
from tests.faults.events import check_nothing_lost, make_transport, send
from tests.support import evidence
from tests.support.answers import ok, slow, status, too_many
from tests.support.ingest import Ingest, Seen

WORKERS = 4
PROCESSES = 4
EVENTS = 100
FAILURES = WORKERS + 3
ANSWER_SECONDS = 0.05
RETRY_AFTER_SECONDS = 2


def fill(path: Path, url: str) -> list[str]:
    transport = make_transport(path, backend="none")
    ids = [send(transport, url) for _ in range(EVENTS)]
    transport.close()
    return ids


def send_and_stay(path: Path, url: str) -> None:
    transport = make_transport(path, concurrency=WORKERS)
    send(transport, url)
    wait_for_ever()


def drain_with_many(path: Path, ingest: Ingest) -> list[Seen]:
    """All requests until everything has arrived."""
    children = [Child(send_and_stay, path, ingest.url) for _ in range(PROCESSES)]
    try:
        ingest.wait_for(EVENTS + PROCESSES, timeout_seconds=60)
    finally:
        for child in children:
            child.kill()
    return ingest.requests


@pytest.mark.evidence
def test_server_that_fails_is_probed_by_one_request_at_a_time(tmp_path: Path) -> None:
    with Ingest() as ingest:
        ids = fill(tmp_path / "spool", ingest.url)
        ingest.answer_with(*[slow(ANSWER_SECONDS, status(503))] * FAILURES, ok())
        requests = drain_with_many(tmp_path / "spool", ingest)
        check_nothing_lost(ids, ingest, tmp_path / "spool")
    failed = [seen for seen in requests if seen.status == 503]
    assert len(failed) == FAILURES
    probes = failed[WORKERS:]  # what was under way when the first answer came has been sent
    # Both are begun at the server's end: a probe is sent after the answer to the one before.
    assert all(later.at - earlier.at >= ANSWER_SECONDS for earlier, later in pairwise(probes))
    evidence.note(
        f"a server that says 503, with {EVENTS} events waiting and {PROCESSES} processes",
        promise=6,
        tried=f"{FAILURES} failures",
        events=EVENTS,
        lost=0,
        seen=f"from the first answer on one request at a time, by {WORKERS} workers each",
    )


@pytest.mark.evidence
def test_nothing_is_sent_before_the_time_that_a_server_named(tmp_path: Path) -> None:
    with Ingest() as ingest:
        ids = fill(tmp_path / "spool", ingest.url)
        ingest.answer_with(*[too_many(str(RETRY_AFTER_SECONDS))] * WORKERS, ok())
        requests = drain_with_many(tmp_path / "spool", ingest)
        check_nothing_lost(ids, ingest, tmp_path / "spool")
    first, *others = requests
    refused = [seen for seen in others if seen.at < first.at + RETRY_AFTER_SECONDS]
    assert len(refused) < WORKERS  # those were under way already
    assert all(seen.status == 429 for seen in refused)
    evidence.note(
        f"429 with Retry-After, {EVENTS} events waiting and {PROCESSES} processes",
        promise=6,
        tried="1 limit",
        events=EVENTS,
        lost=0,
        seen=f"{len(refused)} more requests within the {RETRY_AFTER_SECONDS} s",
    )
