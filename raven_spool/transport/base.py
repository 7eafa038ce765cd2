"""raven's transport interface over a spool: what all transports share."""

import copy
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from raven_spool import backends
from raven_spool.config import Options, read_options
from raven_spool.errors import BackendUnavailable, ConfigurationError
from raven_spool.flusher import Flusher, get_flusher
from raven_spool.model import Destination
from raven_spool.protocol import parse_endpoint, prepare, split_headers

log = logging.getLogger("raven.spool")

_IDENTITY = ("sentry_key", "sentry_secret", "sentry_client")
_KEPT_DESTINATIONS = 256

has_newstyle_transports = True  # raven's word to transports of others, kept for them


class Transport:
    """raven's base class: a transport of your own derives from it and implements `send`."""

    is_async = False
    scheme: list[str] = []

    def __call__(self, **options: Any) -> "Transport":
        """raven calls what it was given, with the options of the DSN: an instance will do too."""
        return self

    def send(self, url: str, data: bytes, headers: Mapping[str, str]) -> Any:
        """Deliver one event; raise where that failed."""
        raise NotImplementedError(f"{type(self).__name__} must implement send")


class AsyncTransport(Transport):
    """raven's base class for transports that answer through callbacks."""

    is_async = True

    def async_send(
        self,
        url: str,
        data: bytes,
        headers: Mapping[str, str],
        success_cb: Callable[[], Any],
        failure_cb: Callable[[Exception], Any],
    ) -> None:
        """Deliver one event; call `success_cb()` or `failure_cb(exception)`."""
        raise NotImplementedError(f"{type(self).__name__} must implement async_send")


