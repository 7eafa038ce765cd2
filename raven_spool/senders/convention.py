"""How a transport of the user's own is made and called: raven's conventions, the old one too.

Since raven 5.2 a transport is made with the options of the DSN and called with
`send(url, data, headers)`. Before, it was made with the parsed address of the endpoint, one for
each, and called with `send(data, headers)`. Both kinds are still written, and mixed.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlparse

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def adapt(made_by: Callable[..., Any]) -> Callable[..., Any]:
    """A class that raven 6 can make and call; the class itself where it can."""
    bound = not isinstance(made_by, type)
    if _needs_address(made_by) or _lacks_url(getattr(made_by, "send", None), 3, bound=bound):
        return _Adapter(made_by)
    return made_by


class _Adapter:
    """Stands for a class of the old kind, where raven keeps classes."""

    def __init__(self, made_by: Callable[..., Any]) -> None:
        self._made_by = made_by
        self.scheme = getattr(made_by, "scheme", [])
        self.__name__ = getattr(made_by, "__name__", repr(made_by))

    def __call__(self, **options: Any) -> "Adapted":
        return Adapted(self._made_by, options)

    def __repr__(self) -> str:
        return f"<adapted {self._made_by!r}>"


class Adapted:
    """A transport of the old kind as raven 6 calls it: one instance for each address."""

    def __init__(self, made_by: Callable[..., Any], options: Mapping[str, Any]) -> None:
        self._made_by = made_by
        self._options = options
        self._made: dict[str, Any] = {}
        self.is_async = bool(getattr(made_by, "is_async", False))

    def send(self, url: str, data: bytes, headers: Mapping[str, str]) -> Any:
        return call_send(self._transport(url), url, data, headers)

    def async_send(
        self,
        url: str,
        data: bytes,
        headers: Mapping[str, str],
        success_cb: Callable[[], Any],
        failure_cb: Callable[[Exception], Any],
    ) -> Any:
        return call_async_send(self._transport(url), url, data, headers, success_cb, failure_cb)

    def _transport(self, url: str) -> Any:
        key = url if _needs_address(self._made_by) else ""
        found = self._made.get(key)
        if found is None:
            found = self._made.setdefault(key, make(self._made_by, urlparse(url), self._options))
        return found


def make(made_by: Callable[..., Any], parsed_url: Any, options: Mapping[str, Any]) -> Any:
    """An instance; the address is given by keyword where the class knows that word."""
    parameters = _parameters(made_by)
    if "parsed_url" in parameters:
        return made_by(parsed_url=parsed_url, **options)
    if _needs_address(made_by):
        return made_by(parsed_url, **options)
    return made_by(**options)


def call_send(transport: Any, url: str, data: bytes, headers: Mapping[str, str]) -> Any:
    if _lacks_url(transport.send, 3, bound=True):
        return transport.send(data, headers)
    return transport.send(url, data, headers)


def call_async_send(
    transport: Any,
    url: str,
    data: bytes,
    headers: Mapping[str, str],
    success_cb: Callable[[], Any],
    failure_cb: Callable[[Exception], Any],
) -> Any:
    if _lacks_url(transport.async_send, 5, bound=True):
        return transport.async_send(data, headers, success_cb, failure_cb)
    return transport.async_send(url, data, headers, success_cb, failure_cb)


def _parameters(call: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(call).parameters
    except (TypeError, ValueError):  # written in C: it says nothing
        return {}


def _needs_address(made_by: Callable[..., Any]) -> bool:
    """Whether its first argument has no default: raven 6 gives none."""
    first = next(iter(_parameters(made_by).values()), None)
    return first is not None and first.kind in _POSITIONAL and first.default is first.empty


def _lacks_url(method: Any, arguments: int, *, bound: bool) -> bool:
    """Whether it takes one positional argument less than raven 6 gives."""
    if method is None:
        return False
    parameters = list(_parameters(method).values())
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return False
    taken = [one for one in parameters if one.kind in _POSITIONAL]
    return len(taken) - (not bound) == arguments - 1
