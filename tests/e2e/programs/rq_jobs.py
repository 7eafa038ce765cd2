"""What RQ's work horses do: each is a fork of its own that ends with os._exit."""

import os
import signal

from tests.e2e.programs.capturing import Failed, capture, make_client

client = make_client()


def fail(number: int) -> None:
    raise Failed(f"job {number}")


def capture_and_be_killed() -> None:
    capture(client, "the last words of a horse")
    os.kill(os.getpid(), signal.SIGKILL)
