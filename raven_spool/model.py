"""The values that pass between the rooms: frozen, without behaviour, without I/O.

Units: seconds as float (`_seconds`), sizes in bytes (`_bytes`), instants as Unix time (`_at`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where events go and how: one Sentry project as one client reaches it.

    Stored apart from the events, because whoever drains may not be who captured.
    """

    base_url: str  # "https://host:port/prefix", no trailing slash, no credentials
    project: str
    public_key: str = field(repr=False)
    secret_key: str | None = field(default=None, repr=False)
    client: str = "raven-spool"  # sentry_client in the auth header: Relay repairs by it
    timeout_seconds: float = 5.0
    verify_ssl: bool = True
    ca_certs: str | None = None
    proxy: str | None = field(default=None, repr=False)  # may hold a password
    sender: str = "urllib"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One request to Sentry as it is stored: raven's store body, or an SDK envelope."""

    event_id: str  # 32 lowercase hex digits
    category: str  # Sentry's data category: error, transaction, session, ...
    endpoint: str  # "store" or "envelope"
    headers: Headers  # what must be sent beside the auth header; never a credential
    body: bytes = field(repr=False)  # exactly as it goes over the wire
    created_at: float = 0.0


class State(Enum):
    """Where a stored event stands. A claim lives in the leader's memory, so a crash undoes it."""

    READY = "ready"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A ready event in the hands of the leader."""

    id: int
    generation: str  # ids mean something only within the file they came from
    lane: int
    destination: Destination
    event: Event
    attempts: int  # finished attempts that counted
    last_unanswered: bool  # the last attempt may have reached the server without our hearing so
    deaths: int = 0  # flushers that ended without a word while they were sending it
    is_owed_a_try: bool = False  # revived by hand: tried once, however old it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """The events of one destination and category, and what all drainers share about them.

    Category "" is the destination itself: what holds it, holds all its lanes.
    """

    id: int
    destination_id: int
    category: str
    open_at: float
    hold_seconds: float  # the hold's length: bounds what a jumped clock can make of open_at
    hold: str  # "" | "backoff" | "limited" | "refused"
    reason: str  # for people: what the server said
    failures: int  # in a row
    ready: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One POST, ready for a sender."""

    url: str
    headers: Headers = field(repr=False)  # holds the signed auth header
    body: bytes = field(repr=False)
    timeout_seconds: float = 5.0  # for the whole exchange: connect, send, answer
    verify_ssl: bool = True
    ca_certs: str | None = None
    proxy: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a server answered."""

    status: int
    # Names in lower case; repeated ones joined with ", ". Both may echo what was sent.
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)  # at most MAX_ANSWER_BYTES


MAX_ANSWER_BYTES = 16 * 1024  # a server's answer must not exhaust our memory


class Fault(Enum):
    """Why there was no answer."""

    CONNECT = "connect"  # refused, unreachable, DNS, proxy: no byte of the event left
    TLS = "tls"  # certificate or handshake: no byte of the event left
    TIMEOUT = "timeout"
    RESET = "reset"  # closed before or in the middle of the answer
    GARBAGE = "garbage"  # not HTTP
    RAISED = "raised"  # the sender did; the event may be to blame


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """No answer, or none that can be understood."""

    fault: Fault
    message: str  # for people; no credentials
    maybe_delivered: bool  # the whole request may have reached the server


Outcome = Response | Failure


# What policy says of an outcome.


@dataclass(frozen=True, slots=True)
class Ack:
    """Delivered."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Not now: the destination backs off, and this attempt counts on the event.

    `hold` is "backoff", or "refused" where the destination itself says no (wrong key, moved).
    `same_next`: nothing of the event left this host, so it can't be to blame and may go first
    again; otherwise the next probe is another event.
    """

    reason: str
    hold: str = "backoff"
    same_next: bool = False


@dataclass(frozen=True, slots=True)
class Bury:
    """The event's own fault, or out of time: a dead letter with this reason.

    `trouble` is the destination's, where that is what the event did not outlast.
    """

    reason: str
    trouble: Retry | None = None


@dataclass(frozen=True, slots=True)
class Stay:
    """Limited: the event stays ready and nothing counts against it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Discard:
    """Dropped by a rule the user chose; counted in the ledger under `reason`."""

    reason: str


Verdict = Ack | Bury | Retry | Stay | Discard


@dataclass(frozen=True, slots=True)
class Limit:
    """A rate limit: these categories are closed for so long. No categories means all."""

    categories: frozenset[str]
    seconds: float


# What the drain says next.


@dataclass(frozen=True, slots=True)
class Send:
    claimed: Claimed
    request: Request


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to send before so many seconds have passed or the bell rings.

    `deaf`: another process leads, and the bell is for it.
    """

    seconds: float
    deaf: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """This worker has no more to do."""

    reason: str


Decision = Send | Wait | Stop
