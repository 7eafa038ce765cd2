"""The registry of schemes, and classes that were not written for raven 6."""

import subprocess
import sys
import textwrap
from urllib.parse import urlparse

import pytest

import raven_spool.transport as package
from raven_spool.senders.convention import adapt
from raven_spool.transport import (
    AsyncioHTTPTransport,
    AsyncTransport,
    DuplicateScheme,
    EventletHTTPTransport,
    GeventedHTTPTransport,
    HTTPTransport,
    RequestsHTTPTransport,
    SpoolTransport,
    ThreadedHTTPTransport,
    ThreadedRequestsHTTPTransport,
    TornadoHTTPTransport,
    Transport,
    TransportRegistry,
    TwistedHTTPTransport,
    default_transports,
)

STORE = "http://k@sentry.invalid/api/1/store/"


class Plain(Transport):
    scheme = ["plain"]

    def __init__(self, flavour="none"):
        self.flavour = flavour

    def send(self, url, data, headers):
        return ("plain", url, data, headers)


class NeedsAddress(Plain):
    def __init__(self, parsed_url, flavour="none"):
        super().__init__(flavour)
        self.parsed_url = parsed_url

    def send(self, url, data, headers):
        return (self.parsed_url.geturl(), url, data)


class Old:
    """As before raven 5.2."""

    def __init__(self, address, flavour="none"):
        self.address, self.flavour = address, flavour

    def send(self, data, headers):
        return (self.address.geturl(), self.flavour, data, headers)


class OldAsync(Old):
    is_async = True

    def async_send(self, data, headers, success_cb, failure_cb):
        success_cb()
        return (self.address.geturl(), data)


class ByPosition(Transport):
    def send(self, *args):
        return args


@pytest.fixture
def registry():
    return TransportRegistry([Plain])


@pytest.mark.parametrize(
    ("scheme", "cls"),
    [
        ("http", ThreadedHTTPTransport),
        ("https", ThreadedHTTPTransport),
        ("threaded+https", ThreadedHTTPTransport),
        ("sync+http", HTTPTransport),
        ("sync+https", HTTPTransport),
        ("requests+https", RequestsHTTPTransport),
        ("threaded+requests+http", ThreadedRequestsHTTPTransport),
        ("gevent+https", GeventedHTTPTransport),
        ("eventlet+http", EventletHTTPTransport),
        ("twisted+https", TwistedHTTPTransport),
        ("tornado+http", TornadoHTTPTransport),
        ("asyncio+https", AsyncioHTTPTransport),
        ("spool+https", SpoolTransport),
    ],
)
def test_default_transports_serve_ravens_schemes(scheme, cls):
    assert default_transports.supported_scheme(scheme)
    assert default_transports.get_transport_cls(scheme) is cls
    assert cls in list(default_transports)


def test_registry_iterates_over_each_class_once():
    found = list(default_transports)
    assert len(found) == len(set(found)) >= 5
    copied = TransportRegistry(default_transports)
    assert list(copied) == found


def test_empty_registry_is_true_for_raven_asks_whether_it_was_given_one():
    assert TransportRegistry()


def test_register_scheme_refuses_what_is_served_and_register_replaces_it(registry):
    with pytest.raises(DuplicateScheme, match=r"plain is served by .*Plain.*replaces"):
        registry.register_scheme("plain", ByPosition)
    assert registry.get_transport_cls("plain") is Plain
    registry.register("plain", ByPosition)
    assert registry.get_transport_cls("plain") is ByPosition


def test_register_makes_the_transports_of_a_scheme_anew(registry):
    before = registry.get_transport(urlparse("plain://host/1"))
    registry.register("plain", ByPosition)
    after = registry.get_transport(urlparse("plain://host/1"))
    assert (type(before), type(after)) == (Plain, ByPosition)


@pytest.mark.parametrize("cls", [object, type("Text", (), {"scheme": "http"})])
def test_register_transport_needs_a_list_of_schemes(registry, cls):
    with pytest.raises(AttributeError, match="must have a scheme list"):
        registry.register_transport(cls)


