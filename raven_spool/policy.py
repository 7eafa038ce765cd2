"""What an answer means for its event. Pure; the strategies inside are tenacity's.

The reasons are read by people in `raven-spool ls`: one short sentence, no key, no secret.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

import tenacity

from raven_spool.model import (
    Ack,
    Bury,
    Discard,
    Event,
    Failure,
    Fault,
    Outcome,
    Response,
    Retry,
    Stay,
    Verdict,
)
from raven_spool.protocol import rate_limits

Strategy = Callable[[tenacity.RetryCallState], float]
StopStrategy = Callable[[tenacity.RetryCallState], bool]

_DAY_SECONDS = 86400.0
NO_EVENT_BEFORE = 1_577_836_800.0  # 2020: older than this software, so of a clock that was not set
_MAX_BACKOFF_SECONDS = 3600.0  # a strategy's slip must not silence a destination for a day
_MAX_WORDS = 200  # of a server's answer, in characters

# What is of no use, or is dropped by Sentry after its 200, when it comes later than this.
_LATE_SECONDS = {
    "check_in": 300.0,  # has no time of its own: a late one says the job ran late
    "transaction": 5 * _DAY_SECONDS,  # Relay's aggregator default; the next two likewise
    "session": 5 * _DAY_SECONDS,
    "profile": 5 * _DAY_SECONDS,
}

_DEFAULT_WAIT = tenacity.wait_random_exponential(multiplier=1, max=300)
_RETRYING = tenacity.Retrying()  # a state has to belong to one; it runs nothing

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_SECRETS = re.compile(
    r"(?P<name>sentry_(?:key|secret)=)[^\s,&\"']+"
    r"|(?<=//)[^/@\s]+(?=@)"
    # Sentry's keys look like ids
    r"|[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules a user can choose.

    The defaults of `on_server_error` and `on_rate_limit` keep what Sentry's guidance to SDKs would
    discard; "discard" gives the letter of it.
    """

    on_server_error: str = "retry"  # or "discard"
    on_rate_limit: str = "hold"  # or "discard"
    wait: Strategy = field(default=_DEFAULT_WAIT)
    stop: StopStrategy = field(default=tenacity.stop_never)
    max_age_seconds: float = 30 * _DAY_SECONDS


def judge(
    policy: Policy,
    outcome: Outcome,
    *,
    event: Event,
    attempts: int,
    first_at: float,
    last_unanswered: bool,
    now: float,
    spared_at: float = 0.0,
) -> Verdict:
    """What becomes of an event after one attempt.

    Args:
        attempts: finished attempts that count, this one included.
        first_at: when the first of them was made.
        last_unanswered: the attempt before this one may have reached the server unheard.
        spared_at: see `ages_from`.

    Source:
        https://develop.sentry.dev/sdk/foundations/transport/offline-caching/
    """
    match outcome:
        case Failure():
            verdict = _judge_failure(outcome)
        case Response():
            verdict = _judge_answer(policy, outcome, event, last_unanswered, now)
    match verdict:
        case Retry() if now >= expires_at(policy, event, spared_at):
            age = _span(lifetime_seconds(policy, event.category))
            return Bury(f"expired after {age}: {verdict.reason}", verdict)
        case Retry() if _stops(policy, attempts, first_at, now):
            plural = "s" if attempts != 1 else ""
            return Bury(f"gave up after {attempts} attempt{plural}: {verdict.reason}", verdict)
    return verdict


def backoff_seconds(policy: Policy, failures: int) -> float:
    """How long a destination rests after so many failures in a row."""
    state = _state(max(failures, 1), 0.0, 0.0)
    try:
        seconds = float(policy.wait(state))
    except Exception:  # noqa: BLE001 a user's strategy; the drain must go on
        seconds = math.nan
    if math.isnan(seconds):
        seconds = _DEFAULT_WAIT(state)
    return min(max(seconds, 0.0), _MAX_BACKOFF_SECONDS)


def expires_at(policy: Policy, event: Event, spared_at: float = 0.0) -> float:
    """From when on an event is not worth an attempt."""
    return ages_from(event.created_at, spared_at) + lifetime_seconds(policy, event.category)


def ages_from(at: float, spared_at: float) -> float:
    """From when on the age of what happened `at` counts: not before `spared_at`, when the clock was
    set. Infinite, so that it never grows old, where the clock must have been wrong."""
    return math.inf if at < NO_EVENT_BEFORE else max(at, spared_at)


