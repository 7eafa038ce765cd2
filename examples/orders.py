"""A program that reports its errors with raven, by way of a spool.

    SENTRY_DSN=https://key@host/1 RAVEN_SPOOL_PATH=/var/spool/orders python examples/orders.py 20

It prints the id of each report and then waits for more orders, until somebody ends it.
"""

import signal
import sys

import raven

from raven_spool import SpoolTransport


class CardError(Exception):
    pass


def take_order(number: int) -> None:
    raise CardError(f"order {number}: the bank said no")


def main() -> None:
    client = raven.Client(transport=SpoolTransport)  # that is all there is to change
    for number in range(1, int(sys.argv[1]) + 1):
        try:
            take_order(number)
        except CardError as error:
            print(f"{error}; reported as", client.captureException(), flush=True)
        client.context.clear()  # the end of a request, as raven's integrations do it
    signal.pause()


if __name__ == "__main__":
    main()
