"""An application that reports exceptions with the real raven, and ends in the way it is told.

    python capturing_program.py NUMBER ENDING SPOOL DIARY

The DSN comes from SENTRY_DSN. DIARY gets one line for each capture that returned, its event id,
and at the end "end" with the monotonic time (one clock for all processes on Linux).
"""

import os
import signal
import sys
import threading
import time

import raven

from raven_spool import SpoolTransport

LEVELS = ("error", "warning", "fatal")


class OrderFailed(Exception):
    pass


def capture(client, number, diary):
    for index in range(number):
        try:
            raise OrderFailed(f"order {index} failed")
        except OrderFailed:
            event_id = client.captureException(level=LEVELS[index % len(LEVELS)])
        # raven takes a new exception at a freed one's address for one that it has seen.
        client.context.clear()
        diary.write(event_id + "\n")


def capture_in_a_thread_that_fails(client, number, diary):
    def work():
        capture(client, number, diary)
        raise OrderFailed("the thread's own end")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def end(ending, diary):
    diary.write(f"end {time.monotonic()}\n")
    match ending:
        case "return" | "thread":
            return
        case "exit":
            sys.exit(3)
        case "uncaught":
            raise OrderFailed("nobody caught this one")
        case "interrupt":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.raise_signal(signal.SIGINT)
        case "os._exit":
            os._exit(4)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)


def main():
    number, ending, spool_path, diary_path = sys.argv[1:]
    client = raven.Client(transport=SpoolTransport(spool_path=spool_path))
    with open(diary_path, "w", buffering=1) as diary:
        if ending == "thread":
            capture_in_a_thread_that_fails(client, int(number), diary)
        else:
            capture(client, int(number), diary)
        end(ending, diary)


if __name__ == "__main__":
    main()
