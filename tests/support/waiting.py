"""The one place where tests poll: waiting is for a fact, with a bound, never for a time."""

import time
from collections.abc import Callable

POLL_SECONDS = 0.02


def wait_until(
    is_so: Callable[[], bool], *, timeout_seconds: float = 30, what: str = "the fact"
) -> None:
    """Return as soon as `is_so()` is true.

    Raises:
        TimeoutError: it was not so within `timeout_seconds`; the text names `what`.
    """
    deadline = time.monotonic() + timeout_seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_seconds:g} s in vain for {what}")
        time.sleep(POLL_SECONDS)