def test_get_transport_is_made_once_for_each_address(registry):
    one = registry.get_transport(urlparse("plain://host/1?x=1"), flavour="vanilla")
    assert registry.get_transport(urlparse("plain://host/1?x=1")) is one
    assert registry.get_transport(urlparse("plain://host/2")) is not one
    assert one.flavour == "vanilla"
    with pytest.raises(KeyError):
        registry.get_transport(urlparse("nobody://host/1"))


@pytest.mark.parametrize("cls", list(default_transports), ids=lambda cls: cls.__name__)
def test_get_transport_makes_each_of_ours_with_its_options(cls, tmp_path):
    address = urlparse(f"{cls.scheme[0]}://k@host/1")
    transport = TransportRegistry([cls]).get_transport(
        address, timeout=3, spool_path=str(tmp_path), fsync="always"
    )
    assert type(transport) is cls
    assert (transport.options.timeout, transport.options.fsync) == (3.0, "always")


def test_get_transport_gives_the_address_to_who_takes_it(registry):
    registry.register("needs", NeedsAddress)
    registry.register("old", Old)
    assert registry.get_transport(urlparse("needs://h/1?x=1")).parsed_url.geturl() == "needs://h/1"
    assert registry.get_transport(urlparse("old://h/1")).address.netloc == "h"


@pytest.mark.parametrize("cls", [Plain, ByPosition, *default_transports], ids=lambda c: c.__name__)
def test_class_that_raven_can_make_and_call_is_left_alone(cls):
    assert adapt(cls) is cls


def test_instance_is_left_alone_and_can_be_called():
    one = Plain("vanilla")
    assert adapt(one) is one
    assert one(timeout="3") is one


def test_instance_of_a_subclass_keeps_what_it_was_made_with(tmp_path):
    class Retrying(HTTPTransport):
        def __init__(self, retries, **options):
            super().__init__(**options)
            self.retries = retries

    made = Retrying(5, spool_path=str(tmp_path))(timeout="3", spool_path="/elsewhere")
    assert (made.retries, made.timeout, made.options.spool_path) == (5, 3.0, str(tmp_path))


def test_class_that_needs_the_address_gets_it_with_the_first_event():
    transport = adapt(NeedsAddress)(flavour="vanilla")
    assert transport.send(STORE, b"x", {}) == (STORE, STORE, b"x")
    other = STORE.replace("/1/", "/2/")
    assert transport.send(other, b"x", {})[0] == other


def test_class_of_the_old_kind_is_called_as_it_expects():
    transport = adapt(Old)(flavour="vanilla")
    assert transport.is_async is False
    assert transport.send(STORE, b"x", {"a": "b"}) == (STORE, "vanilla", b"x", {"a": "b"})


def test_asynchronous_class_of_the_old_kind_is_called_as_it_expects():
    heard = []
    transport = adapt(OldAsync)()
    assert transport.is_async is True
    transport.async_send(STORE, b"x", {}, lambda: heard.append("ok"), heard.append)
    assert heard == ["ok"]


def test_package_exports_what_ravens_does():
    """raven's names, but for the loops' transports and what its modules import for themselves."""
    raven_names = {
        "AsyncTransport",
        "DuplicateScheme",
        "HTTPTransport",
        "InvalidScheme",
        "EventletHTTPTransport",
        "GeventedHTTPTransport",
        "RequestsHTTPTransport",
        "ThreadedHTTPTransport",
        "TornadoHTTPTransport",
        "Transport",
        "TwistedHTTPTransport",
        "TransportRegistry",
        "default_transports",
        "has_newstyle_transports",
    }
    assert raven_names <= set(package.__all__)
    import raven.transport

    assert raven_names <= set(dir(raven.transport))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("base", "Transport"),
        ("base", "AsyncTransport"),
        ("exceptions", "InvalidScheme"),
        ("exceptions", "DuplicateScheme"),
        ("http", "HTTPTransport"),
        ("threaded", "ThreadedHTTPTransport"),
        ("requests", "RequestsHTTPTransport"),
        ("requests", "ThreadedRequestsHTTPTransport"),
        ("threaded_requests", "ThreadedRequestsHTTPTransport"),
        ("gevent", "GeventedHTTPTransport"),
        ("eventlet", "EventletHTTPTransport"),
        ("twisted", "TwistedHTTPTransport"),
        ("tornado", "TornadoHTTPTransport"),
        ("registry", "TransportRegistry"),
        ("registry", "default_transports"),
    ],
)
def test_modules_have_ravens_names(module, name):
    program = f"from raven_spool.transport.{module} import {name}"
    exec(program, {})
    if name != "ThreadedRequestsHTTPTransport" or module == "threaded_requests":
        exec(program.replace("raven_spool", "raven"), {})


