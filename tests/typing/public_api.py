"""What a typed application writes. mypy reads it (`make types`); nothing runs it."""

from typing import Any

from raven_spool import ConfigurationError, SpoolError, SpoolTransport
from raven_spool.model import Event


def told(event: Event) -> None:
    print(event.event_id, event.category)


def lost(event: Event, reason: str) -> None:
    print(event.event_id, reason)


transport = SpoolTransport(
    spool_path="/var/spool/app",
    timeout=10,
    fsync="always",
    concurrency=1,
    on_delivered=told,
    on_dead=lost,
)
event_id: str = transport.send("https://sentry.example/api/1/store/", b"{}", {"X-Sentry-Auth": ""})
flushed: bool = transport.flush(timeout=5.0)
stats: dict[str, Any] = transport.stats()
transport.close()
transport.close(timeout=1.5)

try:
    SpoolTransport(concurrency=0)
except ConfigurationError as error:
    caught: SpoolError = error
