"""The transports that the contract is for. A new one is one line here.

Nothing is imported by this module: a row's process sets its stage first.
"""

from dataclasses import dataclass
from enum import Enum

_HERE = "tests.contract.transports"


class Delivery(Enum):
    """When a transport delivers what it has committed."""

    IN_SEND = "before `send` returns"
    BEHIND = "behind the application's back"
    ON_FLUSH = "when it is told to flush"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One transport.

    `transport` is what `raven.Client(transport=...)` gets, as `module:attribute`; `query` is what
    the DSN says beside the options of the scenario.

    `stage` is a module that is imported before all else in the row's process (so it may patch)
    and runs the application's commands: `run(commands, obey)`. `stages/plain.py` is the pattern;
    a stage with a loop reads commands in a thread and obeys them within its loop.

    `own_sender`: the HTTP is spoken by a transport of the user's. What is its business alone
    (redirects, half an answer, TLS, the proxy option) is not asked of it.
    """

    name: str
    transport: str
    delivery: Delivery
    query: str = ""
    stage: str = f"{_HERE}.stages.plain"
    own_sender: bool = False


ROWS = [
    Row(
        name="HTTPTransport",
        transport="raven_spool.transport.http:HTTPTransport",
        delivery=Delivery.IN_SEND,
    ),
    Row(
        name="RequestsHTTPTransport",
        transport="raven_spool.transport.requests:RequestsHTTPTransport",
        delivery=Delivery.IN_SEND,
    ),
    Row(
        name="ThreadedHTTPTransport",
        transport="raven_spool.transport.threaded:ThreadedHTTPTransport",
        delivery=Delivery.BEHIND,
    ),
    Row(
        name="ThreadedRequestsHTTPTransport",
        transport="raven_spool.transport.threaded_requests:ThreadedRequestsHTTPTransport",
        delivery=Delivery.BEHIND,
    ),
    Row(
        name="SpoolTransport",
        transport="raven_spool:SpoolTransport",
        delivery=Delivery.BEHIND,
    ),
    Row(
        name="SpoolTransport-none",
        transport="raven_spool:SpoolTransport",
        query="backend=none",
        delivery=Delivery.ON_FLUSH,
    ),
    Row(
        name="SpoolTransport-sender",
        transport=f"{_HERE}.own_sender:make_transport",
        delivery=Delivery.BEHIND,
        own_sender=True,
    ),
]
