"""Over which rows a scenario runs."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.transports.rows import ROWS, Delivery, Row


def over(wanted: Callable[[Row], bool], *, is_of_loops: bool = False) -> Any:
    rows = [
        pytest.param(
            row, id=row.name, marks=[pytest.mark.soak] * (row.is_variant and not is_of_loops)
        )
        for row in ROWS
        if wanted(row)
    ]
    return pytest.mark.parametrize("app", rows, indirect=True)


every_transport = over(lambda row: True)
transports_with_our_sender = over(lambda row: not row.own_sender)
transports_that_deliver_in_send = over(lambda row: row.delivery is Delivery.IN_SEND)
transports_that_deliver_behind = over(lambda row: row.delivery is Delivery.BEHIND)
transports_in_a_loop = over(lambda row: bool(row.runtime), is_of_loops=True)
