"""eventlet's own server with the WSGI application: eventlet_server DESCRIPTOR"""

import eventlet

eventlet.monkey_patch()

import signal  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402

import eventlet.wsgi  # noqa: E402

from tests.e2e.programs_loops.wsgi_shop import application  # noqa: E402


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    eventlet.wsgi.server(socket.socket(fileno=int(sys.argv[1])), application, log_output=False)


if __name__ == "__main__":
    main()
