"""Bodies: what is stored of them, what is sent of them, what they say of themselves."""

import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven_spool import protocol
from raven_spool.model import Destination, Event
from raven_spool.protocol import coding

ID, NEW_ID = "0123456789abcdef" * 2, "f" * 32
NOW = 1_700_000_000.0
DEFLATE, GZIP = (("Content-Encoding", "deflate"),), (("Content-Encoding", "gzip"),)
DESTINATION = Destination(base_url="https://h/pre", project="42", public_key="k", client="raven-x")


def prepare(body, headers=(), endpoint="store"):
    return protocol.prepare(body, headers, endpoint=endpoint, created_at=NOW, new_id=lambda: NEW_ID)


def envelope(header, *items):
    lines = [json.dumps(header)]
    for kind, payload in items:
        lines += [json.dumps({"type": kind, "length": len(payload)}), payload]
    return "\n".join([*lines, ""]).encode()


def raw_deflate(body):
    return zlib.compress(body, wbits=-15)


def test_prepare_puts_ravens_stream_into_a_gzip_container():
    decoded = json.dumps({"event_id": ID, "message": "x" * 999}).encode()
    packed = zlib.compress(decoded)
    event = prepare(packed, (("content-encoding", "Deflate"), ("User-Agent", "raven")))
    assert gzip.decompress(event.body) == decoded
    assert packed[2:-4] in event.body  # the same stream, not compressed again
    assert event.headers == (("User-Agent", "raven"), ("Content-Encoding", "gzip"))
    assert (event.event_id, event.category, event.endpoint) == (ID, "error", "store")
    assert event.created_at == NOW


OTHER_ID = "f" * 32
RAVENS_ID = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    "document",
    [
        {"event_id": RAVENS_ID, "message": "plain"},
        {"message": f'"event_id": "{OTHER_ID}"', "event_id": RAVENS_ID},
        {"extra": {"event_id": OTHER_ID}, "event_id": RAVENS_ID},
        {"event_id": RAVENS_ID, "extra": {"event_id": OTHER_ID}},
        {"extra": {"sys.argv": [f'{{"event_id": "{OTHER_ID}"}}']}, "event_id": RAVENS_ID},
        {"event_id": RAVENS_ID, "message": "event_id"},
    ],
)
@pytest.mark.parametrize("agent", ["raven-python/6.10.0", "somebody/1"])
def test_prepare_finds_the_id_of_the_event_itself(document, agent):
    headers = (("User-Agent", agent), ("Content-Encoding", "deflate"))
    event = prepare(zlib.compress(json.dumps(document).encode()), headers)
    assert event.event_id == RAVENS_ID
    assert json.loads(gzip.decompress(event.body)) == document


def test_prepare_parses_a_raven_body_whose_id_it_cannot_take():
    headers = (("User-Agent", "raven-python/6.10.0"),)
    event = prepare(b'{"event_id": 7, "message": "no id"}', headers)
    assert json.loads(gzip.decompress(event.body))["event_id"] == event.event_id


@pytest.mark.parametrize(
    ("pack", "headers", "unchanged"),
    [
        (zlib.compress, DEFLATE, False),
        (raw_deflate, DEFLATE, False),
        (gzip.compress, GZIP, True),
        (bytes, (), True),
        (bytes, (("Content-Encoding", "identity"),), True),
    ],
)
def test_prepare_reads_every_encoding(pack, headers, unchanged):
    decoded = json.dumps({"event_id": ID.upper()}).encode()
    event = prepare(pack(decoded), headers)
    assert event.event_id == ID
    assert protocol.decoded_body(event) == decoded
    assert (event.body == pack(decoded)) is unchanged


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (ID, ID),
        ("01234567-89ab-cdef-0123-456789ABCDEF", ID),
        (None, NEW_ID),
        ("", NEW_ID),
        ("0" * 32, NEW_ID),
        (ID + "0", NEW_ID),
        ("g" * 32, NEW_ID),
        (17, NEW_ID),
        ([ID], NEW_ID),
    ],
)
@pytest.mark.parametrize("kind", ["error", "transaction"])
def test_prepare_gives_every_store_body_an_id(value, expected, kind):
    body = zlib.compress(json.dumps({"event_id": value, "type": kind, "n": float("nan")}).encode())
    event = prepare(body, DEFLATE)
    sent = json.loads(gzip.decompress(event.body))
    assert (event.event_id, event.category) == (expected, kind)
    assert sent["event_id"].replace("-", "").lower() == expected
    assert sent["n"] != sent["n"]  # Relay repairs raven's NaN


