"""How a request reaches its server: origin, proxy and TLS, from the request or the environment."""

import base64
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi

from raven_spool.model import Request
from raven_spool.senders._network import STANDARD, Network

_DEFAULT_PORTS = {"http": 80, "https": 443}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """An HTTP proxy: plain requests in absolute form, https through CONNECT."""

    host: str
    port: int
    headers: dict[str, str] = field(repr=False)  # Proxy-Authorization, or nothing

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What a connection is made from; one connection serves one route."""

    host: str
    port: int
    netloc: str  # for the Host header
    tls: ssl.SSLContext | None
    proxy: Proxy | None


def route_key(request: Request) -> tuple[object, ...]:
    """What decides the route as far as the request goes: cheap, asked for each request."""
    parts = urlsplit(request.url)
    return parts.scheme, parts.netloc, request.verify_ssl, request.ca_certs, request.proxy


def find_route(
    request: Request,
    network: Network = STANDARD,
    find_context: Callable[[Request, Network], Any] | None = None,
) -> Route:
    """Decide the way to the request's origin.

    The environment is read here, so its proxies and CA files hold for as long as a connection does.

    Raises:
        ValueError: the address is no http or https URL.
        ssl.SSLError: the CA file can't be used.
        OSError: the proxy can't be used.
    """
    parts = urlsplit(request.url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("the address is no http or https URL")
    secure = parts.scheme == "https"
    return Route(
        host=parts.hostname,
        port=parts.port or _DEFAULT_PORTS[parts.scheme],
        netloc=parts.netloc.rpartition("@")[2],
        tls=(find_context or _find_context)(request, network) if secure else None,
        proxy=_choose_proxy(parts, request.proxy),
    )


def ask_for_tunnel(route: Route) -> bytes:
    """What its proxy has to be told before TLS begins."""
    assert route.proxy is not None
    host = f"[{route.host}]" if ":" in route.host else route.host
    lines = [f"CONNECT {host}:{route.port} HTTP/1.1", f"Host: {host}:{route.port}"]
    lines += [f"{name}: {value}" for name, value in route.proxy.headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _choose_proxy(parts: SplitResult, chosen: str | None) -> Proxy | None:
    address = _environment_proxy(parts) if chosen is None else chosen
    return _parse_proxy(address) if address else None


def _environment_proxy(parts: SplitResult) -> str | None:
    # As urllib.request does: lower case wins, NO_PROXY is obeyed, and HTTP_PROXY is ignored under
    # CGI, where it may be a visitor's "Proxy:" header (https://httpoxy.org).
    proxies = getproxies()
    address = proxies.get(parts.scheme) or proxies.get("all")
    return None if not address or proxy_bypass(parts.netloc) else address


def _parse_proxy(address: str) -> Proxy:
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        port = parts.port or _DEFAULT_PORTS["http"]
    except ValueError:  # its text repeats the address, perhaps with the password
        raise OSError("the proxy's address can't be read") from None
    if parts.scheme != "http" or not parts.hostname:
        raise OSError(f"no proxy of the kind {parts.scheme}:// can be used, only http://host:port")
    return Proxy(host=parts.hostname, port=port, headers=_proxy_headers(parts))


def _proxy_headers(parts: SplitResult) -> dict[str, str]:
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def _find_context(request: Request, network: Network) -> ssl.SSLContext:
    verify, ca_certs = request.verify_ssl, request.ca_certs
    return tls_context(verify=verify, ca_certs=ca_certs, network=network)


def tls_context(
    *, verify: bool, ca_certs: str | None, network: Network = STANDARD
) -> ssl.SSLContext:
    """A context that checks chain and host name, or (`verify=False`) nothing at all."""
    kind = network.ssl.SSLContext
    if not verify:
        return _unverified_context(kind)
    return load_ca(ca_certs, partial(_verified_context, kind))


def load_ca(ca_certs: str | None, load: Callable[[str, int], T]) -> T:
    """What `load` makes of the CA file (or directory) and its time of change.

    Raises:
        ssl.SSLError: it can't be used; names it.
    """
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
    path = ca_certs or named or certifi.where()
    try:
        return load(path, Path(path).stat().st_mtime_ns)
    except OSError as exc:
        reason = exc.strerror or exc
        text = f"the CA certificates in {path} can't be used: {reason}"
        raise ssl.SSLError(ssl.SSL_ERROR_SSL, text) from exc


# Reading certifi's file takes some 15 ms of CPU: too much for each connection. The time of change
# is part of the key, so that a renewed CA is seen without a restart; the class, because patching
# changes the standard one.
@lru_cache(maxsize=16)
def _verified_context(kind: type[ssl.SSLContext], path: str, _changed_ns: int) -> ssl.SSLContext:
    file, directory = (None, path) if Path(path).is_dir() else (path, None)
    context = ssl.create_default_context(cafile=file, capath=directory)
    # As eventlet's own function does it; gevent has none, and only ssl knows its defaults.
    context.__class__ = kind
    return context


@lru_cache(maxsize=4)
def _unverified_context(kind: type[ssl.SSLContext]) -> ssl.SSLContext:
    context = kind(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
