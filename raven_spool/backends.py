"""Backends: a name for a sender and a runtime, and the packages that they need."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from raven_spool.config import Options
from raven_spool.errors import BackendUnavailable, ConfigurationError
from raven_spool.spool import fork

THREAD = "raven_spool.runtimes.thread:ThreadRuntime"
INLINE = "raven_spool.runtimes.inline:InlineRuntime"

# Seconds a send may wait for the spool. A loop stands still for as long.
SEND_TIMEOUT = 0.2
_LOOP_SEND_TIMEOUT = 0.02

# What makes an awaitable of a blocking call.
_IN_THREAD = "raven_spool.runtimes.asyncio:in_thread"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Import strings, so that a library is imported only where it is used."""

    runtime: str | None
    # By whose name its events are stored; any process sends those of a built-in one, a loop with
    # its own client.
    sender: str = "urllib"
    client: str | None = None
    needs: tuple[str, ...] = ()  # packages
    send_timeout: float = SEND_TIMEOUT
    in_thread: str = _IN_THREAD

    @property
    def flushing_runtime(self) -> str:
        """What an explicit flush drives: where nothing runs by itself, threads."""
        return THREAD if self.runtime in (None, INLINE) else str(self.runtime)


SENDERS = {
    "urllib": "raven_spool.senders.urllib:UrllibSender",
    "requests": "raven_spool.senders.requests:RequestsSender",
}


def _loop(runtime: str, client: str, *needs: str, in_thread: str = _IN_THREAD) -> Backend:
    return Backend(
        runtime=f"raven_spool.runtimes.{runtime}",
        client=f"raven_spool.senders.{client}",
        needs=needs,
        send_timeout=_LOOP_SEND_TIMEOUT,
        in_thread=in_thread,
    )


# Those that need packages have an extra of their name.
BACKENDS = {
    "thread": Backend(runtime=THREAD),
    "requests": Backend(runtime=THREAD, sender="requests"),
    "inline": Backend(runtime=INLINE),
    "none": Backend(runtime=None),
    "gevent": _loop("gevent:GeventRuntime", "gevent:GeventSender", "gevent"),
    "eventlet": _loop("eventlet:EventletRuntime", "eventlet:EventletSender", "eventlet"),
    "twisted": _loop(
        *("twisted:TwistedRuntime", "twisted:TwistedSender"),
        *("twisted", "OpenSSL", "service_identity"),
        in_thread="raven_spool.runtimes.twisted:in_thread",
    ),
    "tornado": _loop("tornado:TornadoRuntime", "tornado:TornadoSender", "tornado", "pycurl"),
    "asyncio": _loop("asyncio:AsyncioRuntime", "aiohttp:AiohttpSender", "aiohttp"),
}


def choose(name: str, environ: Mapping[str, str] = os.environ) -> Backend:
    """The backend of that name; "auto" is what fits the process as it is now.

    Raises:
        BackendUnavailable: a package that it needs is not installed.
    """
    if name == "auto":
        name = _guess(environ)
    backend = BACKENDS[name]
    for package in backend.needs:
        if package not in sys.modules and find_spec(package) is None:
            raise BackendUnavailable(
                f"backend {name} needs {package}: pip install 'raven-spool[{name}]'"
            )
    return backend


def _guess(environ: Mapping[str, str]) -> str:
    if _is_frozen_between_requests(environ):
        return "inline"
    # Neither is imported to be asked: who has patched has imported it.
    monkey, patcher = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if monkey is not None and monkey.is_module_patched("threading"):
        return "gevent"
    if patcher is not None and patcher.is_monkey_patched("thread"):
        return "eventlet"
    return "thread"


def _is_frozen_between_requests(environ: Mapping[str, str]) -> bool:
    """AWS Lambda and App Engine give no time to threads; known as raven knows them
    (raven.conf.remote.discover_default_transport)."""
    return "LAMBDA_TASK_ROOT" in environ or {"CURRENT_VERSION_ID", "INSTANCE_ID"} <= environ.keys()


def load(target: str) -> Any:
    """Import `module:attribute`.

    Raises:
        BackendUnavailable: its library is not installed.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(fork.hold_off(lambda: importlib.import_module(module)), attribute)
    except ImportError as error:
        raise BackendUnavailable(f"{target} needs {error.name}") from error


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
    named = BACKENDS.get(options.backend, BACKENDS["thread"])  # "auto" brings no sender of its own
    return name_sender(options.sender or named.sender)


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


_clients = {backend.runtime: backend.client for backend in BACKENDS.values() if backend.client}


def sender_maker(runtime: str) -> Callable[[str], Any]:
    """`make_sender` for the workers of that runtime: built-in senders mean the same everywhere,
    so a loop's workers send for all of them with their loop's own client."""
    client = _clients.get(runtime)
    if client is None:
        return make_sender
    return lambda name: load(client)() if name in SENDERS else make_sender(name)


def can_send(name: str) -> bool:
    """Whether this process has that sender; events of others wait for one that does."""
    return name in SENDERS or name in _own_transports
