"""Ten asyncio tasks that fail; each failure is reported with raven, and other tasks deliver.

    SENTRY_DSN=https://key@host/1 RAVEN_SPOOL_PATH=./spool python -m examples.asyncio_tasks

What a loop has not sent when it ends stays in the spool: `aclose` gives it the time.
"""

import asyncio

import raven

from raven_spool.transport.asyncio import AsyncioHTTPTransport

captured, delivered = [], []
client = raven.Client(transport=AsyncioHTTPTransport(on_delivered=delivered.append))


async def work(number):
    await asyncio.sleep(0.01)
    raise ValueError(f"order {number}: not found")


def report(task):
    error = task.exception()
    event_id = client.captureException((type(error), error, error.__traceback__))
    print(f"{error}; reported as", event_id)
    captured.append(event_id)
    client.context.clear()  # the end of a job, as raven's integrations do it


async def main() -> None:
    tasks = [asyncio.create_task(work(number)) for number in range(1, 11)]
    for task in tasks:
        task.add_done_callback(report)
    await asyncio.wait(tasks)
    await client.remote.get_transport().aclose()  # delivers, before the loop ends
    print(f"captured {len(captured)}, delivered {len(delivered)}")


if __name__ == "__main__":
    asyncio.run(main())
