"""gevent's hub, nothing patched: commands are read in its thread pool and obeyed by a greenlet."""

from typing import Any

import gevent

from tests.contract.transports.stages.plain import Commands


def run(commands: Commands, program: Any) -> None:
    threads = gevent.get_hub().threadpool
    while command := threads.apply(next, (commands, None)):
        program.obey(command)
