"""What the wall clock is held against: the time since this machine started, which nobody sets."""

import functools
import json
import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raven_spool.spool.queue import EventQueue

_INSTANTS = ("up_seconds", "at", "spared_at")
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """Both clocks at one instant, as the last leader read them."""

    boot_id: str  # "": not to be had here
    up_seconds: float  # since the machine started, its sleep included
    at: float
    spared_at: float = 0.0  # what is older counts as captured then


def read_boot() -> tuple[str, float]:
    """Which start of the machine this is, and how many seconds ago it was."""
    return _read_boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME)


@functools.cache
def _read_boot_id() -> str:
    try:
        with open(_BOOT_ID) as file:
            return file.read().strip()
    except OSError:
        return ""


def read_anchor(queue: "EventQueue") -> Anchor | None:
    row = queue.connection.execute("SELECT value FROM meta WHERE key = 'clock'").fetchone()
    try:
        found = json.loads(row[0]) if row else {}
        up_seconds, at, spared_at = (float(found[name]) for name in _INSTANTS)
        boot_id = str(found["boot_id"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None  # none yet, or damaged: as if there was none
    if not all(map(math.isfinite, (up_seconds, at, spared_at))):
        return None
    return Anchor(boot_id=boot_id, up_seconds=up_seconds, at=at, spared_at=spared_at)


def write_anchor(queue: "EventQueue", anchor: Anchor) -> None:
    queue.connection.execute(
        "INSERT OR REPLACE INTO meta VALUES ('clock', ?)", (json.dumps(asdict(anchor)),)
    )
