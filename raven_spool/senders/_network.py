"""Which sockets a sender uses: the standard library's, or green ones that yield to their hub."""

import socket
import ssl
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Modules and not what is in them: monkey patching may change that at any time.

    Args:
        limit: leaves its block after so many seconds, wherever it is. What can do that bounds the
            name lookup too, and a green handshake, whose time starts again with each packet.
    """

    socket: ModuleType
    ssl: ModuleType
    limit: Callable[[float], AbstractContextManager[Any]] = nullcontext


STANDARD = Network(socket=socket, ssl=ssl)
