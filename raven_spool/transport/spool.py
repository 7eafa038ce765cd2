"""The transport to choose: `raven.Client(dsn, transport=SpoolTransport(spool_path=...))`."""

from typing import Any

from raven_spool.transport.base import SpoolingTransport


class SpoolTransport(SpoolingTransport):
    """Every send is committed to an on-disk spool first, then delivered from there.

    Give it to raven as a class, with options in the DSN's query, or as an instance.

    Args:
        timeout: seconds for one whole HTTP exchange.
        verify_ssl: check the server's certificate and name.
        ca_certs: a file with the certificates to trust instead of the usual ones.
        spool_path: the directory of the spool; made when the first event comes.
        backend: who delivers. "thread"; "requests" (threads with that library); "inline" (the
            sending thread); "gevent", "eventlet" (greenlets of the hub); "twisted" (the reactor);
            "tornado", "asyncio" (tasks of the running loop); "none" (enqueue only; cron drains).
            "auto" is gevent or eventlet where they have patched threading, inline on AWS Lambda
            and App Engine, else a thread. Those of event loops need the extra of their name.
        fsync: "always", "everysec" (default), "no": when a commit reaches the disk itself.
        concurrency: requests at once, 1 keeps the order of capture.
        shutdown_timeout: seconds the process may take at its end to deliver what is left.
        send_timeout: seconds a send may wait for other writers; by default fewer in event loops.
        max_bytes: the spool's size; a tenth of the file system at most.
        max_events: how many events it may hold, dead letters counted in; 0, the default: no limit.
        order: "oldest" or "newest" events of a destination and category first. Of the latter's
            sends one in eight takes the oldest.
        max_age: seconds after which an undelivered event becomes a dead letter.
        warn_age: seconds an event may wait before the log tells it, once; 0: never.
        encryption_key: 32 bytes in base64 or hex, or several with commas between: the first seals
            the bodies in the spool, all open them. Needs the extra `encryption`.
        group: a group, by name or number, whose members share the spool.
        overflow: "drop_oldest" or "drop_newest" when one of the two is reached. All three hold
            for every program that shares the spool; the last to be given a value sets it.
        on_server_error, on_rate_limit: "discard" gives Sentry's guidance to SDKs to the letter.
        wait, stop: tenacity strategies for back-off and giving up.
        sender: "urllib", "requests", or a raven transport of your own that does the sending: an
            instance, a class, or "module:attribute". Its exceptions are tried again.
        proxy: a proxy's URL; the default is what the environment says.
        on_delivered, on_dead: called in the process that drains: (event), (event, reason); with an
            event loop, in it.

    Raises:
        ConfigurationError: a keyword has a value that can't be used.
    """

    scheme = ["spool+http", "spool+https"]

    def __init__(
        self,
        parsed_url: Any = None,
        timeout: float | str | None = None,
        verify_ssl: bool | str | None = None,
        ca_certs: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(timeout=timeout, verify_ssl=verify_ssl, ca_certs=ca_certs, **options)
