"""What a web process does: put tasks into Celery's queue.

python -m tests.e2e.programs.send_tasks '[["fail", [1], {"soft_time_limit": 2}], ...]'
"""

import json
import sys

from tests.e2e.programs import celery_app


def main() -> None:
    for name, arguments, options in json.loads(sys.argv[1]):
        celery_app.app.send_task(f"{celery_app.__name__}.{name}", arguments, **options)


if __name__ == "__main__":
    main()
