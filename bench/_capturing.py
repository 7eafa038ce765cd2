"""The program that the contestants of backends.py are put into: captures events, then ends.

    python bench/_capturing.py '{"transport": "module:Class", "dsn": ..., "count": 20,
                                 "ending": "exit", "diary": FILE}'

It is what a user of raven writes; only the transport differs. The diary gets a line when a capture
has returned: the event's id, or what was raised.
"""

import importlib
import json
import os
import signal
import sys
from typing import Any


def main() -> None:
    told = json.loads(sys.argv[1])
    with open(told["diary"], "a") as diary:
        client = make_client(told["dsn"], told["transport"])
        for number in range(told["count"]):
            diary.write(capture(client, number) + "\n")
            diary.flush()
    if told["ending"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def make_client(dsn: str, transport: str) -> Any:
    import raven

    module, _, attribute = transport.partition(":")
    made_by = getattr(importlib.import_module(module), attribute)
    return raven.Client(dsn, transport=made_by, install_sys_hook=False)


def capture(client: Any, number: int) -> str:
    try:
        event_id: str = client.captureMessage(f"event {number}")
    except Exception as error:  # noqa: BLE001 whatever it is, it is counted
        return f"raised {type(error).__name__}"
    finally:
        client.context.clear()
    return event_id


if __name__ == "__main__":
    main()
