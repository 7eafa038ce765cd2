"""The ledger beside the rows it counts: whether they agree, and what is entered where they don't.

Triggers keep it (schema.py); what is here is for files that something else has changed.
"""

from typing import TYPE_CHECKING, NamedTuple

from raven_spool.spool.rows import cast

if TYPE_CHECKING:
    from raven_spool.spool.queue import EventQueue

# One statement, so that it sees one state: applications go on meanwhile.
_ACCOUNTS = """
WITH
    kept AS (
        SELECT lane, SUM(status < 2) AS ready, SUM(status = 9) AS dead, TOTAL(size) AS bytes
        FROM {events} GROUP BY lane
    ),
    gone AS (SELECT lane, TOTAL(events) AS dropped FROM drops GROUP BY lane)
SELECT
    lanes.id, {counts}
FROM lanes LEFT JOIN kept ON kept.lane = lanes.id LEFT JOIN gone ON gone.lane = lanes.id
ORDER BY lanes.id
"""

_MOST = 1 << 53  # beyond that it is damage, and their sums would fit no column
_COUNTS = ", ".join(
    cast(name, int, _MOST)
    for name in (
        *("accepted", "delivered", "gone.dropped", "lanes.ready", "lanes.dead", "lanes.bytes"),
        *("kept.ready", "kept.dead", "kept.bytes"),
    )
)


class Account(NamedTuple):
    """What the ledger says of one lane, and which rows there are."""

    lane: int
    accepted: int
    delivered: int
    dropped: int
    ready: int
    dead: int
    bytes: int
    kept_ready: int
    kept_dead: int
    kept_bytes: int

    @property
    def missing(self) -> int:
        """Accepted events that are nowhere; negative: there are more than were accepted."""
        gone = self.delivered + self.dropped
        return self.accepted - self.kept_ready - self.kept_dead - gone

    def complain(self) -> str:
        """What is wrong with it, "" if nothing is."""
        parts = []
        if (self.ready, self.dead) != (self.kept_ready, self.kept_dead):
            parts.append(
                f"{self.ready} ready and {self.dead} dead by the ledger, "
                f"{self.kept_ready} and {self.kept_dead} in the file"
            )
        if self.missing > 0:
            parts.append(f"{self.missing} of {self.accepted} accepted are nowhere")
        if self.missing < 0:
            parts.append(f"{-self.missing} more than the {self.accepted} accepted")
        if self.bytes != self.kept_bytes:
            parts.append(f"{self.bytes} bytes by the ledger, {self.kept_bytes} in the file")
        return "; ".join(parts)


def read_accounts(queue: "EventQueue") -> list[Account]:
    """One for each lane. Reads every row, but no body."""
    table = str(queue._table_name)
    rows = queue.connection.execute(_ACCOUNTS.format(events=table, counts=_COUNTS))
    return list(map(Account._make, rows))


def recount(queue: "EventQueue") -> None:
    """Make the ledger say what there is. What was accepted and is nowhere is dropped: corrupt.

    Crash:
        All or nothing.
    """
    with queue.transaction():
        queue.fill_nulls()
        for account in read_accounts(queue):
            if account.complain():
                _correct(queue, account)
        # Their lane is gone, and with it what it had accepted.
        queue.connection.execute("DELETE FROM drops WHERE lane NOT IN (SELECT id FROM lanes)")


def _correct(queue: "EventQueue", account: Account) -> None:
    queue.connection.execute(
        "UPDATE lanes SET ready = ?, dead = ?, bytes = ? WHERE id = ?",
        (account.kept_ready, account.kept_dead, account.kept_bytes, account.lane),
    )
    if account.missing > 0:
        count_lost(queue, account.lane, account.missing)
    if account.missing < 0:
        accept(queue, account.lane, -account.missing)


def accept(queue: "EventQueue", lane: int, events: int) -> None:
    """Count them as accepted, and as nothing else yet. In a transaction."""
    # As if they had died first: by accepted alone a trigger would count an overflow.
    queue.connection.execute(
        "UPDATE lanes SET accepted = accepted + ?1, dead = dead + ?1 WHERE id = ?2", (events, lane)
    )
    queue.connection.execute("UPDATE lanes SET dead = dead - ? WHERE id = ?", (events, lane))


def count_lost(queue: "EventQueue", lane: int, events: int) -> None:
    """Count accepted ones as dropped, because they cannot be read. In a transaction."""
    queue.connection.execute(
        "INSERT INTO drops VALUES (?, 'corrupt', ?) "
        "ON CONFLICT DO UPDATE SET events = events + excluded.events",
        (lane, events),
    )
