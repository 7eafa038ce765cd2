"""A storm of rate limits of every shape: no lane is closed longer than it may be, none is used
while it is closed."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from raven_spool.model import Response, Send
from tests.support.drains import OK, Process
from tests.support.spools import check_ledger, discard, number_of

LONGEST_SECONDS = 24 * 3600.0
CATEGORIES = ("error", "transaction")
_EVENTS = 12  # of each category

SECONDS = st.sampled_from(
    [
        "0",
        "1",
        "2.5",
        "60",
        "3600",
        "1e3",
        "99999999",
        "-5",
        "nan",
        "inf",
        "",
        "soon",
        "0x10",
        " 7 ",
    ]
)
NAMES = st.sampled_from(
    ["", "error", "transaction", "error;transaction", "ERROR", "unknown", ";", "unknown;error"]
)
PARTS = st.tuples(SECONDS, NAMES, st.sampled_from(["", ":organization", ":key:why:more"]))
HEADERS = st.lists(PARTS, max_size=4).map(
    lambda parts: ", ".join(f"{seconds}:{names}{rest}" for seconds, names, rest in parts)
)
RETRY_AFTER = st.sampled_from(
    [
        None, "5", "2.5", "-1", "0", "later", "5, 60", "99999999999",
        "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2099 07:28:00 GMT", "Wed, 99 Oct",
    ]
)  # fmt: skip
ANSWERS = st.tuples(st.sampled_from([429, 429, 429, 200, 503]), HEADERS, RETRY_AFTER)


def make_response(status, limits, retry_after):
    headers = {"x-sentry-rate-limits": limits, "retry-after": retry_after}
    return Response(status=status, headers={name: text for name, text in headers.items() if text})


def closed_for(header):
    """By category, what a plain reading of the header says."""
    found = dict.fromkeys(CATEGORIES, 0.0)
    for part in header.split(", "):
        text, _, rest = part.partition(":")
        names = [name for name in rest.partition(":")[0].lower().split(";") if name]
        try:
            seconds = float(text)
        except ValueError:
            continue
        if math.isfinite(seconds):
            for category in CATEGORIES:
                if category in names or not names:
                    found[category] = max(found[category], min(seconds, LONGEST_SECONDS))
    return found


@settings(max_examples=25)
@given(st.lists(st.tuples(ANSWERS, st.sampled_from([0.0, 1.0, 61.0, 4000.0])), max_size=8))
def test_storm_of_limits_closes_what_it_names_and_no_longer_than_a_day(tmp_path_factory, storm):
    process = Process(tmp_path_factory.mktemp("storm") / "spool", workers=1)
    for number in range(2 * _EVENTS):
        process.put(number, category=CATEGORIES[number % 2])
    open_at = dict.fromkeys(CATEGORIES, 0.0)
    delivered = []
    for (status, limits, retry_after), pause in storm:
        decision = process.step()
        if isinstance(decision, Send):
            event = decision.claimed.event
            assert process.now >= open_at[event.category]
            process.answer(decision, make_response(status, limits, retry_after))
            delivered += [number_of(event)] if status == 200 else []
            for category, seconds in closed_for(limits).items():
                open_at[category] = max(open_at[category], process.now + seconds)
        process.turn(pause)
    process.turn(LONGEST_SECONDS + 1)
    delivered += process.deliver_all(OK)[0]
    assert sorted(delivered) == list(range(2 * _EVENTS))
    assert check_ledger(process.spool)["dead"] == 0
    discard(process.spool)
