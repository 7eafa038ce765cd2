"""Event-loop servers of one process, real ones: killed, ended and begun again while orders fail."""

import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from tests.support import answers, tool
from tests.support.wsgi_servers import CONCURRENCY, Shop

PROGRAMS = "tests.e2e.programs_loops"
SCRIPTS = sysconfig.get_path("scripts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    command: list[str]  # {} stands for the listening socket's descriptor
    transport: str
    runtime: str
    in_flight: int = CONCURRENCY  # so many may be sent again after a kill


SERVERS = {
    "uvicorn": Server(
        command=[
            *(sys.executable, "-m", "uvicorn", f"{PROGRAMS}.starlette_shop:application"),
            *("--log-level", "warning", "--timeout-graceful-shutdown", "5", "--fd", "{}"),
        ],
        transport="AsyncioHTTPTransport",
        runtime="AsyncioRuntime",
    ),
    "eventlet": Server(
        command=[sys.executable, "-m", f"{PROGRAMS}.eventlet_server", "{}"],
        transport="SpoolTransport",
        runtime="EventletRuntime",
    ),
    "eventlet-dsn": Server(
        command=[sys.executable, "-m", f"{PROGRAMS}.eventlet_server", "{}"],
        transport="eventlet+http",
        runtime="EventletRuntime",
        in_flight=10,
    ),
    "twistd": Server(
        command=[
            *(os.path.join(SCRIPTS, "twistd"), "--nodaemon", "--pidfile="),
            *("--python", f"{os.path.dirname(__file__)}/programs_loops/twisted_shop.py"),
        ],
        transport="TwistedHTTPTransport",
        runtime="TwistedRuntime",
    ),
    "tornado": Server(
        command=[sys.executable, "-m", f"{PROGRAMS}.tornado_shop", "{}"],
        transport="TornadoHTTPTransport",
        runtime="TornadoRuntime",
    ),
}
# The shop's shutdown_timeout of 1 s is in it; the machine may be busy.
END_SECONDS = 8


def command_line(server: Server, listener: int) -> list[str]:
    return [part.replace("{}", str(listener)) for part in server.command]


def on(*quick: str) -> pytest.MarkDecorator:
    """All servers, in the short form only `quick` ones."""
    params = [
        pytest.param(name, marks=() if name in quick else pytest.mark.soak) for name in SERVERS
    ]
    return pytest.mark.parametrize("server", params, indirect=True, scope="module")


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Server:
    name: str = request.param
    return SERVERS[name]


@pytest.fixture(scope="module")
def _shop(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("shop")
    command = partial(command_line, server)
    loop = tool.loop_of(server.runtime)
    with Shop(directory, command, KEPT_LOOPS=loop, SHOP_TRANSPORT=server.transport) as shop:
        yield shop


@pytest.fixture
def shop(_shop: Shop) -> Shop:
    """One server of a kind; a test that ended it gets it started again."""
    _shop.open()
    return _shop


@on("uvicorn", "eventlet", "twistd", "tornado")
def test_orders_in_an_outage_are_delivered_once_when_it_is_over(shop: Shop, server: Server) -> None:
    shop.ingest.stop()
    answered = shop.order(12)
    assert {one.runtimes for one in answered} == {server.runtime}
    shop.ingest.start()
    shop.check_delivered()


@on("uvicorn", "eventlet", "twistd", "tornado")
def test_killed_server_loses_nothing_and_the_next_delivers_it(shop: Shop, server: Server) -> None:
    gate = answers.Gate()
    shop.ingest.answer_with(answers.held(gate))
    shop.order(12)
    gate.wait_until_held()
    assert shop.leader() == shop.server.pid
    shop.kill()
    gate.release()
    shop.accepted.repeats += server.in_flight
    shop.open()
    shop.order(1)
    shop.check_delivered()


@on("uvicorn", "twistd")
def test_terminated_server_ends_soon_and_loses_and_repeats_nothing(shop: Shop) -> None:
    shop.ingest.stop()
    shop.order(12)
    shop.end(timeout_seconds=END_SECONDS)
    shop.restart_ingest()
    shop.flush()
    shop.check_delivered()


# -- a client per handler -------------------------------------------------------------------------

TORNADO = pytest.mark.parametrize("server", ["tornado"], indirect=True, scope="module")
COMING_AND_GOING = 10  # workers with a connection each, customers, threads that sync and watch
CACHE_BYTES = 4 << 20  # SQLite's page cache (2 MiB) fills, and malloc has its way


@TORNADO
def test_a_client_per_handler_stays_flat_and_delivers(shop: Shop) -> None:
    assert_is_flat(order_and_measure(shop, 100), order_and_measure(shop, 900))


@TORNADO
@pytest.mark.soak
def test_ten_thousand_clients_of_handlers_stay_flat_and_deliver(shop: Shop) -> None:
    assert_is_flat(order_and_measure(shop, 1000), order_and_measure(shop, 9000))


def order_and_measure(shop: Shop, number: int) -> dict[str, int]:
    shop.order(number)
    shop.check_delivered()
    _, answer = shop.ask("GET", f"/holdings/{number}")
    holdings: dict[str, int] = json.loads(answer)
    print(holdings)
    return holdings


def assert_is_flat(early: dict[str, int], late: dict[str, int]) -> None:
    for name in ("tasks", "threads", "descriptors"):
        assert late[name] <= early[name] + COMING_AND_GOING, name
    # Not one for each two clients; what comes and goes has some.
    assert late["objects"] - early["objects"] < 400
    assert late["rss_bytes"] <= early["rss_bytes"] + CACHE_BYTES
