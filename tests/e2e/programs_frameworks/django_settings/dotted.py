"""The transport is named by a dotted string."""

import os

from tests.e2e.programs_frameworks.django_settings.base import *  # noqa: F403

INSTALLED_APPS = ["raven.contrib.django"]
RAVEN_CONFIG = {
    "dsn": os.environ["SENTRY_DSN"],
    "transport": "raven_spool.SpoolTransport",
}
