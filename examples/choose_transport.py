"""A function that chooses the transport by the environment.

    SENTRY_DSN=https://key@host/1 SENTRY_TRANSPORT=requests python -m examples.choose_transport

On AWS Lambda no thread runs after the answer: there the event is sent before the capture returns.
"""

import os

import raven

from raven_spool.transport.http import HTTPTransport
from raven_spool.transport.requests import RequestsHTTPTransport
from raven_spool.transport.threaded import ThreadedHTTPTransport
from raven_spool.transport.threaded_requests import ThreadedRequestsHTTPTransport

TRANSPORTS = {
    "threaded": ThreadedHTTPTransport,
    "requests": RequestsHTTPTransport,
    "threaded-requests": ThreadedRequestsHTTPTransport,
}


def choose_transport(environ):
    if "LAMBDA_TASK_ROOT" in environ:
        return HTTPTransport
    return TRANSPORTS[environ.get("SENTRY_TRANSPORT", "threaded")]


def main() -> None:
    client = raven.Client(transport=choose_transport(os.environ))
    event_id = client.captureMessage("the night's orders are late")
    print(type(client.remote.get_transport()).__name__, "reported it as", event_id)


if __name__ == "__main__":
    main()
