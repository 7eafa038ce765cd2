"""A real raven client whose captures can be counted.

E2E_DIARY gets a line for each capture that returned: the event's id, and the process's.
"""

import os
from pathlib import Path
from typing import Any

import raven

from raven_spool import SpoolTransport
from tests.faults.children import Notes
from tests.support.waiting import wait_until


class Failed(Exception):
    """What the programs report."""


class CountedClient(raven.Client):
    def capture(self, *args: Any, **kwargs: Any) -> Any:
        event_id = super().capture(*args, **kwargs)
        # raven swallows what a time limit raises into its `send`, returns an id all the same, and
        # drops what follows for a second without asking its transport.
        if self.state.did_fail():
            self.state.set_success()
        elif event_id is not None:
            note("captured", f"{event_id} {os.getpid()}")
        return event_id


def make_client() -> raven.Client:
    """The DSN comes from SENTRY_DSN, as it does for raven's users."""
    return CountedClient(transport=SpoolTransport(spool_path=os.environ["E2E_SPOOL"]))


def capture(client: raven.Client, text: str) -> None:
    try:
        raise Failed(text)
    except Failed:
        client.captureException()
    # raven takes a new exception at a freed one's address for one that it has seen.
    client.context.clear()


def capture_and_lead(client: raven.Client, text: str) -> None:
    """From now on, and for seconds, this process drains the spool: its event has arrived."""
    capture(client, text)
    transport = client.remote.get_transport()
    wait_until(lambda: transport.stats()["delivered"] > 0, what="the first delivery")


def note(what: str, line: str) -> None:
    Notes(Path(os.environ["E2E_DIARY"]) / what).write(line)
