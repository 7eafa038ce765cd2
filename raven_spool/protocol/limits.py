"""Rate limits as an answer states them.

https://develop.sentry.dev/sdk/foundations/transport/rate-limiting/
"""

import math
from collections.abc import Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime

from raven_spool.model import Limit, Response
from raven_spool.protocol.category import category_of_limit

# A quota can be closed for a month, and a header can be wrong for as long: asking again once a day
# costs one request and finds out.
_MAX_SECONDS = 24 * 3600.0
_BARE_429_SECONDS = 60.0  # Sentry's guidance
_MIN_429_SECONDS = 1.0  # "0", or a date just past: a refusal still means not at once

_ALL: frozenset[str] = frozenset()


def rate_limits(response: Response, now: float) -> tuple[Limit, ...]:
    """The limits an answer states, whatever its status; the longest for each category.

    A 429 always states one: if nothing else can be read, everything is closed for a minute.
    """
    header = response.headers.get("x-sentry-rate-limits")
    stated = _longest(_parse(header)) if header else ()
    if stated or response.status != 429:
        return stated
    return (Limit(_ALL, _retry_after(response.headers.get("retry-after", ""), now)),)


def _parse(header: str) -> Iterator[Limit]:
    for part in header.split(","):
        seconds_text, _, rest = part.partition(":")
        seconds = _seconds(seconds_text)
        names = [name.strip().lower() for name in rest.partition(":")[0].split(";")]
        stated = [name for name in names if name]
        known = frozenset(filter(None, map(category_of_limit, stated)))
        if seconds and (known or not stated):
            yield Limit(known, seconds)


def _longest(limits: Iterator[Limit]) -> tuple[Limit, ...]:
    by_category: dict[str | None, float] = {}
    for limit in limits:
        for category in limit.categories or (None,):
            by_category[category] = max(limit.seconds, by_category.get(category, 0.0))
    by_seconds: dict[tuple[bool, float], set[str]] = {}
    for category, seconds in by_category.items():
        names = by_seconds.setdefault((category is None, seconds), set())
        names.update(() if category is None else (category,))
    return tuple(Limit(frozenset(names), key[1]) for key, names in by_seconds.items())


def _retry_after(header: str, now: float) -> float:
    # Repeated headers come joined; a date has a comma of its own.
    numbers = [_seconds(part) for part in header.split(",")]
    seconds = max((n for n in numbers if n is not None), default=None)
    if seconds is None:
        seconds = _seconds_until(header, now)
    return _BARE_429_SECONDS if seconds is None else max(seconds, _MIN_429_SECONDS)


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return min(seconds, _MAX_SECONDS) if math.isfinite(seconds) and seconds >= 0 else None


def _seconds_until(date: str, now: float) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
        # "-0000" is UTC as well, but comes without a zone
        until = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(until - now, 0.0), _MAX_SECONDS)
