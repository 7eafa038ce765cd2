"""The transports whose `send` delivers: what it does and what it never does."""

from collections.abc import Callable
from pathlib import Path

from tests.contract.transports.application import Application
from tests.contract.transports.choosing import transports_that_deliver_in_send
from tests.contract.transports.rows import ROWS
from tests.contract.transports.stored import read_counts, read_holds
from tests.support.answers import Gate, held, ok, status, too_many
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
    ingest.answer_with(too_many("60"), ok())
    app.open(ingest.dsn(), path)
    app.capture()
    assert read_holds(path) == {"limited"}
    took = app.time_capture(5).seconds
    assert len(ingest.requests) == 1
    assert read_counts(path)["ready"] == 6
    assert took < 5


@transports_that_deliver_in_send
def test_send_to_a_refusing_destination_returns_after_the_commit(
    app: Application, ingest: Ingest, path: Path
) -> None:
    """To a destination that backs off, the same: no `send` waits until it may be tried again."""
    ingest.answer_with(status(503), ok())
    app.open(ingest.dsn(), path)
    ids = app.capture(2)
    seen = ingest.requests
    # The second went out only if the back-off (up to a second) had passed by itself.
    assert len(seen) == 1 or seen[1].at > seen[0].at
    assert app.flush()
    assert sorted(ingest.event_ids()) == sorted(ids)


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
    other.open(ingest.dsn(), path, backend="none")
    older = other.capture(3)
    assert ingest.requests == []
    other.kill()
    app.open(ingest.dsn(), path, timeout=LONG_SECONDS)
    (own,) = app.capture()
    assert ingest.event_ids() == [own, *older]
