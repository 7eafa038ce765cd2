"""Events that are late: what time they say, and what is sent with them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import freezegun
import pytest
import raven

from raven_spool import SpoolTransport
from tests.support import evidence
from tests.support.ingest import Ingest

LATE = [timedelta(hours=1), timedelta(days=2), timedelta(days=29)]


def capture_before(age: timedelta, dsn: str, path: Path) -> tuple[str, datetime]:
    """An event's id, and the time it was captured at."""
    then = datetime.now(UTC) - age
    with freezegun.freeze_time(then):
        transport = SpoolTransport(spool_path=str(path), backend="none")
        # Its time is given: raven's encoder does not know freezegun's class, and that is its own.
        client = raven.Client(dsn, transport=transport)
        event_id = client.captureMessage("late", date=then.replace(tzinfo=None))
        transport.close()
    return event_id, then


@pytest.mark.evidence
def test_late_events_show_when_they_were_captured(tmp_path: Path) -> None:
    """A store request has no `sent_at`: its body's time counts; the auth header's is the try's."""
    with Ingest() as ingest:
        captured = dict(capture_before(age, ingest.dsn(), tmp_path / "spool") for age in LATE)
        transport = SpoolTransport(spool_path=str(tmp_path / "spool"))
        raven.Client(ingest.dsn(), transport=transport).captureMessage("now")
        assert transport.flush(20)
        transport.close()
        arrived = {seen.event_id: seen for seen in ingest.requests}
    for event_id, then in captured.items():
        seen = arrived[event_id]
        said = datetime.fromisoformat(json.loads(seen.body)["timestamp"]).replace(tzinfo=UTC)
        assert abs(said - then) < timedelta(seconds=2)
        auth = dict(part.split("=") for part in seen.headers["x-sentry-auth"][7:].split(", "))
        assert abs(float(auth["sentry_timestamp"]) - seen.at) < 60
    evidence.note(
        "events delivered late, an hour to 29 days",
        promise=7,
        tried=f"{len(LATE)} delays",
        events=len(LATE),
        lost=0,
        seen="each shows the time of its capture",
    )
