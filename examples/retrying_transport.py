"""A transport of one's own, which tries three times more, registered for every https DSN.

    SENTRY_DSN=https://key@host/1 python -m examples.retrying_transport

It sends while the program waits, and nothing is spooled; examples/own_sender.py has the better of
both. raven's own registry can't do this: it raises DuplicateScheme for https.
"""

import time

import raven
import requests

import raven_spool
from raven_spool.transport import Transport, default_transports

RETRIES = 3
FIRST_PAUSE_SECONDS = 0.1


class RetryingTransport(Transport):
    def send(self, url, data, headers):
        for attempt in range(RETRIES):
            try:
                return self._post(url, data, headers)
            except requests.RequestException as error:
                print(f"attempt {attempt + 1} failed: {type(error).__name__}")
                time.sleep(FIRST_PAUSE_SECONDS * 2**attempt)
        return self._post(url, data, headers)

    def _post(self, url, data, headers):
        answer = requests.post(url, data=data, headers=headers, timeout=5)
        answer.raise_for_status()
        return answer


def main() -> None:
    raven_spool.register()
    default_transports.register("https", RetryingTransport)
    client = raven.Client()  # of SENTRY_DSN
    print("reported as", client.captureMessage("the night's orders are late"))


if __name__ == "__main__":
    main()
