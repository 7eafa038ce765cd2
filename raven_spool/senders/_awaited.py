"""What the senders of event loops share: `ChannelSender` over again, awaited."""

import asyncio
import select
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from raven_spool.model import Outcome, Request, Response
from raven_spool.senders._common import (
    MAX_CHANNELS,
    TROUBLE,
    explain_failure,
    refuse_proxy_login,
)
from raven_spool.senders._exchange import Exchange
from raven_spool.senders._route import route_key


class AwaitedChannel(Protocol):
    """One kept connection."""

    async def post(self, request: Request) -> Response:
        """Send the request and read the answer, or raise one of TROUBLE."""

    async def close(self) -> None: ...


class AwaitedChannelSender:
    """An `AsyncSender` over kept connections; the least recently used is closed for a new one."""

    def __init__(
        self,
        open_channel: Callable[[Request, Exchange], AwaitedChannel],
        find_loop: Callable[[], object] = asyncio.get_running_loop,
    ) -> None:
        self._open_channel = open_channel
        self._find_loop = find_loop
        self._loop: object = None
        self._exchange = Exchange()
        self._channels: OrderedDict[tuple[object, ...], AwaitedChannel] = OrderedDict()

    async def send(self, request: Request) -> Outcome:
        self._exchange.begin(request.timeout_seconds)
        key: tuple[object, ...] = ()
        try:
            key = route_key(request)
            channel = await self._channel(key, request)
            response = await channel.post(request)
        except GeneratorExit:  # collected after its loop was closed: nothing can be awaited
            raise
        except BaseException as exc:
            await self._drop(key)  # whatever cut the exchange: the connection's state is unknown
            if not isinstance(exc, TROUBLE):
                raise
            return explain_failure(exc, self._exchange)
        return refuse_proxy_login(response)

    async def close(self) -> None:
        while self._channels:
            await self._drop(next(iter(self._channels)))

    async def _channel(self, key: tuple[object, ...], request: Request) -> AwaitedChannel:
        loop = self._find_loop()
        if loop is not self._loop:  # what was kept belongs to one that has ended
            await self.close()
            self._loop = loop
        if key not in self._channels:
            self._channels[key] = self._open_channel(request, self._exchange)
            if len(self._channels) > MAX_CHANNELS:
                await self._drop(next(iter(self._channels)))
        self._channels.move_to_end(key)
        return self._channels[key]

    async def _drop(self, key: tuple[object, ...]) -> None:
        channel = self._channels.pop(key, None)
        if channel is not None:
            with suppress(Exception):
                await channel.close()


def is_spoken_to(descriptor: int) -> bool:
    """Whether an idle connection is no good any more: a server has nothing to say there but its
    end. What it says unasked would be taken for the answer to the next request."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
