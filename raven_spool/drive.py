"""The loop of one worker: ask the drain, do what it says, tell it what came of it."""

import logging
import time
from collections.abc import Callable

from raven_spool.drain import Drain
from raven_spool.errors import SpoolError
from raven_spool.model import Failure, Fault, Outcome, Request, Send, Stop, Wait
from raven_spool.senders import Sender

log = logging.getLogger("raven.spool")


class Senders:
    """One worker's own, each made when it is first needed."""

    def __init__(self, make_sender: Callable[[str], Sender]) -> None:
        self._make_sender = make_sender
        self._made: dict[str, Sender] = {}

    def get(self, name: str) -> Sender:
        if name not in self._made:
            self._made[name] = self._make_sender(name)
        return self._made[name]

    def close(self) -> None:
        for sender in self._made.values():
            sender.close()


def drive(
    drain: Drain,
    sender_for: Callable[[str], Sender],
    wait: Callable[[Wait], None],
    call_for_help: Callable[[], None],
) -> str:
    """Run until the drain says Stop; returns its reason.

    Args:
        sender_for: this worker's own sender of a name.
        wait: blocks for so long, or until the bell rings.
        call_for_help: there is more than this worker can send alone.
    """
    waited = False
    while True:
        decision = drain.step(time.time(), time.monotonic(), waited=waited)
        waited = isinstance(decision, Wait)
        match decision:
            case Send(claimed, request):
                if drain.has_more:
                    call_for_help()
                outcome = exchange(sender_for, claimed.destination.sender, request)
                drain.answered(claimed, outcome, time.time(), time.monotonic())
            case Wait():
                wait(decision)
            case Stop(reason):
                return reason


def exchange(sender_for: Callable[[str], Sender], name: str, request: Request) -> Outcome:
    """A sender that raises has a fault of its own; its event must not stay in flight for good."""
    try:
        return sender_for(name).send(request)
    except SpoolError as error:  # it could not be made, and says why
        return Failure(fault=Fault.CONNECT, message=str(error), maybe_delivered=False)
    except Exception as error:
        log.exception("the sender %s failed", name)
        return Failure(
            fault=Fault.GARBAGE,
            message=f"the sender {name} raised {type(error).__name__}",
            maybe_delivered=True,
        )
