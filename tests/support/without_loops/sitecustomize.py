"""On a program's PYTHONPATH: of the libraries with an event loop those in KEPT_LOOPS are there, and
the others are not, as on most machines."""

import os
import sys

_HIDDEN = {"eventlet", "gevent", "tornado", "twisted"} - set(os.environ["KEPT_LOOPS"].split())


class _Hider:
    def find_spec(self, name: str, *_: object) -> None:
        if name in _HIDDEN:
            raise ModuleNotFoundError(f"{name} is hidden: see {__file__}", name=name)


sys.meta_path.insert(0, _Hider())  # type: ignore[arg-type]
