"""Celery's signals, the task's and the log's, without a worker.

python -m tests.e2e.programs_frameworks.celery_shop
"""

import logging

import celery
import raven
from raven.contrib.celery import register_logger_signal, register_signal

from raven_spool import SpoolTransport

app = celery.Celery("shop")
app.conf.task_always_eager = True

client = raven.Client(transport=SpoolTransport)
register_logger_signal(client)
register_signal(client)


@app.task
def take_order(number):
    raise LookupError(f"no order {number}")


@app.task
def count_orders():
    logging.getLogger("shop").error("too few orders")


def main():
    app.log.setup(loglevel="ERROR")
    take_order.delay(7)
    print(client.last_event_id)
    count_orders.delay()
    print(client.last_event_id)


if __name__ == "__main__":
    main()
