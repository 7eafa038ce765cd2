"""The events of the benchmarks: what a real raven client sends for an ordinary exception."""

import json
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import raven
from raven.transport.base import Transport

URL = "http://127.0.0.1:{port}/api/1/store/"
_KEY = "0123456789abcdef0123456789abcdef"
_TARGET_WIRE_BYTES = 5000


@dataclass(slots=True)
class Captured:
    """One request of raven's, as its transport was given it."""

    headers: dict[str, str] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)
    wire_bytes: int = 0
    decoded_bytes: int = 0

    def make_body(self) -> bytes:
        """The same event under an id of its own, packed as raven packs it."""
        self.document["event_id"] = uuid.uuid4().hex
        return zlib.compress(json.dumps(self.document, separators=(",", ":")).encode())


class _Recorder(Transport):  # type: ignore[misc]  # raven is untyped
    scheme = ("http",)
    last: tuple[bytes, dict[str, str]]

    def send(self, url: str, data: bytes, headers: Mapping[str, str]) -> None:
        type(self).last = (data, dict(headers))


def capture_event() -> Captured:
    """An exception a few calls deep, with as many breadcrumbs as make it about 5 kB."""
    captured = Captured()
    for breadcrumbs in range(0, 100, 5):
        captured = _capture(breadcrumbs)
        if captured.wire_bytes >= _TARGET_WIRE_BYTES:
            break
    return captured


def _capture(breadcrumbs: int) -> Captured:
    client = raven.Client(
        f"http://{_KEY}:{_KEY}@127.0.0.1/1",
        transport=_Recorder,
        install_logging_hook=False,
        install_sys_hook=False,
        hook_libraries=[],
    )
    with client.context:
        for number in range(breadcrumbs):
            identity = uuid.uuid5(uuid.NAMESPACE_URL, str(number)).hex
            client.context.breadcrumbs.record(
                message=f"GET /orders/{number * 7919}/lines",
                category="http",
                level="info",
                data={"trace_id": identity, "span_id": identity[::-2], "status_code": 200},
            )
        try:
            _ship_order({"number": 4711, "lines": ["socks", "shoes"], "paid": True})
        except LookupError:
            client.captureException(extra={"order": 4711, "customer": "c-1899"})
    body, headers = _Recorder.last
    decoded = zlib.decompress(body)
    return Captured(headers, json.loads(decoded), len(body), len(decoded))


def _ship_order(order: dict[str, Any]) -> None:
    address = {"street": "Rosenweg 3", "town": "Ulm"}
    for line in order["lines"]:
        _pack(line, address)


def _pack(line: str, address: dict[str, str]) -> None:
    stock = {"socks": 12}
    _take(stock, line, label=f"{line} to {address['town']}")


def _take(stock: dict[str, int], line: str, label: str) -> None:
    stock[line] = stock[line] - 1
