"""A Celery application that reports its failures with raven, as raven's documentation has it."""

import logging
import os
import signal
import time

import celery
from raven.contrib.celery import register_logger_signal, register_signal

from tests.e2e.programs.capturing import Failed, capture, capture_and_lead, make_client, note


class App(celery.Celery):
    def on_configure(self) -> None:
        register_logger_signal(client)
        register_signal(client)


client = make_client()
_messages = os.environ["E2E_MESSAGES"]
app = App(__name__, broker="filesystem://")
app.conf.update(
    broker_transport_options={
        "data_folder_in": _messages,
        "data_folder_out": _messages,
        "control_folder": _messages,
        "polling_interval": 0.05,
    },
    task_ignore_result=True,
    worker_lost_wait=0.2,  # seconds until a task is known to have gone with its child
)
if "E2E_CAPTURE_IN_MASTER" in os.environ:
    capture_and_lead(client, "in the master, before it forks")


@app.task
def fail(number: int) -> None:
    raise Failed(f"task {number}")


@app.task
def log_an_error(number: int) -> None:
    logging.getLogger(__name__).error("logged by task %d", number)


@app.task
def capture_and_be_killed() -> None:
    capture(client, "the last words of a child")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def capture_on_and_on(seconds: float) -> None:
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            capture(client, "again and again")
    finally:
        note("stopped", str(os.getpid()))
