"""The durable queue: SQLite on persist-queue. The only room that touches the disk."""

from raven_spool.spool.room import TURNED_AWAY
from raven_spool.spool.spool import Spool
from raven_spool.spool.stored import Key, Stored

__all__ = ["TURNED_AWAY", "Key", "Spool", "Stored"]
