"""Which backend is taken, and what is said where its library is missing."""

import site
import sys

import pytest

from raven_spool import BackendUnavailable, SpoolTransport, backends
from raven_spool.config import READERS, ConfigurationError
from raven_spool.transport import (
    AsyncioHTTPTransport,
    EventletHTTPTransport,
    GeventedHTTPTransport,
    TornadoHTTPTransport,
    TwistedHTTPTransport,
)

LOOPS = {
    "gevent": GeventedHTTPTransport,
    "eventlet": EventletHTTPTransport,
    "twisted": TwistedHTTPTransport,
    "tornado": TornadoHTTPTransport,
    "asyncio": AsyncioHTTPTransport,
}


@pytest.fixture
def no_libraries(monkeypatch):
    """As on a machine where nothing but raven_spool is installed."""
    places = tuple(site.getsitepackages())
    monkeypatch.setattr(sys, "path", [one for one in sys.path if not one.startswith(places)])
    for backend in backends.BACKENDS.values():
        for package in backend.needs:
            monkeypatch.delitem(sys.modules, package, raising=False)


@pytest.mark.parametrize("name", LOOPS)
def test_class_of_a_missing_library_names_the_extra(no_libraries, name):
    with pytest.raises(BackendUnavailable, match=rf"pip install 'raven-spool\[{name}\]'") as info:
        LOOPS[name]()
    assert isinstance(info.value, ImportError)


@pytest.mark.parametrize("name", LOOPS)
def test_option_of_a_missing_library_is_logged_and_loses_nothing(no_libraries, caplog, name):
    transport = SpoolTransport(backend=name)
    assert transport.backend is backends.BACKENDS["thread"]
    (said,) = [one.getMessage() for one in caplog.records]
    assert f"raven-spool[{name}]" in said
    assert "backend=auto is used" in said


@pytest.mark.parametrize("name", LOOPS)
def test_library_that_is_there_is_not_imported_to_be_found(monkeypatch, name):
    for package in backends.BACKENDS[name].needs:
        monkeypatch.delitem(sys.modules, package, raising=False)
    LOOPS[name]()
    assert not set(backends.BACKENDS[name].needs) & set(sys.modules)


@pytest.mark.parametrize("name", backends.BACKENDS)
def test_every_backend_is_an_option(name):
    assert READERS["backend"](name) == name
    assert SpoolTransport(backend=name).backend is backends.BACKENDS[name]


@pytest.mark.parametrize("name", LOOPS)
def test_loop_waits_for_the_spool_no_longer_than_it_may(name):
    assert backends.BACKENDS[name].send_timeout == 0.02
    assert backends.BACKENDS["thread"].send_timeout == 0.2


@pytest.mark.parametrize("cls", [GeventedHTTPTransport, EventletHTTPTransport])
@pytest.mark.parametrize(
    ("given", "workers"),
    [
        ({}, 10),
        ({"pool_size": 3}, 3),
        ({"pool_size": "3"}, 3),
        ({"maximum_outstanding_requests": 5}, 5),
        ({"maximum_outstanding_requests": 100}, 64),  # raven's default
        ({"pool_size": 3, "concurrency": 7}, 7),
    ],
)
def test_pool_size_is_the_number_of_workers(cls, given, workers):
    assert cls(**given).options.concurrency == workers
    assert cls()(**given).options.concurrency == workers


def test_pool_size_may_be_given_by_position():
    assert GeventedHTTPTransport(None, 3, 7).options.concurrency == 7


def test_pool_size_that_is_none_is_refused_with_what_is_allowed():
    with pytest.raises(ConfigurationError, match="must be a whole number from 1 to 64"):
        GeventedHTTPTransport(pool_size=0)


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "thread"),
        ({"LAMBDA_TASK_ROOT": "/var/task"}, "inline"),
        ({"CURRENT_VERSION_ID": "1", "INSTANCE_ID": "2"}, "inline"),
    ],
)
def test_auto_fits_the_process(environ, name):
    assert backends.choose("auto", environ) is backends.BACKENDS[name]


def test_built_in_senders_are_the_loops_own_within_a_loop():
    for name, backend in backends.BACKENDS.items():
        if name in LOOPS:
            make = backends.sender_maker(backend.runtime)
            made = {type(make(sender)) for sender in backends.SENDERS}
            assert made == {backends.load(backend.client)}
