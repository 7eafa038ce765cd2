"""An RQ worker that reports failed jobs with raven: python -m tests.e2e.programs.rq_worker PORT

It works until the queue is empty. With E2E_CAPTURE_IN_MASTER the worker itself captures first.
"""

import os
import sys
from typing import Any

import redis
import rq

from tests.e2e.programs.capturing import capture_and_lead
from tests.e2e.programs.rq_jobs import client


class Worker(rq.Worker):
    def _set_ip_address(self, connection: Any) -> None:
        # fakeredis 2.40 answers CLIENT INFO with an address that redis-py can't read.
        self.ip_address = "unknown"


def report(job: Any, *exc_info: Any) -> bool:
    client.captureException(exc_info=exc_info)
    return True


def main() -> None:
    if "E2E_CAPTURE_IN_MASTER" in os.environ:
        capture_and_lead(client, "in the worker, before it forks")
    connection = redis.Redis(port=int(sys.argv[1]))
    Worker(["default"], connection=connection, exception_handlers=[report]).work(burst=True)


if __name__ == "__main__":
    main()
