"""What the fuzz tests share: a search in a short and a long form, and foreign values of all kinds.

@lengths(short=100, long=10_000)
def test_something(examples):
    @search(examples, text=st.text())
    @example(text="what was once a bug")
    def check(text): ...
"""

import json
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import evidence

_tried: Counter[str] = Counter()


def lengths(*, short: int, long: int) -> pytest.MarkDecorator:
    """So many examples in every run, so many in `make faults`."""
    farther = pytest.param(long, id="long", marks=(pytest.mark.soak, pytest.mark.timeout(900)))
    return pytest.mark.parametrize("examples", [pytest.param(short, id="short"), farther])


def search(examples: int, **strategies: Any) -> Callable[[Callable[..., None]], None]:
    """Runs the decorated check at once, over so many examples."""

    def run(check: Callable[..., None]) -> None:
        tried = 0

        def count(**drawn: Any) -> None:
            nonlocal tried
            tried += 1
            check(**drawn)

        count.hypothesis_explicit_examples = getattr(check, "hypothesis_explicit_examples", [])
        count.__qualname__, count.__name__ = check.__qualname__, check.__name__
        settings(max_examples=examples)(given(**strategies)(count))()
        _tried[check.__qualname__.partition(".")[0]] += tried

    return run


def note_searches(what: str, *, promise: int, seen: str) -> None:
    """One row of evidence for all searches of a module, once they are through."""
    tried, readers = sum(_tried.values()), len(_tried)
    _tried.clear()
    evidence.note(what, promise=promise, tried=f"{tried:,} examples, {readers} searches", seen=seen)


# -- text and numbers -----------------------------------------------------------------------------

NUMBERS = (
    "0", "-0", "1", "60", "86400", "1e9", "1e308", "1e999", "-1e999", "nan", "inf", "-inf",
    "1_0", "0x10", "1" * 5000, "0." + "0" * 400 + "1", "\u0661\u0662", "\uff11", " 7 ", "+7",
    "7.", ".7", "--7", "18446744073709551616", "-9223372036854775809",
)  # fmt: skip
NASTY = (
    "", " ", "\0", "\n", "\r\nX-Evil: 1", "\x1b]0;title\x07", "\x9b31m", "\ud800", "\u2028",
    "\ufeff", "%", "%s" * 50, "../../etc/passwd", "'; DROP TABLE lanes;--", "[" * 3000, "{}", "[]",
)  # fmt: skip
number_texts = st.sampled_from(NUMBERS)
texts = st.one_of(st.sampled_from(NASTY), number_texts, st.text(max_size=60))

# Text as option strings have it: a number and a unit, nearly.
option_texts = st.one_of(
    texts,
    st.builds(
        "{}{}{}".format,
        st.one_of(number_texts, st.integers(0, 10**12).map(str)),
        st.sampled_from(["", " ", "."]),
        st.sampled_from(["", "s", "m", "h", "d", "w", "k", "KiB", "MiB", "g", "GB", "T"]),
    ),
)

# -- JSON -----------------------------------------------------------------------------------------

_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(10**400), 1e308, 2**63]),
    st.sampled_from(NASTY),
    st.text(max_size=20),
)
json_values = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def objects(*keys: str) -> st.SearchStrategy[dict[str, Any]]:
    """JSON objects with any of these keys, and others."""
    known = st.dictionaries(st.sampled_from(keys), json_values, max_size=len(keys))
    return st.builds(dict.__or__, st.dictionaries(texts, json_values, max_size=2), known)


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


# -- bytes ----------------------------------------------------------------------------------------

_TOKENS = (
    b"\0", b"\xff", b"\n", b"\r\n", b'"', b"{", b"}", b"[" * 2000, b"\xed\xa0\x80", b"\\ud800",
    b"9" * 5000, b"1e999", b"NaN", b"-1", b'"length":', b'{"length":1e9}\n', b"\x1f\x8b\x08",
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes as they were, or flipped, cut short, cut out, doubled or spliced."""
    body = draw(whole)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        to = draw(st.integers(at, min(len(body), at + 40)))
        middle = draw(
            st.one_of(
                st.just(b""),
                st.just(body[at:to] * 2),
                st.just(bytes(byte ^ 0x41 for byte in body[at:to])),
                st.sampled_from(_TOKENS),
                st.binary(max_size=20),
            )
        )
        body = body[:at] + middle + (body[to:] if draw(st.booleans()) else b"")
    return body


def _gzip(body: bytes) -> bytes:
    return zlib.compress(body, wbits=31)


def _raw_deflate(body: bytes) -> bytes:
    return zlib.compress(body, wbits=-15)


@st.composite
def encoded(draw: st.DrawFn, bodies: st.SearchStrategy[bytes]) -> tuple[bytes, str]:
    """A body as it travels, and what its Content-Encoding says: mostly the truth."""
    pack, said = draw(
        st.sampled_from([
            (bytes, ""), (bytes, "identity"), (_gzip, "gzip"), (_gzip, "X-GZip "),
            (zlib.compress, "deflate"), (_raw_deflate, "deflate"),
            (bytes, "gzip"), (_gzip, "deflate"), (bytes, "br"), (zlib.compress, "gzip"),
        ])
    )  # fmt: skip
    body = pack(draw(bodies))
    return (draw(mutated(st.just(body))) if draw(st.booleans()) else body), said


stores = objects(
    "event_id", "type", "level", "message", "logentry", "exception", "timestamp", "environment",
    "sentry.interfaces.Exception", "contexts", "transaction",
).map(json.dumps).map(str.encode)  # fmt: skip


@st.composite
def envelopes(draw: st.DrawFn) -> bytes:
    """A header and items, whose lengths are mostly right."""
    lines = [json.dumps(draw(objects("event_id", "sent_at", "dsn", "trace"))).encode()]
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["event", "transaction", "session", "attachment", "check_in"]))
        payload = draw(stores | st.binary(max_size=30))
        header: dict[str, Any] = {"type": draw(st.just(kind) | json_values)}
        if draw(st.booleans()):
            header["length"] = draw(st.just(len(payload)) | json_values)
        lines += [json.dumps(header).encode(), payload]
    return b"\n".join(lines)
