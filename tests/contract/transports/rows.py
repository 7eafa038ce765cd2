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
    and runs the application's commands: `run(commands, program)`. `stages/plain.py` is the
    pattern; a stage with a loop reads commands in a native thread and lets the program obey them
    within its loop.

    `runtime`: what is started in the process where a loop delivers, and nothing else is.

    `own_sender`: the HTTP is spoken by a transport of the user's. What is its business alone
    (redirects, half an answer, TLS, the proxy option) is not asked of it.

    `is_variant`: another row's transport in another process than it needs. It goes through what is
    about loops each time, and through all else in the long form (`make faults`).
    """

    name: str
    transport: str
    delivery: Delivery
    query: str = ""
    stage: str = f"{_HERE}.stages.plain"
    runtime: str = ""
    own_sender: bool = False
    is_variant: bool = False


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
    Row(
        name="GeventedHTTPTransport",
        transport="raven_spool.transport.gevent:GeventedHTTPTransport",
        delivery=Delivery.BEHIND,
        stage=f"{_HERE}.stages.gevent",
        runtime="GeventRuntime",
    ),
    Row(
        name="GeventedHTTPTransport-unpatched",
        transport="raven_spool.transport.gevent:GeventedHTTPTransport",
        delivery=Delivery.BEHIND,
        stage=f"{_HERE}.stages.gevent_unpatched",
        runtime="GeventRuntime",
        is_variant=True,
    ),
    Row(
        name="GeventedHTTPTransport-late",
        transport="raven_spool.transport.gevent:GeventedHTTPTransport",
        delivery=Delivery.BEHIND,
        stage=f"{_HERE}.stages.gevent_late",
        runtime="GeventRuntime",
        is_variant=True,
    ),
    Row(
        name="SpoolTransport-gevent",
        transport="raven_spool:SpoolTransport",
        delivery=Delivery.BEHIND,
        stage=f"{_HERE}.stages.gevent",
        runtime="GeventRuntime",
        is_variant=True,
    ),
    Row(
        name="EventletHTTPTransport",
        transport="raven_spool.transport.eventlet:EventletHTTPTransport",
        delivery=Delivery.BEHIND,
        stage=f"{_HERE}.stages.eventlet",
        runtime="EventletRuntime",
    ),
    Row(
        name="EventletHTTPTransport-unpatched",
        transport="raven_spool.transport.eventlet:EventletHTTPTransport",
        delivery=Delivery.BEHIND,
        stage=f"{_HERE}.stages.eventlet_unpatched",
        runtime="EventletRuntime",
        is_variant=True,
    ),
    Row(
        name="EventletHTTPTransport-late",
        transport="raven_spool.transport.eventlet:EventletHTTPTransport",
        delivery=Delivery.BEHIND,
        stage=f"{_HERE}.stages.eventlet_late",
        runtime="EventletRuntime",
        is_variant=True,
    ),
    Row(
        name="SpoolTransport-eventlet",
        transport="raven_spool:SpoolTransport",
        delivery=Delivery.BEHIND,
        stage=f"{_HERE}.stages.eventlet",
        runtime="EventletRuntime",
        is_variant=True,
    ),
    Row(
        name="TwistedHTTPTransport",
        transport="raven_spool.transport.twisted:TwistedHTTPTransport",
        delivery=Delivery.BEHIND,
        stage=f"{_HERE}.stages.twisted",
        runtime="TwistedRuntime",
    ),
    Row(
        name="TornadoHTTPTransport",
        transport="raven_spool.transport.tornado:TornadoHTTPTransport",
        delivery=Delivery.BEHIND,
        stage=f"{_HERE}.stages.tornado",
        runtime="TornadoRuntime",
    ),
    Row(
        name="AsyncioHTTPTransport",
        transport="raven_spool.transport.asyncio:AsyncioHTTPTransport",
        delivery=Delivery.BEHIND,
        stage=f"{_HERE}.stages.asyncio",
        runtime="AsyncioRuntime",
    ),
]
