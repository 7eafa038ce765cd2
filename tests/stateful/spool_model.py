"""What a spool is, as a dict; and real processes that end while they use one."""

import os
import signal
import warnings
from collections import Counter
from dataclasses import dataclass, field

from raven_spool.model import State
from raven_spool.spool.queue import EventQueue


@dataclass
class Known:
    """What the model knows of one stored event."""

    number: int
    lane: tuple[str, str]
    body: bytes
    state: State = State.READY
    attempts: int = 0
    due: float = 0.0


@dataclass
class Model:
    stored: dict[int, Known] = field(default_factory=dict)  # by id
    accepted: int = 0
    delivered: int = 0
    dropped: Counter = field(default_factory=Counter)
    graves: dict[int, str] = field(default_factory=dict)  # id -> the reason it was dropped for
    holds: dict[tuple[str, str], tuple[str, float]] = field(default_factory=dict)

    def count(self, state):
        return sum(known.state is state for known in self.stored.values())

    def deliver(self, key):
        if self.stored.pop(key, None) is not None:
            self.delivered += 1
        elif key in self.graves:
            self.dropped[self.graves.pop(key)] -= 1
            self.delivered += 1

    def drop(self, key, reason):
        del self.stored[key]
        self.dropped[reason] += 1
        self.graves[key] = reason


def in_child(act):
    """Fork, `act` there, and say how the child ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: pytest's threads
        pid = os.fork()
    if not pid:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_at_insert(side):
    insert = EventQueue.insert

    def dying(queue, rows):
        if side == "after":
            insert(queue, rows)
        os.kill(os.getpid(), signal.SIGKILL)

    EventQueue.insert = dying
