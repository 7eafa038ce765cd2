"""Captures in children of multiprocessing, which end without atexit.

python -m tests.e2e.programs.multiprocess fork|spawn|forkserver
"""

import multiprocessing
import os
import signal
import sys

from tests.e2e.programs.capturing import capture, capture_and_lead, make_client


def capture_in_pool(number: int) -> int:
    capture(client, f"in the pool, {number}")
    return os.getpid()


def capture_and_end(ending: str) -> None:
    capture(client, f"before {ending}")
    match ending:
        case "os._exit":
            os._exit(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    context = multiprocessing.get_context(sys.argv[1])
    capture_and_lead(client, "in the parent, before")
    with context.Pool(2) as pool:
        pool.map(capture_in_pool, range(10))
        pool.close()
        pool.join()
    for ending in ("return", "os._exit", "kill"):
        process = context.Process(target=capture_and_end, args=(ending,))
        process.start()
        process.join(30)
        assert process.exitcode == (-signal.SIGKILL if ending == "kill" else 0)
    capture(client, "in the parent, after")


client = make_client()
if __name__ == "__main__":
    main()
