"""Events, destinations and spools for tests of the core."""

import contextlib
from collections.abc import Iterator

from raven_spool.model import Destination, Event
from raven_spool.spool import Spool, fork
from raven_spool.spool.store import Store
from raven_spool.spool.wake import Bell

NOW = 1_700_000_000.0

HERE = Destination(base_url="http://here.invalid", project="1", public_key="a" * 32)
THERE = Destination(base_url="http://there.invalid", project="2", public_key="b" * 32)


def event(
    number: int, *, category: str = "error", body: bytes = b"{}", created_at: float = NOW
) -> Event:
    """The event of this number: its id tells it."""
    return Event(
        event_id=f"{number:032x}",
        category=category,
        endpoint="store",
        headers=(("Content-Type", "application/json"),),
        body=body,
        created_at=created_at,
    )


def number_of(of: Event) -> int:
    return int(of.event_id, 16)


def check_ledger(spool: Spool) -> dict:
    """The promise of the ledger, in every committed state. Returns the stats."""
    stats = spool.stats()
    sums = (stats["ready"], stats["dead"], stats["delivered"], stats["dropped"])
    assert stats["accepted"] == sum(sums), stats
    assert min(sums) >= 0, stats
    return stats


def discard(spool: Spool) -> None:
    """End a spool object as the end of its process would: locks freed, descriptors closed."""
    spool.finish()
    spool._store._place.leave()
    spool._bell.close()


@contextlib.contextmanager
def ended() -> Iterator[None]:
    """As `discard`, of all spools that are made within."""
    before = len(fork._members)
    try:
        yield
    finally:
        for member in fork._members[before:]:
            match member:
                case Store():
                    member._place.leave()
                case Bell():
                    member.close()
        del fork._members[before:]
