"""On a program's PYTHONPATH: the machine has no library with an event loop, as most have none.

raven imports each that is installed, which takes half a second of every process.
"""

import sys


class _Hidden:
    def find_spec(self, name: str, *_: object) -> None:
        if name in ("eventlet", "gevent", "tornado", "twisted"):
            raise ModuleNotFoundError(f"{name} is hidden: see {__file__}", name=name)


sys.meta_path.insert(0, _Hidden())  # type: ignore[arg-type]
