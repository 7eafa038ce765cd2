"""A Celery application that reports its failures with raven.

Its worker sends itself the tasks of E2E_TASKS, say `fail fail log`, when it is ready. In the
directory E2E_DIARY the file `captured` gets a line "event_id pid runtimes" for each capture.
"""

import logging
import os

import celery
import raven
from celery.signals import worker_ready
from raven.contrib.celery import register_logger_signal, register_signal

from raven_spool import SpoolTransport
from tests.e2e.programs_loops.shop import OrderFailed, name_runtimes, retry_soon


class CountedClient(raven.Client):
    def capture(self, *args, **kwargs):
        event_id = super().capture(*args, **kwargs)
        with open(os.path.join(os.environ["E2E_DIARY"], "captured"), "a", buffering=1) as diary:
            diary.write(f"{event_id} {os.getpid()} {name_runtimes(self)}\n")
        return event_id


class App(celery.Celery):
    def on_configure(self):
        register_logger_signal(client)
        register_signal(client)


client = CountedClient(
    transport=SpoolTransport(
        spool_path=os.environ["E2E_SPOOL"], wait=retry_soon, shutdown_timeout=1
    )
)
_messages = os.environ["E2E_MESSAGES"]
app = App("shop", broker="filesystem://")
app.conf.update(
    broker_transport_options={
        "data_folder_in": _messages,
        "data_folder_out": _messages,
        "control_folder": _messages,
        "polling_interval": 0.05,
    },
    task_ignore_result=True,
)


@app.task
def fail():
    raise OrderFailed("at once")


@app.task
def log():
    logging.getLogger(__name__).error("an order was lost")


@worker_ready.connect
def send_tasks(**_):
    for name in os.environ["E2E_TASKS"].split():
        app.send_task(f"{__name__}.{name}")
