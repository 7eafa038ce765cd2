"""Hear of an event that could not be reported.

    SENTRY_DSN=https://key@host/1 RAVEN_SPOOL_PATH=./spool python -m examples.handle_errors

With raven's own transport that is every event captured while the server is away. With ours such an
event is reported: it waits in the spool. What raises is what nothing can mend later, say an option
with a bad value, or an event that neither the spool nor the memory has room for.
"""

import raven

from raven_spool.transport.http import HTTPTransport


def report(client, message):
    try:
        event_id = client.captureMessage(message)
    except Exception as error:  # noqa: BLE001 - a report that fails must not end the program
        print(f"not reported: {type(error).__name__}: {error}")
    else:
        print("reported as", event_id)


def main() -> None:
    client = raven.Client(raise_send_errors=True, transport=HTTPTransport)
    report(client, "the night's orders are late")


if __name__ == "__main__":
    main()
