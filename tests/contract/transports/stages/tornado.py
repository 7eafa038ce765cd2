"""Tornado's IOLoop: commands are read in a thread and obeyed by a coroutine of the loop."""

from functools import partial
from typing import Any

from tornado.ioloop import IOLoop

from tests.contract.transports.stages.plain import Commands


def run(commands: Commands, program: Any) -> None:
    IOLoop.current().run_sync(partial(_obey_all, commands, program))


async def _obey_all(commands: Commands, program: Any) -> None:
    loop = IOLoop.current()
    while command := await loop.run_in_executor(None, next, commands, None):
        await program.aobey(command)
