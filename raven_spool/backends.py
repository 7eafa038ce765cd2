"""Backends: a name for a sender and a runtime, and the extra that brings their library."""

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raven_spool.config import Options
from raven_spool.errors import BackendUnavailable, ConfigurationError
from raven_spool.spool import fork

THREAD = "raven_spool.runtimes.thread:ThreadRuntime"
INLINE = "raven_spool.runtimes.inline:InlineRuntime"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Import strings, so that a library is imported only where it is used."""

    sender: str
    runtime: str | None
    extra: str | None = None

    @property
    def flushing_runtime(self) -> str:
        """What an explicit flush drives: where nothing runs by itself, threads."""
        return THREAD if self.runtime in (None, INLINE) else str(self.runtime)


SENDERS = {
    "urllib": "raven_spool.senders.urllib:UrllibSender",
    "requests": "raven_spool.senders.requests:RequestsSender",
}

BACKENDS = {
    "thread": Backend(sender="urllib", runtime=THREAD),
    "requests": Backend(sender="requests", runtime=THREAD),
    "inline": Backend(sender="urllib", runtime=INLINE),
    "none": Backend(sender="urllib", runtime=None),
}


def choose(name: str, environ: Mapping[str, str] = os.environ) -> Backend:
    """The backend of that name; "auto" is what fits the process."""
    if name == "auto":
        name = "inline" if _is_frozen_between_requests(environ) else "thread"
    return BACKENDS[name]


def _is_frozen_between_requests(environ: Mapping[str, str]) -> bool:
    """AWS Lambda and App Engine give no time to threads; known as raven knows them
    (raven.conf.remote.discover_default_transport)."""
    return "LAMBDA_TASK_ROOT" in environ or {"CURRENT_VERSION_ID", "INSTANCE_ID"} <= environ.keys()


def load(target: str, extra: str | None = None) -> Any:
    """Import `module:attribute`.

    Raises:
        BackendUnavailable: its library is not installed.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(fork.load(lambda: importlib.import_module(module)), attribute)
    except ImportError as error:
        remedy = f": pip install 'raven-spool[{extra}]'" if extra else ""
        raise BackendUnavailable(f"{target} needs {error.name}{remedy}") from error


# -- senders --------------------------------------------------------------------------------------

# What this process was told to send with, by the name under which its events are stored. Nothing
# that stands in a spool is ever imported: a file must not make its reader run code.
_own_transports: dict[str, Any] = {}
_OWN_SENDER = "raven_spool.senders.transport:TransportSender"
_MAKE_TRANSPORT = "raven_spool.senders.transport:make_transport"


def name_sender(sender: Any) -> str:
    """The name under which events of this sender are stored; from now on this process has it.

    Args:
        sender: "urllib" or "requests"; a raven transport of the user's own, as a class or as an
            instance; or `module:attribute` that names one.
    """
    if isinstance(sender, str):
        if sender not in SENDERS:
            _own_transports.setdefault(sender, None)
        return sender
    kind = sender if isinstance(sender, type) else type(sender)
    name = f"{_name_module(kind)}:{kind.__qualname__}"
    _own_transports[name] = sender
    return name


def sender_of(options: Options) -> str:
    """The name of the sender that these options choose, as `name_sender` gives it."""
    return name_sender(options.sender or choose(options.backend).sender)


def _name_module(kind: type) -> str:
    """`__main__` is another module in each program: its file tells them apart."""
    if kind.__module__ != "__main__":
        return kind.__module__
    path = getattr(importlib.import_module("__main__"), "__file__", None)
    return os.path.abspath(path) if path else "__main__"


def make_sender(name: str) -> Any:
    """A sender for one worker.

    Raises:
        BackendUnavailable: a module it needs can't be imported.
        ConfigurationError: what it names is no transport.
    """
    if name in SENDERS:
        return load(SENDERS[name])()
    made_by, make_transport = load(_OWN_SENDER), load(_MAKE_TRANSPORT)
    found = _own_transports[name]
    if found is None:
        found = _load_own(name)
    if not hasattr(found, "send") or isinstance(found, type):
        found = make_transport(found)
    if not (hasattr(found, "send") or hasattr(found, "async_send")):
        raise ConfigurationError(f"sender={name}: a {type(found).__name__} has no `send`")
    _own_transports[name] = found  # one for all workers, as raven has one for all threads
    return made_by(found)


def _load_own(name: str) -> Any:
    try:
        return load(name)
    except AttributeError as error:
        raise ConfigurationError(f"sender={name}: {error}") from error


def can_send(name: str) -> bool:
    """Whether this process has that sender; events of others wait for one that does."""
    return name in SENDERS or name in _own_transports