BOMB = zlib.compress(bytes(10_000))


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", ()),
        (b"", DEFLATE),
        (b"x", DEFLATE),
        (b"not json", ()),
        (b"\xff\xfe\x00", ()),
        (b'["a list"]', ()),
        (b"[" * 100_000, ()),
        (b'{"a":' * 100_000, ()),
        (b'{"event_id": ' + b"9" * 5000 + b"}", ()),
        (zlib.compress(b"{}")[:-1], DEFLATE),
        (zlib.compress(b"{}") + b"tail", DEFLATE),
        (gzip.compress(b"{}", mtime=0) * 2, GZIP),
        (b"{}", GZIP),
        (b"{}", (("Content-Encoding", "br"),)),
        (b"{}", (("Content-Encoding", "gzip, gzip"),)),
        (BOMB, DEFLATE),
    ],
)
@pytest.mark.parametrize("endpoint", ["store", "envelope"])
def test_prepare_keeps_what_it_cannot_read(monkeypatch, body, headers, endpoint):
    monkeypatch.setattr(coding, "MAX_DECODED_BYTES", 9_999 if body is BOMB else 1_000_000)
    event = prepare(body, headers, endpoint)
    assert (event.body, event.headers) == (body, headers)
    assert (event.event_id, event.category) == (NEW_ID, "error")
    request = protocol.build_request(event, DESTINATION, NOW)
    assert request.body == body


@pytest.mark.parametrize(
    ("kinds", "category"),
    [
        (["event"], "error"),
        (["attachment", "event"], "error"),
        (["session", "transaction", "profile"], "transaction"),
        (["sessions"], "session"),
        (["check_in"], "check_in"),
        (["attachment"], "attachment"),
        (["feedback"], "feedback"),
        (["user_report"], "feedback"),
        (["profile_chunk"], "profile"),
        (["replay_event", "replay_recording"], "replay"),
        (["log"], "log_item"),
        (["span"], "span"),
        (["statsd"], "trace_metric"),
        (["trace_metric"], "trace_metric"),
        (["client_report"], "internal"),
        (["client_report", "session"], "session"),
        (["news_from_2030"], "error"),
        ([], "error"),
    ],
)
def test_prepare_takes_an_envelope_for_its_most_valuable_item(kinds, category):
    body = envelope({"event_id": ID}, *((kind, "{}") for kind in kinds))
    event = prepare(body, endpoint="envelope")
    assert (event.event_id, event.category, event.body) == (ID, category, body)
    assert category in protocol.CATEGORIES


@pytest.mark.parametrize(
    ("header", "items", "expected"),
    [
        ({}, [("event", json.dumps({"event_id": ID}))], {"event_id": ID}),
        ({}, [("event", "{}")], {"event_id": NEW_ID}),
        ({"event_id": 5}, [("attachment", "\x00")], {"event_id": NEW_ID}),
        ({}, [("session", "{}")], {}),
        ({"event_id": ID, "sent_at": "x"}, [("event", "{}")], {"event_id": ID}),
        ({"event_id": ID, "dsn": "https://k@h/1"}, [("event", "{}")], {"event_id": ID}),
        ({"sent_at": "x", "trace": {"a": 1}}, [("session", "{}")], {"trace": {"a": 1}}),
    ],
)
@pytest.mark.parametrize(("pack", "headers"), [(bytes, ()), (gzip.compress, GZIP)])
def test_prepare_repairs_an_envelopes_header(pack, headers, header, items, expected):
    body = envelope(header, *items)
    event = prepare(pack(body), headers, "envelope")
    stored = protocol.decoded_body(event)
    assert json.loads(stored.split(b"\n")[0]) == expected
    assert stored.split(b"\n", 1)[1] == body.split(b"\n", 1)[1]
    assert event.event_id == expected.get("event_id", NEW_ID)


def test_prepare_reads_an_envelope_without_lengths_or_last_newline():
    body = b'{}\n\n{"type":"session"}\n{"a":1}\n\n{"type":"event"}\n{"event_id":"%b"}' % ID.encode()
    event = prepare(body, endpoint="envelope")
    assert (event.event_id, event.category) == (ID, "error")


