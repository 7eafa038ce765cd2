"""What each transport makes of a server's answers."""

from pathlib import Path

import pytest

from raven_spool.model import State
from tests.contract.transports.application import Application
from tests.contract.transports.choosing import every_transport, transports_with_our_sender
from tests.contract.transports.rows import Delivery
from tests.contract.transports.stored import (
    read_counts,
    read_events,
    read_holds,
    wait_for_attempt,
    wait_for_limit,
)
from tests.support.answers import Answer, html, limits, ok, redirect, status, too_many
from tests.support.ingest import Ingest

WORDS = "scripted: no"


def refuse(code: int) -> Answer:
    return status(code, (("X-Sentry-Error", WORDS),))


@every_transport
def test_accepted_events_are_delivered_once(app: Application, ingest: Ingest, path: Path) -> None:
    """A 2xx acknowledges: each event arrives once, by the way the transport has."""
    app.open(ingest.dsn(), path)
    ids = app.capture(5)
    if app.row.delivery is Delivery.ON_FLUSH:
        assert ingest.requests == []
    else:
        ingest.wait_for(5)
    assert app.flush()
    assert sorted(ingest.event_ids()) == sorted(ids)
    assert read_counts(path)["delivered"] == 5


@pytest.mark.parametrize("code", [400, 413])
@every_transport
def test_the_events_fault_buries_it(
    app: Application, ingest: Ingest, path: Path, code: int
) -> None:
    """400, 413 and their like: dead at once, with status and X-Sentry-Error; others go on."""
    ingest.answer_with(refuse(code), ok())
    app.open(ingest.dsn(), path, concurrency=1)
    (bad,) = app.capture()
    app.flush()
    (good,) = app.capture()
    assert app.flush()
    dead = read_events(path)[bad]
    assert dead.state is State.DEAD
    assert dead.reason.startswith(f"HTTP {code} ")
    assert WORDS in dead.reason
    assert ingest.event_ids() == [good]
    assert len(ingest.requests) == 2


@pytest.mark.parametrize("code", [401, 403, 404])
@every_transport
def test_the_destinations_fault_holds_it(
    app: Application, ingest: Ingest, path: Path, code: int
) -> None:
    """401, 403, 404: the destination is held and nothing dies; mended, it gets all events."""
    ingest.answer_with(refuse(code))
    check_that_the_destination_is_held(app, ingest, path, f"HTTP {code} ")


@transports_with_our_sender
def test_a_redirect_is_not_followed(app: Application, ingest: Ingest, path: Path) -> None:
    """301: as the destination's fault; not followed (a POST would become a GET)."""
    ingest.answer_with(redirect(f"{ingest.url}/elsewhere", 301))
    check_that_the_destination_is_held(app, ingest, path, "HTTP 301 ")
    assert {(seen.method, seen.path) for seen in ingest.requests} == {("POST", "/api/1/store/")}


def check_that_the_destination_is_held(
    app: Application, ingest: Ingest, path: Path, reason: str
) -> None:
    app.open(ingest.dsn(), path)
    ids = app.capture()
    stored = wait_for_attempt(app, path, ids[0])
    assert stored.state is State.READY
    assert stored.reason.startswith(reason)
    assert read_holds(path) == {"refused"}
    ids += app.capture(2)
    assert read_counts(path)["ready"] == 3
    ingest.answer_with(ok())
    assert app.flush()
    assert sorted(ingest.event_ids()) == sorted(ids)


@pytest.mark.parametrize("code", [500, 503])
@every_transport
def test_a_servers_fault_is_retried(
    app: Application, ingest: Ingest, path: Path, code: int
) -> None:
    """500, 503: the event stays ready and arrives once when the server is well."""
    ingest.answer_with(status(code))
    app.open(ingest.dsn(), path)
    (event_id,) = app.capture()
    stored = wait_for_attempt(app, path, event_id)
    assert (stored.state, stored.reason[:8]) == (State.READY, f"HTTP {code}")
    ingest.answer_with(ok())
    assert app.flush()
    assert ingest.event_ids() == [event_id]


@transports_with_our_sender
def test_a_web_page_is_not_an_acknowledgement(app: Application, ingest: Ingest, path: Path) -> None:
    """200 with HTML, a captive portal's page: retried."""
    ingest.answer_with(html())
    app.open(ingest.dsn(), path)
    (event_id,) = app.capture()
    stored = wait_for_attempt(app, path, event_id)
    assert (stored.state, stored.reason) == (State.READY, "HTTP 200 OK: a web page, not Sentry")
    ingest.answer_with(ok())
    before = len(ingest.event_ids())  # the ingest takes any 200 for its own
    assert app.flush()
    assert ingest.event_ids()[before:] == [event_id]


LIMITS = [
    pytest.param(too_many("60"), id="Retry-After"),
    pytest.param(limits("60:error:organization"), id="X-Sentry-Rate-Limits"),
]


@pytest.mark.parametrize("limit", LIMITS[:1])
@every_transport
def test_a_limit_holds_events_back(
    app: Application, ingest: Ingest, path: Path, limit: Answer
) -> None:
    """429 with Retry-After: no request until then, not even by flush; nothing counts against it."""
    check_that_events_are_held_back(app, ingest, path, limit)


@pytest.mark.parametrize("limit", LIMITS[1:])
@transports_with_our_sender
def test_a_limit_of_a_category_holds_events_back(
    app: Application, ingest: Ingest, path: Path, limit: Answer
) -> None:
    """X-Sentry-Rate-Limits: the same."""
    check_that_events_are_held_back(app, ingest, path, limit)


def check_that_events_are_held_back(
    app: Application, ingest: Ingest, path: Path, limit: Answer
) -> None:
    ingest.answer_with(limit, ok())
    app.open(ingest.dsn(), path)
    ids = app.capture()
    wait_for_limit(app, path)
    ids += app.capture(3)
    assert app.flush(0.2) is False
    assert len(ingest.requests) == 1
    events = read_events(path)
    assert {events[one].state for one in ids} == {State.READY}
    assert events[ids[0]].attempts == 0


@every_transport
def test_events_go_out_when_the_limit_has_passed(
    app: Application, ingest: Ingest, path: Path
) -> None:
    """After the limit's time they are delivered, and not before it."""
    ingest.answer_with(too_many("1"), ok())
    app.open(ingest.dsn(), path, concurrency=1)
    ids = app.capture(3)
    assert app.flush()
    assert sorted(ingest.event_ids()) == sorted(ids)
    first, *others = ingest.requests
    assert min(seen.at for seen in others) >= first.at + 0.99
