"""The events of the benchmarks: what a real raven client sends for an ordinary exception."""

import argparse
import copy
import json
import re
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import raven
from raven.transport.base import Transport

URL = "http://127.0.0.1:{port}/api/1/store/"
KEY = "0123456789abcdef0123456789abcdef"
_WIRE_BYTES = 5000


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
    """An exception some thirty calls deep, with breadcrumbs until it is about 5 kB on the wire."""
    captured = Captured()
    for breadcrumbs in range(0, 100, 2):
        captured = _capture(breadcrumbs)
        if captured.wire_bytes >= _WIRE_BYTES:
            break
    return captured


def _capture(breadcrumbs: int) -> Captured:
    client = raven.Client(
        f"http://{KEY}:{KEY}@127.0.0.1/1",
        transport=_Recorder,
        install_logging_hook=False,
        install_sys_hook=False,
        hook_libraries=[],
    )
    with client.context:
        for number in range(breadcrumbs):
            client.context.breadcrumbs.record(
                message=f"GET /orders/{uuid.uuid5(uuid.NAMESPACE_URL, str(number))}/lines",
                category="http",
                level="info",
            )
        try:
            _read_command(["--order", "4711"])
        except LookupError:
            client.captureException(extra={"order": 4711, "customer": "c-1899"})
    body, headers = _Recorder.last
    decoded = zlib.decompress(body)
    return Captured(headers, json.loads(decoded), len(body), len(decoded))


# A program that fails deep within the standard library, so that the frames are varied and real:
# argparse calls json, that calls re, that calls html.parser, that calls copy, that calls us.


def _read_command(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--order", type=_show_order)
    parser.parse_args(arguments)


def _show_order(number: str) -> str:
    order = {"number": number, "lines": [{"article": _Article("socks")}], "paid": True}
    return json.dumps(order, indent=1, default=_show_article)


def _show_article(article: "_Article") -> str:
    return re.sub(
        r"<.*>", lambda match: _Page(article).read(match[0]), f"<b name='{article.name}'>"
    )


class _Page(HTMLParser):
    def __init__(self, article: "_Article") -> None:
        super().__init__()
        self.article = article

    def read(self, text: str) -> str:
        self.feed(text)
        return text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        copy.deepcopy({"tag": tag, "attributes": attrs, "articles": [self.article]})


class _Article:
    stock = {"shoes": 12}

    def __init__(self, name: str) -> None:
        self.name = name

    def __deepcopy__(self, memo: dict[int, Any]) -> int:
        return self.stock[self.name]