class SpoolingTransport(Transport):
    """A transport that commits to a spool; a flusher delivers.

    Cheap to make: nothing is opened, imported or started before the first event.
    """

    defaults: dict[str, str] = {}  # what the class stands for: its backend, its sender

    def __init__(self, **given: Any) -> None:
        self._configure({name: value for name, value in given.items() if value is not None})

    def _configure(self, given: dict[str, Any]) -> None:
        self._given = given
        self._options = read_options({**self.defaults, **given})
        _refuse_spooling_twice(self._options.sender)
        self._named = self._find_backend()
        self._guessed: tuple[int, backends.Backend] | None = None
        self._flusher: Flusher | None = None
        self._destinations: dict[tuple[str | None, ...], Destination] = {}

    def __call__(self, **options: Any) -> "SpoolingTransport":
        """raven calls its transport with the options of the DSN: they fill what was not given."""
        twin = copy.copy(self)  # not made anew: a subclass's constructor has arguments of its own
        twin._configure({**options, **self._given})
        return twin

    def _find_backend(self) -> backends.Backend | None:
        """The one that was named. None: whatever fits when the first event comes.

        Raises:
            BackendUnavailable: the class stands for one whose library is not installed. Where an
                option names it, that is logged and "auto" taken: raven swallows what is raised
                here, and would drop every event.
        """
        name = self._options.backend
        if name == "auto":
            return None
        try:
            return backends.choose(name)
        except BackendUnavailable as error:
            if self.defaults.get("backend") == name:
                raise
            log.error("%s; backend=auto is used", error)
            return None

    @property
    def backend(self) -> backends.Backend:
        """What delivers."""
        if self._named is not None:
            return self._named
        # Each process anew: a server's workers may be patched, and its master not.
        if self._guessed is None or self._guessed[0] != os.getpid():
            self._guessed = (os.getpid(), backends.choose("auto"))
        return self._guessed[1]

    @property
    def options(self) -> Options:
        return self._options

    @property
    def timeout(self) -> float:
        return self._options.timeout

    @property
    def verify_ssl(self) -> bool:
        return self._options.verify_ssl

    @property
    def ca_certs(self) -> str | None:
        return self._options.ca_certs

    @property
    def flusher(self) -> Flusher:
        # Not functools.cached_property: until Python 3.12 it has one lock for all instances, and
        # a fork while another thread holds it would leave the child locked for good.
        if self._flusher is None:
            self._flusher = get_flusher(self._options)
        return self._flusher

    def send(self, url: str, data: bytes, headers: Mapping[str, str]) -> str:
        """Commit one event to the spool; it will be delivered from there.

        Args:
            url: the store or envelope endpoint.
            data: the body as the client encoded it.
            headers: the client's; the X-Sentry-Auth among them is signed anew at each attempt.

        Returns:
            The event's id, 32 hex digits.

        Raises:
            SpoolError: it could neither be spooled nor kept in memory to be sent from there.
            ConfigurationError: `url` is no Sentry endpoint, or no key came with it.

        Crash:
            Before the return the event may be lost; after it, not (but see `send_timeout`).
        """
        base_url, project, endpoint = parse_endpoint(url)
        auth, stored_headers = split_headers(headers)
        event = prepare(
            data,
            stored_headers,
            endpoint=endpoint,
            created_at=time.time(),
            new_id=lambda: uuid.uuid4().hex,
        )
        destination = self._destination(base_url, project, auth)
        backend, patience = self.backend, self._options.send_timeout
        if patience is None:
            patience = backend.send_timeout
        self.flusher.enqueue(event, destination, backend.runtime, patience)
        return event.event_id

    def async_send(
        self,
        url: str,
        data: bytes,
        headers: Mapping[str, str],
        success_cb: Callable[[], Any],
        failure_cb: Callable[[Exception], Any],
    ) -> None:
        """As `send`: success is the commit. HTTP outcomes are never reported here: raven would
        drop events for up to 36 s after each failure it hears of."""
        try:
            self.send(url, data, headers)
        except Exception as error:
            failure_cb(error)
            raise
        success_cb()

    def _destination(self, base_url: str, project: str, auth: Mapping[str, str]) -> Destination:
        who = (base_url, project, *map(auth.get, _IDENTITY))
        found = self._destinations.get(who)
        if found is None:
            if len(self._destinations) >= _KEPT_DESTINATIONS:
                self._destinations.clear()
            found = self._destinations[who] = self._make_destination(base_url, project, auth)
        return found

    def _make_destination(
        self, base_url: str, project: str, auth: Mapping[str, str]
    ) -> Destination:
        options = self._options
        if not auth.get("sentry_key"):
            raise ConfigurationError(
                f"no sentry_key in X-Sentry-Auth for {base_url}: is there a key in the DSN?"
            )
        return Destination(
            base_url=base_url,
            project=project,
            public_key=auth["sentry_key"],
            secret_key=auth.get("sentry_secret"),
            client=auth.get("sentry_client", "raven-spool"),
            timeout_seconds=options.timeout,
            verify_ssl=options.verify_ssl,
            ca_certs=options.ca_certs,
            proxy=options.proxy,
            sender=backends.sender_of(options),
        )

    def flush(self, timeout: float = 2.0) -> bool:
        """Deliver now, whatever back-off says. Returns whether nothing is left in the spool."""
        backends.sender_of(self._options)  # what an earlier process left may be all there is
        return self.flusher.flush(timeout, self.backend)

    def close(self, timeout: float | None = None) -> None:
        """Deliver what can be delivered in `timeout` (default: shutdown_timeout), then stop.

        The spool stays: the next event, here or through another transport, starts it again.
        """
        self.flusher.close(self._options.shutdown_timeout if timeout is None else timeout)

    def aflush(self, timeout: float = 2.0) -> Awaitable[bool]:
        """`flush` for code that runs in a loop: to be awaited, or with Twisted a Deferred.

        In a greenlet there is no need of it: `flush` lets the others go on.
        """
        flushed: Awaitable[bool] = self._in_thread(self.flush, timeout)
        return flushed

    def aclose(self, timeout: float | None = None) -> Awaitable[None]:
        """`close` for code that runs in a loop: to be awaited, or with Twisted a Deferred."""
        closed: Awaitable[None] = self._in_thread(self.close, timeout)
        return closed

    def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        self.flusher.wake(self.backend.runtime)  # here is the loop, if nobody has sent in it yet
        return backends.load(self.backend.in_thread)(function, *args)

    def stats(self) -> dict[str, Any]:
        """The spool's counts; how many events of this process no disk has (`volatile`), and how
        many memory had no room for (`dropped_in_memory`), which the ledger counts once it can."""
        return self.flusher.stats()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} spool_path={self._options.spool_path!r}>"


def _refuse_spooling_twice(sender: object) -> None:
    kind = sender if isinstance(sender, type) else type(sender)
    if issubclass(kind, SpoolingTransport):
        raise ConfigurationError(
            f"option sender: {kind.__name__} spools itself: name a transport that sends"
        )