def test_async_transports_are_of_both_kinds():
    for cls in (ThreadedHTTPTransport, ThreadedRequestsHTTPTransport):
        assert issubclass(cls, HTTPTransport)
    for cls in default_transports:
        assert cls.is_async is issubclass(cls, AsyncTransport)
    assert [cls.is_async for cls in (HTTPTransport, RequestsHTTPTransport, SpoolTransport)] == [
        False,
        False,
        False,
    ]


# -- register(): each in a process of its own, for it changes raven ------------------------------

AFTER_REGISTER = {
    "plain https, threads and loops spool": """
        raven_spool.register()
        raven_spool.register()
        from raven_spool.transport.base import SpoolingTransport
        for scheme in ("http", "https", "sync+https", "requests+http", "threaded+https",
                       "gevent+https", "twisted+http", "tornado+https", "eventlet+http"):
            client = raven.Client(scheme + "://k:s@sentry.invalid/1", install_sys_hook=False)
            transport = client.remote.get_transport()
            assert isinstance(transport, SpoolingTransport), (scheme, transport)
            assert type(transport).scheme.count(scheme) == 1
        """,
    "a scheme that others have added is kept": """
        class Theirs(raven.transport.HTTPTransport):
            scheme = ["theirs"]
        raven.Client.register_scheme("theirs", Theirs)
        raven_spool.register()
        assert raven.Client._registry.get_transport_cls("theirs") is Theirs
        client = raven.Client("theirs://k:s@sentry.invalid/1", install_sys_hook=False)
        assert type(client.remote.get_transport()) is Theirs
        """,
    "a scheme that was replaced is honoured": """
        from raven_spool.transport import HTTPTransport, default_transports
        class Mine(HTTPTransport):
            pass
        default_transports.register("https", Mine)
        raven_spool.register()
        client = raven.Client("https://k:s@sentry.invalid/1", install_sys_hook=False)
        assert type(client.remote.get_transport()) is Mine
        """,
    "a scheme replaced afterwards is honoured": """
        from raven_spool.transport import HTTPTransport, default_transports
        raven_spool.register()
        default_transports.register("https", type("Mine", (HTTPTransport,), {}))
        client = raven.Client("https://k:s@sentry.invalid/1", install_sys_hook=False)
        assert type(client.remote.get_transport()).__name__ == "Mine"
        """,
    "clients of a subclass and a transport given by hand": """
        raven_spool.register()
        class Client(raven.Client):
            pass
        client = Client("https://k:s@sentry.invalid/1", install_sys_hook=False)
        assert type(client.remote.get_transport()).__module__.startswith("raven_spool.")
        given = raven.Client("https://k:s@sentry.invalid/1", install_sys_hook=False,
                             transport=raven.transport.HTTPTransport)
        assert type(given.remote.get_transport()) is raven.transport.HTTPTransport
        """,
}


@pytest.mark.parametrize("what", AFTER_REGISTER)
def test_after_register(what, tmp_path):
    program = "import raven, raven.transport, raven_spool\n" + textwrap.dedent(AFTER_REGISTER[what])
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={"RAVEN_SPOOL_PATH": str(tmp_path / "spool"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
