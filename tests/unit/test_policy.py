"""What an answer means for its event: the table of the design, row by row."""

import math
from http import HTTPStatus

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from raven_spool.model import Ack, Bury, Discard, Event, Failure, Fault, Response, Retry, Stay
from raven_spool.policy import Policy, backoff_seconds, expires_at, judge

NOW = 1_700_000_000.0
DAY = 86400.0
ID, KEY = "ab" * 16, "cd" * 16


def event_of(category="error", created_at=NOW):
    return Event(
        event_id=ID,
        category=category,
        endpoint="store",
        headers=(),
        body=b"",
        created_at=created_at,
    )


def answer(status, body=b"", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status=status, headers=named, body=body)


def judged(outcome, policy=None, event=None, *, attempts=1, last_unanswered=False, now=NOW):
    return judge(
        policy or Policy(),
        outcome,
        event=event or event_of(),
        attempts=attempts,
        first_at=NOW,
        last_unanswered=last_unanswered,
        now=now,
    )


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (answer(200), Ack()),
        (answer(201, b'{"id":"x"}', content_type="application/json"), Ack()),
        (answer(200, b'{"id":"x"}', content_type="text/html"), Ack()),
        (answer(200, b"", content_type="text/html; charset=utf-8"), Ack()),
        (answer(200, b"<p>log in", content_type="Text/HTML"),
         Retry("HTTP 200 OK: a web page, not Sentry")),
        (answer(200, b"\xef\xbb\xbf \n<!DOCTYPE html>"),
         Retry("HTTP 200 OK: a web page, not Sentry")),
        (answer(200, b"<HTML><body>"), Retry("HTTP 200 OK: a web page, not Sentry")),
        (answer(429), Stay("HTTP 429 Too Many Requests")),
        (answer(429, x_sentry_rate_limits="60:error"), Stay("HTTP 429 Too Many Requests")),
        (answer(429, x_sentry_rate_limits="60::key"), Stay("HTTP 429 Too Many Requests")),
        (answer(429, x_sentry_rate_limits="60:session"), Retry("HTTP 429 Too Many Requests")),
        (answer(408), Retry("HTTP 408 Request Timeout")),
        (answer(500, b"oops\n"), Retry("HTTP 500 Internal Server Error: oops")),
        (answer(502), Retry("HTTP 502 Bad Gateway")),
        (answer(503), Retry("HTTP 503 Service Unavailable")),
        (answer(504), Retry("HTTP 504 Gateway Timeout")),
        (answer(599), Retry("HTTP 599")),
        (answer(401), Retry("HTTP 401 Unauthorized", hold="refused")),
        (answer(403, x_sentry_error="bad key"),
         Retry("HTTP 403 Forbidden: bad key", hold="refused")),
        (answer(404), Retry("HTTP 404 Not Found", hold="refused")),
        (answer(405), Retry("HTTP 405 Method Not Allowed", hold="refused")),
        (answer(301, location="https://u:p@new.example/login?token=t#f"),
         Retry("HTTP 301 Moved Permanently: moved to https://new.example/login", hold="refused")),
        (answer(302, location="/login"), Retry("HTTP 302 Found: moved to /login", hold="refused")),
        (answer(302, location="https://[x"),
         Retry("HTTP 302 Found: moved to an unreadable address", hold="refused")),
        (answer(304), Retry("HTTP 304 Not Modified: moved to nowhere", hold="refused")),
        (answer(400, b"not this", x_sentry_error="invalid event"),
         Bury("HTTP 400 Bad Request: invalid event")),
        (answer(413, b'{"detail":"too big"}'),
         Bury(f'HTTP 413 {HTTPStatus(413).phrase}: {{"detail":"too big"}}')),
        (answer(418), Bury("HTTP 418 I'm a Teapot")),
        (answer(422), Bury(f"HTTP 422 {HTTPStatus(422).phrase}")),
        (answer(451), Bury("HTTP 451 Unavailable For Legal Reasons")),
        (answer(100), Retry("HTTP 100 Continue")),
        (answer(0), Retry("HTTP 0")),
        (answer(999), Retry("HTTP 999")),
    ],
)  # fmt: skip
def test_judge_of_an_answer(response, expected):
    assert judged(response) == expected


