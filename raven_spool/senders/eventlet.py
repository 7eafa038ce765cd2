"""eventlet's sender: http.client over its green sockets, whether or not the process is patched."""

from eventlet import Timeout
from eventlet.green import socket, ssl

from raven_spool.senders._network import Network
from raven_spool.senders.urllib import UrllibSender

_NETWORK = Network(socket=socket, ssl=ssl, limit=lambda seconds: Timeout(seconds, False))


class EventletSender(UrllibSender):
    """A `Sender` that lets other greenlets run while it waits."""

    def __init__(self) -> None:
        super().__init__(_NETWORK)
