"""Why events remain after a flush, and the exit code that says so."""

import time
from urllib.parse import urlsplit

from raven_spool.cli import words
from raven_spool.cli.exits import Exit
from raven_spool.cli.flushing import Ending, ready_lanes
from raven_spool.model import Destination, Lane
from raven_spool.spool import Spool

_NO_ANSWER = "no answer: "  # how policy begins the reason where no server was reached
_TOLD = 3


def explain_rest(spool: Spool, ending: Ending, trouble: str) -> tuple[Exit, str]:
    """The exit code, and the reason in a line; "" if nothing remains."""
    now = time.time()
    lanes = ready_lanes(spool)
    if not lanes:
        return Exit.DONE, ""
    if ending is Ending.LIMIT_REACHED:
        return Exit.DONE, "the limit is reached"
    if ending is Ending.STALLED:
        return Exit.LATER, _stalled(spool, now)
    if ending is Ending.TROUBLE:
        return Exit.LATER, trouble or "another program disturbs the spool"
    held = [(destination, hold) for _, destination, hold in lanes if hold and _counts(hold, now)]
    if not held:
        return Exit.LATER, _unheld(spool, ending, lanes, trouble)
    code = Exit.UNREACHABLE if any(_is_away(hold) for _, hold in held) else Exit.LATER
    reasons = list(dict.fromkeys(_reason(destination, hold, now) for destination, hold in held))
    if ending is Ending.OUT_OF_TIME:
        reasons.insert(0, "the time is up")
    more = f" and {len(reasons) - _TOLD} more" if len(reasons) > _TOLD else ""
    return code, "; ".join(reasons[:_TOLD]) + more


def _counts(hold: Lane, now: float) -> bool:
    """A limit that has run out holds nothing; a back-off of this flush is short, and does."""
    return hold.hold != "limited" or hold.open_at > now


def _is_away(hold: Lane) -> bool:
    return hold.hold == "backoff" and hold.reason.startswith(_NO_ANSWER)


def _reason(destination: Destination, hold: Lane, now: float) -> str:
    name = f"{urlsplit(destination.base_url).netloc}, project {destination.project}"
    if hold.hold == "limited":
        return f"limited {words.until(hold.open_at, now)} by {name}"
    if _is_away(hold):
        return f"server cannot be reached: {name}: {hold.reason.removeprefix(_NO_ANSWER)}"
    return f"held by {name}: {hold.reason}"


def _stalled(spool: Spool, now: float) -> str:
    record = spool.leadership.look()
    if record is None:
        return "another process holds the lead and does not move (drain.lock says no more)"
    age = words.span(now - record.progress_at)
    return (
        f"process {record.pid} leads and does not move (last progress {age} ago): "
        "continue it (kill -CONT) or end it"
    )


def _unheld(
    spool: Spool, ending: Ending, lanes: list[tuple[Lane, Destination, Lane | None]], trouble: str
) -> str:
    if spool.missing_keys:
        names = ", ".join(sorted(spool.missing_keys))
        return f"they are encrypted with a key that is not in RAVEN_SPOOL_ENCRYPTION_KEY: {names}"
    if ending is Ending.OUT_OF_TIME:
        return "the time is up"
    from raven_spool.backends import can_send

    missing = {one.sender for _, one, _ in lanes if not can_send(one.sender)}
    if missing:
        names = ", ".join(sorted(missing))
        return f"they need a sender this program has not (--sender names one): {names}"
    return trouble or "they came in the meantime, or wait for their next try"
