"""gevent's sender: http.client over gevent's sockets, whether or not the process is patched."""

from gevent import Timeout, socket, ssl

from raven_spool.senders._network import Network
from raven_spool.senders.urllib import UrllibSender

_NETWORK = Network(socket=socket, ssl=ssl, limit=lambda seconds: Timeout(seconds, False))


class GeventSender(UrllibSender):
    """A `Sender` that lets other greenlets run while it waits."""

    def __init__(self) -> None:
        super().__init__(_NETWORK)
