"""eventlet's hub, nothing patched: commands are read in its threads, obeyed by a greenthread."""

from typing import Any

from eventlet import tpool

from tests.contract.transports.stages.plain import Commands


def run(commands: Commands, program: Any) -> None:
    while command := tpool.execute(next, commands, None):
        program.obey(command)
