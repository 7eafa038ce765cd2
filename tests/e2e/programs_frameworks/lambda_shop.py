"""A function as AWS Lambda calls it; it is frozen after its answer, so the event must be gone.

python -m tests.e2e.programs_frameworks.lambda_shop
"""

import os
import sys
from types import SimpleNamespace

import raven
from raven.contrib.awslambda import LambdaClient

from raven_spool import SpoolTransport
from raven_spool.transport import HTTPTransport

client = LambdaClient(transport=HTTPTransport)


@client.capture_exceptions
def handler(event, context):
    raise LookupError(f"no order {event['number']}")


def main():
    context = SimpleNamespace(aws_request_id="r-1", client_context=None)
    try:
        handler({"number": 7}, context)
    except LookupError:
        print(client.last_event_id)
    plain = raven.Client(transport=SpoolTransport)
    print(plain.captureMessage("a plain client, too"))
    sys.stdout.flush()
    os._exit(0)  # frozen for good: no exit hook, no thread


if __name__ == "__main__":
    main()
