"""Ten Deferreds that fail; an errback reports each with raven, and the reactor delivers.

    SENTRY_DSN=https://key@host/1 RAVEN_SPOOL_PATH=./spool python -m examples.twisted_errback

What the reactor has not sent when it ends stays in the spool: `aclose` gives it the time.
"""

import raven
from twisted.internet import defer, task

from raven_spool.transport.twisted import TwistedHTTPTransport

captured, delivered = [], []
client = raven.Client(transport=TwistedHTTPTransport(on_delivered=delivered.append))


def work(number):
    raise ValueError(f"order {number}: not found")


def report(failure):
    event_id = client.captureException((failure.type, failure.value, failure.getTracebackObject()))
    print(f"{failure.getErrorMessage()}; reported as", event_id)
    captured.append(event_id)
    client.context.clear()  # the end of a job, as raven's integrations do it


@defer.inlineCallbacks
def main(reactor):
    jobs = [task.deferLater(reactor, 0.01, work, number) for number in range(1, 11)]
    for job in jobs:
        job.addErrback(report)
    yield defer.gatherResults(jobs)
    yield client.remote.get_transport().aclose()  # a Deferred: delivers, before the reactor ends
    print(f"captured {len(captured)}, delivered {len(delivered)}")


if __name__ == "__main__":
    task.react(main)
