"""gunicorn's workers with an event loop, real ones: killed, ended and replaced while orders fail.

gunicorn 27 has no eventlet worker any more: eventlet's own server is in test_loop_servers.py.
"""

import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest

from tests.support import answers, tool
from tests.support.wsgi_servers import Shop

WSGI = "tests.e2e.programs_loops.wsgi_shop:application"
ASGI = "tests.e2e.programs_loops.starlette_shop:application"


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    worker_class: str
    transport: str
    runtime: str
    application: str = WSGI
    options: list[str] = field(default_factory=list)
    in_flight: int = 4  # `concurrency`: so many may be sent again after a kill
    import_captures: int = 0


PRELOAD = ["--preload"]  # the application is imported before anything is patched, and once
CONFIGURATIONS = {
    "gevent": Configuration(
        worker_class="gevent", transport="SpoolTransport", runtime="GeventRuntime"
    ),
    # Its master captures too, before gunicorn patches: there a thread delivers.
    "gevent-master": Configuration(
        worker_class="gevent",
        transport="SpoolTransport",
        runtime="GeventRuntime",
        options=PRELOAD,
        import_captures=3,
    ),
    "gevent-dsn": Configuration(
        worker_class="gevent",
        transport="gevent+http",
        runtime="GeventRuntime",
        options=PRELOAD,
        in_flight=10,
    ),
    "tornado": Configuration(
        worker_class="tornado",
        transport="TornadoHTTPTransport",
        runtime="TornadoRuntime",
        options=PRELOAD,
    ),
    "asgi": Configuration(
        worker_class="asgi",
        transport="AsyncioHTTPTransport",
        runtime="AsyncioRuntime",
        options=PRELOAD,
        application=ASGI,
    ),
}
# gunicorn looks round once a second, twice at an end; the shop's shutdown_timeout of 1 s is in it.
END_SECONDS = 8


def gunicorn(configuration: Configuration, listener: int) -> list[str]:
    return [
        *(sys.executable, "-m", "gunicorn", configuration.application),
        *("--worker-class", configuration.worker_class, *configuration.options),
        *("--bind", f"fd://{listener}", "--workers", "2", "--no-control-socket"),
        *("--graceful-timeout", "5"),
    ]


def on(*quick: str) -> pytest.MarkDecorator:
    """All configurations, in the short form only `quick` ones: gunicorn looks once a second."""
    params = [
        pytest.param(name, marks=() if name in quick else pytest.mark.soak)
        for name in CONFIGURATIONS
    ]
    return pytest.mark.parametrize("configuration", params, indirect=True, scope="module")


@pytest.fixture(scope="module")
def configuration(request: pytest.FixtureRequest) -> Configuration:
    name: str = request.param
    return CONFIGURATIONS[name]


@pytest.fixture(scope="module")
def _shop(configuration: Configuration, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with Shop(
        tmp_path_factory.mktemp("shop"),
        partial(gunicorn, configuration),
        import_captures=configuration.import_captures,
        KEPT_LOOPS=tool.loop_of(configuration.runtime),
        SHOP_TRANSPORT=configuration.transport,
    ) as shop:
        yield shop


@pytest.fixture
def shop(_shop: Shop) -> Shop:
    """One server a configuration; a test that ended it gets it started again."""
    _shop.open()
    return _shop


@on("gevent", "gevent-master", "gevent-dsn", "tornado")
def test_orders_in_an_outage_are_delivered_once_when_it_is_over(
    shop: Shop, configuration: Configuration
) -> None:
    shop.check_delivered()  # what was captured by the master
    shop.ingest.stop()
    answered = shop.order(12)
    assert {one.runtimes for one in answered} == {configuration.runtime}
    assert {one.process for one in answered} <= shop.workers()
    shop.ingest.start()
    shop.check_delivered()


@on("gevent", "gevent-master")
def test_killed_worker_loses_nothing(shop: Shop, configuration: Configuration) -> None:
    gate = answers.Gate()
    shop.ingest.answer_with(answers.held(gate))
    shop.order(12)
    gate.wait_until_held()
    leader = shop.leader()
    victim = leader if leader in shop.workers() else min(shop.workers())
    assert victim == leader or configuration.import_captures
    shop.accepted.repeats += configuration.in_flight
    shop.signal_workers({victim}, signal.SIGKILL)
    shop.ingest.answer_with(answers.ok())
    gate.release()
    shop.order(2)
    shop.check_delivered()


@on("gevent-dsn")
def test_terminated_workers_leave_their_events_to_others(shop: Shop) -> None:
    shop.ingest.stop()
    shop.order(6)
    shop.signal_workers(shop.workers(), signal.SIGTERM)
    shop.ingest.start()
    shop.order(2)
    shop.check_delivered()


@on("gevent")
def test_terminated_server_ends_soon_and_loses_and_repeats_nothing(shop: Shop) -> None:
    shop.ingest.stop()
    shop.order(12)
    shop.end(timeout_seconds=END_SECONDS)
    shop.restart_ingest()
    shop.flush()
    shop.check_delivered()
