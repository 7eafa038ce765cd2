"""A transport of one's own does the sending; the spool keeps what it could not send.

    SENTRY_DSN=https://key@host/1 RAVEN_SPOOL_PATH=./spool python -m examples.own_sender

What it raises is tried again, here and, from cron, in another process:

    raven-spool flush --sender examples.own_sender:GatewayTransport
"""

import raven
import requests

from raven_spool import SpoolTransport
from raven_spool.transport import Transport


class GatewayTransport(Transport):
    """Goes through the company's gateway, which asks who we are."""

    def __init__(self, department="orders"):
        self._department = department

    def send(self, url, data, headers):
        headers = {**headers, "X-Department": self._department}
        requests.post(url, data=data, headers=headers, timeout=5).raise_for_status()


def main() -> None:
    client = raven.Client(transport=SpoolTransport(sender=GatewayTransport("night orders")))
    print("reported as", client.captureMessage("the night's orders are late"))


if __name__ == "__main__":
    main()
