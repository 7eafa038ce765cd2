"""How a request reaches its server: origin, proxy and TLS, from the request or the environment."""

import base64
import os
import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi

from raven_spool.model import Request

_DEFAULT_PORTS = {"http": 80, "https": 443}


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


def find_route(request: Request) -> Route:
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
        tls=tls_context(verify=request.verify_ssl, ca_certs=request.ca_certs) if secure else None,
        proxy=_choose_proxy(parts, request.proxy),
    )


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


def tls_context(*, verify: bool, ca_certs: str | None) -> ssl.SSLContext:
    """A context that checks chain and host name, or (`verify=False`) nothing at all."""
    if not verify:
        return _unverified_context()
    path = ca_certs or _environment_ca() or certifi.where()
    try:
        return _verified_context(path, Path(path).stat().st_mtime_ns)
    except OSError as exc:
        reason = exc.strerror or exc
        raise ssl.SSLError(f"the CA certificates in {path} can't be used: {reason}") from exc


def _environment_ca() -> str | None:
    return os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")


# Reading certifi's file takes some 15 ms of CPU: too much for each connection. The time of change
# is part of the key, so that a renewed CA is seen without a restart.
@lru_cache(maxsize=16)
def _verified_context(path: str, _changed_ns: int) -> ssl.SSLContext:
    if Path(path).is_dir():
        return ssl.create_default_context(capath=path)
    return ssl.create_default_context(cafile=path)


@lru_cache(maxsize=1)
def _unverified_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
