"""A daemon as the books have it: fork, setsid, fork, chdir, umask, descriptors closed.

    python -m tests.e2e.programs.daemon CLOSES ENDING

It captures before it detaches and after. The original process ends with `os._exit` or `sys.exit`.
CLOSES is when which descriptors are closed: `standard` 0 to 2 at the end; `all` at the end, as
python-daemon does; `at once` all, right after the first fork; `after a capture` all, by the second
child of a first that captured; `in place` all, without any fork, as python-daemon does it where
init has started it.
"""

import contextlib
import os
import sys

from tests.e2e.programs.capturing import capture, capture_and_lead, make_client, note

_LIMIT = 1024


def close_all() -> None:
    os.closerange(0, _LIMIT)
    open_null()


def open_null() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    if null > 2:
        os.close(null)


def go_on_in_child(ending: str) -> None:
    if os.fork() == 0:
        return
    if ending == "sys.exit":
        sys.exit(0)
    os._exit(0)


def detach(closes: str, ending: str) -> None:
    go_on_in_child(ending)
    if closes == "at once":
        close_all()
    os.setsid()
    if closes == "after a capture":
        capture(client, "in the first child")
    go_on_in_child("os._exit")


def work() -> None:
    with contextlib.ExitStack() as files:
        for _ in range(40):  # an application's own files get the numbers that became free
            files.enter_context(open(os.devnull, "rb"))
        for number in range(5):
            capture(client, f"in the daemon, {number}")


def main() -> None:
    closes, ending = sys.argv[1:]
    if closes == "in place":
        capture_and_lead(client, "before it closes")  # no thread is in the middle of a connect
    else:
        capture(client, "before it detaches")
        detach(closes, ending)
    os.chdir("/")
    os.umask(0)
    if closes == "standard":
        open_null()
    elif closes != "at once":
        close_all()
    work()
    note("worked", str(os.getpid()))


client = make_client()
if __name__ == "__main__":
    main()