def test_prepare_skips_payloads_that_look_like_items():
    body = envelope({}, ("attachment", '{"type":"event"}\n{}\n'), ("session", "{}"))
    assert prepare(body, endpoint="envelope").category == "attachment"


def test_build_request_signs_a_store_event_and_leaves_its_body():
    event = prepare(zlib.compress(json.dumps({"event_id": ID}).encode()), DEFLATE)
    request = protocol.build_request(event, DESTINATION, NOW)
    assert request.url == "https://h/pre/api/42/store/"
    assert request.body == event.body
    assert dict(request.headers) == {
        "Content-Encoding": "gzip",
        "X-Sentry-Auth": protocol.sign(DESTINATION, NOW),
    }


@pytest.mark.parametrize(("pack", "headers"), [(bytes, ()), (gzip.compress, GZIP)])
def test_build_request_sets_sent_at_at_each_attempt(pack, headers):
    body = envelope({"event_id": ID, "sent_at": "2001-01-01T00:00:00Z"}, ("event", "{}"))
    event = prepare(pack(body), headers, "envelope")
    for now, sent_at in (
        (NOW, "2023-11-14T22:13:20.000Z"),
        (NOW + 0.5, "2023-11-14T22:13:20.500Z"),
    ):
        request = protocol.build_request(event, DESTINATION, now)
        head, items = gzip.decompress(request.body).split(b"\n", 1)
        assert request.url == "https://h/pre/api/42/envelope/"
        assert json.loads(head) == {"event_id": ID, "sent_at": sent_at}
        assert items == body.split(b"\n", 1)[1]


def test_decoded_body_raises_on_what_it_cannot_decode():
    event = Event(event_id=ID, category="error", endpoint="store", headers=GZIP, body=b"xy")
    with pytest.raises(ValueError, match="broken"):
        protocol.decoded_body(event)


def test_dump_object_refuses_what_json_cannot_nest():
    nested = {}
    for _ in range(100_000):
        nested = {"a": nested}
    with pytest.raises(ValueError, match="nested"):
        coding.dump_object(nested)


def test_message_event_is_complete():
    body, headers = protocol.message_event("hi \udcff", level="info", now=NOW, event_id=ID)
    event = prepare(body, headers)
    document = json.loads(protocol.decoded_body(event))
    assert (event.event_id, event.body) == (ID, body)
    assert document["timestamp"] == "2023-11-14T22:13:20Z"
    assert (document["message"], document["logger"]) == ("hi ?", "raven-spool")
    assert (document["platform"], bool(document["server_name"])) == ("python", True)
    assert protocol.describe(event) == protocol.Description(
        level="info", title="hi ?", timestamp=NOW, environment=None
    )


def title(document, endpoint="store"):
    body = json.dumps(document).encode()
    event = Event(event_id=ID, category="error", endpoint=endpoint, headers=(), body=body)
    return protocol.describe(event).title


