"""The requests library's sender, kept alive."""

from collections.abc import Callable
from http.client import HTTPException
from typing import Any, cast

import requests.adapters
import urllib3
import urllib3.connection

from raven_spool.model import MAX_ANSWER_BYTES, Request, Response
from raven_spool.senders._common import ChannelSender, build_response, headers_to_send
from raven_spool.senders._exchange import Exchange, TimedSocket, WatchedConnection, open_socket
from raven_spool.senders._route import Route


class RequestsSender(ChannelSender):
    """A `Sender` on requests."""

    def __init__(self) -> None:
        super().__init__(_Channel)


class _Channel(requests.adapters.HTTPAdapter):
    """The part of a requests.Session that speaks HTTP, with one connection for one route.

    The rest of a session is what must not happen here: it follows redirects (and reads the body of
    one it does not follow), keeps cookies, and takes credentials from ~/.netrc.
    """

    def __init__(self, route: Route, exchange: Exchange) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1)
        self._proxies = {"http": route.proxy.url, "https": route.proxy.url} if route.proxy else None
        self._pool = _open_pool(route, exchange)

    def post(self, request: Request) -> Response:
        prepared = requests.PreparedRequest()
        try:
            prepared.prepare("POST", request.url, headers_to_send(request), data=request.body)
            # The true deadline is the exchange's.
            limit = request.timeout_seconds
            answer = self.send(prepared, stream=True, timeout=limit, proxies=self._proxies)
            return _read(answer)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as exc:
            cause = _find_cause(exc)
        raise cause  # out here: inside, the two would refer to each other and keep their frames

    def get_connection_with_tls_context(self, *_args: Any, **_options: Any) -> Any:
        return self._pool

    get_connection = get_connection_with_tls_context  # its name before requests 2.32

    def cert_verify(self, *_args: Any) -> None:
        """Nothing to set: the pool has its SSL context, made once and not for each connection."""

    def close(self) -> None:
        super().close()
        self._pool.close()


def _open_pool(route: Route, exchange: Exchange) -> urllib3.HTTPConnectionPool:
    options: dict[str, Any] = {"num_pools": 1, "maxsize": 1, "ssl_context": route.tls}
    pools = urllib3.PoolManager(**options)
    if route.proxy:
        headers = route.proxy.headers
        pools = urllib3.ProxyManager(route.proxy.url, proxy_headers=headers, **options)
    scheme, kind = ("https", _Https) if route.tls else ("http", _Http)
    pool = pools.connection_from_host(route.host, route.port, scheme)
    # urllib3 names the attribute for this purpose, but calls it with what its pool knows.
    pool.ConnectionCls = cast(Any, _connections(kind, exchange))
    return pool


def _connections(
    kind: "type[_Http] | type[_Https]", exchange: Exchange
) -> Callable[..., "_Http | _Https"]:
    def connect(**options: Any) -> _Http | _Https:
        connection = kind(**options)
        connection.exchange = exchange
        return connection

    return connect


class _Http(WatchedConnection, urllib3.connection.HTTPConnection):
    def _new_conn(self) -> Any:
        return TimedSocket(open_socket(self.host, self.port, self.exchange), self.exchange)


class _Https(_Http, urllib3.connection.HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        self.sock = cast(Any, TimedSocket(self.sock, self.exchange))
        # Else urllib3 would warn at each connection of a user who said verify_ssl=False.
        self.is_verified = True


def _read(answer: requests.Response) -> Response:
    raw = answer.raw
    body = raw.read(MAX_ANSWER_BYTES + 1, decode_content=False)
    missing = raw.length_remaining
    if len(body) > MAX_ANSWER_BYTES:
        raw.close()
    raw.release_conn()
    return build_response(answer.status_code, raw.headers.items(), body, missing_bytes=missing)


def _find_cause(exc: BaseException) -> Exception:
    # requests and urllib3 wrap what happened twice or three times over; every wrapper was raised
    # while the one within was handled.
    seen: BaseException | None = exc
    while seen is not None:
        plain = not isinstance(seen, requests.RequestException)  # an OSError by inheritance
        if plain and isinstance(seen, OSError | HTTPException):
            return seen
        seen = seen.__context__
    return ValueError(type(exc).__name__)
