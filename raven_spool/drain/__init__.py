"""The machine that decides what a flusher does next. See machine.py for its state table."""

from raven_spool.drain.machine import Drain
from raven_spool.drain.outcomes import UNACKED, Counts

__all__ = ["UNACKED", "Counts", "Drain"]
