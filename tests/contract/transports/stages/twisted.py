"""Twisted's reactor: commands are read in one of its threads and obeyed by its own."""

from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from tests.contract.transports.stages.plain import Commands


def run(commands: Commands, program: Any) -> None:
    react(lambda reactor: ensureDeferred(_obey_all(commands, program)))


async def _obey_all(commands: Commands, program: Any) -> None:
    while command := await deferToThread(next, commands, None):
        await program.aobey(command)
