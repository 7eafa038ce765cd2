"""asyncio's loop: commands are read in a thread and obeyed by the loop's main task."""

import asyncio
from typing import Any

from tests.contract.transports.stages.plain import Commands


def run(commands: Commands, program: Any) -> None:
    asyncio.run(_obey_all(commands, program))


async def _obey_all(commands: Commands, program: Any) -> None:
    while command := await asyncio.to_thread(next, commands, None):
        await program.aobey(command)
