"""Backends: a name for a sender and a runtime, and the extra that brings their library."""

import importlib
from dataclasses import dataclass
from typing import Any

from raven_spool.errors import BackendUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Import strings, so that a library is imported only where it is used."""

    sender: str
    runtime: str | None
    extra: str | None = None


SENDERS = {
    "urllib": "raven_spool.senders.urllib:UrllibSender",
    "requests": "raven_spool.senders.requests:RequestsSender",
}

BACKENDS = {
    "thread": Backend(sender="urllib", runtime="raven_spool.runtimes.thread:ThreadRuntime"),
    "requests": Backend(sender="requests", runtime="raven_spool.runtimes.thread:ThreadRuntime"),
    "none": Backend(sender="urllib", runtime=None),
}


def choose(name: str) -> Backend:
    """The backend of that name; "auto" is what fits the process."""
    return BACKENDS["thread" if name == "auto" else name]


def load(target: str, extra: str | None = None) -> Any:
    """Import `module:attribute`.

    Raises:
        BackendUnavailable: its library is not installed.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        remedy = f": pip install 'raven-spool[{extra}]'" if extra else ""
        raise BackendUnavailable(f"{target} needs {error.name}{remedy}") from error


def make_sender(name: str) -> Any:
    """A sender for one worker."""
    return load(SENDERS[name])()


def can_send(name: str) -> bool:
    """Whether this process has that sender; events of others wait for one that does."""
    return name in SENDERS
