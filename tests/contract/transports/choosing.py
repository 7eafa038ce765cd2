"""Over which rows a scenario runs."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.transports.rows import ROWS, Delivery, Row


def over(wanted: Callable[[Row], bool]) -> Any:
    rows = [row for row in ROWS if wanted(row)]
    return pytest.mark.parametrize("app", rows, indirect=True, ids=lambda row: row.name)


every_transport = over(lambda row: True)
transports_with_our_sender = over(lambda row: not row.own_sender)
transports_that_deliver_in_send = over(lambda row: row.delivery is Delivery.IN_SEND)
transports_that_deliver_behind = over(lambda row: row.delivery is Delivery.BEHIND)
