"""A transport with time limits of its own, given to raven as an instance.

    SENTRY_DSN=https://key@host/1 RAVEN_SPOOL_PATH=./spool python -m examples.custom_timeouts

The server gets 10 s to answer, and the program takes up to 5 s at its end to deliver what is left.
"""

import raven

from raven_spool.transport.threaded import ThreadedHTTPTransport


def main() -> None:
    client = raven.Client(transport=ThreadedHTTPTransport(timeout=10, shutdown_timeout=5))
    print("reported as", client.captureMessage("the night's orders are late"))


if __name__ == "__main__":
    main()
