"""What the fault tests tried and what came of it: the figures of docs/reliability.md.

A test that breaks something says at its end, once its assertions have held, what it has tried:

    evidence.note(
        "SIGKILL at named points and at random instants, the server flapping",
        promise=1, tried="200 kills", events=len(returned), lost=0, twice=repeats,
    )

`make faults` names a file in RAVEN_SPOOL_EVIDENCE; each call adds a line to it, and once all tests
have passed bench/_page.py makes the page of them. Without the variable nothing is written. The long
form of a test uses the same words as its short form: of the lines of the same words that of most
events counts.
"""

import json
import os
import time

VARIABLE = "RAVEN_SPOOL_EVIDENCE"

# As design.md and docs/reliability.md number them.
PROMISES = {
    1: "Committed before return",
    2: "Nothing vanishes",
    3: "At least once",
    4: "The application does not suffer",
    5: "Any number of processes",
    6: "Manners",
    7: "The truth about time",
    8: "Private at rest",
}


def note(
    what: str,
    *,
    promise: int,
    tried: str,
    events: int | None = None,
    lost: int | None = None,
    twice: int | None = None,
    seen: str = "",
) -> None:
    """One row of the page.

    Args:
        what: what was done to the spool, in words that stay the same from run to run.
        promise: the one it is about most.
        tried: how often, with a unit: "200 kills", "65,536 cuts".
        events: how many the oracle counted.
        lost, twice: of them; None where the row is not about that.
        seen: what else was measured, in a few words with units.
    """
    assert promise in PROMISES
    path = os.environ.get(VARIABLE)
    if not path:
        return
    row = {
        "what": what,
        "promise": promise,
        "tried": tried,
        "events": events,
        "lost": lost,
        "twice": twice,
        "seen": seen,
        "at": round(time.time()),
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, json.dumps(row).encode() + b"\n")  # one write: workers share the file
    finally:
        os.close(descriptor)
