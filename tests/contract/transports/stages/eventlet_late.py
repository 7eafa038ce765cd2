"""eventlet, patched when raven and our package have been imported."""

import eventlet
import raven  # noqa: F401

from raven_spool import SpoolTransport  # noqa: F401 - brings all that a transport needs

eventlet.monkey_patch()

from tests.contract.transports.stages.eventlet_unpatched import run  # noqa: E402

__all__ = ["run"]
