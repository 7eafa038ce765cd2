"""Foreign headers, limits, addresses and option strings: read, or refused in the words the reader
promises; what is taken is bounded."""

import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import example
from hypothesis import strategies as st

from raven_spool.config import READERS, read_option, read_options
from raven_spool.errors import ConfigurationError
from raven_spool.model import Destination, Response
from raven_spool.protocol import (
    CATEGORIES,
    parse_auth,
    parse_dsn,
    parse_endpoint,
    rate_limits,
    sign,
    split_headers,
)
from tests.support.fuzzing import (
    lengths,
    mutated,
    note_searches,
    number_texts,
    option_texts,
    search,
    texts,
)
from tests.support.spools import NOW

DAY = 86400.0


@pytest.fixture(scope="module", autouse=True)
def noted() -> Iterator[None]:
    yield
    note_searches(
        "foreign limits, headers, addresses and options",
        promise=4,
        seen="every value bounded; nothing raised but what is documented",
    )


# -- limits ---------------------------------------------------------------------------------------

_names = st.sampled_from(["error", "transaction", "default", "bogus", "", " ", "ERROR"])
_junk = st.builds(
    "{}:{}:{}".format, texts | number_texts, st.lists(_names, max_size=3).map(";".join), texts
)


def seconds_for(category: str, response: Response) -> float:
    """How long a category is closed by an answer."""
    found = rate_limits(response, NOW)
    assert all(0 < limit.seconds <= DAY for limit in found)
    assert all(limit.categories <= set(CATEGORIES) for limit in found)
    assert not found or response.status == 429 or "x-sentry-rate-limits" in response.headers
    applies = [
        limit.seconds for limit in found if not limit.categories or category in limit.categories
    ]
    return max(applies, default=0.0)


@lengths(short=150, long=5_000)
def test_no_junk_shortens_a_limit_or_makes_it_endless(examples: int) -> None:
    @search(
        examples,
        junk=st.lists(_junk.filter(lambda one: "," not in one), max_size=8),
        at=st.integers(0, 8),
        seconds=st.integers(1, 10**12),
        status=st.sampled_from([200, 429, 503]),
        retry_after=st.none() | texts,
    )
    @example(junk=["1:error:org"] * 10_000, at=5000, seconds=60, status=429, retry_after=None)
    def check(junk: list[str], at: int, seconds: int, status: int, retry_after: str | None) -> None:
        stated = ",".join([*junk[:at], f"{seconds}:error:organization", *junk[at:]])
        headers = {"x-sentry-rate-limits": stated}
        if retry_after is not None:
            headers["retry-after"] = retry_after
        answer = Response(status=status, headers=headers)
        assert seconds_for("error", answer) >= min(seconds, DAY)


@lengths(short=150, long=5_000)
def test_retry_after_is_obeyed_beside_junk(examples: int) -> None:
    @search(
        examples,
        junk=st.lists(texts.filter(lambda one: "," not in one), max_size=4),
        at=st.integers(0, 4),
        seconds=st.integers(0, 10**12),
        status=st.sampled_from([200, 429, 503]),
    )
    def check(junk: list[str], at: int, seconds: int, status: int) -> None:
        stated = ",".join([*junk[:at], str(seconds), *junk[at:]])
        closed = seconds_for("error", Response(status=status, headers={"retry-after": stated}))
        assert closed >= min(max(seconds, 1), DAY) if status == 429 else closed == 0


_dates = st.one_of(
    st.integers(0, 2**37).map(lambda at: formatdate(at, usegmt=True)),
    st.sampled_from(["Mon, 99 Foo 99999 99:99:99 +99999999999999999999", "Fri, 1 Jan 0000 0:0:0"]),
)


@lengths(short=100, long=5_000)
def test_retry_after_that_is_no_number_is_bounded(examples: int) -> None:
    @search(
        examples, header=texts | mutated(_dates.map(str.encode)).map(lambda b: b.decode("latin-1"))
    )
    @example(header="Mon, 1 Jan 2024 00:00:00 " + "9" * 5000)
    def check(header: str) -> None:
        answer = Response(status=429, headers={"retry-after": header})
        assert 1 <= seconds_for("error", answer) <= DAY


