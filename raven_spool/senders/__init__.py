"""The one place that touches the network: a sender turns a Request into a Response or a Failure."""

from typing import Protocol

from raven_spool.model import Outcome, Request


class Sender(Protocol):
    """One HTTP library, as one worker uses it. Not shared between threads."""

    def send(self, request: Request) -> Outcome:
        """POST the request once and tell what came back.

        Redirects are not followed and nothing is sent twice.

        Args:
            request: `timeout_seconds` bounds the whole exchange: connect, TLS, send, wait and read.
                Only the name lookup is out of reach: the C library's resolver has limits of its
                own (resolv.conf's `timeout` and `attempts`).

        Returns:
            The answer, or a Failure whose message fits a log line and holds no credentials.
            Trouble of the network, the server or a proxy never raises.
        """

    def close(self) -> None:
        """Drop the kept connections; never raises, and `send` may be called again."""


class AsyncSender(Protocol):
    """The same for one worker of an event loop: what it returns is awaited as its loop awaits.

    May be made in any thread; `send` and `close` are called in the loop's.
    """

    async def send(self, request: Request) -> Outcome:
        """As `Sender.send`. Cancelled, it drops the connection that was in use."""

    async def close(self) -> None:
        """As `Sender.close`."""
