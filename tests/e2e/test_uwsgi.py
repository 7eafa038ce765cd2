"""uWSGI's workers, real ones: killed, ended and reloaded while orders fail.

uWSGI differs from gunicorn in three ways that matter here. It forks in C, without Python's hooks
unless told --py-call-uwsgi-fork-hooks. Before 2.0.27 it runs no Python threads unless told
--enable-threads: then nobody delivers but `raven-spool flush` (later ones know the option and
ignore it). And it runs the exit hooks of a worker only where it ends in order.
"""

import os
import signal
import sys
import sysconfig
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support import answers
from tests.support.wsgi_servers import APPLICATION, CONCURRENCY, Shop

UWSGI = os.path.join(sysconfig.get_path("scripts"), "uwsgi")
CONFIGURATIONS = {
    "threads": ["--enable-threads"],
    "threads-hooks": ["--enable-threads", "--py-call-uwsgi-fork-hooks"],
    "threads-lazy": ["--enable-threads", "--lazy-apps"],
    "plain": [],
    "plain-lazy": ["--lazy-apps"],
}
IMPORT_CAPTURES = 2
END_SECONDS = 8

pytestmark = pytest.mark.skipif(
    not os.path.exists(UWSGI), reason="no uwsgi here: pip install pyuwsgi (needs a wheel for it)"
)


def uwsgi(options: list[str], listener: int) -> list[str]:
    return [
        # It starts itself anew at a reload, and would look for a Python without our libraries.
        *(UWSGI, "--binary-path", sys.executable),
        *("--master", "--processes", "2", "--http-socket", f"fd://{listener}", "--die-on-term"),
        *("--module", APPLICATION, "--need-app", "--disable-logging", *options),
    ]


def on(*quick: str) -> pytest.MarkDecorator:
    """All configurations, in the short form only `quick` ones: uWSGI looks round once a second."""
    params = [
        pytest.param(name, marks=() if name in quick else pytest.mark.soak)
        for name in CONFIGURATIONS
    ]
    return pytest.mark.parametrize("_shop", params, indirect=True, scope="module")


@pytest.fixture(scope="module")
def _shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """Without --lazy-apps the master captures before it forks, else each worker for itself."""
    command = partial(uwsgi, CONFIGURATIONS[request.param])
    directory = tmp_path_factory.mktemp("shop")
    with Shop(directory, command, import_captures=IMPORT_CAPTURES) as shop:
        yield shop


@pytest.fixture
def shop(_shop: Shop) -> Shop:
    """One server a configuration; a test that ended it gets it started again."""
    _shop.open()
    return _shop


@on(*CONFIGURATIONS)
def test_orders_that_raise_are_delivered_exactly_once(shop: Shop) -> None:
    shop.order(20)
    shop.check_delivered()
    assert shop.imported()


@on(*CONFIGURATIONS)
def test_killed_worker_loses_nothing(shop: Shop) -> None:
    gate = answers.Gate()
    shop.ingest.answer_with(answers.held(gate))
    shop.order(12)
    if shop.runs_threads:
        gate.wait_until_held()
    leader = shop.leader()
    victim = leader if leader in shop.workers() else min(shop.workers())
    shop.accepted.repeats += CONCURRENCY
    shop.signal_workers({victim}, signal.SIGKILL)
    shop.ingest.answer_with(answers.ok())
    gate.release()
    shop.order(8)
    shop.check_delivered()


@on("threads", "plain")
def test_terminated_workers_leave_their_events_to_others(shop: Shop) -> None:
    shop.ingest.stop()
    shop.order(6)
    shop.signal_workers(shop.workers(), signal.SIGTERM)
    shop.ingest.start()
    shop.order(2)
    shop.check_delivered()


@on("threads-hooks", "plain")
def test_reload_amid_orders_loses_and_repeats_nothing(shop: Shop) -> None:
    old = shop.workers()
    answered = shop.order_amid_a_reload(40)
    shop.wait_until_gone(old, len(old))
    assert not old & {one.process for one in shop.order(4)}
    shop.check_delivered(strangers=40 - len(answered))


@on("threads-lazy", "plain-lazy")
def test_terminated_server_ends_soon_and_loses_and_repeats_nothing(shop: Shop) -> None:
    shop.ingest.stop()
    shop.order(12)
    shop.end(timeout_seconds=END_SECONDS)
    shop.restart_ingest()
    shop.flush()
    shop.check_delivered()
