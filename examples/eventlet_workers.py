"""Ten greenthreads that fail; each failure is reported with raven, and greenthreads deliver.

    SENTRY_DSN=https://key@host/1 RAVEN_SPOOL_PATH=./spool python -m examples.eventlet_workers

Where eventlet has patched threading, SpoolTransport takes eventlet by itself.
"""

import eventlet

eventlet.monkey_patch()

import raven  # noqa: E402

from raven_spool import SpoolTransport  # noqa: E402

captured, delivered = [], []
client = raven.Client(transport=SpoolTransport(on_delivered=delivered.append))


def work(number):
    eventlet.sleep(0.01)
    raise ValueError(f"order {number}: not found")


def work_and_report(number):
    try:
        work(number)
    except ValueError as error:
        event_id = client.captureException()
        print(f"{error}; reported as", event_id)
        captured.append(event_id)
    client.context.clear()  # the end of a job, as raven's integrations do it


def main() -> None:
    pool = eventlet.GreenPool()
    for number in range(1, 11):
        pool.spawn(work_and_report, number)
    pool.waitall()
    client.remote.get_transport().close()  # delivers; other greenthreads go on meanwhile
    print(f"captured {len(captured)}, delivered {len(delivered)}")


if __name__ == "__main__":
    main()
