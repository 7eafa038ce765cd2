"""gevent, patched when raven and our package have been imported."""

import raven  # noqa: F401
from gevent import monkey

from raven_spool import SpoolTransport  # noqa: F401 - brings all that a transport needs

monkey.patch_all()

from tests.contract.transports.stages.gevent_unpatched import run  # noqa: E402

__all__ = ["run"]