def times_too_old(seconds: float, now: float, spared_at: float) -> tuple[float, float]:
    """From when to when something must have happened to be older than that: as `ages_from`."""
    before = now - seconds
    return NO_EVENT_BEFORE, before if spared_at < before else -math.inf


def lifetime_seconds(policy: Policy, category: str) -> float:
    """How long events of a category are worth an attempt."""
    late = _LATE_SECONDS.get(category, policy.max_age_seconds)
    return min(policy.max_age_seconds, late)


def _judge_failure(failure: Failure) -> Verdict:
    untouched = failure.fault in (Fault.CONNECT, Fault.TLS)
    return Retry(f"no answer: {_plain(failure.message)}", same_next=untouched)


def _judge_answer(
    policy: Policy, response: Response, event: Event, last_unanswered: bool, now: float
) -> Verdict:
    if 200 <= response.status < 300 and not _is_page(response):
        return Ack()  # first: this is every event's way
    said = _describe_answer(response, event)
    match response.status:
        case status if 200 <= status < 300:
            return Retry(f"{said}: a web page, not Sentry")
        case 429:
            if policy.on_rate_limit == "discard":
                return Discard(said)
            return Stay(said) if _limits(response, event, now) else Retry(said)
        case 403 if last_unanswered:
            # Sentry's old store view answers a duplicate so.
            return Bury(f"perhaps delivered: the attempt before had no answer, then {said}")
        case status if status in (401, 403, 404, 405) or 300 <= status < 400:
            return Retry(said, hold="refused")
        case status if status == 408 or 500 <= status < 600:
            return Discard(said) if policy.on_server_error == "discard" else Retry(said)
        case status if 400 <= status < 500:
            return Bury(said)
    return Retry(said)


def _limits(response: Response, event: Event, now: float) -> bool:
    # A 429 that closes other categories alone would leave nothing to hold the event back.
    limits = rate_limits(response, now)
    return any(not limit.categories or event.category in limit.categories for limit in limits)


def _is_page(response: Response) -> bool:
    # By its content too: small sinks label any 200 as text/html, and say "" or {"id": ...} in it.
    start = response.body.removeprefix(b"\xef\xbb\xbf").lstrip()[:14].lower()
    labelled = response.headers.get("content-type", "").strip().lower().startswith("text/html")
    sentrys = not start or start.startswith(b"{")
    return start.startswith((b"<!doctype html", b"<html")) or (labelled and not sentrys)


def _describe_answer(response: Response, event: Event) -> str:
    status = response.status
    parts = [f"HTTP {status} {_PHRASES.get(status, '')}".strip()]
    if 300 <= status < 400:
        parts.append(f"moved to {_address(response.headers.get('location', ''))}")
    elif not 200 <= status < 300:
        words = response.headers.get("x-sentry-error", "").strip()
        parts.append(words or response.body[: 4 * _MAX_WORDS].decode("utf-8", "replace"))
    return ": ".join(filter(None, (_plain(part, event.event_id) for part in parts)))


def _address(location: str) -> str:
    try:
        parts = urlsplit(location)
        host = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=host, query="", fragment="").geturl() or "nowhere"
    except ValueError:
        return "an unreadable address"


def _plain(text: str, event_id: str = "") -> str:
    def hide(match: re.Match[str]) -> str:
        return match[0] if match[0] == event_id else f"{match['name'] or ''}[hidden]"

    spaced = " ".join(text.split())
    printable = "".join(c for c in spaced if c.isprintable() and c != "�")
    return _SECRETS.sub(hide, printable)[:_MAX_WORDS]


def _span(seconds: float) -> str:
    for unit, length in (("day", _DAY_SECONDS), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}{'s' if seconds != length else ''}"
    return f"{seconds:.3g} seconds"


def _stops(policy: Policy, attempts: int, first_at: float, now: float) -> bool:
    try:
        return bool(policy.stop(_state(attempts, first_at, now)))
    except Exception:  # noqa: BLE001 a user's strategy; in doubt the event is kept
        return False


def _state(attempts: int, first_at: float, now: float) -> tenacity.RetryCallState:
    # As tenacity's own tests build it; `set_exception` would read the clock.
    state = tenacity.RetryCallState(_RETRYING, None, (), {})
    state.attempt_number = attempts
    state.start_time = first_at
    state.outcome = tenacity.Future.construct(attempts, ConnectionError("not delivered"), True)
    state.outcome_timestamp = now
    return state
