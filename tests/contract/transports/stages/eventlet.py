"""eventlet as most use it: patched before anything else is imported."""

import eventlet

eventlet.monkey_patch()

from tests.contract.transports.stages.eventlet_unpatched import run  # noqa: E402

__all__ = ["run"]
