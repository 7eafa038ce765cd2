"""A process for each transport, kept for all scenarios of one test worker."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.contract.transports.application import Application
from tests.contract.transports.rows import Row

HERE = Path(__file__).parent

kept: dict[str, Application] = {}  # by the row's name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, None, None]:
    """They end with the last test of this folder: those that follow need the memory."""
    yield
    if nextitem is None or HERE not in nextitem.path.parents:
        for application in kept.values():
            application.begin_end()
        while kept:
            kept.popitem()[1].end()


@pytest.fixture
def app(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
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
