"""A process for each transport, kept for all scenarios of one test worker."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.transports.application import Application
from tests.contract.transports.rows import Row


@pytest.fixture(scope="session")
def kept() -> Iterator[dict[str, Application]]:
    applications: dict[str, Application] = {}
    yield applications
    for application in applications.values():
        application.begin_end()
    for application in applications.values():
        application.end()


@pytest.fixture
def app(
    request: pytest.FixtureRequest,
    kept: dict[str, Application],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Application]:
    """The application of this row; what it opens is closed after the test."""
    row: Row = request.param
    if row.name not in kept:
        kept[row.name] = Application(row, tmp_path_factory.mktemp("log") / "stderr")
    application = kept[row.name]
    yield application
    if application.is_idle:
        application.close()
    else:
        application.kill()
        kept.pop(row.name).end()


@pytest.fixture
def start_another(app: Application, tmp_path: Path) -> Iterator[Callable[[], Application]]:
    """Start a process of the same row that may die; it doesn't outlive the test."""
    started: list[Application] = []

    def start() -> Application:
        started.append(Application(app.row, tmp_path / f"stderr-{len(started)}"))
        return started[-1]

    yield start
    for application in started:
        application.kill()
        application.end()