@pytest.mark.parametrize("fault", list(Fault))
def test_judge_of_no_answer_retries(fault):
    failure = Failure(fault=fault, message="it\nbroke", maybe_delivered=True)
    untouched = fault in (Fault.CONNECT, Fault.TLS)
    assert judged(failure) == Retry("no answer: it broke", same_next=untouched)


def test_judge_of_403_after_silence_takes_it_for_delivered():
    verdict = judged(answer(403), last_unanswered=True)
    assert isinstance(verdict, Bury)
    assert verdict.reason.startswith("perhaps delivered: ")


@pytest.mark.parametrize("status", [200, 401, 429, 500])
def test_judge_of_others_after_silence_is_the_same(status):
    assert judged(answer(status), last_unanswered=True) == judged(answer(status))


@pytest.mark.parametrize(
    ("status", "option", "kind"),
    [
        (500, "on_server_error", Discard),
        (503, "on_server_error", Discard),
        (599, "on_server_error", Discard),
        (408, "on_server_error", Discard),
        (404, "on_server_error", Retry),
        (429, "on_server_error", Stay),
        (429, "on_rate_limit", Discard),
        (500, "on_rate_limit", Retry),
        (200, "on_server_error", Ack),
    ],
)
def test_judge_discards_where_the_user_chose_so(status, option, kind):
    assert type(judged(answer(status), Policy(**{option: "discard"}))) is kind


def test_judge_never_discards_what_had_no_answer():
    policy = Policy(on_server_error="discard", on_rate_limit="discard")
    failure = Failure(fault=Fault.TIMEOUT, message="slow", maybe_delivered=True)
    assert isinstance(judged(failure, policy), Retry)


@pytest.mark.parametrize(
    "words",
    [
        f"unknown key {KEY}",
        f"unknown key {KEY.upper()}",
        "unknown key cdcdcdcd-cdcd-cdcd-cdcd-cdcdcdcdcdcd",
        f"sentry_key={KEY}, sentry_secret=cdcdcd",
        "see https://cdcdcd:cdcdcd@h/1",
    ],
)
def test_judge_shows_no_key_that_the_server_echoes(words):
    reason = judged(answer(400, words.encode())).reason
    assert "[hidden]" in reason
    assert "cdcd" not in reason.lower()


def test_judge_shows_the_events_own_id():
    assert ID in judged(answer(400, f"duplicate {ID}".encode())).reason


@given(st.binary(), st.text(), st.integers(-5, 1000))
def test_judge_of_any_answer_gives_a_short_printable_reason(body, words, status):
    headers = {"x-sentry-error": words, "location": words, "content-type": words}
    verdict = judged(Response(status=status, headers=headers, body=body))
    reason = getattr(verdict, "reason", "")
    assert reason.isprintable()
    assert len(reason) < 300


@pytest.mark.parametrize(
    ("category", "age", "expected"),
    [
        ("check_in", 299, None),
        ("check_in", 300, "expired after 5 minutes: HTTP 500 Internal Server Error"),
        ("transaction", 5 * DAY - 1, None),
        ("transaction", 5 * DAY, "expired after 5 days: HTTP 500 Internal Server Error"),
        ("session", 5 * DAY, "expired after 5 days: HTTP 500 Internal Server Error"),
        ("profile", 5 * DAY, "expired after 5 days: HTTP 500 Internal Server Error"),
        ("error", 5 * DAY, None),
        ("error", 30 * DAY, "expired after 30 days: HTTP 500 Internal Server Error"),
    ],
)
def test_judge_buries_what_is_too_old(category, age, expected):
    verdict = judged(answer(500), event=event_of(category), now=NOW + age)
    trouble = Retry("HTTP 500 Internal Server Error")
    assert verdict == (Bury(expected, trouble) if expected else trouble)


