"""The loop of one worker: ask the drain, do what it says, tell it what came of it.

`drive` is for workers that may block (threads, and greenlets, whose library waits for them);
`adrive` for those whose waiting is awaited. Both `offload` what touches the disk as their runtime
wants it; all else happens where the worker runs.
"""

import inspect
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

from raven_spool.drain import Drain
from raven_spool.errors import SpoolError, came_by_signal
from raven_spool.model import Decision, Failure, Fault, Outcome, Request, Send, Stop, Wait
from raven_spool.senders import AsyncSender, Sender
from raven_spool.senders.hiding import without_keys
from raven_spool.spool.native import make_lock

log = logging.getLogger("raven.spool")

T = TypeVar("T")

_ABANDONED = "its loop stood still, or ended"


class Worker:
    """What one worker is at. Whoever finds that its loop has died can end it from outside."""

    def __init__(self, drain: Drain) -> None:
        self.drain = drain
        self._lock = make_lock()
        self._at: Decision | None = None
        self._due_ticks = math.inf
        self._is_abandoned = False

    def next(self, outcome: Outcome | None = None) -> Decision:
        """Take what came of the last Send, and say what to do now. Touches the disk."""
        with self._lock:
            if self._is_abandoned:
                return Stop(_ABANDONED)
            at, self._at = self._at, None
            if isinstance(at, Send) and outcome is not None:
                self.drain.answered(at.claimed, outcome, time.time(), time.monotonic())
            self._at = self.drain.step(time.time(), time.monotonic(), waited=isinstance(at, Wait))
            self._due_ticks = time.monotonic() + self._seconds_away(self._at)
            return self._at

    def abandon(self) -> None:
        """End it, whatever it is at: its event is ready again, and the lead is let go if nobody
        else is at work. Touches the disk."""
        with self._lock:
            self._abandon()

    def dismiss(self) -> bool:
        """End it unless a request of it is under way. Returns whether it is over."""
        with self._lock:
            if not isinstance(self._at, Send):
                self._abandon()
            return self._is_abandoned

    def _abandon(self) -> None:
        if not self._is_abandoned and not isinstance(self._at, Stop):
            self.drain.abandon(self._at)
        self._is_abandoned = True
        self._due_ticks = math.inf

    @property
    def is_abandoned(self) -> bool:
        return self._is_abandoned

    @property
    def is_working(self) -> bool:
        """Whether it may hold the lead."""
        return self._due_ticks < math.inf

    def is_overdue(self, ticks: float, patience_seconds: float) -> bool:
        """Whether it should have come back long ago."""
        return ticks > self._due_ticks + patience_seconds

    def _seconds_away(self, decision: Decision) -> float:
        match decision:
            case Send(_, request):
                return request.timeout_seconds
            case Wait(seconds) if self.drain.leads:
                return seconds
            case _:  # nobody waits for it
                return math.inf


class Closable(Protocol):
    def close(self) -> Any: ...


S = TypeVar("S", bound=Closable)


class Senders(Generic[S]):
    """One worker's own, each made when it is first needed."""

    def __init__(self, make_sender: Callable[[str], S]) -> None:
        self._make_sender = make_sender
        self._made: dict[str, S] = {}

    def find(self, name: str) -> S | None:
        return self._made.get(name)

    def get(self, name: str) -> S:
        if name not in self._made:
            self._made[name] = self._make_sender(name)
        return self._made[name]

    def close(self) -> None:
        for sender in self._made.values():
            sender.close()

    async def aclose(self) -> None:
        for sender in self._made.values():
            closing = sender.close()
            if inspect.isawaitable(closing):
                await closing


Offload = Callable[..., Any]  # calls a function with arguments where it may block


def call(function: Callable[..., T], *args: Any) -> T:
    """The offload of a worker that may block where it is."""
    return function(*args)


def drive(
    worker: Worker,
    sender_for: Callable[[str], Sender],
    wait: Callable[[Wait], None],
    call_for_help: Callable[[], None],
    offload: Offload = call,
) -> str:
    """Run until the drain says Stop; returns its reason.

    Args:
        sender_for: this worker's own sender of a name.
        wait: blocks for so long, or until the bell rings.
        call_for_help: there is more than this worker can send alone.
        offload: calls what touches the disk, and comes back with what it returned.
    """
    outcome: Outcome | None = None
    while True:
        decision: Decision = offload(worker.next, outcome)
        worker.drain.tell()
        match decision:
            case Send(claimed, request):
                if worker.drain.has_more:
                    call_for_help()
                outcome = exchange(sender_for, claimed.destination.sender, request)
            case Wait():
                outcome = None
                wait(decision)
            case Stop(reason):
                return reason


async def adrive(
    worker: Worker,
    senders: Senders[Sender | AsyncSender],
    wait: Callable[[Wait], Awaitable[None]],
    call_for_help: Callable[[], None],
    offload: Offload,
    tell: Callable[[], None],
) -> str:
    """As `drive`, with `wait`, `offload` and the senders awaited; `tell` is the drain's."""
    outcome: Outcome | None = None
    while True:
        decision: Decision = await offload(worker.next, outcome)
        tell()
        match decision:
            case Send(claimed, request):
                if worker.drain.has_more:
                    call_for_help()
                name = claimed.destination.sender
                outcome = await aexchange(worker, senders, name, request, offload)
                if worker.is_abandoned:  # if its loop was closed, nothing can be awaited any more
                    return _ABANDONED
            case Wait():
                outcome = None
                await wait(decision)
            case Stop(reason):
                return reason


def exchange(sender_for: Callable[[str], Sender], name: str, request: Request) -> Outcome:
    """A sender that raises has a fault of its own; its event must not stay in flight for good."""
    try:
        return sender_for(name).send(request)
    except SpoolError as error:
        return _say_why(error)
    except Exception as error:
        if came_by_signal(error):
            raise  # a task's time limit, say: the application's own, and nobody's fault here
        log.error("the sender %s failed", name, exc_info=without_keys(error, request))
        return _blame_sender(name, error)


async def aexchange(
    worker: Worker,
    senders: Senders[Sender | AsyncSender],
    name: str,
    request: Request,
    offload: Offload,
) -> Outcome:
    """As `exchange`. A sender that blocks, a user's own, is called where it may."""
    try:
        sender = senders.find(name) or await offload(senders.get, name)  # that imports a library
        sending = sender.send if inspect.iscoroutinefunction(sender.send) else None
        outcome: Outcome = await (sending(request) if sending else offload(sender.send, request))
        return outcome
    except SpoolError as error:
        return _say_why(error)
    except Exception as error:
        if not worker.is_abandoned:  # else it was cut off with its loop
            log.error("the sender %s failed", name, exc_info=without_keys(error, request))
        return _blame_sender(name, error)


def _say_why(error: SpoolError) -> Failure:
    """The sender could not be made."""
    return Failure(fault=Fault.CONNECT, message=str(error), maybe_delivered=False)


def _blame_sender(name: str, error: Exception) -> Failure:
    return Failure(
        fault=Fault.RAISED,
        message=f"the sender {name} raised {type(error).__name__}",
        maybe_delivered=True,
    )
