"""gunicorn's pre-fork workers, real ones: killed, ended and reloaded while orders fail."""

import signal
import sys
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support import answers
from tests.support.wsgi_servers import APPLICATION, CONCURRENCY, Shop

CONFIGURATIONS = {
    "sync": ["--worker-class", "sync"],
    "sync-preload": ["--worker-class", "sync", "--preload"],
    "gthread": ["--worker-class", "gthread", "--threads", "4"],
    "gthread-preload": ["--worker-class", "gthread", "--threads", "4", "--preload"],
}
IMPORT_CAPTURES = 3
# gunicorn's own patience with workers, and the shop's shutdown_timeout of 1 s in it
END_SECONDS = 8


def gunicorn(options: list[str], listener: int) -> list[str]:
    return [
        *(sys.executable, "-m", "gunicorn", f"{APPLICATION}:application"),
        *("--bind", f"fd://{listener}", "--workers", "2", "--no-control-socket"),
        *("--graceful-timeout", "5", *options),
    ]


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def _shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    command = partial(gunicorn, CONFIGURATIONS[request.param])
    captures = IMPORT_CAPTURES if "preload" in request.param else 0
    with Shop(tmp_path_factory.mktemp("shop"), command, import_captures=captures) as shop:
        yield shop


@pytest.fixture
def shop(_shop: Shop) -> Shop:
    """One server a configuration; a test that ended it gets it started again."""
    _shop.open()
    return _shop


def test_orders_that_raise_are_delivered_exactly_once(shop: Shop) -> None:
    """With --preload also what the master captured before it forked."""
    shop.order(20)
    shop.check_delivered()
    assert {pid for pid, _ in shop.imported()} <= {shop.server.pid}


def test_killed_worker_loses_nothing(shop: Shop) -> None:
    shop.order(2)
    shop.check_delivered()
    gate = answers.Gate()
    shop.ingest.answer_with(answers.held(gate))
    shop.order(12)
    gate.wait_until_held()
    leader = shop.leader()
    victim = leader if leader in shop.workers() else min(shop.workers())
    shop.accepted.repeats += CONCURRENCY
    shop.signal_workers({victim}, signal.SIGKILL)
    shop.ingest.answer_with(answers.ok())
    gate.release()
    shop.order(8)
    shop.check_delivered()


def test_terminated_workers_leave_their_events_to_others(shop: Shop) -> None:
    shop.ingest.stop()
    shop.order(6)
    shop.signal_workers(shop.workers(), signal.SIGTERM)
    shop.ingest.start()
    shop.order(2)
    shop.check_delivered()


def test_reload_amid_orders_loses_and_repeats_nothing(shop: Shop) -> None:
    old = shop.workers()
    answered = shop.order_amid_a_reload(40)
    shop.wait_until_gone(old, len(old))
    assert not old & {one.process for one in shop.order(4)}
    shop.check_delivered(strangers=40 - len(answered))


def test_terminated_server_ends_soon_and_loses_and_repeats_nothing(shop: Shop) -> None:
    """In an outage where the master is one of those who deliver, else with the ingest there."""
    if shop.imported():
        shop.ingest.stop()
    shop.order(12)
    shop.end(timeout_seconds=END_SECONDS)
    shop.restart_ingest()
    shop.flush()
    shop.check_delivered()
