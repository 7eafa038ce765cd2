"""What a log may say of a sender that raised: what it was given has credentials in it."""

import re
from collections.abc import Iterator
from urllib.parse import unquote

from raven_spool.model import Request

_KEYS = re.compile(r"sentry_(?:key|secret)=([^,\s]+)")


class SenderFailed(Exception):
    """Stands in a log for what was raised: the same places in the code, its words without keys."""


def without_keys(error: Exception, request: Request) -> SenderFailed:
    text = f"{type(error).__name__}: {error}"
    for key in _keys(request):
        text = text.replace(key, "[hidden]")
    return SenderFailed(text).with_traceback(error.__traceback__)


def _keys(request: Request) -> Iterator[str]:
    for name, value in request.headers:
        if name.lower() == "x-sentry-auth":
            yield from _KEYS.findall(value)
    login = (request.proxy or "").rpartition("@")[0].rpartition("//")[2]
    for key in (login, *login.split(":"), *unquote(login).split(":")):
        if key:
            yield key
