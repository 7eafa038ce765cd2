"""No worker of its own: whoever sends delivers, in its own thread, within its timeout.

A send commits its event, then tries that event first, and older ones while half of its timeout is
left: an exchange begun then can still be answered in time. Where the destination is held or
another process leads, nothing is sent and nothing waited for.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import replace
from types import FrameType
from weakref import WeakSet

from raven_spool.drain import Drain
from raven_spool.drive import Senders, exchange
from raven_spool.errors import list_signal_handlers
from raven_spool.model import Failure, Fault, Send
from raven_spool.senders import Sender
from raven_spool.spool import native

_SHARE = 0.5  # of the timeout, for beginning with older events
_JOIN_LOOK_SECONDS = 0.02

_CUT = Failure(
    fault=Fault.RESET, message="the sending thread was interrupted", maybe_delivered=True
)


class _Visit:
    """One send's time with the drain. It counts while it is both the context's and the runtime's:
    neither a signal that throws us out nor a copied context can make it last."""


# Not a thread's id: greenlets of one thread may each be in a send.
_visiting: ContextVar[_Visit | None] = ContextVar("raven_spool_visiting", default=None)


class InlineRuntime:
    def __init__(self, drain: Drain, make_sender: Callable[[str], Sender]) -> None:
        self._drain = drain
        self._make_sender = make_sender
        self._kept: list[Senders[Sender]] = []  # connections stay open from one send to the next
        self._visits: WeakSet[_Visit] = WeakSet()

    def wake(self, own: int = 0) -> None:
        # A signal handler's send, in the middle of ours: its event is committed and will go out
        # with the next. Volatile events (0) have nothing to try yet.
        if not own or self._is_visiting():
            return
        visit = _Visit()
        try:
            _visiting.set(visit)
            self._visits.add(visit)
            with self._borrow() as senders:
                self._deliver(own, senders)
        finally:
            try:
                _visiting.set(None)
            finally:  # a signal may throw us out of a set that is written in Python
                self._visits.discard(visit)

    def join(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while self._visits:
            if time.monotonic() >= deadline:
                return False
            native.sleep(_JOIN_LOOK_SECONDS)
        kept, self._kept = self._kept, []
        for senders in kept:
            senders.close()
        return True

    def pause(self, seconds: float) -> None:
        native.sleep(seconds)

    @property
    def can_be_waited_for(self) -> bool:
        return True

    @property
    def is_own_thread(self) -> bool:
        return self._is_visiting() and not _is_in_signal_handler()

    def _is_visiting(self) -> bool:
        return _visiting.get() in self._visits

    @contextlib.contextmanager
    def _borrow(self) -> Iterator[Senders[Sender]]:
        try:
            senders = self._kept.pop()
        except IndexError:
            senders = Senders(self._make_sender)
        try:
            yield senders
        finally:
            if len(self._kept) < self._drain.workers:
                self._kept.append(senders)
            else:
                senders.close()

    def _deliver(self, own: int, senders: Senders[Sender]) -> None:
        began = time.monotonic()
        hand: list[Send] = []
        try:
            self._drain.visit(hand, time.time(), began, own=own)
            self._drain.tell()
            if hand:
                seconds = hand[0].request.timeout_seconds
                self._send(hand, senders, seconds)
                while time.monotonic() < began + seconds * _SHARE:
                    self._drain.visit(hand, time.time(), time.monotonic())
                    self._drain.tell()
                    if not hand:
                        break
                    self._send(hand, senders, began + seconds - time.monotonic())
        finally:
            try:
                for left in hand:
                    self._drain.answered(left.claimed, _CUT, time.time(), time.monotonic())
            finally:
                self._leave()
            self._drain.tell()

    def _leave(self) -> None:
        """In two tries: what a signal raises in the first one must not leave the lead with us."""
        has_left = False
        try:
            has_left = self._drain.leave()
        finally:
            if not has_left:
                self._drain.leave()

    def _send(self, hand: list[Send], senders: Senders[Sender], seconds: float) -> None:
        decision = hand[0]
        request = decision.request
        request = replace(request, timeout_seconds=min(seconds, request.timeout_seconds))
        outcome = exchange(senders.get, decision.claimed.destination.sender, request)
        self._drain.answered(decision.claimed, outcome, time.time(), time.monotonic())
        self._drain.tell()
        hand.clear()


def _is_in_signal_handler() -> bool:
    """Whether a send comes from a signal handler and not from what we called ourselves.

    The frames under us are compared with the handlers there are; only a send within a send asks.
    """
    handlers = list_signal_handlers()
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code not in handlers:
        frame = frame.f_back
    return frame is not None
