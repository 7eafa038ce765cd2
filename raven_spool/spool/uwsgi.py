"""What uWSGI does to threads and forks, asked of the module it puts into its processes.

Before 2.0.27, unless told --enable-threads, it holds the GIL between requests: a thread stands
still wherever it happens to be, the spool's locks in its hands (measured with 2.0.26: every send
of the other workers then waited out its `send_timeout`).

And it forks in C, behind Python's back; only from 2.0.27 on does --py-call-uwsgi-fork-hooks call
all of Python's hooks. Where its master has loaded the application (no --lazy-apps), what another
thread holds at that moment, the GIL first of all, is held in the worker for good (measured with
2.0.30: a worker hung at 5 of 6 starts after a capture at import). So nothing of ours runs or is
open there between two calls.
"""

import os
import sys
from typing import Any

_OFF = (None, False, b"false", b"off", b"no", b"0")  # the values of an option that is not set


def lacks_threads() -> bool:
    """Whether a thread would stand still between requests."""
    module = _module()
    return module is not None and not module.has_threads


def forks_unseen() -> bool:
    """Whether this process may be forked at any time without a call of our hooks."""
    module = _module()
    if module is None or _calls_hooks(module):
        return False
    # Without a master the first worker loads the application and forks the others.
    return module.masterpid() in (0, os.getpid()) and module.worker_id() == 0


def _calls_hooks(module: Any) -> bool:
    is_told = module.opt.get("py-call-uwsgi-fork-hooks") not in _OFF
    return is_told and bool(module.has_threads) and module.version_info[:3] >= (2, 0, 27)


def _module() -> Any:
    """The real one: it cannot be imported outside of uWSGI, but stand-ins can."""
    module = sys.modules.get("uwsgi")
    return module if hasattr(module, "masterpid") and hasattr(module, "version_info") else None