def exception(*pairs):
    return {"exception": {"values": [{"type": kind, "value": value} for kind, value in pairs]}}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (exception(("KeyError", "1"), ("ValueError", "bad\nmore")), "ValueError: bad"),
        (exception(("ValueError", None)), "ValueError"),
        (exception((None, "bare")), "bare"),
        ({"exception": [{"type": "E", "value": 5}]}, "E: 5"),
        ({"exception": {"type": "E", "value": True}}, "E: True"),
        ({"sentry.interfaces.Exception": {"values": [{"type": "E"}]}}, "E"),
        (exception(("E", "v")) | {"message": "m"}, "E: v"),
        ({"exception": {"values": []}, "message": "m"}, "m"),
        ({"exception": {"values": [None]}, "message": "m"}, "m"),
        ({"exception": "odd", "message": "m"}, "m"),
        ({"message": "\n\n second"}, "second"),
        ({"message": {"message": "a %s %d %%", "params": ["b", 2]}}, "a b 2 %"),
        ({"logentry": {"message": "a %s", "formatted": "a b"}, "message": "a %s"}, "a b"),
        ({"sentry.interfaces.Message": {"message": "%s %s", "params": ["b"]}}, "b %s"),
        ({"logentry": {"message": "%(x)s", "params": {"x": 1}}}, "1"),
        ({"logentry": {"message": "100%", "params": []}}, "100%"),
        ({"logentry": {"message": "%999999999d", "params": [1]}}, "%999999999d"),
        ({"transaction": "/index"}, "/index"),
        ({"contexts": {"feedback": {"message": "slow"}}}, "slow"),
        ({"monitor_slug": "nightly"}, "nightly"),
        ({}, "(error)"),
        ({"message": "\x1b[31mred\x1b[0m \x1b]0;owned\x07x\x9b2Jy\x00\u202e\ud800z"}, "red xyz"),
        ({"message": "a\tb\u00a0c"}, "a b c"),
        ({"message": "x" * 500}, "x" * 199 + "\u2026"),
        ({"message": "x" * 200}, "x" * 200),
    ],
)  # fmt: skip
def test_describe_titles_an_event_as_sentry_would(document, expected):
    assert title(document) == expected


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("warning", "warning"),
        ("WARN", "warning"),
        ("critical", "fatal"),
        (20, "info"),
        (35, "warning"),
        (50, "fatal"),
        (10**400, "error"),
        (None, "error"),
        ("\x1b[31m", "error"),
        (["info"], "error"),
    ],
)
def test_describe_names_the_level(level, expected):
    event = prepare(json.dumps({"level": level}).encode())
    assert protocol.describe(event).level == expected


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        ("2023-11-14T22:13:20", NOW),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T23:13:20.500000+01:00", NOW + 0.5),
        (NOW, NOW),
        (str(NOW), NOW),
        ("yesterday", None),
        ("0001-01-01T00:00:00+23:59", None),
        (-1, None),
        (1e300, None),
        (10**400, None),
        (float("nan"), None),
        ({}, None),
        (None, None),
    ],
)
def test_describe_finds_the_capture_time(timestamp, expected):
    event = prepare(json.dumps({"timestamp": timestamp}).encode())
    assert protocol.describe(event).timestamp == expected


def test_describe_looks_into_an_envelope():
    payload = json.dumps({"message": "m", "environment": "prod\x1b[1m", "level": "info"})
    body = envelope({}, ("session", "{}"), ("event", payload))
    described = protocol.describe(prepare(body, endpoint="envelope"))
    assert (described.title, described.environment) == ("m", "prod")
    sessions = protocol.describe(prepare(envelope({}, ("session", "{}")), endpoint="envelope"))
    assert sessions.title == "(session)"


@pytest.mark.parametrize("endpoint", ["store", "envelope"])
@pytest.mark.parametrize(("body", "headers"), [(b"x", GZIP), (b"x", ()), (b"", ())])
def test_describe_says_what_cannot_be_decoded(body, headers, endpoint):
    described = protocol.describe(prepare(body, headers, endpoint))
    assert described.title == "(undecodable body)"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
NAMES = ["event_id", "type", "exception", "logentry", "message", "level", "timestamp", "values"]
DOCUMENT = st.dictionaries(st.sampled_from([*NAMES, "environment", "contexts", "params"]), JSON)
DECODED = st.binary() | DOCUMENT.map(lambda d: json.dumps(d).encode()) | st.builds(
    lambda head, item, payload: b"%b\n%b\n%b" % (head, item, payload),
    DOCUMENT.map(lambda d: json.dumps(d).encode()),
    st.sampled_from([b'{"type":"event"}', b'{"type":"event","length":9}', b'{"length":-1}', b"["]),
    st.binary(),
)  # fmt: skip


@given(
    decoded=DECODED,
    pack=st.sampled_from([bytes, zlib.compress, gzip.compress, raw_deflate]),
    encoding=st.sampled_from(["", "deflate", "gzip", "br"]) | st.text(max_size=5),
    endpoint=st.sampled_from(["store", "envelope"]),
)
def test_body_of_any_bytes_raises_nothing(decoded, pack, encoding, endpoint):
    event = prepare(pack(decoded), (("Content-Encoding", encoding),), endpoint)
    assert len(event.event_id) == 32
    assert event.category in protocol.CATEGORIES
    assert protocol.describe(event).title.isprintable()
    assert protocol.build_request(event, DESTINATION, NOW).body or not event.body


@given(DOCUMENT)
def test_describe_of_any_document_is_printable(document):
    shown = title(document)
    assert 0 < len(shown) <= 200
    assert shown.isprintable()
