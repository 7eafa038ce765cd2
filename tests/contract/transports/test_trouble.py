"""What each transport does where no answer comes, or none that can be read."""

from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest

from raven_spool.model import State
from tests.contract.transports.application import Application
from tests.contract.transports.choosing import every_transport, transports_with_our_sender
from tests.contract.transports.stored import read_counts, read_events, wait_for_attempt
from tests.support.answers import (
    Answer,
    Gate,
    garbage,
    half,
    half_headers,
    held,
    ok,
    reset,
    silence,
    status,
)
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until

LONG_SECONDS = 20.0  # of which no test waits out any


def check_that_it_is_retried(
    app: Application, ingest: Ingest, path: Path, mend: Callable[[], object]
) -> None:
    """The server is in trouble: what is captured stays ready, and arrives once when it is well."""
    (event_id,) = app.capture()
    stored = wait_for_attempt(app, path, event_id)
    assert stored.state is State.READY
    assert ingest.event_ids() == []
    mend()
    assert app.flush()
    assert ingest.event_ids() == [event_id]


@every_transport
def test_a_refused_connection_is_retried(app: Application, ingest: Ingest, path: Path) -> None:
    """Connection refused: kept, delivered once when somebody listens again."""
    app.open(ingest.dsn(), path)
    ingest.stop()
    check_that_it_is_retried(app, ingest, path, ingest.start)


@pytest.mark.parametrize("answer", [reset(), garbage()], ids=lambda answer: answer.name)
@every_transport
def test_a_broken_answer_is_retried(
    app: Application, ingest: Ingest, path: Path, answer: Answer
) -> None:
    """Connection reset instead of an answer, or what is not HTTP: kept, delivered once."""
    ingest.answer_with(answer)
    app.open(ingest.dsn(), path)
    check_that_it_is_retried(app, ingest, path, lambda: ingest.answer_with(ok()))


@pytest.mark.parametrize("answer", [half(), half_headers()], ids=lambda answer: answer.name)
@transports_with_our_sender
def test_half_an_answer_is_retried(
    app: Application, ingest: Ingest, path: Path, answer: Answer
) -> None:
    """An answer that ends in the middle of its headers or body is none: kept, delivered once."""
    ingest.answer_with(answer)
    app.open(ingest.dsn(), path)
    check_that_it_is_retried(app, ingest, path, lambda: ingest.answer_with(ok()))


@every_transport
def test_a_silent_server_is_retried(app: Application, ingest: Ingest, path: Path) -> None:
    """No answer within `timeout`: kept, delivered once when the server speaks."""
    ingest.answer_with(silence())
    app.open(ingest.dsn(), path, timeout=0.5)
    check_that_it_is_retried(app, ingest, path, lambda: ingest.answer_with(ok()))


@every_transport
def test_flush_meets_its_deadline(app: Application, ingest: Ingest, path: Path) -> None:
    """`flush(timeout)` returns False at its deadline, though the server has not answered."""
    gate = Gate()
    ingest.stop()
    app.open(ingest.dsn(), path, timeout=LONG_SECONDS)
    (event_id,) = app.capture()
    wait_for_attempt(app, path, event_id)
    ingest.answer_with(held(gate))
    ingest.start()
    assert app.flush(0.3) is False
    assert 0.3 <= app.flush_seconds < LONG_SECONDS / 2
    gate.wait_until_held()  # a request is under way, and nobody waits for its answer
    gate.release()
    assert app.flush()
    assert ingest.event_ids() == [event_id]


@every_transport
def test_a_flapping_server_gets_each_event_once(
    app: Application, ingest: Ingest, path: Path
) -> None:
    """Successes and failures in turn: each event is accepted exactly once, none twice."""
    turns = cycle([ok(), status(503), ok(), ok(), reset(), ok(), garbage(), ok(), status(401)])
    ingest.answer_by(lambda seen: next(turns))
    app.open(ingest.dsn(), path)
    ids = []
    for _ in range(4):
        ids += app.capture(4)
        app.flush(0.05)
    wait_until(lambda: app.flush(0.05), what="an empty spool")
    assert sorted(ingest.event_ids()) == sorted(ids)
    assert read_counts(path)["delivered"] == len(ids)
    assert read_events(path) == {}
