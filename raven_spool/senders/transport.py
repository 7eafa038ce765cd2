"""A raven transport of the user's own as a sender: what it raises is tried again."""

import logging
from collections.abc import Callable
from typing import Any

from raven_spool.errors import came_by_signal
from raven_spool.model import MAX_ANSWER_BYTES, Failure, Fault, Outcome, Request, Response
from raven_spool.senders.convention import Adapted, call_async_send, call_send
from raven_spool.senders.hiding import without_keys

log = logging.getLogger("raven.spool")

_MESSAGE_CHARS = 200
_OK = 200


def make_transport(made_by: Callable[..., Any]) -> Any:
    """From a class or a function that makes one."""
    return Adapted(made_by, {}) if isinstance(made_by, type) else made_by()


class TransportSender:
    """A `Sender` on a raven transport."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def send(self, request: Request) -> Outcome:
        """What the transport raises or returns, as an outcome.

        A status that can be read from it (urllib's and requests' answers and errors, raven's
        APIError and RateLimited) is judged as every answer is; a return without one is delivered,
        as raven takes it; any other exception is a failure and will be tried again.
        """
        try:
            return _read_answer(self._call(request)) or Response(status=_OK, headers={})
        except Exception as error:
            if came_by_signal(error):
                raise
            answer = _read_answer(error)
            if answer is not None:
                return answer
            told = without_keys(error, request)
            log.debug("the transport %s failed", type(self._transport).__name__, exc_info=told)
            return _fail(error)

    def close(self) -> None:
        """Nothing to do: the transport is its owner's."""

    def _call(self, request: Request) -> Any:
        transport, headers = self._transport, dict(request.headers)
        if not getattr(transport, "is_async", False):
            return call_send(transport, request.url, request.body, headers)
        answers = _Answers()
        call_async_send(
            transport, request.url, request.body, headers, answers.succeed, answers.fail
        )
        return answers.wait(request.timeout_seconds)


class _Answers:
    """Waits for the callbacks of an asynchronous transport."""

    def __init__(self) -> None:
        import threading  # the transport's threads may be green ones: so is what waits for them

        self._done = threading.Event()
        self._error: Exception | None = None

    def succeed(self) -> None:
        self._done.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._done.set()

    def wait(self, seconds: float) -> None:
        if not self._done.wait(seconds):
            raise TimeoutError(f"it called neither callback within {seconds:g} s")
        if self._error is not None:
            raise self._error


def _read_answer(found: object) -> Response | None:
    """The HTTP status in a response or an exception of one, None if there is none."""
    for one in (getattr(found, "response", None), found):
        for name in ("status_code", "status", "code"):
            status = getattr(one, name, None)
            if isinstance(status, int) and 100 <= status < 600:
                return Response(status=status, headers=_read_headers(one), body=_read_body(one))
    return None


def _read_headers(found: object) -> dict[str, str]:
    given: Any = getattr(found, "headers", None)
    headers = {}
    if hasattr(given, "items"):
        headers = {str(name).lower(): str(value) for name, value in given.items()}
    retry_after = getattr(found, "retry_after", None)  # raven.exceptions.RateLimited
    if isinstance(retry_after, int | float) and retry_after > 0:
        headers.setdefault("retry-after", str(retry_after))
    words = getattr(found, "message", None)  # raven.exceptions.APIError: X-Sentry-Error
    if isinstance(words, str):
        headers.setdefault("x-sentry-error", words)
    return headers


def _read_body(found: object) -> bytes:
    """What requests has read already; nothing is read here."""
    content = getattr(found, "_content", b"")
    return content[:MAX_ANSWER_BYTES] if isinstance(content, bytes) else b""


def _fail(error: Exception) -> Failure:
    fault = Fault.TIMEOUT if isinstance(error, TimeoutError) else Fault.GARBAGE
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return Failure(fault=fault, message=text[:_MESSAGE_CHARS], maybe_delivered=True)
