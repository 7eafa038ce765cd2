"""gevent as most use it: patched before anything else is imported."""

from gevent import monkey

monkey.patch_all()

from tests.contract.transports.stages.gevent_unpatched import run  # noqa: E402

__all__ = ["run"]
