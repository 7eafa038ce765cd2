"""What outlives the process: each scenario ends one and starts the next on the same spool."""

from collections.abc import Callable
from pathlib import Path

from tests.contract.transports.application import Application
from tests.contract.transports.choosing import every_transport
from tests.contract.transports.rows import Delivery
from tests.contract.transports.stored import read_counts, wait_for_limit
from tests.support.answers import Gate, held, ok, too_many
from tests.support.ingest import Ingest

Start = Callable[[], Application]


@every_transport
def test_events_outlive_a_kill_right_after_capture(
    app: Application, ingest: Ingest, path: Path, start_another: Start
) -> None:
    """SIGKILL the moment capture has returned, server away: the next process delivers."""
    ingest.stop()
    doomed = start_another()
    doomed.open(ingest.dsn(), path)
    ids = doomed.capture_and_die(5)
    ingest.start()
    app.open(ingest.dsn(), path)
    assert app.flush()
    assert sorted(ingest.event_ids()) == sorted(ids)


@every_transport
def test_an_event_outlives_a_kill_in_the_middle_of_its_request(
    app: Application, ingest: Ingest, path: Path, start_another: Start
) -> None:
    """SIGKILL while the server holds the request: delivered again, twice at most."""
    gate = Gate()
    ingest.answer_with(held(gate), ok())
    doomed = start_another()
    doomed.open(ingest.dsn(), path)
    doomed.tell("capture", count=1)
    if app.row.delivery is Delivery.ON_FLUSH:
        doomed.read()
        doomed.tell("flush", timeout=20)
    gate.wait_until_held()
    doomed.kill()
    app.open(ingest.dsn(), path)
    assert app.flush()
    gate.release()
    first, second = ingest.requests
    assert first.event_id == second.event_id
    assert first.body == second.body
    assert read_counts(path)["delivered"] == 1


@every_transport
def test_a_limit_outlives_the_process(
    app: Application, ingest: Ingest, path: Path, start_another: Start
) -> None:
    """429 with Retry-After, SIGKILL: the next process waits until then."""
    ingest.answer_with(too_many("2"), ok())
    doomed = start_another()
    doomed.open(ingest.dsn(), path, concurrency=1)
    ids = doomed.capture()
    wait_for_limit(doomed, path)
    doomed.kill()
    app.open(ingest.dsn(), path, concurrency=1)
    ids += app.capture(2)
    assert app.flush()
    first, *others = ingest.requests
    assert sorted(seen.event_id for seen in others) == sorted(ids)
    assert min(seen.at for seen in others) >= first.at + 1.99
