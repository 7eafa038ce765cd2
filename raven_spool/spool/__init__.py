"""The durable queue: SQLite on persist-queue. The only room that touches the disk."""

from raven_spool.spool.spool import Spool, Stored

__all__ = ["Spool", "Stored"]
