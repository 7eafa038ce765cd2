"""Tornado's IOLoop is asyncio's loop since Tornado 5; what it adds is a name of its own."""

from collections.abc import Callable
from typing import Any

from tornado.ioloop import IOLoop

from raven_spool.runtimes.asyncio import AsyncioRuntime


class TornadoRuntime(AsyncioRuntime):
    async def offload(self, function: Callable[..., Any], *args: Any) -> Any:
        loop = IOLoop.current()
        return await loop.run_in_executor(self._executor, self._step, function, *args)
