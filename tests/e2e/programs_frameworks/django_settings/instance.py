"""The transport is an object."""

import os

from raven_spool import SpoolTransport
from tests.e2e.programs_frameworks.django_settings.base import *  # noqa: F403
from tests.e2e.programs_frameworks.django_settings.base import BASE_DIR

INSTALLED_APPS = ["raven.contrib.django"]
RAVEN_CONFIG = {
    "dsn": os.environ["SENTRY_DSN"],
    "transport": SpoolTransport(spool_path=BASE_DIR / "spool", shutdown_timeout=5),
}
