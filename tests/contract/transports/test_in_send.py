"""The transports whose `send` delivers: what it does and what it never does."""

from collections.abc import Callable
from pathlib import Path

from tests.contract.transports.application import Application
from tests.contract.transports.choosing import transports_that_deliver_in_send
from tests.contract.transports.stored import back_off, read_counts, read_holds
from tests.support.answers import Gate, held, ok, silence, status, too_many
from tests.support.ingest import Ingest

LONG_SECONDS = 20.0  # of which no test waits out any


@transports_that_deliver_in_send
def test_its_event_is_delivered_when_send_returns(
    app: Application, ingest: Ingest, path: Path
) -> None:
    """When `send` returns its event has been delivered."""
    app.open(ingest.dsn(), path)
    for number in range(1, 4):
        (event_id,) = app.capture()
        assert ingest.event_ids()[-1] == event_id
        assert read_counts(path)["delivered"] == number


@transports_that_deliver_in_send
def test_send_to_a_limited_destination_returns_after_the_commit(
    app: Application, ingest: Ingest, path: Path
) -> None:
    """To a destination that is limited, `send` makes no request and waits for nothing."""
    ingest.answer_with(too_many("60"), silence())
    app.open(ingest.dsn(), path, timeout=LONG_SECONDS)
    app.capture()
    assert read_holds(path) == {"limited"}
    check_that_sends_make_no_request(app, ingest, path)


@transports_that_deliver_in_send
def test_send_to_a_destination_that_backs_off_returns_after_the_commit(
    app: Application, ingest: Ingest, path: Path
) -> None:
    """To a destination that backs off, the same."""
    ingest.answer_with(status(503), silence())
    app.open(ingest.dsn(), path, timeout=LONG_SECONDS)
    app.capture()
    back_off(path, 60)
    check_that_sends_make_no_request(app, ingest, path)


def check_that_sends_make_no_request(app: Application, ingest: Ingest, path: Path) -> None:
    took = app.time_capture(5).seconds
    assert len(ingest.requests) == 1
    assert read_counts(path)["ready"] == 6
    assert took < LONG_SECONDS


@transports_that_deliver_in_send
def test_send_takes_no_longer_than_its_timeout(
    app: Application, ingest: Ingest, path: Path
) -> None:
    """A server that does not answer: `send` returns after `timeout`, the event is kept."""
    gate = Gate()
    ingest.answer_with(held(gate), ok())
    app.open(ingest.dsn(), path, timeout=0.5)
    captured = app.time_capture()  # it has returned, and the gate is still shut
    assert 0.5 <= captured.seconds < LONG_SECONDS
    assert read_counts(path)["ready"] == 1
    gate.release()
    assert app.flush()
    assert [seen.event_id for seen in ingest.requests] == captured.ids * 2


@transports_that_deliver_in_send
def test_send_takes_older_events_along(
    app: Application, ingest: Ingest, path: Path, start_another: Callable[[], Application]
) -> None:
    """What others left in the spool goes out behind the own event, before `send` returns."""
    other = start_another()
    other.open(ingest.dsn(), path, timeout=LONG_SECONDS, backend="none")
    older = other.capture(3)
    assert ingest.requests == []
    other.kill()
    app.open(ingest.dsn(), path, timeout=LONG_SECONDS)
    (own,) = app.capture()
    assert ingest.event_ids() == [own, *older]