# -- headers and addresses ------------------------------------------------------------------------

SECRET = "0123456789secret"


def attempt(read: Callable[..., Any], *arguments: str) -> tuple[Any, str]:
    """What was read, and why it was refused."""
    try:
        return read(*arguments), ""
    except ConfigurationError as error:
        return None, str(error)


@lengths(short=100, long=5_000)
def test_headers_carry_nothing_into_ours(examples: int) -> None:
    values = texts | st.binary(max_size=20) | st.integers() | st.none()

    @search(
        examples,
        headers=st.dictionaries(
            texts | st.sampled_from(["X-Sentry-Auth", b"Content-Type", "Host"]), values
        ),
        auth=st.lists(texts).map(",".join),
        key=texts,
    )
    @example(headers={}, auth="sentry_key=a\rX-Evil: 1,sentry_client=\0", key="a\nb")
    def check(headers: dict[Any, Any], auth: str, key: str) -> None:
        fields, stored = split_headers({**headers, "x-sentry-auth": f"Sentry {auth}"})
        for part in (*fields, *fields.values(), *(part for pair in stored for part in pair)):
            part.encode("latin-1")
            assert not set(part) & set("\r\n\0")
        assert not {name.lower() for name, _ in stored} & {"host", "x-sentry-auth", "cookie"}
        signed = sign(Destination(base_url="", project="", public_key=key, client=key), NOW)
        assert signed.isascii()
        assert signed.isprintable()
        assert set(parse_auth(signed)) <= {
            "sentry_timestamp", "sentry_version", "sentry_key", "sentry_client",
        }  # fmt: skip


_addresses = st.one_of(
    texts,
    st.builds(
        "{}://{}:{}@{}{}/{}?{}".format,
        st.sampled_from(["http", "https", "threaded+https", "ftp", "", "HTTP"]),
        st.sampled_from([SECRET, ""]) | texts,
        st.sampled_from([SECRET, ""]) | texts,
        st.sampled_from(["host", "[::1]", "[::1%eth0]", "1.2.3.4", "ü.example", "a..b", "[v1.x]"])
        | texts,
        st.sampled_from(["", ":80", ":0", ":99999", ":-1", ":x", ":٣"]),
        texts,
        texts,
    ),
)


@lengths(short=150, long=5_000)
def test_dsn_is_read_or_refused_without_its_secrets(examples: int) -> None:
    @search(examples, dsn=_addresses)
    def check(dsn: str) -> None:
        parsed, refused = attempt(parse_dsn, dsn)
        if parsed is None:
            assert SECRET not in refused
            return
        assert SECRET not in parsed.base_url.partition("://")[2].partition("/")[0]
        url = f"{parsed.base_url}/api/{parsed.project}/store/"
        assert parse_endpoint(url) == (parsed.base_url, parsed.project, "store")


# -- options --------------------------------------------------------------------------------------


@lengths(short=200, long=5_000)
def test_option_string_is_usable_or_refused_by_name(examples: int) -> None:
    @search(examples, name=st.sampled_from([*READERS]), text=option_texts)
    @example(name="max_bytes", text="9" * 400)
    @example(name="send_timeout", text="9" * 20)
    @example(name="timeout", text="30d")
    @example(name="concurrency", text="1" * 5000)
    def check(name: str, text: str) -> None:
        value, refused = attempt(read_option, name, text)
        if refused:
            assert refused.startswith(f"option {name}=")
            assert name in ("proxy", "encryption_key") or repr(text)[:80] in refused
            assert "4300" not in refused  # Python's words, not ours
            assert "infinity" not in refused
        elif name.endswith("timeout"):
            assert 0 <= value < threading.TIMEOUT_MAX

    @search(examples, given=st.dictionaries(st.sampled_from([*READERS]) | texts, option_texts))
    def check_lenient(given: dict[str, str]) -> None:
        read_options(given, {f"RAVEN_SPOOL_{name.upper()}": text for name, text in given.items()})
