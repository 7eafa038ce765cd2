"""A spool that has reached its own limit."""

import pytest

from raven_spool.errors import SpoolFull
from raven_spool.spool import Spool
from tests.support.spools import HERE, check_ledger, discard, event, number_of

MIB = 1 << 20


@pytest.mark.parametrize("size_bytes", [2_000, 40_000, 400_000])
def test_oldest_give_way_to_events_of_any_size(tmp_path, size_bytes):
    spool = Spool(str(tmp_path / "spool"), fsync="no", max_bytes=4 * MIB)
    count = 3 * 4 * MIB // size_bytes
    for number in range(count):
        made = event(number, body=bytes([number % 251]) * size_bytes)
        assert spool.enqueue(made, HERE, timeout_seconds=5)
    stats = check_ledger(spool)
    assert stats["dropped_by_reason"]["overflow"] == stats["dropped"] > count // 3
    newest = spool.page(limit=1)[0]
    assert number_of(newest.event) == count - 1
    kept = [number_of(one.event) for one in spool.page(after_id=0, limit=count)]
    assert kept == list(range(kept[0], count)), "the oldest went"
    discard(spool)


def test_event_larger_than_the_spool_is_refused_and_nothing_gives_way(tmp_path):
    spool = Spool(str(tmp_path / "spool"), fsync="no", max_bytes=MIB)
    spool.enqueue(event(1), HERE)
    with pytest.raises(SpoolFull):
        spool.enqueue(event(2, body=b"x" * (2 * MIB)), HERE, timeout_seconds=5)
    assert spool.stats()["ready"] == 1
    discard(spool)
