"""How large a spool may grow and what gives way then: the rule that its processes share.

It lies in the file, so that it holds for whoever adds an event, a `raven-spool send` too. The last
application that opened the spool with a value of its own has set it.
"""

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raven_spool.spool.queue import EventQueue

_OVERFLOWS = ("drop_oldest", "drop_newest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """None: nobody has said."""

    max_bytes: int | None = None  # of the file
    max_events: int | None = None  # ready and dead; 0: as many as there is room for
    overflow: str | None = None

    def before(self, others: "Limits") -> "Limits":
        """What these say, and what the others say where these are silent."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(others, **said)

    @property
    def drops_newest(self) -> bool:
        return self.overflow == "drop_newest"


DEFAULTS = Limits(max_bytes=512 << 20, max_events=0, overflow="drop_oldest")


def read_limits(queue: "EventQueue") -> Limits:
    """What is not understood (another version's, or damage) counts as not said."""
    row = queue.connection.execute("SELECT value FROM meta WHERE key = 'limits'").fetchone()
    try:
        stored = json.loads(row[0]) if row else {}
        found = {field.name: stored.get(field.name) for field in fields(Limits)}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Limits()
    return Limits(
        max_bytes=_number(found["max_bytes"]),
        max_events=_number(found["max_events"]),
        overflow=found["overflow"] if found["overflow"] in _OVERFLOWS else None,
    )


def _number(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def write_limits(queue: "EventQueue", limits: Limits) -> None:
    queue.connection.execute(
        "INSERT OR REPLACE INTO meta VALUES ('limits', ?)", (json.dumps(asdict(limits)),)
    )
