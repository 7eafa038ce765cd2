"""How each transport reaches its server: TLS and proxies, as the DSN or the environment says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from raven_spool.model import State
from tests.contract.transports.application import Application
from tests.contract.transports.choosing import every_transport, transports_with_our_sender
from tests.contract.transports.stored import wait_for_attempt
from tests.support.ingest import Ingest
from tests.support.proxy import Proxy


@pytest.fixture(scope="module")
def secure() -> Iterator[Ingest]:
    with Ingest(tls=True) as made:
        yield made


@pytest.fixture(scope="module")
def impostor() -> Iterator[Ingest]:
    """Its certificate is good, but for another host."""
    with Ingest(tls=True, names=("elsewhere.example",)) as made:
        yield made


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as made:
        yield made


def check_that_it_arrives(app: Application, server: Ingest) -> None:
    ids = app.capture(2)
    assert app.flush()
    assert sorted(one for one in server.event_ids() if one in ids) == sorted(ids)


def check_that_it_is_kept(app: Application, server: Ingest, path: Path) -> None:
    before = len(server.requests)
    (event_id,) = app.capture()
    stored = wait_for_attempt(app, path, event_id)
    assert stored.state is State.READY
    assert "certificate" in stored.reason
    assert len(server.requests) == before


# -- TLS ------------------------------------------------------------------------------------------


@transports_with_our_sender
def test_a_private_ca_is_trusted_where_it_is_named(
    app: Application, secure: Ingest, path: Path
) -> None:
    """`ca_certs` names a private CA: delivered."""
    app.open(secure.dsn(), path, ca_certs=secure.ca_file)
    check_that_it_arrives(app, secure)


@transports_with_our_sender
def test_an_unknown_ca_gets_nothing(app: Application, secure: Ingest, path: Path) -> None:
    """A private CA that is not named: no request leaves, the event is kept."""
    app.open(secure.dsn(), path)
    check_that_it_is_kept(app, secure, path)


@transports_with_our_sender
def test_a_wrong_host_name_gets_nothing(app: Application, impostor: Ingest, path: Path) -> None:
    """A good certificate of another host: no request leaves, the event is kept."""
    app.open(impostor.dsn(), path, ca_certs=impostor.ca_file)
    check_that_it_is_kept(app, impostor, path)


@transports_with_our_sender
def test_verify_ssl_0_checks_nothing(app: Application, impostor: Ingest, path: Path) -> None:
    """`?verify_ssl=0` in the DSN: delivered, whoever it is."""
    app.open(impostor.dsn(), path, verify_ssl=0)
    check_that_it_arrives(app, impostor)


# -- proxies --------------------------------------------------------------------------------------


@transports_with_our_sender
def test_the_proxy_option_is_used(
    app: Application, ingest: Ingest, path: Path, proxy: Proxy
) -> None:
    """`proxy=` in the DSN: all requests take that way."""
    app.open(ingest.dsn(), path, proxy=proxy.url)
    check_that_it_arrives(app, ingest)
    assert {seen.target for seen in proxy.passed} == {f"{ingest.url}/api/1/store/"}


@every_transport
def test_the_environments_proxy_is_used(
    app: Application, ingest: Ingest, path: Path, proxy: Proxy
) -> None:
    """`http_proxy` in the environment: all requests take that way."""
    app.open(ingest.dsn(), path, environ={"http_proxy": proxy.url})
    check_that_it_arrives(app, ingest)
    assert {seen.target for seen in proxy.passed} == {f"{ingest.url}/api/1/store/"}


@every_transport
def test_no_proxy_is_obeyed(app: Application, ingest: Ingest, path: Path, proxy: Proxy) -> None:
    """`no_proxy` names the host: no request takes that way."""
    app.open(
        ingest.dsn(), path, environ={"http_proxy": proxy.url, "no_proxy": "127.0.0.1,localhost"}
    )
    check_that_it_arrives(app, ingest)
    assert proxy.passed == []


@pytest.mark.parametrize("named_by", ["option", "environment"])
@transports_with_our_sender
def test_https_goes_through_a_proxys_tunnel(
    app: Application, secure: Ingest, path: Path, proxy: Proxy, named_by: str
) -> None:
    """https through a proxy, named either way: CONNECT, and the certificate is still checked."""
    environ, options = {"https_proxy": proxy.url}, {}
    if named_by == "option":
        environ, options = {}, {"proxy": proxy.url}
    app.open(secure.dsn(), path, environ=environ, ca_certs=secure.ca_file, **options)
    check_that_it_arrives(app, secure)
    targets = {(seen.method, seen.target) for seen in proxy.passed}
    assert targets == {("CONNECT", f"{secure.host}:{secure.port}")}
    app.close()
    app.open(secure.dsn(), path.with_name("distrusting"), environ=environ, **options)
    check_that_it_is_kept(app, secure, path.with_name("distrusting"))