@pytest.mark.parametrize("status", [200, 429])
def test_judge_of_an_old_event_still_hears_the_answer(status):
    assert judged(answer(status), now=NOW + 99 * DAY) == judged(answer(status))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(30, "30 seconds"), (3600, "1 hour"), (DAY, "1 day"), (5400, "1.5 hours")],
)
def test_judge_names_the_age_for_people(seconds, words):
    verdict = judged(answer(404), Policy(max_age_seconds=seconds), now=NOW + seconds)
    trouble = Retry("HTTP 404 Not Found", hold="refused")
    assert verdict == Bury(f"expired after {words}: HTTP 404 Not Found", trouble)


@pytest.mark.parametrize(
    ("stop", "attempts", "elapsed", "stopped"),
    [
        (tenacity.stop_never, 10_000, DAY, False),
        (tenacity.stop_after_attempt(3), 2, 0, False),
        (tenacity.stop_after_attempt(3), 3, 0, True),
        (tenacity.stop_after_delay(60), 9, 59, False),
        (tenacity.stop_after_delay(60), 1, 60, True),
        (tenacity.stop_before_delay(60), 1, 60, True),
        (tenacity.stop_after_attempt(9) | tenacity.stop_after_delay(60), 9, 0, True),
        (lambda state: state.outcome.failed, 1, 0, True),
        (lambda state: 1 / 0, 1, 0, False),
    ],
)
def test_judge_gives_up_as_tenacity_says(stop, attempts, elapsed, stopped):
    verdict = judged(answer(500), Policy(stop=stop), attempts=attempts, now=NOW + elapsed)
    plural = "" if attempts == 1 else "s"
    said = "HTTP 500 Internal Server Error"
    gave_up = Bury(f"gave up after {attempts} attempt{plural}: {said}", Retry(said))
    assert verdict == (gave_up if stopped else Retry(said))


@pytest.mark.parametrize(
    ("wait", "failures", "expected"),
    [
        (tenacity.wait_fixed(7), 1, 7),
        (tenacity.wait_exponential(multiplier=2), 4, 16),
        (tenacity.wait_incrementing(start=1, increment=2), 3, 5),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(2)), 9, 2),
        (tenacity.wait_exception(lambda error: 3.0), 1, 3),
        (tenacity.wait_fixed(99_999), 1, 3600),
        (lambda state: math.inf, 1, 3600),
        (lambda state: -5, 1, 0),
        (lambda state: state.attempt_number, 0, 1),
    ],
)
def test_backoff_is_tenacitys(wait, failures, expected):
    assert backoff_seconds(Policy(wait=wait), failures) == expected


@pytest.mark.parametrize(
    "wait", [lambda state: 1 / 0, lambda state: math.nan, lambda state: None, lambda state: "soon"]
)
def test_backoff_of_a_broken_strategy_is_the_default(wait):
    assert 0 <= backoff_seconds(Policy(wait=wait), 1) <= 1


@given(st.integers(-10, 100_000))
def test_backoff_default_has_full_jitter_up_to_five_minutes(failures):
    ceiling = min(300, 2 ** min(max(failures - 1, 0), 20))
    assert 0 <= backoff_seconds(Policy(), failures) <= ceiling


def test_backoff_default_spreads():
    assert len({backoff_seconds(Policy(), 9) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("category", "max_age", "expected"),
    [
        ("error", 30 * DAY, 30 * DAY),
        ("attachment", 30 * DAY, 30 * DAY),
        ("transaction", 30 * DAY, 5 * DAY),
        ("transaction", DAY, DAY),
        ("check_in", 30 * DAY, 300),
        ("check_in", 60, 60),
    ],
)
def test_expires_at_is_the_earlier_of_two_rules(category, max_age, expected):
    policy = Policy(max_age_seconds=max_age)
    assert expires_at(policy, event_of(category)) == NOW + expected
