"""As raven's documentation has it: the log handler, too. An error is logged and signalled."""

from tests.e2e.programs_frameworks.django_settings.dotted import *  # noqa: F403

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {
        "sentry": {
            "level": "ERROR",
            "class": "raven.contrib.django.raven_compat.handlers.SentryHandler",
        },
    },
    "root": {"level": "WARNING", "handlers": ["sentry"]},
}
