"""What is in an application's spool, read from beside it as the tools do."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raven_spool.spool import Spool
from raven_spool.spool.stored import Stored
from tests.contract.transports.application import Application
from tests.contract.transports.rows import Delivery
from tests.support.spools import check_ledger, discard
from tests.support.waiting import wait_until


def read_events(path: Path) -> dict[str, Stored]:
    """All that is stored, by event id."""
    with _open(path) as spool:
        return {one.event.event_id: one for one in spool.page(limit=1000)}


def read_counts(path: Path) -> dict[str, int]:
    """The ledger, which must be right at any moment."""
    with _open(path) as spool:
        return check_ledger(spool)


def read_holds(path: Path) -> set[str]:
    """Why destinations and categories are closed."""
    with _open(path) as spool:
        return {lane.hold for lane, _ in spool.all_lanes()} - {""}


def wait_for_attempt(app: Application, path: Path, event_id: str) -> Stored:
    """Wait until an attempt for the event has failed; it must still be ready."""

    def is_tried() -> bool:
        _begin(app)
        return read_events(path)[event_id].attempts > 0

    wait_until(is_tried, what="a failed attempt")
    return read_events(path)[event_id]


def _begin(app: Application) -> None:
    if app.row.delivery is Delivery.ON_FLUSH:
        app.flush(0.05)


def wait_for_limit(app: Application, path: Path) -> None:
    """Wait until a limit that the server has set is stored."""

    def is_stored() -> bool:
        _begin(app)
        return read_holds(path) == {"limited"}

    wait_until(is_stored, what="a stored limit")


def back_off(path: Path, seconds: float) -> None:
    """Hold all destinations, as after many failures in a row."""
    with _open(path) as spool:
        for lane, _ in spool.all_lanes():
            spool.hold(
                lane.destination_id,
                "",
                now=time.time(),
                seconds=seconds,
                hold="backoff",
                reason="said by the test",
                failures=9,
            )


@contextmanager
def _open(path: Path) -> Iterator[Spool]:
    spool = Spool(str(path))
    try:
        yield spool
    finally:
        discard(spool)
